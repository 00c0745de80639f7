"""Storage formats of frozen weights, one file each, found by the name in `quantization.format`.

A base whose embedding and head have a format of their own has the name of both: `nf4+int8`.
"""

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


def formats_of(base_format: str) -> tuple[str, str]:
    """The names of the formats of a base's layers, and of its embedding and head."""
    layers, _, embedding = base_format.partition("+")
    return layers, embedding or layers


def version_of(base_format: str) -> int:
    """Of a base's formats together: another one where the bytes of either have another meaning."""
    layers, embedding = (weight_format(name).version for name in formats_of(base_format))
    return layers if "+" not in base_format else 1000 * embedding + layers
