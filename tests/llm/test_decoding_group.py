"""Sequences that decode step after step are planned together until one of them needs something of its own."""

import gc
import weakref

import pytest

from tests.llm.test_scheduler import BLOCK_TOKENS, World, bi_stream, one_way


def world_of(*num_codes, num_blocks=60, budget_rows=64):
    """Sequences of four rows, their first samples on the way."""
    world = World(num_blocks, 8, budget_rows, prefix_cache=False, ahead=True)
    for arrival, count in enumerate(num_codes):
        world.add(one_way(arrival, 0, 2, count))
    world.step()
    return world


def launched(world):
    """Whose rows the next step computes together, and whose apart."""
    world.step()
    ahead, chunks = world.plan
    return [sequence.arrival for sequence in ahead.sequences], [chunk.sequence.arrival for chunk in chunks]


def test_all_that_decode_are_together_and_get_pages_as_they_need_them():
    world = world_of(30, 30, 30)
    for num_steps in range(1, 25):
        assert launched(world) == ([0, 1, 2], [])
        for sequence in world.everyone:
            assert sequence.num_computed == 4 + num_steps
            assert len(sequence.blocks) == -(-sequence.num_computed // BLOCK_TOKENS)


def test_rows_of_the_same_sequences_are_told_by_the_step_alone():
    world = world_of(30, 30)
    world.step()
    first, before = world.plan.ahead, [sequence.num_computed for sequence in world.everyone]
    for _ in range(6):
        world.step()
    later, after = world.plan.ahead, [sequence.num_computed for sequence in world.everyone]
    assert later.sequences is first.sequences
    assert later.step == first.step + 6
    assert after == [count + 6 for count in before]


def test_a_new_one_joins_after_its_prompt():
    world = world_of(30)
    world.add(one_way(1, 0, 2, 30))
    assert launched(world) == ([0], [1])
    assert launched(world) == ([0, 1], [])


def test_the_row_before_the_last_code_goes_apart_and_ends_the_run():
    world = world_of(4, 30)
    assert [launched(world) for _ in range(4)] == [([0, 1], []), ([0, 1], []), ([1], [0]), ([1], [])]
    assert world.done == [world.everyone[0]]
    assert len(world.done[0].layout.history) == 4


@pytest.mark.parametrize("leave", ["remove", "rest"])
def test_who_leaves_is_left_out(leave):
    world = world_of(30, 30, 30)
    world.step()
    getattr(world.scheduler, leave)(world.everyone[1])
    assert launched(world) == ([0, 2], [])
    assert launched(world) == ([0, 2], [])


def test_who_rests_joins_again():
    world = world_of(30, 30)
    world.step()
    world.scheduler.rest(world.everyone[0])
    world.step()
    world.scheduler.go_on(world.everyone[0])
    assert launched(world) == ([1], [0])
    assert launched(world) == ([1, 0], [])


def test_a_step_that_was_not_computed_breaks_them_up():
    """No samples of theirs are on their way then, so that the rows must be read on the host."""
    world = world_of(30, 30)
    world.step()
    world.scheduler.schedule()
    world.settle()
    assert launched(world) == ([], [0, 1])
    assert launched(world) == ([0, 1], [])


def test_samples_that_are_known_before_the_next_step_keep_them_together():
    world = world_of(30, 30)
    world.step()
    assert not world.plan.ahead.is_known
    world.settle()
    assert launched(world) == ([0, 1], [])
    assert world.plan.ahead.is_known
    assert launched(world) == ([0, 1], [])
    assert not world.plan.ahead.is_known


def test_where_rows_or_pages_do_not_suffice_they_are_looked_at_one_by_one():
    narrow = world_of(30, 30, 30, budget_rows=2)
    while narrow.step():
        assert narrow.plan.num_rows <= 2
    assert len(narrow.done) == 3
    small = world_of(50, 50, num_blocks=16)
    while small.step():
        pass
    assert small.scheduler.num_preemptions > 0
    assert small.num_together > 50
    assert [sequence.arrival for sequence in small.done] == [0, 1]


def test_text_that_arrives_in_pieces_is_never_sure():
    world = world_of(30)
    stream = bi_stream(1, 5, 15)
    stream.layout.append([5] * 12)
    world.add(stream)
    world.step()
    for _ in range(5):
        assert launched(world) == ([0], [1])


def test_those_that_have_ended_are_held_no_longer():
    world = world_of(30)
    world.step()
    gone = weakref.ref(world.everyone[0])
    world.scheduler.remove(world.everyone[0])
    world.everyone, world.launched, world.plan = [], [], None
    gc.collect()
    assert gone() is None
