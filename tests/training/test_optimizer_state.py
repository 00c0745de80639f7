"""The bytes of an optimizer's state against all of its parameters built, and against what is known of it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from summarizer.config.check import check
from summarizer.config.paths import conf_folder
from summarizer.training.dry_run import BuildOptimizer, optimizer_state_bytes

SHAPES = [(2, 64), (2, 64), (2, 64), (2, 5000), (2, 5000), (2, 3000), (4, 4096)]
OPTIMIZERS = sorted(path.stem for path in (conf_folder() / "optimizer").glob("[!_]*.yaml"))


def built_whole(build: BuildOptimizer) -> int:
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = build(parameters)
    optimizer.step()
    storages = {
        value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
        for parameter in parameters
        for value in optimizer.state[parameter].values()
        if isinstance(value, Tensor)
    }
    return sum(storages.values())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_as_many_as_all_parameters_have(name: str) -> None:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        spec = check(compose("config", [f"optimizer={name}"]))
    assert optimizer_state_bytes(spec.optimizer.build, SHAPES) == built_whole(spec.optimizer.build)


def test_every_optimizer_was_asked() -> None:
    assert len(OPTIMIZERS) >= 5


def test_known_sizes() -> None:
    large, numbers = [(2, 4096)] * 3, 3 * 8192
    assert optimizer_state_bytes(partial(torch.optim.SGD, lr=0.1), large) == 0
    assert optimizer_state_bytes(partial(torch.optim.SGD, lr=0.1, momentum=0.9), large) == 4 * numbers
    steps = 4 * 3
    assert optimizer_state_bytes(partial(torch.optim.AdamW, lr=0.1), large) == 8 * numbers + steps
    import bitsandbytes as bnb

    adam8bit = partial(bnb.optim.Adam8bit, lr=0.1)
    maps, scales = 2 * 256 * 4, 2 * (numbers // 256) * 4
    assert optimizer_state_bytes(adam8bit, large) == 2 * numbers + scales + maps
    assert optimizer_state_bytes(adam8bit, [(2, 64)] * 100) == 8 * 12800  # too small for 8 bits
