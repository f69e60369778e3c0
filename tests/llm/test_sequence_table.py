"""Lines of the table follow the sequences, whatever changes from step to step."""

import gc
import random
import weakref

import numpy as np

from light_tts.llm.sequence_table import SequenceTable
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
