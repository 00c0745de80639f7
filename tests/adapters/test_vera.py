"""VeRA's random matrices: kept once for all trials that share them; those of a folder are what its key gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kinds_of_adapters import small
from model_folders import load
from safetensors.torch import load_file, save_file
from tiny_bases import logits, saved

from summarizer.adapters.attach import attach
from summarizer.adapters.peft_config import WEIGHTS_FILE
from summarizer.adapters.peft_format import load_adapter, save_adapter
from summarizer.digests import DIGESTS
from summarizer.errors import ConfigError


def test_trials_of_one_key_hold_the_same_matrices(tmp_path: Path) -> None:
    folder = saved("gptj", tmp_path / "base")
    own, others = small("vera"), small("vera", "adapter.projection_prng_key=1")
    narrower = small("vera", "adapter.targets=[linear]", "adapter.exclude=['*.mlp.*']")
    model = attach(load(folder).model, [own, small("lora"), others], [0, 1, 2])
    model.add([own, narrower], [3, 4])
    first, none, by_key, again, of_fewer = model.stack.shared
    assert first is again
    assert none == {}
    assert not torch.equal(first["all_a"], by_key["all_a"])
    widest = [max(layer.base.weight.shape[axis] for layer in model.layers.values()) for axis in (0, 1)]
    assert first["all_b"].shape == (widest[0], own.dim)  # type: ignore[attr-defined]
    assert first["all_a"].shape == (own.dim, widest[1])  # type: ignore[attr-defined]
    assert of_fewer["all_b"].shape[0] < widest[0]
    model.keep([2, 3])
    assert model.stack.shared[0] is by_key
    model.add([own], [5])
    assert model.stack.shared[2] is model.stack.shared[1]


def test_a_folder_s_matrices_are_those_of_its_key(tmp_path: Path) -> None:
    folder = saved("gptj", tmp_path / "base")
    model = attach(load(folder).model, [small("vera")], [0])
    with torch.no_grad():
        for parameter in model.parameters_of(0).values():
            parameter += 0.3
    save_adapter(model, 0, tmp_path / "adapter", str(folder))
    (tmp_path / "adapter" / DIGESTS).unlink()
    tensors = load_file(tmp_path / "adapter" / WEIGHTS_FILE)
    again = attach(load(folder).model, [small("vera")], [9])
    without = {name: tensor for name, tensor in tensors.items() if "lambda" in name}
    save_file(without, tmp_path / "adapter" / WEIGHTS_FILE)  # as peft does by save_projection=False
    load_adapter(again, 0, tmp_path / "adapter")
    assert torch.equal(logits(again.model), logits(model.model))
    tensors["base_model.vera_A"][0, 0] += 1e-3
    save_file(tensors, tmp_path / "adapter" / WEIGHTS_FILE)
    with pytest.raises(ConfigError, match=r"vera_A in .* is not what its projection_prng_key gives here"):
        load_adapter(again, 0, tmp_path / "adapter")
    with pytest.raises(ConfigError, match=r"projection_prng_key 0, adapter\.projection_prng_key is 1"):
        load_adapter(
            attach(load(folder).model, [small("vera", "adapter.projection_prng_key=1")], [0]),
            0,
            tmp_path / "adapter",
        )
