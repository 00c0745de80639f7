"""Adapters here and in plain peft: equal logits and gradients, files that go both ways, clear refusals."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import DAMAGE
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_bases import adapted, fill_randomly, load, logits, lora, plain, saved, token_ids

from summarizer.adapters.attach import AdaptedModel, attach, roles
from summarizer.adapters.peft_config import read_adapter_config
from summarizer.adapters.peft_format import adapter_of_folder, load_adapter, peft_tensors, save_adapter
from summarizer.errors import ConfigError

pytestmark = pytest.mark.versions

KINDS = ["gptj", "llama_tied", "llama_untied", "gpt2", "neox", "opt"]
WEIGHTS = "adapter_model.safetensors"


def ours(kind: str, base: Path, **options: Any) -> AdaptedModel:
    model = adapted(saved(kind, base), [lora(3, **options)])
    fill_randomly(model, 0)
    return model


def theirs(base: Path, *, seed: int = 9, **options: Any) -> PeftModel:
    """A peft adapter on every layer that we adapt, filled as training might leave it."""
    names = list(roles(load(base).model))
    config = LoraConfig(
        **({"r": 3, "lora_alpha": 3, "target_modules": names, "task_type": "CAUSAL_LM"} | options)
    )
    model = get_peft_model(plain(base), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


# ---- both ways ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"alpha": 7.0}, {"use_rslora": True}])
@pytest.mark.parametrize("kind", KINDS)
def test_ours_in_peft(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = ours(kind, tmp_path / "base", **options)
    save_adapter(model, 0, tmp_path / "adapter", str(tmp_path / "base"))
    loaded = PeftModel.from_pretrained(plain(tmp_path / "base"), tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(loaded), logits(model.model), rtol=1e-4, atol=1e-5)
    assert torch.dist(logits(loaded), logits(plain(tmp_path / "base"))) > 0.1
    # peft mends a wrong one with a warning, but merging tools do not.
    assert read_adapter_config(tmp_path / "adapter")["fan_in_fan_out"] is (kind == "gpt2")


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_peft_s_here(kind: str, rslora: bool, tmp_path: Path) -> None:
    base = saved(kind, tmp_path / "base")
    trained = theirs(base, use_rslora=rslora)
    trained.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    model = adapted(base, [lora(1), lora(3, use_rslora=rslora)])
    load_adapter(model, 1, tmp_path / "adapter")
    known = adapter_of_folder(tmp_path / "adapter", model.roles, "--adapter")
    assert (known.scale, known.use_rslora) == (pytest.approx(3**0.5 if rslora else 1), rslora)
    got = logits(model.model, token_ids(2).repeat(2, 1))[2:]
    torch.testing.assert_close(got, logits(trained), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "rslora"), [*((kind, False) for kind in KINDS), ("gptj", True)])
def test_gradients_are_peft_s(kind: str, rslora: bool, tmp_path: Path) -> None:
    """In a group of trials with other dims and scales beside it, against peft on transformers' own model."""
    base = saved(kind, tmp_path / "base")
    trained = theirs(base, use_rslora=rslora)
    trained.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    model = adapted(base, [lora(5), lora(3, use_rslora=rslora), lora(2)])
    load_adapter(model, 1, tmp_path / "adapter")
    ids = token_ids(2)

    def loss(scores: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(scores[:, :-1].transpose(1, 2), ids[:, 1:])

    loss(model.model.logits(ids.repeat(3, 1))[2:4]).backward()
    for name, parameter in trained.named_parameters():
        parameter.requires_grad_("lora_" in name)
    loss(trained(input_ids=ids).logits).backward()
    own = {}
    for name, layer in model.layers.items():
        gradients = {key: value.grad for key, value in layer.trials[1].items()}
        for key, gradient in lora(3).to_peft(layer.role, gradients).items():
            own[f"base_model.model.{name}.{key}"] = gradient
    expected = {
        name.replace(".default", ""): value.grad
        for name, value in trained.named_parameters()
        if "lora_" in name
    }
    assert own.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient is not None
        torch.testing.assert_close(own[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    model = ours("gptj", tmp_path / "base")
    save_adapter(model, 0, tmp_path / "adapter", "base")
    fresh = adapted(tmp_path / "base", [lora(3)], [44])
    load_adapter(fresh, 0, tmp_path / "adapter")
    # In the model's order, the same in each run.
    assert read_adapter_config(tmp_path / "adapter")["target_modules"] == list(model.layers)
    for name, parameter in model.parameters_of(0).items():
        assert torch.equal(parameter, fresh.parameters_of(0)[name])
    assert torch.equal(logits(model.model), logits(fresh.model))


def test_only_the_trial_s_own_layers_are_saved(tmp_path: Path) -> None:
    model = adapted(saved("gptj", tmp_path / "base"), [lora(4), lora(2, targets=["head"])])
    assert list(peft_tensors(model, 1)) == [
        f"base_model.model.lm_head.lora_{letter}.weight" for letter in "AB"
    ]
    save_adapter(model, 1, tmp_path / "adapter", "base")
    config = read_adapter_config(tmp_path / "adapter")
    assert (config["target_modules"], config["r"], config["base_model_name_or_path"]) == (
        ["lm_head"],
        2,
        "base",
    )
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert names == {"adapter_config.json", WEIGHTS, "digests.json"}


def test_an_adapter_of_int8_training_loads_on_the_dense_base(tmp_path: Path) -> None:
    saved("gptj", tmp_path / "base")
    model = attach(load(tmp_path / "base", "int8").model, [lora(3)], [0])
    fill_randomly(model, 0)
    save_adapter(model, 0, tmp_path / "adapter", str(tmp_path / "base"))
    expected = ours("gptj", tmp_path / "base")
    loaded = PeftModel.from_pretrained(plain(tmp_path / "base"), tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(loaded), logits(expected.model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["gptj", "llama_tied"])
def test_peft_s_default_with_the_base_s_head_and_embedding_beside(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = saved(kind, tmp_path / "base")
    trained = theirs(base)
    trained.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    tensors = load_file(tmp_path / "adapter" / WEIGHTS)
    (embedding,) = [
        name for name in tensors if name.endswith(("wte.base_layer.weight", "tokens.base_layer.weight"))
    ]
    for format_name in ("none", "int8", "nf4"):
        model = attach(load(base, format_name).model, [lora(3)], [0])
        load_adapter(model, 0, tmp_path / "adapter")
    model = adapted(base, [lora(3)])
    load_adapter(model, 0, tmp_path / "adapter")
    torch.testing.assert_close(logits(model.model), logits(trained), rtol=1e-4, atol=1e-5)
    for other in (torch.randn_like(tensors[embedding]), torch.cat([tensors[embedding], torch.ones(1, 32)])):
        save_file({**tensors, embedding: other}, tmp_path / "adapter" / WEIGHTS)
        with pytest.raises(ConfigError, match="brings its own base weights"):
            load_adapter(model, 0, tmp_path / "adapter")


# ---- refusals ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model in `base`, an adapter of dim 3 for it in `adapter`, as if it came from elsewhere."""
    save_adapter(ours("gptj", tmp_path / "base"), 0, tmp_path / "adapter", "base")
    (tmp_path / "adapter" / "digests.json").unlink()
    return tmp_path


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("name", ["adapter_config.json", WEIGHTS])
def test_a_damaged_one_is_refused_by_name(name: str, what: str, tmp_path: Path) -> None:
    save_adapter(ours("gptj", tmp_path / "base"), 0, tmp_path / "adapter", "base")
    DAMAGE[what](tmp_path / "adapter" / name)
    message = refusal(tmp_path)
    assert f"{tmp_path / 'adapter'}: {name} is {'missing' if what == 'deleted' else 'damaged'}" in message
    assert "fetch it anew, or delete its digests.json if you changed it yourself" in message


def refusal(folder: Path, **options: Any) -> str:
    model = adapted(folder / "base", [lora(**({"dim": 3} | options))])
    with pytest.raises(ConfigError) as caught:
        load_adapter(model, 0, folder / "adapter")
    (issue,) = caught.value.issues
    assert issue.key == "adapter.start_from"
    return issue.message


@pytest.mark.parametrize(
    "change",
    [
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"lora_bias": True},
        {"init_lora_weights": "pissa_niter_4"},
        {"init_lora_weights": "loftq"},
        {"layer_replication": [[0, 1]]},
        {"trainable_token_indices": [1]},
        {"target_parameters": ["x"]},
        {"alora_invocation_tokens": [5]},
        {"an_option_of_next_year": 0.5},
    ],
)
def test_options_that_change_the_arithmetic(change: dict[str, Any], folder: Path) -> None:
    path = folder / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (option,) = change
    assert f"uses {option}={change[option]!r}, which cannot be computed here" in refusal(folder)


@pytest.mark.parametrize(
    "change", [{"r": None}, {"lora_alpha": "x"}, {"r": 0}, {"lora_alpha": -2}, {"lora_alpha": float("nan")}]
)
def test_a_config_without_dim_or_scale(change: dict[str, Any], folder: Path) -> None:
    path = folder / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert "no usable r and lora_alpha" in refusal(folder)
    with pytest.raises(ConfigError, match="no usable r and lora_alpha"):
        adapter_of_folder(folder / "adapter", {}, "--adapter")


def test_another_dim_or_scale(folder: Path) -> None:
    assert "has dim 3, adapter.dim is 2" in refusal(folder, dim=2)
    assert "scales by 1 (alpha 3); set adapter.alpha to 3" in refusal(folder, alpha=6.0)
    assert "has use_rslora=False, adapter.use_rslora is True" in refusal(folder, use_rslora=True)
    assert "has use_dora=False, adapter.use_dora is True" in refusal(folder, use_dora=True)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_pair_that_was_taken_from_the_base(init: str, folder: Path) -> None:
    path = folder / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": init}))
    assert f"set adapter.init_lora_weights={init}" in refusal(folder)


@pytest.mark.parametrize("pattern", [[1], {"q_proj": 0}, {"q_proj": "4"}, {"q_proj": float("inf")}])
def test_a_pattern_of_something_else(pattern: Any, folder: Path) -> None:
    path = folder / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rank_pattern": pattern}))
    assert "not positive numbers by layer" in refusal(folder)


def test_a_scale_of_one_layer_that_no_alpha_gives(folder: Path) -> None:
    path = folder / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"alpha_pattern": {"q_proj": 4}}))
    with pytest.raises(ConfigError, match=r"alpha_pattern=.*cannot be computed here"):
        adapter_of_folder(folder / "adapter", adapted(folder / "base", [lora(3)]).roles, "--adapter")


@pytest.mark.parametrize("value", ["yes", 1, None, [True]])
def test_a_scale_by_something_else(value: Any, folder: Path) -> None:
    path = folder / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_rslora": value}))
    assert f"use_rslora is {value!r}, not true or false" in refusal(folder)


def test_missing_and_extra_layers(folder: Path) -> None:
    assert "adapts 4 tensors that adapter.targets leaves out" in refusal(folder, targets=["linear"])
    tensors = load_file(folder / "adapter" / WEIGHTS)
    fewer = {name: value for name, value in tensors.items() if "h.1.attn.q_proj" not in name}
    save_file(fewer, folder / "adapter" / WEIGHTS)
    assert "has no adapter for transformer.h.1.attn.q_proj; see adapter.targets" in refusal(folder)
    save_file(
        {**tensors, "base_model.model.lm_head.lora_B.bias": torch.ones(96)}, folder / "adapter" / WEIGHTS
    )
    assert "more for lm_head than its kind knows" in refusal(folder)


def test_an_adapter_of_another_base(folder: Path) -> None:
    tensors = load_file(folder / "adapter" / WEIGHTS)
    name = "base_model.model.lm_head.lora_B.weight"
    save_file({**tensors, name: torch.ones(97, 3)}, folder / "adapter" / WEIGHTS)
    assert "is (3, 97), this model needs (3, 96): it was trained on another base" in refusal(folder)
    save_file({**tensors, name: torch.full((96, 3), float("nan"))}, folder / "adapter" / WEIGHTS)
    assert "lm_head" in refusal(folder)


@pytest.mark.parametrize("keep", [0, 0.01, 0.9])
def test_truncated_weights(keep: float, folder: Path) -> None:
    path = folder / "adapter" / WEIGHTS
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    assert f"{WEIGHTS} is missing or truncated" in refusal(folder)


def test_missing_files(folder: Path) -> None:
    (folder / "adapter" / WEIGHTS).unlink()
    assert "missing or truncated" in refusal(folder)
    config = folder / "adapter" / "adapter_config.json"
    for content in ("[]", "{}", '{"peft_type": "ADALORA"}'):
        config.write_text(content)
        assert "is no adapter of a kind that is known here (LORA" in refusal(folder)
    config.write_text("{")
    assert "is no PEFT adapter folder" in refusal(folder)
    config.unlink()
    assert "is no PEFT adapter folder" in refusal(folder)


def test_a_full_disk_leaves_the_old_adapter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from summarizer.adapters import peft_format

    before = (folder / "adapter" / WEIGHTS).read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(peft_format.atomic, "write_tensors", full)
    model = adapted(folder / "base", [lora(3)])
    with pytest.raises(OSError, match="No space"):
        save_adapter(model, 0, folder / "adapter", "base")
    assert (folder / "adapter" / WEIGHTS).read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["adapter", "base"]


def test_loading_is_quiet(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_adapter(adapted(folder / "base", [lora(3)]), 0, folder / "adapter")
    assert caplog.text == ""
