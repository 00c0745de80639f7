"""`_target_` nodes against the classes that they name."""

from __future__ import annotations

import sys

import pytest
import torch
from composing import composed

from summarizer.adapters.lora import LoRA
from summarizer.config.check import check
from summarizer.config.targets import OptimizerConfig, arguments_model, refusal, resolve_target
from summarizer.errors import ConfigError


def test_classes_of_the_right_kind_are_found() -> None:
    assert resolve_target("optimizer", "torch.optim.AdamW") is torch.optim.AdamW
    assert resolve_target("adapter", "summarizer.adapters.lora.LoRA") is LoRA


@pytest.mark.parametrize(
    "path", ["antigravity.x", "torch.optimum.X", "torch.optim", "torch.optimizer.X", "", None, ["x"]]
)
def test_nothing_outside_the_list_is_imported(path: object) -> None:
    before = set(sys.modules)
    with pytest.raises(ConfigError, match=r"optimizer\._target_"):
        resolve_target("optimizer", path)
    assert "antigravity" not in set(sys.modules) - before


@pytest.mark.parametrize(
    "path", ["torch.optim.Optimizer", "torch.optim.lr_scheduler.StepLR", "torch.optim.adam._adam"]
)
def test_another_kind_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=r"optimizer\._target_"):
        resolve_target("optimizer", path)


def test_arguments_are_those_of_the_signature() -> None:
    names = set(arguments_model(torch.optim.SGD).model_fields)
    assert {"lr", "momentum", "nesterov"} <= names
    assert "params" not in names
    assert arguments_model(LoRA) is LoRA


def test_arguments_that_exclude_each_other() -> None:
    target = OptimizerConfig(target="torch.optim.SGD", arguments={"lr": 0.1, "nesterov": True})
    assert "Nesterov momentum requires a momentum" in str(refusal(target))
    assert (
        refusal(
            OptimizerConfig(
                target="torch.optim.SGD", arguments={"lr": 0.1, "nesterov": True, "momentum": 0.9}
            )
        )
        is None
    )


def test_a_target_builds_and_shows_its_arguments() -> None:
    target = OptimizerConfig(target="torch.optim.SGD", arguments={"lr": 0.25})
    built = target.build([torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(built, torch.optim.SGD)
    assert (built.defaults["lr"], target.lr) == (0.25, 0.25)


def test_an_adapter_is_made_of_its_class_once_that_is_imported() -> None:
    read = check(composed("adapter.dim=3", "adapter.exclude=[lm_head]"))
    assert (read.adapter.dim, type(read.adapter).__name__) == (3, "LoRA")
    assert not isinstance(read.adapter, LoRA), "to check a config takes no torch"
    made = read.imported()
    assert isinstance(made.adapter, LoRA)
    assert made.adapter.model_dump() == read.adapter.model_dump()
    assert made.imported().adapter is made.adapter
    assert (
        made.adapter == check(composed("adapter.dim=3", "adapter.exclude=[lm_head]"), imported=True).adapter
    )
