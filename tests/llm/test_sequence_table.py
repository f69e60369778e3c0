"""Lines of the table follow the sequences, whatever changes from step to step."""

import gc
import random
import weakref

import numpy as np

from light_tts.llm.layout import OneWayLayout
from light_tts.llm.sequence import RowSampling, Sequence
from light_tts.llm.sequence_table import SequenceTable
from light_tts.llm.silence import SilenceFilter
from light_tts.types import LLMPrompt
from tests.llm.test_model_runner import sequence_of

ZERO_PAGE, WIN_SIZE, MOST_PAGES = 99, 4, 12


def check(table, sequences):
    lines = table.look_up(tuple(sequences))
    for line, sequence in zip(lines.tolist(), sequences, strict=True):
        count = len(sequence.blocks)
        assert table.pages[line, :count].tolist() == sequence.blocks
        assert set(table.pages[line, count:].tolist()) <= {ZERO_PAGE}
        history = sequence.layout.history
        assert table.counts[line] == len(history)
        last = history[-WIN_SIZE:]
        assert table.window[line].tolist() == [-1] * (WIN_SIZE - len(last)) + last
    assert table.widest(lines) == max([1, *(len(sequence.blocks) for sequence in sequences)])


def test_lines_follow_pages_and_histories_through_any_course(lm):
    picks = random.Random(3)
    table = SequenceTable(most_pages=MOST_PAGES, win_size=WIN_SIZE, zero_page=ZERO_PAGE)
    sequences = [sequence_of(lm, [index], []) for index in range(100)]
    present = sequences[:70]
    for _ in range(200):
        for sequence in present:
            for _ in range(picks.choice([1, 1, 1, 1, 0, 2]) if picks.random() < 0.1 else 1):
                sequence.layout.history.append(picks.randrange(50))
            if picks.random() < 0.05 and len(sequence.blocks) < MOST_PAGES:
                sequence.blocks.append(picks.randrange(50))
            if picks.random() < 0.01:
                # It has lost its pages and has others, as many as before or fewer, or the same ones once more.
                sequence.blocks = [picks.randrange(50) for _ in range(picks.randrange(len(sequence.blocks) + 1))]
            if picks.random() < 0.01:
                sequence.blocks = list(sequence.blocks)
        check(table, present)
        if picks.random() < 0.2:
            present = picks.sample(sequences, picks.randrange(1, 80))
        if picks.random() < 0.1:
            table.forget(gone := picks.choice(sequences))
            new = sequence_of(lm, [1], [])
            sequences = [new if each is gone else each for each in sequences]
            present = [new if each is gone else each for each in present]


def test_what_is_told_of_pages_and_codes_need_not_be_looked_up(lm):
    table = SequenceTable(most_pages=MOST_PAGES, win_size=WIN_SIZE, zero_page=ZERO_PAGE)
    sequences = [sequence_of(lm, [index], [index, 7]) for index in range(5)]
    check(table, sequences)
    told = (sequences[3], sequences[1])
    for code in range(6):
        for sequence in told:
            sequence.layout.history.append(code)
        table.note_codes(table.lines_of(told), [code, code])
    for sequence in told:
        sequence.blocks.append(sequence.blocks[0] + 20)
    before = table.num_noted_pages
    table.note_next_pages(told)
    assert table.num_noted_pages > before
    assert table.pages[table.lines_of(told), 2].tolist() == [23, 21]
    assert table.window[table.lines_of(told)].tolist() == [[2, 3, 4, 5]] * 2
    after = table.num_noted_pages
    check(table, sequences)
    assert table.num_noted_pages == after


def test_blocked_ids_are_asked_for_when_they_may_change(lm):
    table = SequenceTable(most_pages=MOST_PAGES, win_size=WIN_SIZE, zero_page=ZERO_PAGE)
    prompt = LLMPrompt((), (1, 2), (), 2)
    layouts = [OneWayLayout(prompt, lm.ids, min_codes=fewest, max_codes=20) for fewest in (3, 5)]
    sequences = tuple(Sequence(0, each, RowSampling(0.8, 25), 1, None, SilenceFilter(())) for each in layouts)
    lines, stop_ids = table.look_up(sequences), [lm.ids.first_stop, lm.ids.last_stop + 1, 0, 0]
    for step in range(8):
        steps = np.array([step, step])
        assert table.blocked(lines, steps).tolist() == [stop_ids if step < fewest else [0] * 4 for fewest in (3, 5)]
        assert table.num_steps_blocked(lines, steps) == min(
            (3 if step < 3 else 20) - step, (5 if step < 5 else 20) - step
        )


def test_an_empty_step_has_no_lines(lm):
    table = SequenceTable(most_pages=MOST_PAGES, win_size=WIN_SIZE, zero_page=ZERO_PAGE)
    assert table.look_up(()).tolist() == []
    check(table, [sequence_of(lm, [1], [5])])
    lines = table.look_up(())
    assert lines.tolist() == []
    assert table.widest(np.array([], dtype=np.int64)) == 1


def test_what_has_been_forgotten_is_held_no_longer(lm):
    table = SequenceTable(most_pages=MOST_PAGES, win_size=WIN_SIZE, zero_page=ZERO_PAGE)
    sequence = sequence_of(lm, [1], [5])
    table.look_up((sequence,))
    table.forget(sequence)
    gone = weakref.ref(sequence)
    del sequence
    gc.collect()
    assert gone() is None
