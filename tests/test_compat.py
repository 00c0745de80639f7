"""Each private thing that is used, taken away: the public way gives the same numbers, and one line says so."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence

import pytest
import torch
from model.model_folders import tiny_config
from torch import Tensor
from transformers import AutoModelForCausalLM

from summarizer import compat

pytestmark = pytest.mark.versions


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What compat reports as gone, as a new process would: by the end one thing, once."""
    monkeypatch.setattr(compat, "_said", set())
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
    for _ in "twice":
        product = compat.scaled_mm(a, b, a_scale, b_scale, torch.bfloat16)
    reference = (a.double() * a_scale) @ (b.double() * b_scale).t()
    assert product.dtype == torch.bfloat16
    torch.testing.assert_close(product.double(), reference, rtol=2**-8, atol=1e-5)
    assert lines == [
        f"compat: torch {torch.__version__} has no torch._scaled_mm: "
        "products of fp8 weights are taken in fp32, which is slower"
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_product_with_an_int8_weight(
    dtype: torch.dtype, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, q = numbers(3, 64).to(dtype), whole_numbers(32, 64)
    before = compat.int8_weight_mm(x, q)
    monkeypatch.delattr(torch, "_weight_int8pack_mm")
    for _ in "twice":
        after = compat.int8_weight_mm(x, q)
    assert before.dtype == after.dtype == dtype
    largest = float(before.abs().max())
    torch.testing.assert_close(after, before, rtol=0, atol=largest * torch.finfo(dtype).eps * 4)


def test_product_of_int8_matrices(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = whole_numbers(32, 512), whole_numbers(24, 512, seed=1).t()
    before = compat.int8_mm(a, b)
    monkeypatch.delattr(torch, "_int_mm")
    for _ in "twice":
        after = compat.int8_mm(a, b)
    assert before.dtype == after.dtype == torch.int32
    assert torch.equal(before, after)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_softmax_backward(dtype: torch.dtype, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    grad, weight = numbers(4, 9, 33).to(dtype), numbers(4, 9, 33, seed=1).softmax(-1).to(dtype)
    before = compat.softmax_backward(grad, weight)
    monkeypatch.delattr(torch, "_softmax_backward_data")
    for _ in "twice":
        after = compat.softmax_backward(grad, weight)
    assert before.dtype == after.dtype == dtype
    torch.testing.assert_close(after, before, rtol=2 * torch.finfo(dtype).eps, atol=1e-7)


@pytest.mark.parametrize("gone", ["torch._subclasses.fake_tensor", "torch.utils._python_dispatch"])
def test_simulating(gone: str, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert compat.can_simulate()
    monkeypatch.setitem(sys.modules, gone, None)
    for _ in "twice":
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
    rename = compat.checkpoint_renamings(model)
    assert rename("embed_out.weight") == "lm_head.weight"
    assert rename("gpt_neox.final_layer_norm.weight") == "gpt_neox.final_layer_norm.weight"
    monkeypatch.setitem(sys.modules, "transformers.conversion_mapping", None)
    for _ in "twice":
        rename = compat.checkpoint_renamings(model)
    assert rename("embed_out.weight") == "embed_out.weight"
