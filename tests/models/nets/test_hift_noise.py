"""Noise of the source: the published table block by block, and noise keyed by the request."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from light_tts.models.nets.hift_noise import NormalNoise, UniformTable, _state_before_table, mix

CPU = torch.device("cpu")


def small_table():
    table = UniformTable(9, CPU)
    table.block_rows, table.kept_blocks, table.table_rows = 100, 2, 400
    return table


def one_draw(rows):
    generator = torch.Generator()
    generator.set_state(_state_before_table())
    return torch.rand(1, rows, 9, generator=generator)[0]


def test_the_first_rows_are_the_published_ones():
    expected = [0.9228260, 0.4774475, 0.8270518, 0.2834572, 0.7934816, 0.1734348, 0.8523750, 0.9228546, 0.7310200]
    rows = UniformTable(9, CPU).rows(0, 0, 2)
    torch.testing.assert_close(rows[0], torch.tensor(expected), atol=1e-7, rtol=0)
    assert abs(float(rows[1, 0]) - 0.9203429) < 1e-7


def test_blocks_are_the_numbers_of_one_draw():
    table = UniformTable(9, CPU)
    start = table.block_rows - 3
    assert torch.equal(table.rows(0, start, 10), one_draw(start + 10)[start:])


@given(st.lists(st.tuples(st.integers(0, 900), st.integers(0, 300)), min_size=1, max_size=6))
@settings(max_examples=20, deadline=None)
def test_any_order_of_reading_gives_the_same_rows(reads):
    """Blocks are dropped and drawn again, and the table starts again at its end."""
    table, whole = small_table(), one_draw(500)
    for start, count in reads:
        index = (torch.arange(count) + start) % table.table_rows
        assert torch.equal(table.rows(7, start, count), whole[index])
        assert len(table._blocks) <= table.kept_blocks


def test_normal_noise_depends_on_seed_and_piece_alone():
    noise = NormalNoise(5, 9, CPU)
    first = noise.rows(0, 0, 4800)
    assert torch.equal(first, NormalNoise(5, 9, CPU).rows(0, 0, 4800))
    for other in (
        noise.rows(1, 0, 4800),
        NormalNoise(6, 9, CPU).rows(0, 0, 4800),
        NormalNoise(0, 9, CPU).rows(0, 0, 4800),
    ):
        assert abs(float((first * other).mean())) < 0.03
    assert abs(float(first.mean())) < 0.03
    assert abs(float(first.std()) - 1.0) < 0.03


def test_neighbouring_seeds_and_pieces_do_not_share_keys():
    keys = {mix(seed, piece) for seed in range(-50, 50) for piece in range(100)}
    assert len(keys) == 10_000
    assert all(0 <= key < 2**63 for key in keys)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    NormalNoise(5, 9, CPU).rows(0, 0, 10)
    UniformTable(9, CPU).rows(0, 0, 10)
    assert torch.equal(torch.rand(3), expected)
