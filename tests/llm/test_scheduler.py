"""The scheduler over layouts whose samples are made up: what must hold at every step, and that every run ends."""

from hypothesis import given, settings
from hypothesis import strategies as st

from light_tts.llm.bistream import BiStreamLayout
from light_tts.llm.block_manager import BlockManager
from light_tts.llm.joining import JoiningRule
from light_tts.llm.layout import OneWayLayout
from light_tts.llm.scheduler import JOIN_AT_ONCE, Scheduler
from light_tts.llm.sequence import RowSampling, Sequence, SequenceState
from light_tts.llm.silence import SilenceFilter
from light_tts.models.speech_ids import SpeechIds
from light_tts.types import LLMPrompt
from tests.llm.tiny_llm import RecordingSink

S = 100
IDS = SpeechIds(
    num_codes=S, head_size=S + 3, eos=S, fill=S + 2, first_stop=S, last_stop=S + 2,
    sos_row=50, task_row=51, speech_row0=52, end_of_prompt=49,
)  # fmt: skip
BLOCK_TOKENS = 4
MAX_ROWS = 64


def sequence_of(arrival, layout):
    return Sequence(arrival, layout, RowSampling(0.8, 25), 0, RecordingSink(), SilenceFilter(()))


def one_way(arrival, num_prompt, num_text, num_codes):
    prompt = LLMPrompt((1,) * num_prompt, (2 + arrival % 40,) * num_text, (), num_text)
    return sequence_of(arrival, OneWayLayout(prompt, IDS, min_codes=num_codes, max_codes=num_codes))


def bi_stream(arrival, num_prompt_text, num_prompt_speech):
    layout = BiStreamLayout((1,) * num_prompt_text, (3,) * num_prompt_speech, IDS, mix_ratio=(5, 15), max_rows=MAX_ROWS)
    return sequence_of(arrival, layout)


class World:
    """Plays the engine: computes nothing, samples code 1, and now and then what asks for text.

    ahead:  steps are launched before the samples of the step before are known.
    """

    def __init__(self, num_blocks, max_running, budget_rows, prefix_cache, joining=JOIN_AT_ONCE, ahead=False):
        self.blocks = BlockManager(num_blocks, BLOCK_TOKENS, prefix_cache=prefix_cache)
        self.scheduler = Scheduler(self.blocks, max_running=max_running, budget_rows=budget_rows, joining=joining)
        self.max_running, self.budget_rows = max_running, budget_rows
        self.everyone = []
        self.done = []
        self.ahead = ahead
        self.plan, self.launched = None, []
        self.num_void = 0
        self.num_together = 0

    def add(self, sequence):
        sequence.runs_ahead = self.ahead
        sequence.num_sure_rows = sequence.layout.num_sure_rows if self.ahead else 0
        self.everyone.append(sequence)
        self.scheduler.add(sequence)

    def step(self):
        before, self.launched = self.launched, []
        self.plan = plan = self.scheduler.schedule()
        chunks = plan.as_chunks()
        self.num_together += len(plan.ahead.sequences)
        self.check(chunks)
        self.scheduler.commit(plan)
        self.finish(before)
        if self.ahead:
            self.launched = chunks
        else:
            self.finish(chunks)
        return bool(chunks or before)

    def settle(self):
        """The samples of the last step are known before the next."""
        before, self.launched = self.launched, []
        self.finish(before)

    def finish(self, chunks):
        for chunk in chunks:
            sequence = chunk.sequence
            if chunk.samples:
                self.accept(chunk)
            self.scheduler.settle(sequence)

    def accept(self, chunk):
        sequence, layout = chunk.sequence, chunk.sequence.layout
        if not sequence.arrive(chunk.start, chunk.is_ahead):
            self.num_void += 1
        elif not sequence.is_finished:
            # The row that was computed is the one that stands there now.
            assert chunk.start + chunk.num_rows == sequence.num_rows
            num_rows = sequence.num_rows
            asks_for_text = isinstance(layout, BiStreamLayout) and len(layout.history) % 7 == 6
            allowed = not any(start <= IDS.fill < stop for start, stop in layout.blocked)
            if layout.accept(IDS.fill if asks_for_text and allowed else 1) is None:
                sequence.take_back(num_rows)
            if layout.finish_reason is not None:
                self.scheduler.remove(sequence)
                self.done.append(sequence)

    def check(self, chunks):
        scheduler = self.scheduler
        assert sum(chunk.num_rows for chunk in chunks) <= self.budget_rows
        assert len(scheduler.running) <= self.max_running
        assert len({id(chunk.sequence) for chunk in chunks}) == len(chunks)
        for chunk in chunks:
            assert chunk.num_rows > 0
            assert chunk.sequence.state is SequenceState.RUNNING
            assert chunk.start == chunk.sequence.num_computed
            assert len(chunk.sequence.blocks) * BLOCK_TOKENS >= chunk.start + chunk.num_rows
        holders = {}
        for sequence in [*scheduler.waiting, *scheduler.running, *scheduler.parked, *scheduler.resting]:
            assert len(set(sequence.blocks)) == len(sequence.blocks)
            for index, block in enumerate(sequence.blocks):
                holders.setdefault(block, []).append((sequence, index))
        assert self.blocks.num_used == len(holders)
        for users in holders.values():
            # A page with two holders carries rows that both begin with.
            ends = {tuple(s.layout.rows[: (i + 1) * BLOCK_TOKENS]) for s, i in users}
            assert len(ends) == 1
            if len(users) > 1:
                assert all((i + 1) * BLOCK_TOKENS <= s.layout.num_shareable for s, i in users)


jobs = st.one_of(
    st.tuples(st.just("one_way"), st.integers(0, 20), st.integers(0, 12), st.integers(1, 25)),
    st.tuples(st.just("bi_stream"), st.integers(0, 12), st.integers(0, 20), st.integers(1, 12)),
)


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), jobs), min_size=1, max_size=14),
    st.integers(MAX_ROWS // BLOCK_TOKENS, 40),
    st.integers(1, 6),
    st.integers(1, 40),
    st.booleans(),
    st.one_of(
        st.just(JOIN_AT_ONCE), st.builds(JoiningRule, st.floats(0.0, 1.0), st.integers(0, 100), st.integers(1, 20))
    ),
    st.booleans(),
    st.data(),
)
def test_every_run_ends_and_nothing_leaks(
    schedule, num_blocks, max_running, budget_rows, prefix_cache, joining, ahead, data
):
    world = World(num_blocks, max_running, budget_rows, prefix_cache, joining, ahead)
    open_texts = []
    for arrival, (pause, (kind, *sizes)) in enumerate(schedule):
        if kind == "one_way":
            world.add(one_way(arrival, *sizes))
        else:
            num_text = sizes.pop()
            sequence = bi_stream(arrival, *sizes)
            world.add(sequence)
            open_texts.append((sequence, num_text))
        for _ in range(pause):
            world.step()
            if data.draw(st.integers(0, 3)) == 0:
                world.settle()
            if open_texts and data.draw(st.booleans()):
                feed_one(world, open_texts, data)
        complete = [s for s in world.scheduler.running if isinstance(s.layout, OneWayLayout)]
        if complete and data.draw(st.integers(0, 5)) == 0:
            world.scheduler.rest(data.draw(st.sampled_from(complete)))
        if world.scheduler.resting and data.draw(st.booleans()):
            world.scheduler.go_on(data.draw(st.sampled_from(world.scheduler.resting)))
        if world.scheduler.running and data.draw(st.integers(0, 5)) == 0:
            aborted = data.draw(st.sampled_from(world.scheduler.running))
            world.scheduler.remove(aborted)
            world.done.append(aborted)
    while open_texts:
        feed_one(world, open_texts, data)
    for sequence in list(world.scheduler.resting):
        world.scheduler.go_on(sequence)
    for _ in range(5000):
        if not world.step():
            break
    assert len(world.done) == len(world.everyone)
    assert world.blocks.num_used == 0
    assert world.scheduler.waiting == world.scheduler.running == world.scheduler.parked == []


def feed_one(world, open_texts, data):
    """One id more for some open text, or its end."""
    index = data.draw(st.integers(0, len(open_texts) - 1))
    sequence, num_left = open_texts[index]
    if sequence.is_finished:
        open_texts.pop(index)
        return
    if num_left:
        open_texts[index] = (sequence, num_left - 1)
        sequence.layout.append([5])
    else:
        open_texts.pop(index)
        sequence.layout.finish()
    if sequence.layout.finish_reason is not None:
        world.scheduler.remove(sequence)
        world.done.append(sequence)
    else:
        world.scheduler.wake(sequence)


def test_decoding_goes_on_while_a_long_prompt_is_computed_in_chunks():
    world = World(40, 4, 8, prefix_cache=False)
    world.add(one_way(0, 2, 2, 20))
    world.step()
    world.add(one_way(1, 20, 12, 5))
    for _ in range(4):
        decoded = len(world.everyone[0].layout.history)
        world.step()
        assert len(world.everyone[0].layout.history) == decoded + 1
    assert world.everyone[1].num_computed == 28


def test_the_youngest_gives_way_when_pages_run_out():
    world = World(16, 4, 64, prefix_cache=False)
    for arrival in range(4):
        world.add(one_way(arrival, 0, 6, 40))
    while world.step():
        pass
    assert world.scheduler.num_preemptions > 0
    assert [sequence.arrival for sequence in world.done] == [0, 1, 2, 3]


def test_a_run_that_waits_for_text_holds_pages_but_no_place():
    world = World(40, 1, 64, prefix_cache=False)
    world.add(bi_stream(0, 10, 20))
    while world.step():
        pass
    assert world.everyone[0].state is SequenceState.PARKED
    assert world.everyone[0].blocks
    world.add(one_way(1, 2, 2, 3))
    while world.step():
        pass
    assert world.done == [world.everyone[1]]


def test_a_parked_run_loses_its_pages_before_anyone_waits_for_them():
    world = World(16, 4, 64, prefix_cache=False)
    world.add(bi_stream(0, 10, 20))
    while world.step():
        pass
    world.add(one_way(1, 10, 12, 38))
    while world.step():
        pass
    assert world.everyone[0].blocks == []
    parked = world.everyone[0]
    parked.layout.append([5])
    world.scheduler.wake(parked)
    while world.step():
        pass
    assert len(parked.layout.history) > 0


def test_nobody_loses_pages_when_that_would_not_be_enough():
    world = World(16, 4, 64, prefix_cache=False)
    world.add(bi_stream(0, 5, 15))
    world.add(one_way(1, 10, 12, 20))
    world.step()
    world.add(one_way(2, 20, 12, 20))
    world.step()
    assert world.everyone[0].blocks


def test_a_common_beginning_is_computed_once():
    world = World(40, 4, 64, prefix_cache=True)
    world.add(one_way(0, 15, 3, 2))
    while world.step():
        pass
    world.add(one_way(1, 15, 5, 2))
    chunks = world.scheduler.schedule().chunks
    assert chunks[0].start == 16  # sos and fifteen prompt ids fill four pages
    assert world.scheduler.num_rows_reused == 16


def test_the_last_row_is_always_computed_anew():
    """A sample is read at it, so a beginning that is cached whole is not enough."""
    world = World(40, 4, 64, prefix_cache=True)
    for arrival in range(2):
        world.add(bi_stream(arrival, 15, 0))
        while world.step():
            pass
    second = world.everyone[1]
    assert second.num_computed == second.num_rows - 1


def test_an_old_waiting_sequence_and_a_young_running_one_do_not_block_each_other():
    """Pages of one were needed by the other, whose place was needed by the first: nothing ever moved again."""
    world = World(num_blocks=16, max_running=1, budget_rows=64, prefix_cache=False)
    old = bi_stream(0, 12, 0)  # 12 rows of prompt text, then waits for its own
    world.add(old)
    while world.step():
        pass
    young = one_way(1, 4, 4, 54)  # 64 rows at its end: more pages than the old one leaves
    world.add(young)
    world.step()
    old.layout.append([5] * 10)
    old.layout.finish()
    world.scheduler.wake(old)
    assert old.state is SequenceState.WAITING
    assert old.blocks
    for _ in range(200):
        world.step()
    assert {sequence.arrival for sequence in world.done} == {0, 1}


def num_running_together(rule, num_blocks=40):
    """Most of four equal runs, of 4 pages each at their end, that were in the batch at the same time."""
    world = World(num_blocks, 4, 64, prefix_cache=False, joining=rule)
    for arrival in range(4):
        world.add(one_way(arrival, 0, 2, 12))
    most = 0
    while world.step():
        most = max(most, len(world.scheduler.running))
    assert len(world.done) == 4
    return most


def test_a_watermark_keeps_pages_free_for_those_that_run():
    assert num_running_together(JoiningRule()) == 4
    assert num_running_together(JoiningRule(watermark=0.95)) < 4
    assert num_running_together(JoiningRule(watermark=1.0)) == 1  # but one always goes on


def test_room_for_the_expected_output_is_asked_for_before_a_run_joins():
    assert num_running_together(JoiningRule(), num_blocks=16) == 4
    assert num_running_together(JoiningRule(expected_output_rows=40), num_blocks=16) == 1
    assert num_running_together(JoiningRule(expected_output_rows=12), num_blocks=16) == 4


def test_new_runs_join_only_at_every_nth_step():
    world = World(40, 4, 64, prefix_cache=False, joining=JoiningRule(steps_between=8))
    world.add(one_way(0, 0, 2, 30))
    world.step()  # nothing runs, so the first joins at once
    world.add(one_way(1, 0, 2, 30))
    waited = 0
    while len(world.scheduler.running) == 1:
        world.step()
        waited += 1
    assert waited == 8


def test_nobody_waits_for_a_step_that_will_not_come():
    world = World(40, 4, 64, prefix_cache=False, joining=JoiningRule(steps_between=1000))
    for arrival in range(3):
        world.add(one_way(arrival, 0, 2, 3))
        world.step()
    while world.step():
        pass
    assert len(world.done) == 3


def test_running_ahead_changes_nothing_but_the_time():
    """Every run reads the same rows, whether or not its steps begin before its last sample is known."""
    results = []
    for ahead in (False, True):
        world = World(24, 4, 64, prefix_cache=True, ahead=ahead)
        for arrival in range(8):
            world.add(bi_stream(arrival, 7, 20) if arrival % 2 else one_way(arrival, 9, 3, 17))
        for sequence in world.everyone[1::2]:
            sequence.layout.append([5] * 12)
            world.scheduler.wake(sequence)
            world.step()
            sequence.layout.finish()
            world.scheduler.wake(sequence)
        for _ in range(1000):
            if not world.step():
                break
        assert len(world.done) == 8
        results.append([(sequence.layout.rows, sequence.layout.history) for sequence in world.everyone])
        assert (world.num_void > 0) == (world.num_together > 0) == ahead
    assert results[0] == results[1]


def test_a_run_ahead_has_a_row_in_every_step():
    world = World(40, 4, 64, prefix_cache=False, ahead=True)
    world.add(one_way(0, 2, 2, 20))
    for num_drawn in range(20):
        assert len(world.everyone[0].layout.history) == max(0, num_drawn - 1)
        world.step()
        assert [chunk.sequence.arrival for chunk in world.launched] == [0]
    world.step()
    assert world.done
