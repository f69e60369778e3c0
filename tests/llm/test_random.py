import torch
from hypothesis import given
from hypothesis import strategies as st

from light_tts.llm.random import run_key, uniforms

WORD = (1 << 64) - 1


def splitmix(word: int) -> int:
    """The published finaliser, in plain integers."""
    word &= WORD
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & WORD
    return word ^ (word >> 31)


@given(st.integers(), st.integers(0, 1000), st.integers(0, 100_000))
def test_tensor_arithmetic_is_the_integer_arithmetic(seed, run_index, step):
    key = run_key(seed, run_index)
    drawn = uniforms(torch.tensor([key]), torch.tensor([step]))
    for draw in range(2):
        word = splitmix((key & WORD) + (2 * step + draw + 1) * 0x9E3779B97F4A7C15)
        assert float(drawn[0, draw]) == (word >> 40) / 2**24


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=8))
def test_a_row_does_not_depend_on_its_neighbours(seeds):
    keys = torch.tensor([run_key(seed, 0) for seed in seeds])
    steps = torch.arange(len(seeds)) * 7
    together = uniforms(keys, steps)
    alone = torch.cat([uniforms(keys[i : i + 1], steps[i : i + 1]) for i in range(len(seeds))])
    assert torch.equal(together, alone)


def test_numbers_are_uniform_and_runs_are_unrelated():
    steps = torch.arange(20_000)
    first = uniforms(torch.tensor([run_key(1, 0)]).expand(20_000), steps)
    other = uniforms(torch.tensor([run_key(1, 1)]).expand(20_000), steps)
    for numbers in (first, other):
        assert float(numbers.min()) >= 0.0
        assert float(numbers.max()) < 1.0
        counts = torch.histc(numbers.flatten(), bins=20, min=0.0, max=1.0)
        # 2000 expected per bin; five standard deviations.
        assert float((counts - 2000).abs().max()) < 5 * 2000**0.5
    for left, right in ((first[:, 0], first[:, 1]), (first[:, 0], other[:, 0]), (first[:-1, 0], first[1:, 0])):
        assert abs(float(torch.corrcoef(torch.stack([left, right]))[0, 1])) < 0.04
