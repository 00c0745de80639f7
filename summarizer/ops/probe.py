"""What a module computes, asked of its numbers on a small copy: never of its name or its source.

A class's name and its code say what it once was. What it computes with the libraries that are installed is what
counts, and costs a fraction of a millisecond to find out. The copies have random weights of their own, so that a
module on the meta device can be asked before a weight is loaded; the global random generator is left alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


def is_lookup(module: nn.Module) -> bool:
    """Whether an embedding gives the rows of its `weight` as they are: not scaled, shifted or normed."""
    if type(module) is nn.Embedding:
        return True
    asked: Any = copy.deepcopy(module)
    padding = getattr(asked, "padding_idx", None) or 0
    rows = padding + D_OUT
    asked.weight = drawn_parameter(asked.weight, rows, D_IN)
    if hasattr(asked, "num_embeddings"):
        asked.num_embeddings, asked.embedding_dim = rows, D_IN
    ids = torch.tensor([[0, padding, rows - 1], [1, 2, padding]])
    return gives(asked, asked.weight[ids], ids)


def is_function(module: nn.Module, function: Callable[[Tensor], Tensor]) -> bool:
    """Whether a module without parameters, buffers and parts maps each number as `function` does.

    Within 1e-5: of the usual approximations of GELU the nearest two differ by 5e-4.
    """
    if any(True for _ in (*module.parameters(), *module.buffers(), *module.children())):
        return False
    x = torch.linspace(-6, 6, 49)
    return gives(module, function(x), x, rtol=0.0, atol=1e-5)


def gives(
    module: Callable[..., Any], right: Tensor, x: Tensor, *, rtol: float = 1e-5, atol: float = 1e-5
) -> bool:
    """Whether a module's output for x is `right`, in numbers, shape and precision."""
    found = output(module, x)
    return found is not None and _alike(found, right, rtol=rtol, atol=atol)


def agree(one: nn.Module, another: nn.Module, given: Mapping[str, Any]) -> bool:
    """Whether two modules give the same for these inputs, to 1e-4 of the largest number."""
    found, right = output(one, **given), output(another, **given)
    if found is None or right is None:
        return False
    return _alike(found, right, rtol=0.0, atol=1e-4 * float(right.abs().max()))


def output(module: Callable[..., Any], *inputs: Any, **more: Any) -> Tensor | None:
    """A module's output, or the first of its outputs. None where that is no tensor, or it raises on such inputs."""
    try:
        with torch.no_grad():
            out = module(*inputs, **more)
    except Exception:  # whatever code that is not ours raises where it is asked something unusual
        return None
    out = out[0] if isinstance(out, tuple) and out else out
    return out if isinstance(out, Tensor) else None


def _alike(found: Tensor, right: Tensor, *, rtol: float, atol: float) -> bool:
    return (
        found.shape == right.shape
        and found.dtype == right.dtype
        and torch.allclose(found, right, rtol=rtol, atol=atol)
    )
