"""This project's contender: the modules that a run is made of, put together as `runs.experiment` does."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from workload import Contender, Point, Setting, Workload, build_workload, model_config

from summarizer.adapters.attach import attach
from summarizer.models.load import Base, load_base
from summarizer.models.random_base import random_base
from summarizer.processes import join_processes
from summarizer.tracking.utilization import ModelShape, shape_of
from summarizer.training.optimizer import Scratch, build_optimizer
from summarizer.training.schedule import TrainingSchedule
from summarizer.training.sizing import compiles, size_run
from summarizer.training.step import build_group
from summarizer.training.trainer import StepMeasurement, train_step
from summarizer.training.trial import Trial

TOTAL_STEPS = 1_000_000
"""More than any measurement takes: the schedule is constant."""


class Ours:
    """One format, loaded once; adapters of one dim, drawn anew for each point."""

    def __init__(self, setting: Setting, contender: Contender, point: Point) -> None:
        self._setting, self._contender = setting, contender
        spec = self.workload(point).spec
        self.processes = join_processes(
            device=spec.trainer.device, precision=spec.trainer.precision, wanted=None
        )
        self.precision: str = self.processes.precision
        self.device = self.processes.device
        config = model_config(setting, spec)
        self._sizing = size_run(spec, config, self.processes.dtype, self.device)
        if setting.random_weights:
            base: Base = random_base(config, spec.quantization.format, self.device, setting.seed)
        else:
            base = load_base(spec.model, spec.quantization, self.device)
        self._sizing.prepare(base.model, compiled=compiles(spec, self.device))
        self._adapted = attach(base.model, [spec.adapter], [spec.seed])
        self._drawn = {
            name: parameter.detach().clone() for name, parameter in self._adapted.parameters_of(0).items()
        }
        self._measured: list[StepMeasurement] = []

    def workload(self, point: Point) -> Workload:
        return build_workload(self._setting, point, self._contender.overrides())

    def begin(self, workload: Workload) -> ModelShape:
        """The adapters as they were drawn, a new optimizer, the first batch next. What the FLOPs depend on."""
        parameters = self._adapted.parameters_of(0)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(self._drawn[name])
        self._adapted.zero_grad()
        shape = shape_of(self._adapted, 0)
        trial = Trial(workload.spec, Path(tempfile.gettempdir()))
        trial.schedule = TrainingSchedule(TOTAL_STEPS, None, TOTAL_STEPS, TOTAL_STEPS, "max_steps")
        trial.rows = workload.rows
        trial.take_slot(parameters, build_optimizer(workload.spec, parameters, Scratch()), shape)
        self._microbatches = replace(self._sizing.microbatches)  # running out of memory changes it
        self._group = build_group(self._adapted, workload.prompt, self.processes, self._microbatches)
        self._group.enter([trial])
        self._batches = workload.stream()
        return shape

    def note(self) -> str | None:
        """How the step differs from what was asked for."""
        if self._microbatches == self._sizing.microbatches:
            return None
        return f"after running out of memory, at most {self._microbatches} at once"

    def step(self) -> None:
        with self._adapted.training():
            self._measured.append(train_step(self._group, [next(self._batches)]))
        if len(self._measured) > 1:
            self._measured[-2].read()  # one step behind, as the loop's records do

    def numbers(self) -> list[tuple[float, float]]:
        """Loss and gradient norm of the steps since the last call."""
        numbers = [
            (losses[0], norms[0]) for losses, norms in (measured.read() for measured in self._measured)
        ]
        self._measured.clear()
        return numbers
