"""The watch on a step against torch's own memory tracker, its hooks, closed forms, and a run on real tensors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from summarizer.training.simulate import PARTS, StepCost, step_cost

WIDTH, HEADS, VOCABULARY = 32, 2, 400


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.wide = nn.Linear(WIDTH, 4 * WIDTH)
        self.narrow = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.narrow(F.gelu(self.wide(x)))


class Transformer(nn.Module):
    def __init__(self, *, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.recompute else block(x)
        return self.head(x)


def built(tokens: int, *, recompute: bool = False, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    model, ids = Transformer(recompute=recompute), torch.zeros(2, tokens, dtype=torch.long)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def forward() -> Tensor:
        with nullcontext() if dtype == torch.float32 else torch.autocast("cpu", dtype):
            return F.cross_entropy(model(ids).flatten(0, 1).float(), ids.flatten())

    return model, ids, forward


def cost(tokens: int, **how: Any) -> StepCost:
    model, ids, forward = built(tokens, **how)
    resident = {
        "base": list(model.parameters()),
        "adapters": [ids],
        "gradients": [parameter.grad for parameter in model.parameters()],
    }
    return step_cost(forward, resident, model.head)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fake_tensors_give_what_real_ones_give(recompute: bool, dtype: torch.dtype) -> None:
    real = cost(48, recompute=recompute, dtype=dtype)
    with FakeTensorMode():
        fake = cost(48, recompute=recompute, dtype=dtype)
    assert fake == real
    assert sum(real.at_peak.values()) == real.peak_bytes
    assert real.at_peak["gradients"] == sum(p.nbytes for p in Transformer(recompute=False).parameters())
    assert real.at_peak["logits"] >= 2 * 48 * VOCABULARY * 4


@pytest.mark.parametrize("tokens", [16, 48])
def test_the_peak_is_that_of_torch_s_own_tracker(tokens: int) -> None:
    ours = cost(tokens)
    model, ids, forward = built(tokens)
    tracker = MemTracker()
    tracker.track_external(model, ids, *(parameter.grad for parameter in model.parameters()))
    with tracker:
        forward().backward()
    peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    # It rounds each storage up to what an allocator takes.
    assert ours.peak_bytes == pytest.approx(peak, rel=0.02)


def frozen_chain(layers: int, x: Tensor) -> Callable[[], Tensor]:
    weights = [torch.zeros(x.shape[-1], x.shape[-1]) for _ in range(layers)]

    def forward() -> Tensor:
        y = x
        for weight in weights:
            y = F.gelu(y @ weight)
        return y.sum()

    return forward


def test_activations_are_what_autograd_saves() -> None:
    x = torch.zeros(64, 16, requires_grad=True)
    forward = frozen_chain(5, x)
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()
    weights = 5 * 16 * 16 * 4  # saved too, but there before
    measured = step_cost(forward, {"adapters": [x]})
    assert measured.at_peak["activations"] == sum(saved.values()) - weights
    assert loss.grad_fn is not None


def test_what_is_freed_or_shared_counts_once() -> None:
    x = torch.zeros(100, requires_grad=True)

    def forward() -> Tensor:
        large = torch.zeros(1000)  # gone before the rest is made
        del large
        view = (x * 2).view(10, 10).t()
        return view.sum()

    measured = step_cost(forward, {"base": [x, x.detach()]})
    assert measured.at_peak == dict.fromkeys(PARTS, 0) | {"base": 400, "temporaries": 4000}


def test_flops_of_a_chain_have_a_closed_form() -> None:
    x = torch.zeros(64, 16, requires_grad=True)
    product = 2 * 64 * 16 * 16
    assert step_cost(frozen_chain(5, x), {}).flops == 5 * product * 2  # forward, and the input's gradient
    trained = nn.Linear(16, 16, bias=False)
    assert step_cost(lambda: trained(x).sum(), {}).flops == 3 * product
    again = step_cost(lambda: checkpoint(trained, x, use_reentrant=False).sum(), {}).flops
    assert again in (3 * product, 4 * product), "torch may leave out a product whose result nobody saves"


class Names(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("fake", [False, True])
def test_attention_takes_a_kernel_whose_memory_is_linear(fake: bool) -> None:
    b, h, d = 1, 2, 16

    def measured(t: int) -> StepCost:
        with FakeTensorMode() if fake else nullcontext():
            q, k, v = (torch.zeros(b, h, t, d, requires_grad=True) for _ in range(3))
            forward = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True).sum()  # noqa: E731
            with Names() as names:
                cost = step_cost(forward, {"base": [q, k, v]})
        assert "_scaled_dot_product_flash_attention_for_cpu.default" in names.seen
        return cost

    short, long = measured(128), measured(256)
    assert long.peak_bytes == pytest.approx(2 * short.peak_bytes, rel=0.001)
    forward_flops = 2 * (2 * b * h * 128 * 128 * d)
    assert short.flops == forward_flops * 3.5  # backward multiplies five times where forward does twice
    assert long.flops == 4 * short.flops
