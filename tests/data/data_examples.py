"""Rows that several tests of the data layer read."""

from __future__ import annotations


def example_rows(count: int, words: int = 30) -> list[dict[str, str]]:
    """Distinct rows of growing length."""
    return [
        {
            "id": f"r{number}",
            "article": f"Story {number}. " + "The council met again on Tuesday. " * (1 + number % words),
            "highlights": f"Council met {number} times.\nNothing was decided.",
        }
        for number in range(count)
    ]
