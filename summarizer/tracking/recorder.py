"""Where one run's numbers and samples go: metrics.jsonl always, wandb beside it, nowhere on the other ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from summarizer.config.schema import TrackingConfig
from summarizer.tracking.metrics import METRICS, MetricsFile
from summarizer.tracking.names import run_name
from summarizer.tracking.tracker import EndStatus, NoTracker, SampleSummary, Tracker


class Recorder:
    """metrics.jsonl and a tracker, kept in step."""

    def __init__(self, metrics: MetricsFile | None, tracker: Tracker) -> None:
        self._metrics, self._tracker = metrics, tracker

    def log(self, row: Mapping[str, float]) -> None:
        """Record one row, which holds its `step`."""
        if self._metrics is not None:
            self._metrics.log(row)
        self._tracker.log(row, int(row["step"]))

    def log_samples(self, step: int, samples: Sequence[SampleSummary]) -> None:
        self._tracker.log_samples(step, samples)

    def log_adapter(self, folder: Path) -> None:
        self._tracker.log_adapter(folder)

    def keep_through(self, step: int) -> None:
        """Forget what an interrupted process recorded after the step that it is resumed from."""
        if self._metrics is not None:
            self._metrics.keep_through(step)
            self._tracker.replay(self._metrics.records())

    def finish(self, status: EndStatus, summary: Mapping[str, Any]) -> None:
        self._tracker.finish(status, summary)


def open_recorder(
    spec: TrackingConfig,
    folder: Path,
    *,
    overrides: Sequence[str],
    sweep: str | None,
    config: dict[str, Any],
    resumed: bool,
) -> Recorder:
    """Open a run's records in its folder. Raises ConfigError where wandb cannot be reached as asked."""
    tracker: Tracker = NoTracker()
    if spec.mode != "disabled":
        from summarizer.tracking.wandb_run import open_tracker

        tracker = open_tracker(
            spec, folder, name=run_name(overrides), group=sweep, config=config, resumed=resumed
        )
    return Recorder(MetricsFile(folder / METRICS), tracker)


def no_recorder() -> Recorder:
    """For the processes that only help the main one."""
    return Recorder(None, NoTracker())
