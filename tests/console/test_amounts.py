"""Amounts, rates and times as a person reads them."""

from __future__ import annotations

import pytest

from summarizer.console.amounts import Unit, amount, duration, pace


@pytest.mark.parametrize(
    ("done", "total", "unit", "said"),
    [
        (3, 1200, "", "3/1,200"),
        (3, None, "", "3"),
        (0, None, "", ""),
        (1_200_000_000, 24_200_000_000, "bytes", "1.2/24.2 GB"),
        (400, None, "bytes", "0.4 kB"),
        (12_600_000, 12_600_000, "parameters", "12.6/12.6 M parameters"),
        (0, 0, "bytes", "0.0/0.0 kB"),
    ],
)
def test_amounts(done: int, total: int | None, unit: Unit, said: str) -> None:
    assert amount(done, total, unit) == said


@pytest.mark.parametrize(
    ("per_s", "unit", "said"),
    [
        (1234.5, "", "1,234/s"),
        (3.14, "", "3.1/s"),
        (0.2, "", "5.0 s each"),
        (0.0, "", ""),
        (84e6, "bytes", "84.0 MB/s"),
        (2.5e9, "parameters", "2.5 B/s"),
    ],
)
def test_rates(per_s: float, unit: Unit, said: str) -> None:
    assert pace(per_s, unit) == said


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (8.6, "9 s"),
        (119.4, "119 s"),
        (120, "2 min"),
        (840, "14 min"),
        (7199, "2 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
