"""A run opened for what `generation.backend` says."""

from __future__ import annotations

from collections.abc import Sequence

from summarizer.converting import openvino
from summarizer.converting.openvino import Converted, open_converted
from summarizer.errors import Issue
from summarizer.trained import opened
from summarizer.trained.opened import Opened, open_runs
from summarizer.trained.run_folder import TrainedRun


def opening_issues(runs: Sequence[TrainedRun], backend: str, *, device: str, precision: str) -> list[Issue]:
    """What `open_model` would refuse before it reads anything of the base."""
    of_backend = opened if backend == "torch" else openvino
    return list(of_backend.opening_issues(runs, device=device, precision=precision))


def open_model(
    runs: Sequence[TrainedRun], backend: str, *, device: str = "auto", precision: str = "auto"
) -> Opened | Converted:
    """Runs to write summaries by. Raises ConfigError as `open_runs` and `open_converted` do."""
    if backend == "torch":
        return open_runs(runs, device=device, precision=precision)
    return open_converted(runs, backend, device=device, precision=precision)
