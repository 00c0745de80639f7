"""Each private thing that is used, taken away: the public way gives the same numbers, and one line says so."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
import wandb
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from model_folders import LLAMA_LIKE, tiny_config
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, MambaConfig, MixtralConfig, YoutuConfig

from summarizer import compat
from summarizer.models.transformers_model import TransformersModel

pytestmark = pytest.mark.versions


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What compat reports as gone, as a new process would: by the end one thing, once."""
    compat._gone.cache_clear()
    kept = _Kept()
    compat.log.addHandler(kept)
    yield kept.lines
    compat.log.removeHandler(kept)
    assert len(kept.lines) == 1


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole_numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(-127, 128, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int8)


def test_fp8_product(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (numbers(rows, 64, seed=rows).to(torch.float8_e4m3fn) for rows in (5, 16))
    a_scale, b_scale = (numbers(rows, 1, seed=rows).abs() for rows in (5, 16))
    monkeypatch.delattr(torch, "_scaled_mm")
    for _ in range(2):
        product = compat.scaled_mm(a, b, a_scale, b_scale, torch.bfloat16)
    reference = (a.double() * a_scale) @ (b.double() * b_scale).t()
    assert product.dtype == torch.bfloat16
    torch.testing.assert_close(product.double(), reference, rtol=2**-8, atol=1e-5)
    assert lines == [
        f"compat: torch {version('torch')} has no torch._scaled_mm: "
        "products of fp8 weights are taken in fp32, which is slower"
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_product_with_an_int8_weight(
    dtype: torch.dtype, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, q = numbers(3, 64).to(dtype), whole_numbers(32, 64)
    before = compat.int8_weight_mm(x, q)
    monkeypatch.delattr(torch, "_weight_int8pack_mm")
    for _ in range(2):
        after = compat.int8_weight_mm(x, q)
    assert before.dtype == after.dtype == dtype
    largest = float(before.abs().max())
    torch.testing.assert_close(after, before, rtol=0, atol=largest * torch.finfo(dtype).eps * 4)


def test_product_of_int8_matrices(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = whole_numbers(32, 512), whole_numbers(24, 512, seed=1).t()
    before = compat.int8_mm(a, b)
    monkeypatch.delattr(torch, "_int_mm")
    for _ in range(2):
        after = compat.int8_mm(a, b)
    assert before.dtype == after.dtype == torch.int32
    assert torch.equal(before, after)


def test_product_in_fp32(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    x, matrix = numbers(40, 64), numbers(32, 64, seed=1)
    before = compat.fp32_linear(x, matrix)
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    for _ in range(2):
        after = compat.fp32_linear(x, matrix)
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)
    assert lines == [
        f"compat: torch {version('torch')} has no torch.ops.mkldnn._linear_pointwise: "
        "products in fp32 are those of torch's BLAS, which may be slower"
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_softmax_backward(dtype: torch.dtype, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    grad, weight = numbers(4, 9, 33).to(dtype), numbers(4, 9, 33, seed=1).softmax(-1).to(dtype)
    before = compat.softmax_backward(grad, weight)
    monkeypatch.delattr(torch, "_softmax_backward_data")
    for _ in range(2):
        after = compat.softmax_backward(grad, weight)
    assert before.dtype == after.dtype == dtype
    torch.testing.assert_close(after, before, rtol=2 * torch.finfo(dtype).eps, atol=1e-7)


@pytest.mark.parametrize("gone", ["torch._subclasses.fake_tensor", "torch.utils._python_dispatch"])
def test_simulating(gone: str, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert compat.can_simulate()
    monkeypatch.setitem(sys.modules, gone, None)
    for _ in range(2):
        assert not compat.can_simulate()
    assert gone in lines[0]


def test_fake_tensors() -> None:
    with compat.fake_tensor_mode():
        fake = torch.ones(2, 3)
    assert compat.is_fake(fake)
    assert not compat.is_fake(torch.ones(2, 3))


def test_operators_are_seen_in_both_passes() -> None:
    names: list[str] = []

    def answer(operator: object, args: Sequence[object], kwargs: dict[str, object]) -> object:
        names.append(str(operator))
        return operator(*args, **kwargs)  # type: ignore[operator]

    weight = torch.ones(2, 2, requires_grad=True)
    with compat.operators_seen_by(answer):
        (weight @ weight).sum().backward()
    assert names.count("aten.mm.default") == 3
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.full((2, 2), 4.0))


def test_renamed_modules_of_a_checkpoint(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModelForCausalLM.from_config(tiny_config("neox"))
    name = compat.checkpoint_names(model)
    assert name("embed_out.weight") == ("lm_head.weight", False)
    assert name("gpt_neox.final_layer_norm.weight") == ("gpt_neox.final_layer_norm.weight", False)
    mixtral = AutoModelForCausalLM.from_config(MixtralConfig(**LLAMA_LIKE, num_local_experts=2))
    assert compat.checkpoint_names(mixtral)("model.layers.0.block_sparse_moe.experts.1.w1.weight")[1]
    monkeypatch.setitem(sys.modules, "transformers.conversion_mapping", None)
    for _ in range(2):
        name = compat.checkpoint_names(model)
    assert name("embed_out.weight") == ("embed_out.weight", False)


def test_layers_that_peft_takes_for_others(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    mixtral = AutoModelForCausalLM.from_config(MixtralConfig(**LLAMA_LIKE, num_local_experts=2))
    llama = AutoModelForCausalLM.from_config(tiny_config("llama_tied"))
    layers = ["model.layers.0.mlp.gate", "model.layers.0.self_attn.q_proj", "model.layers.0.w1"]
    assert compat.misread_by_peft(mixtral, layers) == [layers[0], layers[2]]
    assert compat.misread_by_peft(llama, layers) == []
    monkeypatch.setitem(sys.modules, "peft.utils.transformers_weight_conversion", None)
    for _ in range(2):
        assert compat.misread_by_peft(mixtral, layers) == []


def test_layers_that_peft_refuses(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    mamba = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1))
    llama = AutoModelForCausalLM.from_config(tiny_config("llama_tied"))
    assert compat.refused_by_peft(mamba, ["x.out_proj", "x.in_proj"]) == ["x.out_proj"]
    assert compat.refused_by_peft(llama, ["x.out_proj", "x.in_proj"]) == []
    monkeypatch.setitem(sys.modules, "peft.tuners.tuners_utils", None)
    for _ in range(2):
        assert compat.refused_by_peft(mamba, ["x.out_proj"]) == []


def test_a_row_that_loading_sets_to_zero(lines: list[str]) -> None:
    sizes = {
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    }
    youtu = AutoModelForCausalLM.from_config(YoutuConfig(**LLAMA_LIKE, **sizes))
    opt = AutoModelForCausalLM.from_config(tiny_config("opt"))
    third = nn.Embedding(9, 2, padding_idx=3)
    assert compat.row_zeroed_by_loading(youtu, third) == 3
    assert compat.row_zeroed_by_loading(youtu, nn.Embedding(9, 2)) is None
    assert compat.row_zeroed_by_loading(opt, third) is None
    for _ in range(2):
        assert compat.row_zeroed_by_loading(nn.Module(), third) is None  # type: ignore[arg-type]


def several(seed: int = 0) -> list[Tensor]:
    return [numbers(*shape, seed=seed + i) for i, shape in enumerate([(3, 5), (700,), (1, 1)])]


def test_norms_of_many(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    before = compat.foreach_norm(several())
    monkeypatch.delattr(torch, "_foreach_norm")
    for _ in range(2):
        after = compat.foreach_norm(several())
    assert torch.equal(torch.stack(before), torch.stack(after))


@pytest.mark.parametrize("name", ["_foreach_mul_", "_foreach_copy_", "_foreach_zero_"])
def test_many_changed_in_place(name: str, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: dict[str, Any] = {
        "_foreach_mul_": [torch.tensor(0.3)],
        "_foreach_copy_": [several(seed=9)],
        "_foreach_zero_": [],
    }
    change = getattr(compat, name.removeprefix("_"))
    before, after = several(), several()
    change(before, *arguments[name])
    monkeypatch.delattr(torch, name)
    for _ in range(2):
        after = several()
        change(after, *arguments[name])
    for one, other, start in zip(before, after, several(), strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, start)


@pytest.mark.parametrize("bad", [None, torch.inf, -torch.inf, torch.nan])
def test_unscaling(bad: float | None, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def unscaled() -> list[Tensor]:
        gradients, overflowed = several(), torch.zeros(1)
        if bad is not None:
            gradients[1][3] = bad
        compat.unscale_(gradients, overflowed, torch.tensor([0.25]))
        return [*gradients, overflowed]

    before = unscaled()
    monkeypatch.delattr(torch, "_amp_foreach_non_finite_check_and_unscale_")
    for _ in range(2):
        after = unscaled()
    assert float(before[-1]) == (bad is not None)
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))


def test_a_compiler_that_is_not_waited_for(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, compat.COMPILER, raising=False)
    monkeypatch.delattr(torch, "_disable_dynamo")
    assert compat.import_without_compiling("bitsandbytes.functional") is bnb.functional
    assert "torch._disable_dynamo" in lines[0]


def test_what_is_compiled_by_need_and_kept_out_of_graphs() -> None:
    asked: list[object] = []

    def compile_at_once(function: Any, **how: Any) -> Any:
        asked.append(how)
        return function

    twice = compat._compiled_when_called(compile_at_once, dynamic=False)(lambda x: 2 * x)
    assert asked == []
    assert (twice(3), twice(4), asked) == (6, 8, [{"dynamic": False}])
    kept = compat._kept_out_of_graphs(torch._disable_dynamo, recursive=False)(lambda x: x + 1)
    assert kept(1) == 2
    importlib.import_module(compat.COMPILER)
    assert kept(1) == 2
    seen = torch.compile(lambda x: kept(x) * 2, backend="eager")(torch.ones(2))
    assert torch.equal(seen, torch.full((2,), 4.0))


def test_the_name_of_a_model_s_class(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config("neox")
    assert compat.causal_lm_class_name(config) == "GPTNeoXForCausalLM"
    monkeypatch.setitem(sys.modules, "transformers.models.auto.modeling_auto", None)
    assert compat.causal_lm_class_name(config) == "GPTNeoXForCausalLM"


def test_time_to_compile(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch._dynamo.utils", ModuleType("torch._dynamo.utils"))
    assert [compat.compile_s() for _ in range(2)] == [0.0, 0.0]


def trained_by(kind: type[torch.optim.Optimizer]) -> tuple[Any, nn.Parameter]:
    parameter = nn.Parameter(numbers(5000))
    return kind([parameter], lr=0.1), parameter  # type: ignore[call-arg]


def test_smallest_8bit_state() -> None:
    for kind, smallest in (
        (torch.optim.AdamW, 0),
        (bnb.optim.Adam, 0),
        (bnb.optim.Adam32bit, 0),
        (bnb.optim.Adam8bit, 4096),
    ):
        assert compat.smallest_8bit_state(trained_by(kind)[0]) == smallest


def test_bitsandbytes_without_its_settings(lines: list[str]) -> None:
    """Optimizers are then not made flat: tests/training/test_optimizer.py compares the two to the last bit."""
    optimizer, _ = trained_by(bnb.optim.Adam8bit)
    del optimizer.args
    for _ in range(2):
        assert compat.smallest_8bit_state(optimizer) is None


class _WithStepAlone:
    """An optimizer of bitsandbytes whose inner ways have other names."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.step = optimizer.step
        self.state, self.param_groups = optimizer.state, optimizer.param_groups


_WithStepAlone.__module__ = "bitsandbytes.optim.adam"


def test_a_step_without_waiting(lines: list[str]) -> None:
    results = []
    for hidden in (False, True):
        optimizer, parameter = trained_by(bnb.optim.Adam8bit)
        for seed in range(3):
            parameter.grad = numbers(5000, seed=seed + 1)
            with torch.no_grad():
                compat.step_without_waiting(_WithStepAlone(optimizer) if hidden else optimizer, parameter)  # type: ignore[arg-type]
        results.append(parameter.detach())
    assert torch.equal(*results)
    assert not torch.equal(results[0], numbers(5000))


def test_joining_processes_anew(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def joined() -> list[bool]:
        """Whether accelerate has a state, before and after it is forgotten, of three kinds."""
        Accelerator(mixed_precision="no", cpu=True)
        kinds = (AcceleratorState, GradientState, PartialState)
        before = [bool(kind._shared_state) for kind in kinds]
        compat.forget_processes()
        return before + [bool(kind._shared_state) for kind in kinds]

    expected = joined()
    assert expected == [True] * 3 + [False] * 3
    for kind in (AcceleratorState, GradientState, PartialState):
        monkeypatch.delattr(kind, "_reset_state")
    assert [joined() for _ in range(2)] == [expected] * 2


def test_what_wandb_is_told_of_the_machine(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = compat.wandb_settings(host="")
    assert (settings.x_disable_meta, settings.x_save_requirements, settings.host) == (True, False, "")

    class Settings:
        model_fields = ("host", "x_disable_meta")

        def __init__(self, **given: object) -> None:
            self.given = given

    monkeypatch.setattr(wandb, "Settings", Settings)
    for _ in range(2):
        assert compat.wandb_settings(host="").given == {"host": "", "x_disable_meta": True}
    assert "wandb.Settings.x_save_requirements" in lines[0]


def test_a_key_in_netrc(lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "k" * compat.WANDB_KEY_CHARACTERS
    files = {
        "mine": f"machine own.example.org\n  login user\n  password {key}\n",
        "short": f"machine own.example.org\n  login user\n  password {key[1:]}\n",
        "none": "machine own.example.org\n  login user\n",
        "other": f"machine other.example.org\n  login user\n  password {key}\n",
        "broken": "machine\n",
    }
    monkeypatch.setenv("HOME", str(tmp_path))

    def found() -> dict[str, bool]:
        told = {}
        for name, text in files.items():
            monkeypatch.setenv("NETRC", str(tmp_path / name))
            (tmp_path / name).write_text(text)
            told[name] = compat.has_wandb_key("https://own.example.org")
        monkeypatch.setenv("NETRC", str(tmp_path / "missing"))
        told["missing"] = compat.has_wandb_key("https://own.example.org")
        monkeypatch.delenv("NETRC")
        told["nowhere"] = compat.has_wandb_key("https://own.example.org")
        (tmp_path / ".netrc").write_text(files["mine"])
        told["home"] = compat.has_wandb_key("https://own.example.org:8080/")
        told["home"] = compat.has_wandb_key("https://own.example.org/")
        (tmp_path / ".netrc").unlink()
        return told

    before = found()
    assert {name for name, there in before.items() if there} == {"mine", "home"}
    monkeypatch.setitem(sys.modules, "wandb.sdk.lib.wbauth", None)
    assert found() == before


def test_writes_in_place() -> None:
    x = numbers(3)
    assert compat.was_never_written_in_place(x)
    x.add_(1)
    assert not compat.was_never_written_in_place(x)


def test_writes_in_place_unknown(lines: list[str]) -> None:
    for _ in range(2):
        assert not compat.was_never_written_in_place(object())  # type: ignore[arg-type]
    assert "has no torch.Tensor._version: a token is written module by module" in lines[0]


def test_how_a_model_attends() -> None:
    model = AutoModelForCausalLM.from_config(tiny_config("llama_tied"))
    assert (compat.attention_implementation(model), compat.attends_through_interface(model)) == ("sdpa", True)
    bloom = AutoModelForCausalLM.from_config(tiny_config("bloom"))
    assert not compat.attends_through_interface(bloom)


class _Bare:
    """A model of a transformers that has neither name any more."""

    def __init__(self) -> None:
        self.config = self

    def get_text_config(self) -> _Bare:
        return self


def test_the_name_of_a_model_s_attention(lines: list[str]) -> None:
    for _ in range(2):
        assert compat.attention_implementation(_Bare()) is None  # type: ignore[arg-type]
    assert "PretrainedConfig._attn_implementation: examples are padded rather than packed" in lines[0]


def test_the_way_of_a_model_s_attention(lines: list[str]) -> None:
    for _ in range(2):
        assert not compat.attends_through_interface(_Bare())  # type: ignore[arg-type]
    assert "PreTrainedModel._supports_attention_backend: examples are padded rather than packed" in lines[0]


@pytest.mark.parametrize("kind", ["gptj", "llama_tied", "gpt2", "opt", "bloom"])
def test_a_model_s_blocks(kind: str, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model = TransformersModel(AutoModelForCausalLM.from_config(tiny_config(kind)))
    by_transformers = model.blocks
    assert len(by_transformers) == 2
    monkeypatch.setitem(sys.modules, "transformers.modeling_layers", None)
    for _ in "twice":
        assert model.blocks == by_transformers
    assert "has no transformers.modeling_layers.GradientCheckpointingLayer" in lines[0]
