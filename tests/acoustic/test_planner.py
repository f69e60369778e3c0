"""The order of service is a pure function of the listeners' clocks."""

from hypothesis import given
from hypothesis import strategies as st

from light_tts.acoustic.planner import BUFFERED_MAX_WAIT_S, UNDERRUN_RESERVE_S, Candidate, choose


def test_a_stream_about_to_run_dry_goes_before_a_first_chunk() -> None:
    dry = Candidate(1, waiting_s=0.0, unplayed_s=UNDERRUN_RESERVE_S / 2)
    new = Candidate(2, waiting_s=5.0, unplayed_s=None)
    assert choose([new, dry], 2) == [1, 2]


def test_first_chunks_go_before_streams_with_slack_oldest_first() -> None:
    rich = Candidate(1, waiting_s=9.0, unplayed_s=4.0)
    young = Candidate(2, waiting_s=0.1, unplayed_s=None)
    old = Candidate(3, waiting_s=0.4, unplayed_s=None)
    assert choose([rich, young, old], 3) == [3, 2, 1]


def test_buffered_requests_come_last_until_they_have_waited_too_long() -> None:
    rich = Candidate(1, waiting_s=0.0, unplayed_s=4.0)
    patient = Candidate(2, waiting_s=BUFFERED_MAX_WAIT_S / 2, unplayed_s=None, is_buffered=True)
    overdue = Candidate(3, waiting_s=BUFFERED_MAX_WAIT_S * 2, unplayed_s=None, is_buffered=True)
    assert choose([rich, patient, overdue], 3) == [3, 1, 2]


candidates = st.lists(
    st.builds(
        Candidate,
        key=st.integers(0, 10_000),
        waiting_s=st.floats(0, 60),
        unplayed_s=st.none() | st.floats(-5, 60),
        is_buffered=st.booleans(),
    ),
    unique_by=lambda candidate: candidate.key,
    max_size=40,
)


@given(candidates, st.integers(1, 16))
def test_the_batch_is_as_full_as_it_can_be_and_never_serves_twice(queue: list[Candidate], max_batch: int) -> None:
    chosen = choose(queue, max_batch)
    assert len(chosen) == min(len(queue), max_batch)
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= {candidate.key for candidate in queue}


@given(candidates, st.integers(1, 16))
def test_the_driest_stream_is_always_served(queue: list[Candidate], max_batch: int) -> None:
    dry = [c for c in queue if not c.is_buffered and c.unplayed_s is not None and c.unplayed_s < UNDERRUN_RESERVE_S]
    if dry:
        driest = min(c.unplayed_s for c in dry if c.unplayed_s is not None)
        served = {c.key: c for c in queue}[choose(queue, max_batch)[0]]
        assert served.unplayed_s == driest
