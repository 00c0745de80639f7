from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Ernie4_5Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as gptj_s
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as llama_s

from summarizer.model.gptj_attention import rotate
from summarizer.model.kernels import rotary
from summarizer.model.kernels.rotary import rotate_by_kernel, rotated, takes
from summarizer.model.skeleton import build_skeleton

pytestmark = pytest.mark.versions

needs_kernel = pytest.mark.skipif(
    not takes(torch.empty(1, dtype=torch.bfloat16), torch.empty(1)),
    reason="needs a processor with AVX-512 and bf16 and a C compiler",
)
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "vocab_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
HALF_A_UNIT = 2**-8
"""Of bf16, in the last place, by the power of two below a number."""


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_gradient(y: Tensor, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    return y.detach(), torch.autograd.grad(y, x, grad)[0]


def assert_rounded(found: Tensor, right: Tensor) -> None:
    """`found` is what bf16 has nearest to `right`, but for fp32's own rounding of a sum that cancels."""
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), right, rtol=HALF_A_UNIT, atol=1e-6)


@needs_kernel
@pytest.mark.parametrize("table_rows", [1, 3], ids=["the rows share angles", "each row its own"])
@pytest.mark.parametrize(("t", "heads", "d"), [(1, 1, 2), (7, 5, 20), (3, 2, 64), (0, 2, 64), (70, 9, 128)])
def test_it_and_its_gradient_are_llama_s(t: int, heads: int, d: int, table_rows: int) -> None:
    x, grad = random(3, t, heads, d, seed=1).bfloat16(), random(3, t, heads, d, seed=2).bfloat16()
    # Not even the two halves of a table are alike, which the function does not ask for.
    cos, sin = random(table_rows, t, d, seed=3), random(table_rows, t, d, seed=4)
    ours, theirs = x.clone().requires_grad_(), x.double().transpose(1, 2).requires_grad_()
    right, _ = llama_s(theirs, theirs.detach(), cos.double(), sin.double())
    right_ones = with_gradient(right, theirs, grad.double().transpose(1, 2))
    found_ones = with_gradient(rotated(ours, cos, sin, neighbours=False), ours, grad)
    for found, its in zip(found_ones, right_ones, strict=True):
        assert_rounded(found, its.transpose(1, 2))


@needs_kernel
@pytest.mark.parametrize(("d", "turning"), [(16, 16), (64, 20), (256, 64), (40, 2)])
def test_it_and_its_gradient_are_gpt_j_s(d: int, turning: int) -> None:
    x, grad = random(2, 9, 3, d, seed=1).bfloat16(), random(2, 9, 3, d, seed=2).bfloat16()
    angles = random(2, 9, turning // 2, seed=3)
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    turned = gptj_s(theirs[..., :turning], angles.sin().double(), angles.cos().double())
    right_ones = with_gradient(torch.cat((turned, theirs[..., turning:]), -1), theirs, grad.double())
    sin, cos = torch.cat((angles.sin(), angles.cos()), -1)[:, :, None].chunk(2, dim=-1)
    found_ones = with_gradient(rotate(ours, sin, cos, turning), ours, grad)
    for found, its in zip(found_ones, right_ones, strict=True):
        assert_rounded(found, its)
    assert torch.equal(found_ones[0][..., turning:], x[..., turning:])


@needs_kernel
def test_without_the_kernel_gpt_j_s_are_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    x, angles = random(2, 9, 3, 64, seed=1).bfloat16(), random(2, 9, 1, 10, seed=3)
    found = rotate(x, angles.sin(), angles.cos(), 20)
    monkeypatch.setattr(rotary, "library", lambda source: None)
    torch.testing.assert_close(
        found, rotate(x, angles.sin(), angles.cos(), 20), rtol=2 * HALF_A_UNIT, atol=1e-6
    )


@needs_kernel
def test_tensors_may_have_gaps() -> None:
    x, cos, sin = random(2, 5, 3, 32, seed=1).bfloat16(), random(2, 5, 32, seed=2), random(2, 5, 32, seed=3)
    gaps = [part.repeat_interleave(2, dim=-1)[..., ::2] for part in (x, cos, sin)]
    assert not any(part.is_contiguous() for part in gaps)
    assert torch.equal(rotated(*gaps, neighbours=False), rotated(x, cos, sin, neighbours=False))


@needs_kernel
def test_a_token_that_is_not_finite_stays_alone() -> None:
    x, cos, sin = random(1, 4, 2, 32, seed=1).bfloat16(), random(1, 4, 32, seed=2), random(1, 4, 32, seed=3)
    right = rotated(x, cos, sin, neighbours=False)
    x[0, 2, 1, 3] = torch.nan
    found = rotated(x, cos, sin, neighbours=False)
    assert torch.isnan(found).nonzero().tolist() == [[0, 2, 1, 3], [0, 2, 1, 19]]
    assert torch.equal(found[~torch.isnan(found)], right[~torch.isnan(found)])


MODELS = [
    (LlamaConfig(num_hidden_layers=2, **SIZES), 2),
    (MistralConfig(num_hidden_layers=1, **SIZES), 1),
    (Qwen2Config(num_hidden_layers=1, **SIZES), 1),
    (Qwen3Config(num_hidden_layers=1, head_dim=16, **SIZES), 1),
    (Ernie4_5Config(num_hidden_layers=1, **SIZES), 0),  # neighbours, in a function of the same name
    (GPTNeoXConfig(num_hidden_layers=1, **SIZES), 0),  # a part of each head, likewise
]
"""And how many of its layers take the kernel."""


@pytest.mark.parametrize(("config", "count"), MODELS, ids=lambda given: getattr(given, "model_type", ""))
def test_a_model_gets_it_where_it_computes_the_same(config: PretrainedConfig, count: int) -> None:
    model = build_skeleton(config, "int8").model
    assert sum("_rotating" in type(module).forward.__qualname__ for module in model.modules()) == count


def test_transformers_own_class_is_left_alone() -> None:
    before = LlamaAttention.forward, LlamaAttention.forward.__globals__[rotary.APPLY]
    rotate_by_kernel(LlamaAttention(LlamaConfig(num_hidden_layers=1, **SIZES), 0))
    assert before == (LlamaAttention.forward, LlamaAttention.forward.__globals__[rotary.APPLY])
    assert before[1] is llama_s


@needs_kernel
# Qwen3's q and k come out of norms in fp32, which the kernel is not for.
@pytest.mark.parametrize("config", [config for config, _ in MODELS[:3]], ids=lambda given: given.model_type)
def test_a_model_s_logits_and_gradients_are_transformers_s(
    config: PretrainedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(config)
    ours = deepcopy(theirs)
    for module in ours.modules():
        rotate_by_kernel(module)
    used: list[torch.Size] = []
    monkeypatch.setattr(
        rotary, "rotated", lambda x, *given, **more: used.append(x.shape) or rotated(x, *given, **more)
    )
    ids = torch.randint(8, (2, 11))
    found = []
    for model in (ours, theirs):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids).logits.float()
        logits.square().mean().backward()
        found.append((logits.detach(), model.model.layers[0].self_attn.q_proj.weight.grad))
    assert len(used) == 2 * config.num_hidden_layers
    for mine, right in zip(*found, strict=True):
        torch.testing.assert_close(mine, right, rtol=0, atol=0.02 * right.abs().max().item())


@needs_kernel
def test_what_a_plan_is_told_of_it_is_so() -> None:
    x, cos, sin = random(2, 5, 3, 32, seed=1).bfloat16(), random(1, 5, 32, seed=2), random(1, 5, 32, seed=3)
    torch.library.opcheck(
        torch.ops.summarizer.rotate.default,
        (x, cos, sin, False, False),
        test_utils=("test_schema", "test_faketensor"),
    )
