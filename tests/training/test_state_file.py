"""Optimizer states on disk and back: every bit, for every optimizer that conf offers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_groups import spec_of

from summarizer.training.checkpoint import load_state, save_state

OPTIMIZERS = ["adam8bit", "adamw8bit", "lion8bit", "adamw", "sgd"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_restored_optimizer_goes_on_to_the_last_bit(name: str, tmp_path: Path) -> None:
    target = spec_of(f"optimizer={name}").optimizer

    def fresh() -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
        torch.manual_seed(0)
        # One large enough for 8-bit state (4,096 elements and more), one small.
        parameters = [torch.nn.Parameter(torch.randn(2, 4096)), torch.nn.Parameter(torch.randn(2, 64))]
        return parameters, target.build(parameters)

    def take_steps(
        parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer, seeds: range
    ) -> None:
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()

    through, optimizer = fresh()
    take_steps(through, optimizer, range(6))

    first, optimizer = fresh()
    take_steps(first, optimizer, range(3))
    save_state(optimizer.state_dict(), tmp_path / "optimizer")
    resumed, optimizer = fresh()
    for new, old in zip(resumed, first, strict=True):
        new.data.copy_(old.data)
    optimizer.load_state_dict(load_state(tmp_path / "optimizer"))
    take_steps(resumed, optimizer, range(3, 6))

    for a, b in zip(through, resumed, strict=True):
        assert torch.equal(a, b)


def test_nested_values_keep_their_types(tmp_path: Path) -> None:
    state = {
        "state": {0: {"step": 3, "m": torch.arange(6, dtype=torch.uint8).reshape(2, 3)}, 1: {}},
        "param_groups": [
            {"lr": 1e-4, "betas": (0.9, 0.999), "params": [0, 1], "foreach": None, "amsgrad": False}
        ],
    }
    save_state(state, tmp_path / "s")
    back = load_state(tmp_path / "s")
    assert back["param_groups"] == state["param_groups"]
    assert isinstance(back["param_groups"][0]["betas"], tuple)
    assert list(back["state"]) == [0, 1]
    assert torch.equal(back["state"][0]["m"], state["state"][0]["m"])  # type: ignore[index]


def test_what_cannot_be_saved_without_pickle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="function"):
        save_state({"state": {0: {"hook": lambda: None}}}, tmp_path / "s")
