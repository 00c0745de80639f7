from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CohereConfig, Gemma2Config, LlamaConfig, MistralConfig, PretrainedConfig, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from summarizer.models.meta_model import build_meta_model
from summarizer.models.probe import as_rms_norm
from summarizer.ops import native
from summarizer.ops.norms import RMSNorm, decode_norm, supports

pytestmark = pytest.mark.versions

needs_kernel = pytest.mark.skipif(
    not supports(torch.empty(1)), reason="needs a processor with AVX-512 and a C compiler"
)


WIDTHS = (1, 16, 31, 96, 4096)


def pair(d: int, epsilon: float = 1e-5) -> tuple[LlamaRMSNorm, RMSNorm]:
    """transformers' own and ours, of the same weights, which are not trained."""
    theirs = LlamaRMSNorm(d, epsilon).requires_grad_(False)
    theirs.weight.copy_(torch.randn(d, generator=torch.Generator().manual_seed(d)))
    ours = as_rms_norm(theirs)
    assert ours is not None
    return theirs, ours


def with_gradient(norm: nn.Module, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    y: Tensor = norm(x)
    return y.detach(), torch.autograd.grad(y, x, grad)[0]


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@needs_kernel
@pytest.mark.parametrize("shape", [(1, 1), (3, 15), (2, 5, 16), (0, 16), (7, 33), (2, 300, 576)])
def test_it_and_its_gradient_are_transformers_s(shape: tuple[int, ...]) -> None:
    x, grad = random(*shape, seed=1), random(*shape, seed=2)
    theirs, ours = pair(shape[-1])
    right_ones = with_gradient(deepcopy(theirs).double(), x.double(), grad.double())
    for found, right in zip(with_gradient(ours, x, grad), right_ones, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), right, rtol=3e-6, atol=3e-6)


@needs_kernel
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e15])
def test_rows_of_nothing_and_of_much(scale: float) -> None:
    x, grad = random(4, 48, seed=1) * scale, random(4, 48, seed=2)
    theirs, ours = pair(48)
    for found, right in zip(with_gradient(ours, x, grad), with_gradient(theirs, x, grad), strict=True):
        torch.testing.assert_close(found, right)


@needs_kernel
def test_a_row_that_is_not_finite_stays_alone() -> None:
    x = random(3, 32, seed=1)
    x[1, 7] = torch.nan
    theirs, ours = pair(32)
    torch.testing.assert_close(ours(x), theirs(x), equal_nan=True)


@needs_kernel
def test_tensors_may_have_gaps() -> None:
    x, grad = random(40, 6, seed=1), random(40, 6, seed=2)
    _, ours = pair(40)
    found, dense = (
        with_gradient(ours, *of) for of in ((x.t(), grad.t()), (x.t().contiguous(), grad.t().contiguous()))
    )
    assert all(torch.equal(one, another) for one, another in zip(found, dense, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_without_the_kernel_it_is_transformers_s_to_the_last_bit(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "library", lambda source: None)
    x, (theirs, ours) = random(3, 24, seed=1).to(dtype), pair(24)
    assert torch.equal(ours(x), theirs(x))
    assert ours(x).dtype == theirs(x).dtype


@pytest.mark.parametrize("what", ["weight", "epsilon", "rounding"])
def test_what_is_computed_decides_not_a_name(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release may change what a class of the same name computes, and all copies of its source with it."""

    def forward(self: LlamaRMSNorm, x: Tensor) -> Tensor:
        wide = x.float()
        epsilon = self.variance_epsilon * (2 if what == "epsilon" else 1)
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
        if what == "rounding":
            return (self.weight * normed).to(x.dtype)
        return (self.weight + (1 if what == "weight" else 0)) * normed.to(x.dtype)

    theirs = LlamaRMSNorm(24)
    assert as_rms_norm(theirs) is not None
    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)
    assert as_rms_norm(theirs) is None


def test_of_another_name_that_computes_the_same_it_is_taken() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.ones(24)), 1e-6

        def forward(self, rows: Tensor) -> Tensor:
            scaled = rows.float() / (rows.float().square().mean(-1, keepdim=True) + self.eps).sqrt()
            return self.weight * scaled.to(rows.dtype)

    assert isinstance(found := as_rms_norm(Normed()), RMSNorm)
    assert found.epsilon == 1e-6
    assert as_rms_norm(nn.LayerNorm(24, bias=False)) is None


def test_a_weight_that_is_trained_gets_its_gradient() -> None:
    theirs, ours = pair(24)
    for norm in (theirs, ours):
        norm.weight.requires_grad_()
        norm.weight.grad = None
        norm(random(3, 24, seed=1)).square().sum().backward()
        assert norm.weight.grad is not None
        assert norm.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (LlamaConfig(num_hidden_layers=2, hidden_size=32, intermediate_size=32, vocab_size=8), 5),
        (MistralConfig(num_hidden_layers=1, hidden_size=32, intermediate_size=32, vocab_size=8), 3),
        (Qwen3Config(num_hidden_layers=1, hidden_size=32, intermediate_size=32, vocab_size=8), 5),
        # Its norms of queries and keys have a row of weights for each head.
        (
            CohereConfig(
                num_hidden_layers=1,
                hidden_size=32,
                intermediate_size=32,
                vocab_size=8,
                num_attention_heads=4,
                use_qk_norm=True,
                pad_token_id=0,
            ),
            0,
        ),
        (Gemma2Config(num_hidden_layers=1, hidden_size=32, intermediate_size=32, vocab_size=8), 0),
    ],
    ids=lambda given: getattr(given, "model_type", str(given)),
)
def test_a_model_gets_it_where_it_computes_the_same(config: PretrainedConfig, count: int) -> None:
    meta = build_meta_model(config, "int8")
    found = [name for name, module in meta.model.module.named_modules() if isinstance(module, RMSNorm)]
    assert len(found) == count
    assert all(f"{name}.weight" in meta.plain for name in found)


@needs_kernel
@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("rows", [1, 3])
def test_layer_norm_of_decoded_rows_is_torch_s(rows: int, d: int) -> None:
    x, weight, bias = 3 * random(rows, d, seed=0) + 7, random(d, seed=1), random(d, seed=2)
    right = F.layer_norm(x.double(), (d,), weight.double(), bias.double(), eps=1e-5)
    assert (decode_norm(x, weight, bias, 1e-5, centered=True) - right).abs().max() < 2e-5
    right = F.layer_norm(x.double(), (d,), weight.double(), eps=1e-2)
    assert (decode_norm(x, weight, None, 1e-2, centered=True) - right).abs().max() < 2e-5


@needs_kernel
@pytest.mark.parametrize("d", WIDTHS)
def test_rms_norm_of_decoded_rows_is_torch_s(d: int) -> None:
    x, weight = random(2, d, seed=0) + 1, random(d, seed=1)
    right = F.rms_norm(x.double(), (d,), weight.double(), eps=1e-3)
    assert (decode_norm(x, weight, None, 1e-3, centered=False) - right).abs().max() < 1e-5


@needs_kernel
def test_a_decoded_row_that_is_not_finite_leaves_the_others_alone() -> None:
    x, weight = random(3, 40, seed=0), torch.ones(40)
    right = decode_norm(x, weight, None, 1e-5, centered=True)
    x[1, 7] = torch.nan
    got = decode_norm(x, weight, None, 1e-5, centered=True)
    assert got[1].isnan().all()
    assert torch.equal(got[[0, 2]], right[[0, 2]])


@needs_kernel
def test_what_a_plan_is_told_of_it_is_so() -> None:
    x, grad, weight = random(3, 5, seed=1), random(3, 5, seed=2), torch.ones(5)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.summarizer.rms_norm.default, (x, weight, 1e-5), test_utils=checks)
    rate = torch.ones(3)
    torch.library.opcheck(
        torch.ops.summarizer.rms_norm_backward.default, (grad, x, weight, rate), test_utils=checks
    )
