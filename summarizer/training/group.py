"""What trains together: trials over one base, and what they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from summarizer.adapters.attach import AdaptedModel
from summarizer.config.specs import TrainerSpec
from summarizer.data.order import TrainingRows
from summarizer.data.prompt import Prompt
from summarizer.processes import Processes, keep_freed_memory
from summarizer.tracking.utilisation import ModelShape, matrix_rate, shape_of
from summarizer.training.loss_scale import LossScaling, build_scaling
from summarizer.training.microbatches import Microbatches
from summarizer.training.trial import Trial


@dataclass(frozen=True)
class Group:
    """Trials that share model, data, prompt and trainer, and differ in adapter, optimizer or seed."""

    adapted: AdaptedModel
    trials: Sequence[Trial]
    rows: TrainingRows
    prompt: Prompt
    processes: Processes
    microbatches: Microbatches
    scaling: LossScaling
    shapes: Sequence[ModelShape]
    """What each trial's FLOPs depend on."""
    flops_per_s: float
    """The devices' rate of matrix products, over all processes."""

    @property
    def trainer(self) -> TrainerSpec:
        return self.trials[0].spec.trainer

    @property
    def step(self) -> int:
        return self.trials[0].reached.step


def build_group(
    adapted: AdaptedModel,
    trials: Sequence[Trial],
    rows: TrainingRows,
    prompt: Prompt,
    processes: Processes,
    microbatches: Microbatches | None = None,
) -> Group:
    """microbatches: where they are not as the trainer's config says.

    Measures the device's rate, once per process. On the CPU the process keeps, from here on, what memory it frees.
    """
    if processes.device.type == "cpu":
        keep_freed_memory()
    trainer = trials[0].spec.trainer
    tokens = trainer.batch_tokens if isinstance(trainer.batch_tokens, int) else None
    return Group(
        adapted,
        trials,
        rows,
        prompt,
        processes,
        microbatches or Microbatches(trainer.microbatch_size, tokens),
        build_scaling(processes.precision, trials, processes.device),
        [shape_of(adapted, trial.index) for trial in trials],
        matrix_rate(processes.device, processes.dtype) * processes.count,
    )
