"""What came of a run, for its summary.json: known in full when it completes, in part when it stops or fails."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from summarizer.config.specs import RunSpec
from summarizer.errors import StopRequested
from summarizer.evaluation.scores import Comparison
from summarizer.runs.job import Job
from summarizer.tracking.environment import git_state, peak_memory_bytes, versions
from summarizer.tracking.names import redact
from summarizer.tracking.recorder import Recorder
from summarizer.tracking.startup import startup
from summarizer.tracking.summary import BaseScores, RougeScores, Summary, TrainLoss, write_summary
from summarizer.tracking.tracker import Outcome as Status
from summarizer.tracking.utilisation import utilisation
from summarizer.training.trial import Trial

log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """Filled in as a run goes on; `close` writes what is known by then."""

    job: Job
    spec: RunSpec
    recorder: Recorder
    writes: bool
    """Only the main process writes the summary."""
    trial: Trial | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    flops_per_s: float | None = None
    """The devices' rate, once it is measured."""
    known: dict[str, Any] = field(default_factory=dict)

    def add_scores(self, scores: Comparison) -> None:
        self.known["val_loss"] = scores.adapter.loss
        self.known["rouge"] = RougeScores.of(scores.adapter.rouge)
        self.known["baseline"] = RougeScores.of(scores.lead.rouge)
        if scores.base is not None:
            self.known["base"] = BaseScores(
                val_loss=scores.base.loss, rouge=RougeScores.of(scores.base.rouge)
            )

    def close(self, status: Status, *, error: BaseException | None = None) -> None:
        """Write summary.json and end the wandb run, as `status` says."""
        if not self.writes:
            return
        if error is not None:
            self.known["ended_by"] = "signal" if isinstance(error, StopRequested) else "error"
        summary = Summary(
            status=status,
            error=None if error is None or status == "stopped" else f"{type(error).__name__}: {error}",
            overrides=[redact(override) for override in self.job.overrides],
            seed=self.spec.seed,
            model=self.spec.model.name_or_path,
            quantization=self.spec.quantization.format,
            versions=versions(),
            git=git_state(),
            peak_memory_bytes=peak_memory_bytes(self.device),
            startup_s=dict(startup().parts) or None,
            **self._progress(),
            **self.known,
        )
        self.recorder.finish(status, summary.model_dump())
        write_summary(Path(self.job.folder), summary)

    def _progress(self) -> dict[str, Any]:
        if self.trial is None:
            return {}
        trial, reached = self.trial, self.trial.reached
        trial.count_time()
        return {
            "steps": reached.step,
            "best_step": reached.best_step,
            "tokens": reached.tokens,
            "wall_s": reached.wall_s,
            "tokens_per_s": reached.tokens / reached.train_s if reached.train_s else None,
            "mfu": utilisation(reached.flops, reached.train_s, self.flops_per_s)
            if reached.train_s and self.flops_per_s
            else None,
            "trainable_parameters": trial.trainable_parameters,
            "train_loss": TrainLoss(first=reached.first_loss, last=reached.last_loss),
        }
