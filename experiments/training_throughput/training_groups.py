"""A group of trials in training, of the modules that a run is made of, put together as `runs.experiment` does."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir

from summarizer.adapters.attach import attach
from summarizer.config.paths import conf_folder
from summarizer.data.prompt import build_prompt
from summarizer.data.splits import build_split
from summarizer.models.load import load_base
from summarizer.models.source import model_folder
from summarizer.models.tokenizer import load_tokenizer
from summarizer.processes import join_processes
from summarizer.runs.preflight import preflight
from summarizer.tracking.utilization import shape_of
from summarizer.training.optimizer import build_optimizer
from summarizer.training.schedule import TrainingSchedule
from summarizer.training.step import Group, Microbatches, build_group
from summarizer.training.trainer import train_step
from summarizer.training.trial import Trial

TOTAL_STEPS = 1_000_000
"""More than any measurement takes: the schedule is constant."""


def group_of(trials: Sequence[Sequence[str]], overrides: Sequence[str]) -> Group:
    """A trial for each list of overrides, over a base of its own, with the overrides that all share."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        specs = [
            preflight(compose("config", ["tracking=none", *overrides, *own]), imported=True) for own in trials
        ]
    first = specs[0]
    processes = join_processes(device=first.trainer.device, precision=first.trainer.precision, wanted=None)
    prompt = build_prompt(first.prompt, load_tokenizer(model_folder(first.model)))
    base = load_base(first.model, first.quantization, processes.device)
    adapted = attach(base.model, [spec.adapter for spec in specs], [spec.seed for spec in specs])
    rows, schedule = (
        build_split(first.data, "train", prompt),
        TrainingSchedule(TOTAL_STEPS, None, TOTAL_STEPS, TOTAL_STEPS, "max_steps"),
    )
    group = build_group(adapted, prompt, processes, Microbatches(None, None))
    entered = []
    for place, spec in enumerate(specs):
        own = adapted.parameters_of(place)
        trial = Trial(spec, Path(tempfile.gettempdir()))
        trial.schedule, trial.rows = schedule, rows
        trial.take_slot(own, build_optimizer(spec, own, group.scratch), shape_of(adapted, place))
        entered.append(trial)
    group.enter(entered)
    return group


def steps_in_turn(groups: Mapping[str, Group], steps: int) -> dict[str, list[float]]:
    """Seconds of each group's steps, which take turns, after one of each to begin with."""
    took: dict[str, list[float]] = {name: [] for name in groups}
    for step in range(steps + 1):
        for name, group in groups.items():
            begun_s = time.perf_counter()
            with group.adapted.training():
                train_step(group, [trial.next_batch() for trial in group.trials]).read()
            if step:
                took[name].append(time.perf_counter() - begun_s)
    return took
