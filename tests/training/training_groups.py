"""A group of trials on the embedded model, built as a run builds it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from summarizer.adapters.attach import attach
from summarizer.config.paths import conf_folder
from summarizer.config.specs import RunSpec
from summarizer.data.prompt import build_prompt
from summarizer.data.splits import build_split
from summarizer.model.blocks import recompute_blocks
from summarizer.model.load import load_base
from summarizer.model.source import model_folder
from summarizer.model.tokenizer import load_tokenizer
from summarizer.processes import join_processes
from summarizer.runs.preflight import preflight
from summarizer.tracking.recorder import no_recorder
from summarizer.training.group import Group
from summarizer.training.group import build_group as group_of
from summarizer.training.stopping import StopSignal
from summarizer.training.trial import Trial, build_optimizer

SMALL = (
    "data.rows.train=8",
    "data.rows.validation=4",
    "prompt.max_tokens=160",
    "tracking=none",
    "trainer.precision=fp32",
    "quantization=none",
)


def spec_of(*overrides: str) -> RunSpec:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return preflight(compose("config", [*SMALL, *overrides]))


def build_group(specs: Sequence[RunSpec], folder: Path) -> Group:
    """The specs share everything but adapter, optimizer and seed."""
    first = specs[0]
    torch.manual_seed(0)
    processes = join_processes(device="cpu", precision=first.trainer.precision, wanted=None)
    prompt = build_prompt(first.prompt, load_tokenizer(model_folder(first.model)))
    base = load_base(first.model, first.quantization, processes.device)
    if first.trainer.memory == "low":
        recompute_blocks(base.model)
    adapted = attach(base.model, [spec.adapter.build() for spec in specs], [spec.seed for spec in specs])
    trials = []
    for index, spec in enumerate(specs):
        parameters = adapted.parameters_of(index)
        optimizer = build_optimizer(spec, parameters)
        trials.append(Trial(index, spec, folder / str(index), parameters, optimizer, no_recorder()))
    return group_of(adapted, trials, build_split(first.data, "train", prompt), prompt, processes)


def no_stop() -> StopSignal:
    return StopSignal()


def constant_evaluation(group: Group, value: float = 1.0) -> list[dict[str, float]]:
    return [{"val/loss": value} for _ in group.trials]
