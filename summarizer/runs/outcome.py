"""What came of a run, for its summary.json: known in full when it completes, in part when it stops or fails."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from summarizer.config.schema import RunConfig
from summarizer.evaluation.metrics import Scores
from summarizer.evaluation.pipeline import ADAPTER, BASE, LEAD
from summarizer.runs.ended import Ended
from summarizer.runs.record import (
    SUMMARY,
    BaseScores,
    RunRecord,
    TrainLoss,
    write_summary,
)
from summarizer.tracking.environment import git_state, peak_memory_bytes, versions
from summarizer.tracking.names import redact
from summarizer.tracking.recorder import Recorder, no_recorder, open_recorder
from summarizer.tracking.startup import startup
from summarizer.tracking.tracker import EndStatus
from summarizer.tracking.utilization import utilization
from summarizer.training.course import EndedBy
from summarizer.training.trial import Trial

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Outcome:
    """Filled in as a run goes on; `close` writes what is known by then."""

    job: RunRecord
    """What is known of the run so far."""
    spec: RunConfig
    writes: bool
    """Only the main process writes the summary."""
    device: torch.device
    recorder: Recorder = field(default_factory=no_recorder)
    status: EndStatus | None = None
    """None while it waits or trains."""
    error: Exception | None = None
    trained: bool = False
    """It has, or had, a place in its group."""
    best_value: float | None = None
    flops_per_s: float | None = None
    """The devices' rate, once it is measured."""
    records_open: bool = False
    said: bool = False
    """Whether the log has the error already."""

    def open_records(self) -> None:
        """Begin metrics.jsonl and the wandb run, unless they are. Raises ConfigError where wandb cannot."""
        if self.writes and not self.records_open:
            job = self.job
            (job.path / SUMMARY).unlink(missing_ok=True)  # of an earlier process: the run goes on
            self.recorder = open_recorder(
                self.spec.tracking,
                job.path,
                overrides=job.overrides,
                sweep=job.sweep,
                config=job.config,
                resumed=job.resumed,
            )
        self.records_open = True

    @property
    def ended(self) -> Ended:
        return Ended(self.job.folder, self.best_value, self.error, self.said)

    def learn(self, **values: Any) -> None:
        """Note in the record what has been found out. values: by the record's fields."""
        self.job = self.job.model_copy(update=values)

    def add_scores(self, scores: Mapping[str, Scores]) -> None:
        """The final scores, by system."""
        adapter, base = scores[ADAPTER], scores.get(BASE)
        self.learn(
            val_loss=adapter.loss,
            rouge=dict(adapter.rouge),
            baseline=dict(scores[LEAD].rouge),
            base=None if base is None else BaseScores(val_loss=base.loss, rouge=dict(base.rouge)),
        )

    def note_progress(self, trial: Trial) -> None:
        """How far its trial came."""
        trial.count_time()
        reached = trial.reached
        self.best_value = reached.best_value
        per_epoch = trial.course.steps_per_epoch
        self.learn(
            steps=reached.step,
            best_step=reached.best_step,
            epochs=reached.step / per_epoch if per_epoch else None,
            tokens=reached.tokens,
            wall_s=reached.wall_s,
            tokens_per_s=reached.tokens / reached.train_s if reached.train_s else None,
            mfu=utilization(reached.flops, reached.train_s, self.flops_per_s)
            if reached.train_s and self.flops_per_s
            else None,
            trainable_parameters=trial.trainable_parameters,
            train_loss=TrainLoss(first=reached.first_loss, last=reached.last_loss),
        )

    def close(self, status: EndStatus, ended_by: EndedBy, error: BaseException | None = None) -> None:
        """Write summary.json and end the wandb run, as `status` says."""
        self.status = status
        if isinstance(error, Exception):
            self.error = error
        if not self.writes:
            return
        ended = {
            **self.job.model_dump(),
            "status": status,
            "ended_by": ended_by,
            "error": None if error is None or status == "stopped" else f"{type(error).__name__}: {error}",
            "overrides": [redact(override) for override in self.job.overrides],
            "seed": self.spec.seed,
            "model": self.spec.model.name_or_path,
            "quantization": self.spec.quantization.format,
            "versions": versions(),
            "git": git_state(),
            "peak_memory_bytes": peak_memory_bytes(self.device),
            "startup_s": dict(startup().parts) or None,
        }
        record = RunRecord.model_validate(ended)
        self.recorder.finish(status, record.summary())
        try:
            write_summary(self.job.path, record)
        except OSError:
            # The disk that ended the run; what it refused first is what its user must hear of.
            if not isinstance(error, OSError):
                raise
