"""A group of trials on the embedded model, built as a run builds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from summarizer.adapters.attach import attach
from summarizer.adapters.peft_format import peft_tensors
from summarizer.config.paths import conf_folder
from summarizer.config.schema import RunConfig
from summarizer.data.order import TrainingRows
from summarizer.data.prompt import build_prompt
from summarizer.data.splits import build_split
from summarizer.models.blocks import recompute_blocks
from summarizer.models.load import load_base
from summarizer.models.source import model_folder
from summarizer.models.tokenizer import load_tokenizer
from summarizer.processes import join_processes
from summarizer.runs.preflight import preflight
from summarizer.tracking.utilization import shape_of
from summarizer.training.optimizer import build_optimizer
from summarizer.training.schedule import training_schedule
from summarizer.training.step import Group, Microbatches
from summarizer.training.step import build_group as group_of
from summarizer.training.stopping import StopSignal
from summarizer.training.trainer import Exit, fit
from summarizer.training.trial import Trial

SMALL = (
    "data.rows.train=8",
    "data.rows.validation=4",
    "prompt.max_tokens=160",
    "tracking=none",
    "trainer.precision=fp32",
    "quantization=none",
)


def spec_of(*overrides: str) -> RunConfig:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return preflight(compose("config", [*SMALL, *overrides]), imported=True)


def build_group(specs: Sequence[RunConfig], folder: Path, device: str = "cpu") -> Group:
    """The specs share everything but adapter, optimizer, seed and schedule; all have their slots."""
    first = specs[0]
    torch.manual_seed(0)
    processes = join_processes(device=device, precision=first.trainer.precision, wanted=None)
    prompt = build_prompt(first.prompt, load_tokenizer(model_folder(first.model)))
    base = load_base(first.model, first.quantization, processes.device)
    if first.trainer.memory == "low":
        recompute_blocks(base.model)
    adapted = attach(base.model, [], [])
    microbatches = Microbatches(first.trainer.microbatch_size, None)
    group = group_of(adapted, prompt, processes, microbatches)
    rows = build_split(first.data, "train", prompt)
    group.enter(add_trials(group, specs, [folder / str(index) for index in range(len(specs))], rows))
    return group


def add_trials(
    group: Group, specs: Sequence[RunConfig], folders: Sequence[Path], rows: TrainingRows
) -> list[Trial]:
    """New trials that the model has been given."""
    first_place = len(group.trials)
    group.adapted.add([spec.adapter for spec in specs], [spec.seed for spec in specs])
    trials = []
    for place, (spec, folder) in enumerate(zip(specs, folders, strict=True), first_place):
        own = group.adapted.parameters_of(place)
        folder.mkdir(parents=True, exist_ok=True)
        trial = Trial(spec, folder)
        trial.rows = rows
        trial.schedule = training_schedule(spec.trainer, rows.steps_per_epoch(spec.trainer.batch_size))
        trial.take_slot(own, build_optimizer(spec, own, group.scratch), shape_of(group.adapted, place))
        trials.append(trial)
    return trials


class Watching:
    """`Callbacks` of trials that have their slots already. Evaluates to a constant unless told."""

    def __init__(self, group: Group, value: Callable[[Trial], float] = lambda trial: 1.0) -> None:
        self.group, self.value = group, value
        self.why: dict[Trial, Exit] = {}
        """Of those that left."""
        self.final: dict[Trial, dict[str, Tensor]] = {}
        """Their adapters when they did, under PEFT's names."""
        self.losses: dict[Trial, list[float]] = {trial: [] for trial in group.trials}
        self.waiting: list[Callable[[], Trial]] = []
        """Admitted when there is a slot."""

    def requested(self) -> list[Trial]:
        return []

    def admit(self, free: int | None) -> list[Trial]:
        count = len(self.waiting) if free is None else free
        admitted = [build() for build in self.waiting[:count]]
        del self.waiting[:count]
        self.losses |= {trial: [] for trial in admitted if trial not in self.losses}
        return admitted

    def evaluate(self, trials: Sequence[Trial]) -> list[dict[str, float]]:
        return [
            {trial.spec.trainer.best_metric: v, "val/loss": v}
            for trial in trials
            for v in [self.value(trial)]
        ]

    def in_words(self, metrics: Mapping[str, float]) -> str:
        return ", ".join(f"{name} {number:.3f}" for name, number in metrics.items())

    def evaluated(self, trials: Sequence[Trial], continuing: Sequence[Trial]) -> list[Trial]:
        return []

    def on_leave(self, trials: Mapping[Trial, Exit]) -> None:
        for trial, why in trials.items():
            self.why[trial] = why
            self.final[trial] = peft_tensors(self.group.adapted, self.group.trials.index(trial))

    def first_step_taken(self) -> None:
        assert not any(self.losses.values())

    def stepped(self, losses: Mapping[Trial, float], tokens_per_s: float) -> None:
        for trial, loss in losses.items():
            self.losses[trial].append(loss)


def train(group: Group, owner: Watching | None = None, stop: StopSignal | None = None) -> Watching:
    """Train all trials to their ends."""
    owner = owner or Watching(group)
    fit(group, owner, stop or StopSignal())
    return owner


def losses_of(group: Group) -> list[list[float]]:
    """Train the group and return each trial's loss at each step."""
    return list(train(group).losses.values())
