"""Whether two sweep folders hold the same sweep: every number, adapter and summary but those of time and memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from summarizer.runs.record import SUMMARY
from summarizer.sweeps.record import FILE_NAME, read_sweep
from summarizer.tracking.metrics import METRICS

MEASURED = ("wall_s", "tokens_per_s", "mfu", "startup_s", "_bytes", "utilization")
"""Of time and memory: names that end so differ between any two runs."""
WHERE = ("git", "versions", "overrides", "identity", "folder")
"""What says which command it was; the sweep's folder is a part of the identity."""
FILES = (
    "adapter/adapter_model.safetensors",
    "predictions/validation.jsonl",
    "predictions/validation.base.jsonl",
)


def differences(one: Path, other: Path) -> list[str]:
    """What is not the same in two sweeps, in words; empty where all is."""
    return list(_differences(one, other))


def _differences(one: Path, other: Path) -> Iterator[str]:
    folders = [run.folder for run in read_sweep(one).runs]
    if folders != [run.folder for run in read_sweep(other).runs]:
        yield "the runs"
        return
    for folder in folders:
        if _rows(one / folder) != _rows(other / folder):
            yield f"{folder}/{METRICS}"
        if _json(one / folder / SUMMARY) != _json(other / folder / SUMMARY):
            yield f"{folder}/{SUMMARY}"
        for name in FILES:
            if (one / folder / name).read_bytes() != (other / folder / name).read_bytes():
                yield f"{folder}/{name}"
    for name in (FILE_NAME, "confirmed.json"):
        if _json(one / name) != _json(other / name):
            yield name


def _rows(run: Path) -> list[Any]:
    return [_timeless(json.loads(line)) for line in (run / METRICS).read_text().splitlines()]


def _json(file: Path) -> Any:
    return _timeless(json.loads(file.read_text()))


def _timeless(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            name: _timeless(value)
            for name, value in node.items()
            if not name.endswith(MEASURED) and name not in WHERE
        }
    return [_timeless(value) for value in node] if isinstance(node, list) else node
