"""Storage formats of frozen weights, one file each, found by the name in `quantization.format`."""

from __future__ import annotations

import importlib

from summarizer.quantization.protocol import WeightFormat

NAMES = ("int8", "blockwise8", "nf4", "fp8", "none")


def weight_format(name: str) -> WeightFormat:
    """The format of that name. Raises ValueError for a name not in NAMES."""
    if name not in NAMES:
        raise ValueError(f"{name!r} is not one of {', '.join(NAMES)}")
    found = importlib.import_module(f"summarizer.quantization.{name}").FORMAT
    assert isinstance(found, WeightFormat)
    return found
