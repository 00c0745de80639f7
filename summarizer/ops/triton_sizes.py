"""Sizes of what a program computes at once: Triton's own are powers of two."""

from __future__ import annotations


def power_of_two(least: int) -> int:
    """The smallest one of at least `least`."""
    return 1 << (least - 1).bit_length()
