"""What calls on several streams may still read is given out again when they have ended, and not before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from light_tts.acoustic.call_log import CallLog, LoggedCall, Retired

steps = st.lists(st.sampled_from(["begin", "end first", "end last", "put", "take"]), max_size=60)


@given(steps)
def test_nothing_returns_while_a_call_goes_on_that_had_begun_before_it_was_put(moves: list[str]) -> None:
    log = CallLog()
    retired: Retired[int] = Retired(log)
    under_way: list[tuple[int, LoggedCall]] = []
    put: dict[int, set[int]] = {}  # item: calls under way then
    returned: set[int] = set()
    for number, move in enumerate(moves):
        if move == "begin":
            under_way.append((number, log.begin()))
        elif move.startswith("end") and under_way:
            _, call = under_way.pop(0 if move == "end first" else -1)
            call.end()
            call.end()
        elif move == "put":
            retired.put(number)
            put[number] = {call for call, _ in under_way}
        elif move == "take":
            items = retired.take()
            assert items == sorted(items)
            assert not returned & set(items), "given out twice"
            for item in items:
                assert not put[item] & {call for call, _ in under_way}
            returned |= set(items)
    for _, call in under_way:
        call.end()
    assert returned | set(retired.take()) == set(put), "lost"


def test_without_calls_everything_returns_at_once() -> None:
    retired: Retired[str] = Retired(CallLog())
    retired.put("page")
    assert retired.take() == ["page"]
    assert retired.take() == []
