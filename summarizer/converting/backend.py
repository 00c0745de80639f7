"""A run opened for what `generation.backend` says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from summarizer.errors import Issue
from summarizer.runs import opening
from summarizer.runs.trained_run import TrainedRun

if TYPE_CHECKING:
    from summarizer.converting.openvino import Converted
    from summarizer.runs.opened import Opened


def opening_issues(runs: Sequence[TrainedRun], backend: str, *, device: str, precision: str) -> list[Issue]:
    """What `open_model` would refuse before it reads anything of the base."""
    if backend == "torch":
        return list(opening.opening_issues(runs, device=device, precision=precision))
    from summarizer.converting import openvino

    return list(openvino.opening_issues(runs, device=device, precision=precision))


def open_model(
    runs: Sequence[TrainedRun], backend: str, *, device: str = "auto", precision: str = "auto"
) -> Opened | Converted:
    """Runs to write summaries by. Raises ConfigError as `open_runs` and `open_converted` do."""
    if backend == "torch":
        from summarizer.runs.opened import open_runs

        return open_runs(runs, device=device, precision=precision)
    from summarizer.converting.openvino import open_converted

    return open_converted(runs, backend, device=device, precision=precision)
