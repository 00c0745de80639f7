"""What trains together: trials over one base, and what they share."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from summarizer.adapters.attach import AdaptedModel
from summarizer.data.prompt import Prompt
from summarizer.processes import Processes, keep_freed_memory
from summarizer.tracking.utilization import matrix_rate
from summarizer.training.loss_scale import LossScaling, build_scaling
from summarizer.training.microbatches import Microbatches
from summarizer.training.trial import Trial

log = logging.getLogger(__name__)


@dataclass
class Group:
    """Trials that share model, data, prompt and trainer, and differ in adapter, optimizer or seed.

    They come and go between steps; each has its own step.
    """

    adapted: AdaptedModel
    trials: list[Trial]
    """Those in training, in the order of their places in the model."""
    prompt: Prompt
    processes: Processes
    microbatches: Microbatches
    scaling: LossScaling
    flops_per_s: float
    """The devices' rate of matrix products, over all processes."""
    places: int | None
    """The most trials at once; None for any number."""

    @property
    def free_places(self) -> int | None:
        return None if self.places is None else self.places - len(self.trials)

    def shrink(self, places: int) -> None:
        """After running out of memory. places: 1 or more."""
        self.places = places
        log.warning("out of memory: from here on %d train at once, the others wait", self.places)

    def enter(self, trials: Sequence[Trial]) -> None:
        """Trials whose adapters the model was given last, in that order."""
        self.trials.extend(trials)

    def leave(self, leaving: Collection[Trial]) -> None:
        """Their rows and tensors leave the model; the others go on as they were."""
        kept = [index for index, trial in enumerate(self.trials) if trial not in leaving]
        self.trials[:] = [self.trials[index] for index in kept]
        self.adapted.keep(kept)


def build_group(
    adapted: AdaptedModel,
    prompt: Prompt,
    processes: Processes,
    microbatches: Microbatches,
    places: int | None = None,
) -> Group:
    """A group without trials yet, over a model without any.

    Measures the device's rate, once per process. On the CPU the process keeps, from here on, what memory it frees.
    """
    if processes.device.type == "cpu":
        keep_freed_memory()
    trials: list[Trial] = []
    return Group(
        adapted,
        trials,
        prompt,
        processes,
        microbatches,
        build_scaling(processes.precision, trials, processes.device),
        matrix_rate(processes.device, processes.dtype) * processes.count,
        places,
    )
