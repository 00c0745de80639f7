"""What a module computes, asked of its numbers on a small copy: never of its name or its source.

A class's name and its code say what it once was. What it computes with the libraries that are installed is what
counts, and costs a fraction of a millisecond to find out. The copies have random weights of their own, so that a
module on the meta device can be asked before a weight is loaded; the global random generator is left alone.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from summarizer.ops.norms import RMSNorm, rms_norm_by_torch

EPSILONS = ("variance_epsilon", "eps", "epsilon")
"""What modules call the number that keeps a row of zeros from being divided by 0."""
D_IN, D_OUT = 7, 5
"""Sides of a probed weight: small, and no two numbers of a probe alike."""


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normal numbers in fp32 on the CPU, the same each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def drawn_parameter(like: nn.Parameter | None, *shape: int, seed: int = 0) -> nn.Parameter | None:
    """A parameter of that shape for a copy whose original has one, else None."""
    return None if like is None else nn.Parameter(drawn(*shape, seed=seed), requires_grad=False)


def is_product(module: nn.Module, *, transposed: bool) -> bool:
    """Whether a layer with `weight` and perhaps `bias` computes x @ weight.T + bias and nothing else.

    transposed: the weight is kept as (d_in, d_out), and the product is x @ weight + bias.
    """
    if type(module) is nn.Linear:
        return True
    asked: Any = copy.deepcopy(module)
    asked.weight = drawn_parameter(asked.weight, *((D_IN, D_OUT) if transposed else (D_OUT, D_IN)))
    asked.bias = drawn_parameter(asked.bias, D_OUT, seed=1)
    for name, size in {"in_features": D_IN, "out_features": D_OUT, "nx": D_IN, "nf": D_OUT}.items():
        if hasattr(asked, name):
            setattr(asked, name, size)
    weight = asked.weight.t() if transposed else asked.weight
    x = drawn(2, 3, D_IN, seed=2)
    return gives(asked, F.linear(x, weight, asked.bias), x)


def lookup_scale(module: nn.Module) -> float | None:
    """What an embedding multiplies the rows of its `weight` by: 1 for a plain one, sqrt(d) for Gemma's.

    None where it does anything else with them, such as shifting ids or norming rows.
    """
    if type(module) is nn.Embedding:
        return 1.0
    asked: Any = copy.deepcopy(module)
    padding = getattr(asked, "padding_idx", None) or 0
    rows = padding + D_OUT
    asked.weight = drawn_parameter(asked.weight, rows, D_IN)
    if hasattr(asked, "num_embeddings"):
        asked.num_embeddings, asked.embedding_dim = rows, D_IN
    ids = torch.tensor([[0, padding, rows - 1], [1, 2, padding]])
    found = output(asked, ids)
    if found is None or found.shape != (*ids.shape, D_IN):
        return None
    looked_up = asked.weight[ids]
    scale = float((found / looked_up).median())
    scale = 1.0 if abs(scale - 1) < 1e-6 else scale
    return scale if _alike(found, looked_up * scale, rtol=1e-5, atol=1e-5) else None


def is_function(module: nn.Module, function: Callable[[Tensor], Tensor]) -> bool:
    """Whether a module without parameters, buffers and parts maps each number as `function` does.

    Within 1e-5: of the usual approximations of GELU the nearest two differ by 5e-4.
    """
    if any(True for _ in (*module.parameters(), *module.buffers(), *module.children())):
        return False
    x = torch.linspace(-6, 6, 49)
    return gives(module, function(x), x, rtol=0.0, atol=1e-5)


def as_rms_norm(module: nn.Module) -> RMSNorm | None:
    """Our RMS norm with a module's weight, where the module computes the same; else None.

    transformers has it in a class of each model's own, and some of these compute something else: Gemma's adds 1 to
    the weight, OLMo's rounds at another place.
    """
    parameters = dict(module.named_parameters())
    epsilon = next((value for name in EPSILONS if (value := getattr(module, name, None)) is not None), None)
    if set(parameters) != {"weight"} or parameters["weight"].ndim != 1 or not isinstance(epsilon, float):
        return None
    if any(True for _ in (*module.children(), *module.buffers())):
        return None
    if len(inspect.signature(module.forward).parameters) != 1:  # it may be gated by something else
        return None
    asked: Any = copy.deepcopy(module).to_empty(device="cpu")
    asked.weight = drawn_parameter(parameters["weight"], *parameters["weight"].shape)
    # Rows so small that epsilon decides, and such as models have; both precisions, since they differ in rounding.
    x = torch.stack([drawn(3, len(asked.weight), seed=1, scale=scale) for scale in (1e-4, 1.0, 100.0)])
    for dtype, rtol in ((torch.float32, 1e-5), (torch.bfloat16, 0.0)):
        right = rms_norm_by_torch(x.to(dtype), asked.weight, epsilon)
        if not gives(asked, right, x.to(dtype), rtol=rtol, atol=0.0):
            return None
    return RMSNorm(cast(nn.Parameter, module.weight), epsilon)


def gives(
    module: Callable[..., Any], right: Tensor, x: Tensor, *, rtol: float = 1e-5, atol: float = 1e-5
) -> bool:
    """Whether a module's output for x is `right`, in numbers, shape and precision."""
    found = _answer(module, x)
    # A tuple is more than the number asked about: Phi-MoE's router is a linear layer that chooses experts too.
    return isinstance(found, Tensor) and _alike(found, right, rtol=rtol, atol=atol)


def agree(one: nn.Module, another: nn.Module, given: Mapping[str, Any]) -> bool:
    """Whether two modules give the same for these inputs, to 1e-4 of the largest number."""
    found, right = output(one, **given), output(another, **given)
    if found is None or right is None:
        return False
    return _alike(found, right, rtol=0.0, atol=1e-4 * float(right.abs().max()))


def output(module: Callable[..., Any], *inputs: Any, **more: Any) -> Tensor | None:
    """A module's output, or the first of its outputs. None where that is no tensor, or it raises on such inputs."""
    out = _answer(module, *inputs, **more)
    out = out[0] if isinstance(out, tuple) and out else out
    return out if isinstance(out, Tensor) else None


def _answer(module: Callable[..., Any], *inputs: Any, **more: Any) -> Any:
    try:
        with torch.no_grad():
            return module(*inputs, **more)
    except Exception:  # whatever code that is not ours raises where it is asked something unusual
        return None


def _alike(found: Tensor, right: Tensor, *, rtol: float, atol: float) -> bool:
    return (
        found.shape == right.shape
        and found.dtype == right.dtype
        and torch.allclose(found, right, rtol=rtol, atol=atol)
    )
