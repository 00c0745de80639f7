"""Checkpoints that were quantized before they were saved: recovered as their own library does it, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from model_folders import load, logits, tiny_config, tiny_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from summarizer.errors import ConfigError
from summarizer.models import load as load_module
from summarizer.models.load import load_config
from summarizer.models.prequantized import BitsAndBytes4, BlockFP8

pytestmark = pytest.mark.versions

BITSANDBYTES: dict[str, dict[str, Any]] = {
    "8 bits": {"load_in_8bit": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4 of nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
}


def by_bitsandbytes(kind: str, options: dict[str, Any], folder: Path) -> PreTrainedModel:
    """A folder as transformers saves it, and the model that bitsandbytes makes of it, dequantized."""
    tiny_model(kind).save_pretrained(folder / "before")
    how = BitsAndBytesConfig(**options)
    model = AutoModelForCausalLM.from_pretrained(
        folder / "before", quantization_config=how, device_map="cpu", dtype=torch.float32
    )
    model.save_pretrained(folder / "model")
    assert "quantization_config" in json.loads((folder / "model" / "config.json").read_text())
    return model.dequantize(torch.float32).eval()


@pytest.mark.parametrize("kind", ["llama_untied", "gpt2"])
@pytest.mark.parametrize("how", BITSANDBYTES)
def test_bitsandbytes_weights_are_those_that_it_dequantizes_itself(
    how: str, kind: str, tmp_path: Path
) -> None:
    reference = by_bitsandbytes(kind, BITSANDBYTES[how], tmp_path)
    right = logits(reference)
    got = logits(load(tmp_path / "model").model)
    torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-4)
    off = torch.dist(right, logits(tiny_model(kind))) / right.norm()
    assert off > 1e-3, "the weights were never quantized"


def test_weights_recovered_are_quantized_as_any_others(tmp_path: Path) -> None:
    by_bitsandbytes("llama_untied", BITSANDBYTES["8 bits"], tmp_path)
    whole, int8 = (logits(load(tmp_path / "model", name).model) for name in ("none", "int8"))
    assert 0 < torch.dist(whole, int8) < 0.05 * whole.norm()


def in_fp8(folder: Path, block: list[int] | None) -> dict[str, Tensor]:
    """A folder whose projections are 8-bit floats with scales; and the weights that they stand for."""
    model = tiny_model("llama_untied")
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    weights = dict(tensors)
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        rows, columns = block or tensors[name].shape
        scale = torch.zeros(-(-tensors[name].shape[0] // rows), -(-tensors[name].shape[1] // columns))
        codes = torch.zeros_like(tensors[name], dtype=torch.float8_e4m3fn)
        weights[name] = torch.zeros_like(tensors[name])
        for i in range(scale.shape[0]):
            for j in range(scale.shape[1]):
                part = (slice(i * rows, (i + 1) * rows), slice(j * columns, (j + 1) * columns))
                scale[i, j] = tensors[name][part].abs().max() / 448
                codes[part] = (tensors[name][part] / scale[i, j]).to(torch.float8_e4m3fn)
                weights[name][part] = codes[part].float() * scale[i, j]
        tensors[name] = codes
        tensors[f"{name.removesuffix('weight')}weight_scale_inv"] = scale if block else scale.reshape(())
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    state(folder, {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": block})
    return weights


def state(folder: Path, options: dict[str, Any], key: str = "quantization_config") -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: options}))


@pytest.mark.parametrize("block", [[16, 16], [32, 8], [20, 24], None])
def test_fp8_weights_are_codes_times_their_blocks_scales(block: list[int] | None, tmp_path: Path) -> None:
    weights = in_fp8(tmp_path, block)
    model = load(tmp_path).model
    for name, weight in weights.items():
        if name.endswith("proj.weight"):
            layer = model.module.get_submodule(name.removesuffix(".weight"))
            torch.testing.assert_close(layer.weight.dense(torch.float32), weight, rtol=1e-6, atol=0)


def test_fp8_logits_are_those_of_transformers(tmp_path: Path) -> None:
    in_fp8(tmp_path, [16, 16])
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    torch.testing.assert_close(logits(load(tmp_path).model), logits(reference), rtol=1e-4, atol=1e-4)


METHODS = (
    *("gptq", "awq", "compressed-tensors", "torchao", "mxfp4", "quanto", "hqq", "aqlm", "eetq", "higgs"),
    *("fbgemm_fp8", "bitnet", "vptq", "spqr", "mxfp8", "auto-round", "a-method-of-next-year"),
)


@pytest.mark.parametrize("method", METHODS)
def test_every_other_method_is_refused_by_name_before_a_weight_is_read(method: str, tmp_path: Path) -> None:
    tiny_config("llama_untied").save_pretrained(tmp_path)
    state(tmp_path, {"quant_method": method, "bits": 4})
    with pytest.raises(ConfigError, match=f"quantized by {method} ") as caught:
        load_config(tmp_path)
    assert "quantization_config in config.json" in str(caught.value)
    assert "give the checkpoint that it was made from" in str(caught.value)
    assert caught.value.issues[0].key == "model.name_or_path"


def test_it_is_found_wherever_it_is_stated(tmp_path: Path) -> None:
    tiny_config("llama_untied").save_pretrained(tmp_path)
    plain = (tmp_path / "config.json").read_text()
    state(tmp_path, {"quantization_config": {"quant_method": "gptq"}}, key="text_config")
    with pytest.raises(ConfigError, match="gptq"):
        load_config(tmp_path)
    (tmp_path / "config.json").write_text(plain)
    state(tmp_path, {"format": "pack-quantized"}, key="compression_config")
    with pytest.raises(ConfigError, match="an unnamed method"):
        load_config(tmp_path)
    (tmp_path / "config.json").write_text(plain)
    (tmp_path / "quantize_config.json").write_text('{"bits": 4, "group_size": 128}')
    with pytest.raises(ConfigError, match=r"gptq \(quantize_config.json\)"):
        load_config(tmp_path)
    (tmp_path / "quantize_config.json").unlink()
    assert load_config(tmp_path).model_type == "llama"


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn])
def test_codes_are_never_taken_for_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    """Where nothing in the folder says that it is quantized."""
    tiny_model("llama_untied").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name] = (tensors[name] * 10).to(dtype)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for format_name in ("int8", "none"):
        with pytest.raises(
            ConfigError, match="codes of a quantization that the folder does not name"
        ) as caught:
            load(tmp_path, format_name)
        assert name in str(caught.value)


def test_a_base_that_an_earlier_version_read_wrongly_is_not_found_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUMMARIZER_CACHE", str(tmp_path / "cache"))
    by_bitsandbytes("llama_untied", BITSANDBYTES["8 bits"], tmp_path)
    with monkeypatch.context() as before:
        before.setattr(load_module, "READING", 1)
        old = load_module.base_digest(tmp_path / "model", "int8", {})
    load(tmp_path / "model", "int8", cache=True)
    (made,) = (tmp_path / "cache" / "bases").iterdir()
    assert not made.name.endswith(old)


def test_a_config_that_was_loaded_no_longer_says_that_it_is_quantized(tmp_path: Path) -> None:
    """An export has weights."""
    by_bitsandbytes("llama_untied", BITSANDBYTES["8 bits"], tmp_path)
    assert not hasattr(load_config(tmp_path / "model"), "quantization_config")


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    by_bitsandbytes("llama_untied", BITSANDBYTES["8 bits"], tmp_path)
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith(".SCB"))
    save_file({**tensors, name: tensors[name][:-1]}, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="cannot be recovered"):
        load(tmp_path / "model")
    layout = name.replace("SCB", "weight_format")
    save_file({**tensors, layout: torch.tensor(2)}, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="laid out for one kind of GPU"):
        load(tmp_path / "model")
    with pytest.raises(ValueError, match=r"blocks of \(4, 4\) need"):
        BlockFP8((4, 4)).weight(
            "a", torch.zeros(8, 8).to(torch.float8_e4m3fn), {"weight_scale_inv": torch.ones(1, 2)}
        )
    with pytest.raises(ValueError, match="quant_state"):
        BitsAndBytes4().weight("a", torch.zeros(8, 1, dtype=torch.uint8), {})
