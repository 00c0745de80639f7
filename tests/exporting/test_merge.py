"""Merged weights against peft's own merge, against the unmerged model, and as plain transformers loads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from trained_runs import load, logits, opened, save_run
from transformers import AutoModelForCausalLM, PreTrainedModel

from summarizer import export
from summarizer.errors import ConfigError
from summarizer.exporting.folders import MergedModel
from summarizer.exporting.merge import Merge, merged_into
from summarizer.models.load import load_config
from summarizer.runs.loaded_run import LoadedRun

pytestmark = pytest.mark.versions

KINDS = ["gptj", "llama_tied", "gpt2", "neox", "gemma3", "opt"]


def write(
    run: LoadedRun, folder: Path, dtype: str = "fp32", trial: int | None = 0, shard_bytes: int = 1 << 30
) -> Path:
    folder.mkdir()
    config = load_config(Path(run.spec.model.name_or_path))
    merge = Merge(run.adapted, trial)
    model = MergedModel(merge, config, run.tokenizer, run.prompt, run.spec.generation)
    model.write(folder, dtype, shard_bytes)
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert 0 <= stored - model.nbytes(dtype) < 20_000 + 200 * len(model.pieces())
    return folder


def plain(folder: Path) -> PreTrainedModel:
    model, found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    return model.eval()


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_answers_as_the_unmerged_model(kind: str, tmp_path: Path) -> None:
    run = opened(save_run(kind, tmp_path, "quantization.format=int8"))
    loaded = plain(write(run, tmp_path / "merged"))
    ours = logits(run.adapted.model)
    torch.testing.assert_close(logits(loaded), ours, rtol=1e-3, atol=2e-4)
    with run.adapted.base_alone():
        assert torch.dist(ours, logits(run.adapted.model)) > 0.05 * ours.norm()


@pytest.mark.parametrize("kind", ["gptj", "llama_tied", "gpt2"])
def test_the_tensors_are_those_of_peft_s_merge(kind: str, tmp_path: Path) -> None:
    folder = save_run(kind, tmp_path)
    merged = tensors(write(opened(folder), tmp_path / "merged"))
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload().state_dict()
    shared = (
        {"lm_head.weight"} if kind != "gptj" else set()
    )  # which peft merges into the tied embedding as well
    assert merged.keys() == theirs.keys()
    for name in (
        merged.keys()
        - shared
        - ({"model.embed_tokens.weight", "transformer.wte.weight"} if shared else set())
    ):
        torch.testing.assert_close(merged[name], theirs[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", ["llama_tied", "gpt2", "gptj"])
def test_the_card_says_how_peft_merges_where_head_and_embedding_are_one(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_run(kind, tmp_path)
    ours = logits(opened(folder).adapted.model)
    assert export.command([str(folder), "--format", "peft"]) == 0
    card, out = (folder / "export" / "peft" / "README.md").read_text(), capsys.readouterr().out
    assert ("merge_and_unload" in card, "merge_and_unload" in out) == (kind != "gptj", kind != "gptj")
    for untied in (False, True):
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
        if untied:
            head = base.get_output_embeddings()
            head.weight = torch.nn.Parameter(head.weight.detach().clone())
            base.config.tie_word_embeddings = False
        merged = PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload()
        right = torch.dist(logits(merged), ours) < 1e-4 * ours.norm()
        assert right == (untied or kind == "gptj")


@pytest.mark.parametrize(
    ("kind", "dtype", "bound"),
    [("gptj", "bf16", 2e-2), ("llama_tied", "bf16", 2e-2), ("gpt2", "bf16", 2e-2), ("gptj", "fp16", 3e-3)],
)
def test_rounding_costs_what_its_type_says(kind: str, dtype: str, bound: float, tmp_path: Path) -> None:
    run = opened(save_run(kind, tmp_path))
    folder = write(run, tmp_path / "merged", dtype)
    stored = {tensor.dtype for tensor in tensors(folder).values()}
    assert stored == {{"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]}
    ours = logits(run.adapted.model)
    error = float(torch.dist(logits(plain(folder)), ours) / ours.norm())
    assert 1e-6 < error < bound


@pytest.mark.parametrize("kind", ["gptj", "llama_tied", "gpt2", "gemma3"])
def test_what_is_measured_is_what_is_written(kind: str, tmp_path: Path) -> None:
    run = opened(save_run(kind, tmp_path, "quantization.format=int8"))
    before = logits(run.adapted.model)
    with merged_into(Merge(run.adapted, 0), torch.bfloat16):
        measured = logits(run.adapted.model)
    assert torch.equal(logits(run.adapted.model), before)
    written = logits(plain(write(run, tmp_path / "merged", "bf16")))
    torch.testing.assert_close(measured, written, rtol=1e-4, atol=1e-4)
    assert torch.dist(measured, before) > 10 * torch.dist(measured, written)


def test_the_original_weights_are_the_checkpoint_s(tmp_path: Path) -> None:
    run = opened(save_run("gpt2", tmp_path, "quantization.format=nf4"))
    original = Merge(run.adapted, 0, load(tmp_path / "base").model)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "base").state_dict()[
        "transformer.h.0.mlp.c_fc.weight"
    ]
    pair = run.adapted.layers["transformer.h.0.mlp.c_fc"].trials[0]
    expected = theirs.t() + 2 * pair["b"].t() @ pair["a"]
    torch.testing.assert_close(original.weight("transformer.h.0.mlp.c_fc"), expected)
    assert torch.dist(Merge(run.adapted, 0).weight("transformer.h.0.mlp.c_fc"), expected) > 0.1


# ---- heads that are the embedding ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "targets", "quantization", "tied"),
    [
        ("llama_tied", ["linear"], "int8", True),
        ("llama_tied", ["linear", "head"], "none", False),
        ("llama_tied", ["embedding"], "none", False),
        ("gpt2", ["linear"], "none", True),
        ("gemma3", ["linear"], "none", True),
        ("gemma3", ["linear"], "int8", True),
    ],
)
def test_a_head_is_untied_only_where_it_must_be(
    kind: str, targets: list[str], quantization: str, tied: bool, tmp_path: Path
) -> None:
    run = opened(save_run(kind, tmp_path, f"quantization.format={quantization}", targets=targets))
    folder = write(run, tmp_path / "merged")
    assert json.loads((folder / "config.json").read_text()).get("tie_word_embeddings", True) is tied
    assert ("lm_head.weight" in tensors(folder)) is not tied
    torch.testing.assert_close(logits(plain(folder)), logits(run.adapted.model), rtol=1e-3, atol=2e-4)


# ---- files ---------------------------------------------------------------------------------------------------


def test_shards_hold_what_one_file_would(tmp_path: Path) -> None:
    run = opened(save_run("llama_tied", tmp_path))
    whole = tensors(write(run, tmp_path / "whole"))
    folder = write(run, tmp_path / "shards", shard_bytes=300_000)
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 3
    largest = max(tensor.nbytes for tensor in whole.values())
    assert all(file.stat().st_size < max(300_000, largest) + 10_000 for file in files)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert {name: str(folder / file) for name, file in index["weight_map"].items()} == {
        name: str(file) for file in files for name in load_file(file)
    }
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in whole.values())
    assert torch.equal(logits(plain(folder)), logits(plain(tmp_path / "whole")))


def test_a_value_that_the_type_cannot_hold_is_refused(tmp_path: Path) -> None:
    run = opened(save_run("gptj", tmp_path))
    with torch.no_grad():
        run.adapted.layers["lm_head"].trials[0]["a"].mul_(1e6)
    with pytest.raises(
        ConfigError, match=r"--dtype: fp16 cannot hold lm_head.weight, whose largest value is"
    ):
        write(run, tmp_path / "fp16", "fp16")
    write(run, tmp_path / "bf16", "bf16")


def test_a_base_without_its_adapter(tmp_path: Path) -> None:
    run = opened(save_run("gpt2", tmp_path))
    written = tensors(write(run, tmp_path / "base_copy", trial=None))
    theirs = load_file(tmp_path / "base" / "model.safetensors")
    assert written.keys() == theirs.keys()
    assert all(torch.equal(written[name], theirs[name]) for name in theirs)
