"""From a run's folder to one that other programs load, whole or not at all."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator

from summarizer.config.paths import shown
from summarizer.exporting.formats import FORMATS
from summarizer.exporting.hub import free_name, push
from summarizer.exporting.request import ExportRequest
from summarizer.exporting.steps import CARD


def export(request: ExportRequest) -> Iterator[str]:
    """Do what was asked for, and say what came of it, a line at a time.

    Raises ConfigError for a user's mistake and OSError for a full disk; the output folder is then not there.
    """
    start_s = time.monotonic()
    if request.best_of is not None:
        yield f"run: {request.run.name}, the best of {shown(request.best_of)}"
    repository = None if request.push_to_hub is None else free_name(request.push_to_hub)
    chosen = importlib.import_module(f"summarizer.exporting.{FORMATS[request.format].module}")
    lines: list[str] = chosen.write(request)
    size = sum(file.stat().st_size for file in request.output.rglob("*") if file.is_file())
    yield from lines
    yield (
        f"exported: {shown(request.output)} ({request.format}, {size / 1e6:.1f} MB) "
        f"in {time.monotonic() - start_s:.1f} s"
    )
    yield f"how to load it, and what it is: {shown(request.output / CARD)}"
    if repository is not None:
        yield f"pushed: {push(request.output, repository, private=request.private)}"
