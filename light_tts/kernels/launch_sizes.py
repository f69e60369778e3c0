"""Whole numbers for launches of kernels.

Triton has functions of its own for them, which kernels may call too. To the host they cost thirty times as much, 2.5 us
each, and a launch asks for several; a start makes hundreds of thousands of launches.
"""

from __future__ import annotations


def ceil_div(count: int, size: int) -> int:
    """How many blocks of `size` hold `count` values."""
    return -(-count // size)


def power_of_2(least: int) -> int:
    """The smallest power of two that is not less than `least`, which is 1 or more."""
    return 1 << (least - 1).bit_length()
