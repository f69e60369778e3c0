"""Slots of vocoder states: the tensors stay where they are, also with more streams than slots."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from light_tts.acoustic.vocoder_pool import StatePool

SHAPES = {"mel": ((3,), torch.float32), "phases": ((), torch.float64)}


def pool_of(slots):
    return StatePool(SHAPES, slots, torch.device("cpu"))


def write(pool, slot, value):
    for name, tensor in pool.tensors.items():
        pool.write(name, torch.tensor([slot]), torch.full((1, *tensor.shape[1:]), value))


def values(pool, slot):
    return {float(value) for tensor in pool.tensors.values() for value in tensor[slot].flatten()}


@given(st.lists(st.sets(st.integers(0, 6), min_size=1, max_size=3), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_every_call_finds_the_states_of_its_streams(calls):
    pool = pool_of(3)
    addresses = {name: tensor.data_ptr() for name, tensor in pool.tensors.items()}
    seats = [pool.open() for _ in range(7)]
    written = {}
    for number, call in enumerate(calls, 1):
        streams = sorted(call)
        slots = pool.seat([seats[index] for index in streams])
        assert len(set(slots)) == len(slots)
        assert pool.dump_slot not in slots
        for index, slot in zip(streams, slots, strict=True):
            if index in written:
                assert values(pool, slot) == {written[index]}
            write(pool, slot, 10.0 * number + index)
            written[index] = 10.0 * number + index
    assert {name: tensor.data_ptr() for name, tensor in pool.tensors.items()} == addresses
    for seat in seats:
        seat.close()
        seat.close()
    assert pool.num_used == 0


def test_who_was_not_decoded_for_the_longest_time_makes_room():
    pool = pool_of(2)
    first, second, third = pool.open(), pool.open(), pool.open()
    pool.seat([first])
    pool.seat([second])
    pool.seat([first])
    pool.seat([third])
    assert [seat.slot is None for seat in (first, second, third)] == [False, True, False]
    second.close()
    assert second.parked is None


def test_a_stream_that_was_closed_in_the_meantime_takes_no_slot():
    pool = pool_of(2)
    seat = pool.open()
    seat.close()
    assert pool.seat([seat]) == [pool.dump_slot]
    assert pool.num_used == 0
