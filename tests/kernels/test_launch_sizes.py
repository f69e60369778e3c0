import pytest

from light_tts.kernels.launch_sizes import ceil_div, power_of_2


@pytest.mark.parametrize(("count", "size", "blocks"), [(0, 4, 0), (1, 4, 1), (4, 4, 1), (5, 4, 2), (7, 1, 7)])
def test_blocks_hold_all_values(count, size, blocks):
    assert ceil_div(count, size) == blocks


@pytest.mark.parametrize(("least", "power"), [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128), (151936, 262144)])
def test_a_power_of_two_is_not_less(least, power):
    assert power_of_2(least) == power


def test_they_agree_with_those_of_triton():
    triton = pytest.importorskip("triton")
    for count in range(1, 200):
        assert power_of_2(count) == triton.next_power_of_2(count)
        assert ceil_div(count, 7) == triton.cdiv(count, 7)
