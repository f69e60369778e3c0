"""The generator is the published one, for integers and for tensors."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from light_tts.kernels.splitmix import counter_words, shift_right
from light_tts.splitmix import GAMMA, mix, signed

words = st.integers(-(1 << 63), (1 << 63) - 1)


def test_the_numbers_are_those_of_the_published_generator():
    """As java.util.SplittableRandom and the authors' C code give them for the seed 1234567."""
    numbers = [mix(1234567 + count * GAMMA) for count in range(1, 6)]
    assert numbers == [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821,
    ]  # fmt: skip


@given(st.lists(words, min_size=1, max_size=3), st.lists(st.integers(0, 1 << 40), min_size=1, max_size=3))
def test_tensors_hold_the_same_numbers(keys, counters):
    result = counter_words(torch.tensor(keys), torch.tensor(counters))
    assert result.tolist() == [[signed(mix(key + counter * GAMMA)) for counter in counters] for key in keys]


@given(words, st.integers(1, 63))
def test_zeros_come_in_from_the_left(word, bits):
    assert shift_right(torch.tensor(word), bits).item() == (word % (1 << 64)) >> bits


@given(st.integers(-(1 << 70), 1 << 70))
def test_signed_words_have_the_same_bits(word):
    assert -(1 << 63) <= signed(word) < 1 << 63
    assert (signed(word) - word) % (1 << 64) == 0
