"""Every kind of adapter in conf/adapter against PEFT's own implementation of it: a new kind enters by its YAML.

In fp32 on the CPU, on a tiny GPT-J and a tiny Llama: outputs, losses and every gradient, both ways, and merged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from greedy import greedy
from kinds_of_adapters import DIM, KINDS, small
from model_folders import load
from peft import PeftModel, get_peft_model
from tiny_bases import logits, plain, saved, token_ids
from torch import Tensor

from summarizer.adapters.attach import AdaptedModel, attach
from summarizer.adapters.peft_config import FROM_THE_BASE
from summarizer.adapters.peft_format import (
    PREFIX,
    adapter_of_folder,
    load_adapter,
    peft_tensors,
    save_adapter,
)
from summarizer.exporting.merge import Merge, merged_into
from summarizer.generation.decoder import Decoder

pytestmark = pytest.mark.versions
EVERY = [pytest.param(kind, marks=pytest.mark.slow) if " " in kind else kind for kind in KINDS]
"""Those with other settings than their YAML's are slow tests."""
BASES = ("gptj", pytest.param("llama_untied", marks=pytest.mark.slow))


def train_a_little(model: AdaptedModel, slot: int, seed: int = 5) -> None:
    """Values as training might leave them, near those that were drawn."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters_of(slot).values():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def loss_of(scores: Tensor, ids: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(scores[:, :-1].transpose(1, 2), ids[:, 1:])


def dense_base(folder: Path, quantization: str) -> Any:
    """transformers' model with this project's dequantized weights."""
    model = plain(folder)
    if quantization != "none":
        frozen = load(folder, quantization).model.module
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
                module.weight.data = frozen.get_submodule(name).weight.dense(torch.float32)
    return model


@pytest.mark.parametrize("quantization", ["int8", pytest.param("none", marks=pytest.mark.slow)])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", KINDS)
def test_ours_in_peft(kind: str, base: str, quantization: str, tmp_path: Path) -> None:
    """What we save computes in PEFT what it computes here, and has the same gradients."""
    folder = saved(base, tmp_path / "base")
    other, adapter = small("lora"), small(kind)
    model = attach(load(folder, quantization).model, [other, adapter], [0, 1])
    for slot in (0, 1):
        train_a_little(model, slot)
    save_adapter(model, 1, tmp_path / "adapter", str(folder))
    theirs = PeftModel.from_pretrained(
        dense_base(folder, quantization), tmp_path / "adapter", is_trainable=True
    )
    ids = token_ids(2)
    own_scores = model.model.logits(torch.cat([ids, ids]))[2:]
    their_scores = theirs.eval()(input_ids=ids).logits
    torch.testing.assert_close(own_scores, their_scores, rtol=1e-4, atol=5e-5)  # products of two libraries
    own_loss, their_loss = loss_of(own_scores, ids), loss_of(their_scores, ids)
    torch.testing.assert_close(own_loss, their_loss, rtol=1e-6, atol=1e-6)
    own_loss.backward()
    their_loss.backward()
    gradients = {saved_name(name): value.grad for name, value in theirs.named_parameters()}
    compared = 0
    for name, layer in model.layers.items():
        own = layer.trials[1]
        if not own:
            continue
        names = layer.adapters[1].to_peft(layer.role, own)
        expected = layer.adapters[1].from_peft(
            layer.role, {key: gradients[f"{PREFIX}{name}.{key}"] for key in names}
        )
        for key, parameter in own.items():
            if parameter.requires_grad:
                torch.testing.assert_close(
                    parameter.grad, expected[key], rtol=1e-3, atol=1e-5, msg=f"{name}.{key}"
                )
                compared += 1
    assert compared == len(model.parameters_of(1)) > 0


def saved_name(parameter: str) -> str:
    """What PEFT calls a parameter in a file."""
    return parameter.replace(".default", "").replace("magnitude_vector.weight", "magnitude_vector")


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", EVERY)
def test_peft_s_here(kind: str, base: str, tmp_path: Path) -> None:
    """What PEFT makes and saves computes here what it computes there."""
    folder = saved(base, tmp_path / "base")
    adapter = small(kind)
    bare = attach(load(folder).model, [adapter], [0])
    own = [name for name, layer in bare.layers.items() if layer.trials[0]]
    config = adapter.peft_config(own)
    config.inference_mode = False
    init = getattr(adapter, "init_lora_weights", True)
    if init is not True:  # PEFT's own starts so on linear layers alone, and by random products unless exact
        exact = init if init in FROM_THE_BASE else "pissa"
        own = [name for name in own if bare.layers[name].role != "embedding"]
        config = peft.LoraConfig(r=DIM, lora_alpha=6, init_lora_weights=exact, target_modules=own)
    torch.manual_seed(3)
    theirs = get_peft_model(plain(folder), config).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    theirs.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    known = adapter_of_folder(tmp_path / "adapter", bare.roles, "--adapter")
    model = attach(load(folder).model, [known], [0])
    load_adapter(model, 0, tmp_path / "adapter")
    ids = token_ids(2)
    expected = theirs(input_ids=ids).logits
    torch.testing.assert_close(model.model.logits(ids), expected, rtol=1e-4, atol=2e-5)
    with torch.no_grad(), model.only([0]):
        torch.testing.assert_close(model.model.logits(ids), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("base", [*BASES, pytest.param("gpt2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", EVERY)
def test_merged_and_saved_it_computes_the_same(kind: str, base: str, tmp_path: Path) -> None:
    folder = saved(base, tmp_path / "base")
    model = attach(load(folder).model, [small(kind)], [0])
    train_a_little(model, 0)
    before = logits(model.model)
    with merged_into(Merge(model, 0), torch.float32):
        torch.testing.assert_close(logits(model.model), before, rtol=1e-4, atol=2e-5)
    save_adapter(model, 0, tmp_path / "adapter", str(folder))
    again = attach(load(folder).model, [small(kind)], [9])
    load_adapter(again, 0, tmp_path / "adapter")
    for name, tensor in peft_tensors(model, 0).items():
        assert torch.equal(tensor, peft_tensors(again, 0)[name]), name
    assert torch.equal(logits(again.model), before)


@pytest.mark.parametrize("kind", EVERY)
def test_it_starts_as_the_base(kind: str, tmp_path: Path) -> None:
    folder = saved("gptj", tmp_path / "base")
    model = attach(load(folder).model, [small(kind)], [0])
    torch.testing.assert_close(logits(model.model), logits(load(folder).model), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_all_kinds_beside_each_other_are_as_alone(tmp_path: Path) -> None:
    """In one group, in which some leave layers alone and dims differ: outputs and gradients."""
    folder = saved("gptj", tmp_path / "base")
    adapters = [small(kind) for kind in KINDS]
    adapters += [small(kind, "adapter.targets=[linear]") for kind in KINDS[::-1]]
    together = attach(load(folder).model, adapters, list(range(len(adapters))))
    ids = token_ids(2)
    for slot in range(len(adapters)):
        train_a_little(together, slot, seed=slot)
    scores = together.model.logits(ids.repeat(len(adapters), 1)).chunk(len(adapters))
    torch.stack([loss_of(own, ids) for own in scores]).sum().backward()
    for slot, adapter in enumerate(adapters):
        alone = attach(load(folder).model, [adapter], [slot])
        train_a_little(alone, 0, seed=slot)
        own = alone.model.logits(ids)
        torch.testing.assert_close(scores[slot], own, rtol=1e-5, atol=1e-6)
        loss_of(own, ids).backward()
        for name, parameter in alone.parameters_of(0).items():
            grad = together.parameters_of(slot)[name].grad
            torch.testing.assert_close(grad, parameter.grad, rtol=1e-4, atol=1e-6, msg=f"{slot} {name}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_summaries_are_those_of_the_merged_model(kind: str, tmp_path: Path) -> None:
    """Written token by token, by whatever way each kind decodes, over a base in int8."""
    folder = saved("llama_untied", tmp_path / "base")
    model = attach(load(folder, "int8").model, [small("lora"), small(kind), small(kind)], [0, 1, 2])
    for slot in range(3):
        train_a_little(model, slot, seed=slot)
    with model.only([1, 2]):
        beside = written(model)
    with model.only([1]):
        alone = written(model)
    merge = Merge(model, 1)
    with model.only([1]), merged_into(merge, torch.float32):
        merged = written(model)
    assert [own[:1] for own in beside] == alone == merged
    assert beside[0][1] != alone[0][0]


def written(model: AdaptedModel) -> list[list[list[int]]]:
    """[prompt][trial][token]"""
    prompts = [[5, 6, 7], list(range(8, 30))]
    decoder = Decoder(model, greedy(12), end_id=0, pad_id=0, batch_size=2)
    done = dict(decoder.answers(prompts))
    return [done[index] for index in range(len(prompts))]
