"""Numbers in English words: the published package is the oracle."""

from __future__ import annotations

import inflect
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from light_tts.frontend.number_words import number_to_words, spell_out_numbers

ORACLE = inflect.engine()


@settings(deadline=None)
@given(st.integers(0, 10**36 - 1))
def test_numbers_are_spelled_as_the_reference_does(number: int):
    assert number_to_words(str(number)) == ORACLE.number_to_words(str(number))


@settings(deadline=None)
@given(st.text(alphabet="0123456789１９٣²①", min_size=1, max_size=30))
def test_odd_digits_are_spelled_as_the_reference_does(digits: str):
    """Not with full-width zeros in front, which the package fails to strip ("million and ten" for 10)."""
    assert number_to_words(digits) == ORACLE.number_to_words(digits)


@pytest.mark.parametrize("digits", ["1000", "1001", "1100", "1000100", "100000", "999999", "010", "000", "1" * 36])
def test_round_numbers(digits: str):
    assert number_to_words(digits) == ORACLE.number_to_words(digits)


def test_longer_than_the_names_of_numbers_is_read_digit_by_digit():
    assert number_to_words("9" + "0" * 36) == "nine " + " ".join(["zero"] * 36)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_only_digit_runs_change(text: str):
    kept = [char for char in text if not char.isdigit()]
    spelled = iter(spell_out_numbers(text))
    assert all(char in spelled for char in kept)  # a subsequence
    if len(kept) == len(text):
        assert spell_out_numbers(text) == text
