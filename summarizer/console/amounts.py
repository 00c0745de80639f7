"""Amounts, rates and times as a person reads them beside a bar."""

from __future__ import annotations

import re
from typing import Literal

Unit = Literal["", "bytes", "parameters"]
"""What is counted; the empty one is pieces of any kind."""

_SCALES: dict[Unit, list[tuple[float, str]]] = {
    "": [(1, "")],
    "bytes": [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")],
    "parameters": [(1e9, "B parameters"), (1e6, "M parameters"), (1e3, "k parameters")],
}
"""Sizes and names of each unit, from the largest; below the smallest, fractions of it are shown."""


def amount(done: int, total: int | None, unit: Unit) -> str:
    """`3/120`, `1.2/24.2 GB`; without a total `3`, `1.2 GB`, and nothing for no pieces."""
    size, name = _scale(total or done, unit)
    digits = 0 if size == 1 else 1
    parts = [done] if total is None else [done, total]
    numbers = "/".join(f"{part / size:,.{digits}f}" for part in parts)
    return f"{numbers} {name}".rstrip() if done or total is not None else ""


def pace(per_s: float, unit: Unit) -> str:
    """`1,200/s`, `3.1/s`, `5.0 s each`, `84 MB/s`; nothing where it is not known yet."""
    if not per_s:
        return ""
    if unit:
        size, name = _scale(per_s, unit)
        return f"{per_s / size:,.1f} {name.split()[0]}/s"
    return f"{1 / per_s:,.1f} s each" if per_s < 1 else f"{per_s:,.{1 if per_s < 10 else 0}f}/s"


def duration(seconds: float) -> str:
    """`12 s`, `14 min`, `2 h 05 min`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _scale(value: float, unit: Unit) -> tuple[float, str]:
    scales = _SCALES[unit]
    return next((scale for scale in scales if value >= scale[0]), scales[-1])


def rate_text(rate: float) -> str:
    """`1e-4` rather than 0.0001, as rates are written; 0.02 as it is."""
    if rate >= 0.01:
        return f"{rate:g}"
    return re.sub(r"\.?0*e-0*", "e-", f"{rate:.3e}")
