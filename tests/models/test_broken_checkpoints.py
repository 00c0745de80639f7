"""Files that are missing, cut short, foreign or hostile: a message that names them, and nothing runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from model_folders import load, save_bin, tiny_model
from safetensors.torch import load_file, save_file

from summarizer.errors import ConfigError
from summarizer.models.load import load_config
from summarizer.models.source import check_model_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model("gptj").save_pretrained(tmp_path)
    return tmp_path


def refusal(folder: Path, format_name: str = "int8") -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, format_name)
    (issue,) = caught.value.issues
    assert issue.key == "model.name_or_path"
    assert str(folder) in issue.message
    return issue.message


def cut(file: Path, keep: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])


@pytest.mark.parametrize("keep", [0.0, 0.0001, 0.5, 0.999])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_truncated(name: str, keep: float, folder: Path) -> None:
    if name.endswith(".bin"):
        (folder / "model.safetensors").unlink()
        save_bin(tiny_model("gptj"), folder)
    cut(folder / name, keep)
    message = refusal(folder)
    assert name in message
    assert ("is empty" in message) if keep == 0 else ("truncated" in message)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "holds no model.safetensors and no pytorch_model.bin" in refusal(folder)


def test_a_missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    tiny_model("gptj").save_pretrained(folder, max_shard_size="20KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    shards[1].unlink()
    assert f"lacks 1 of its {len(shards)} weight files, such as {shards[1].name}" in refusal(folder)


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
def test_a_broken_index(index: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    assert "model.safetensors.index.json is not an index of weight files" in refusal(folder)


def test_an_index_cannot_point_outside_its_folder(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}})
    )
    assert "such as elsewhere.safetensors" in refusal(folder)


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")


def test_missing_tensors(folder: Path) -> None:
    rewritten(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if "ln_1" in name])
    assert (
        "lacks 4 of the 25 tensors that GPTJForCausalLM needs, such as transformer.h.0.ln_1.bias"
        in refusal(folder)
    )


@pytest.mark.parametrize(("name", "shape"), [("lm_head.weight", (96, 33)), ("transformer.ln_f.bias", (31,))])
def test_wrong_shapes(name: str, shape: tuple[int, ...], folder: Path) -> None:
    rewritten(folder, lambda tensors: tensors.update({name: torch.ones(shape)}))
    message = refusal(folder)
    assert name in message
    assert str(shape) in message
    assert "the model needs" in message


@pytest.mark.parametrize("name", ["lm_head.weight", "transformer.ln_f.bias"])
@pytest.mark.parametrize("format_name", ["int8", "none"])
def test_nan(name: str, format_name: str, folder: Path) -> None:
    rewritten(folder, lambda tensors: tensors[name].view(-1)[3].fill_(float("nan")))
    message = refusal(folder, format_name)
    assert name in message
    assert "NaN or infinite" in message


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("zip_file", [True, False])
def test_a_hostile_pickle_does_not_run(zip_file: bool, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    done = folder / "it-ran"
    torch.save({"a": Hostile(done)}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zip_file)
    message = refusal(folder)
    assert "system" in message
    assert "is not read" in message
    assert "weights_only" not in message  # torch's own words advise to switch the protection off
    assert not done.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert done.exists()  # the file is as hostile as it should be


def test_a_pickle_of_something_else(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save([torch.ones(2)], folder / "pytorch_model.bin")
    assert "holds list, not named tensors" in refusal(folder)
    (folder / "pytorch_model.bin").write_bytes(b"<!doctype html><html>not found</html>" * 9)
    assert "pytorch_model.bin" in refusal(folder)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ("{}", "model_type"),
        ("[1]", "config.json"),
        ("null", "config.json"),
        pytest.param('{"model_type": ' + "[" * 100_000, "recursion", id="nested without end"),
        ('{"model_type": ["gptj"]}', "config.json"),
        ('{"model_type": "llama", "rope_parameters": 3}', "config.json"),
        ('{"model_type": "gptj"', "JSON"),
        ('{"model_type": "gptj", "n_embd": "x"}', "n_embd"),
        ('{"model_type": "llama", "hidden_size": -3}', "hidden size"),
        ('{"model_type": "nope"}', "nope"),
        ('{"model_type": "t5"}', "not a causal language model"),
        ('{"model_type": "bert", "architectures": ["BertForMaskedLM"]}', "BertForMaskedLM, not a causal"),
        ('{"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}', "not a causal"),
    ],
)
def test_a_config_that_cannot_be_used(config: str, named: str, folder: Path) -> None:
    (folder / "config.json").write_text(config)
    with pytest.raises(ConfigError, match=named) as caught:
        load_config(folder)
    assert str(folder / "config.json") in str(caught.value)


def test_a_config_s_own_code_is_not_run(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}')
    (folder / "mine.py").write_text(f"open({str(folder / 'it-ran')!r}, 'w')\nclass Mine: pass\n")
    with pytest.raises(ConfigError):
        load_config(folder)
    assert not (folder / "it-ran").exists()


def test_paths_are_checked_without_reading_weights(folder: Path) -> None:
    def messages(path: str) -> str:
        return " ".join(issue.message for issue in check_model_path(path))

    assert messages(str(folder)) == ""
    assert messages("embedded:tiny_gptj") == ""
    assert messages("EleutherAI/gpt-j-6b") == ""
    assert "did you mean 'embedded:tiny_gptj'" in messages("embedded:tiny_gpt")
    assert "no folder at" in messages("/nowhere/x")
    assert "give the folder" in messages(str(folder / "model.safetensors"))
    (folder / "config.json").unlink()
    assert "without config.json" in messages(str(folder))
