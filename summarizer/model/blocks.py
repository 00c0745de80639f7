"""A model's blocks, one after the other: what is compiled, and what is recomputed to save memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


def blocks(model: PreTrainedModel) -> list[nn.Module]:
    """In the order of the data. None in a model whose code knows no blocks."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def recompute_blocks(model: PreTrainedModel, count: int | None = None) -> int:
    """Keep of the first `count` blocks (None: of all) only the inputs, and compute the rest anew for backward.

    Returns how many that are.
    Source: activation checkpointing, Chen et al. 2016 (arXiv:1604.06174).
    """
    found = blocks(model)[:count]
    for block in found:
        block.forward = partial(_recomputed, block, block.forward)
    return len(found)


def compile_blocks(model: PreTrainedModel) -> int:
    """Compile each block, and return how many there are; blocks of the same shape share their code.

    The compiling happens in the first step, for all lengths at once, since they differ from batch to batch. After
    `recompute_blocks`: the compiler decides what of a block to compute anew, and checkpointing by itself would
    compute it uncompiled.
    """
    found = blocks(model)
    for block in found:
        block.forward = partial(_compiled, block, torch.compile(block.forward, dynamic=True), block.forward)
    return len(found)


def _compiled(
    block: nn.Module, compiled: Callable[..., Any], plain: Callable[..., Any], *inputs: Any, **more: Any
) -> Any:
    # Evaluating and generating would each be compiled anew, generation once for every layer's cache.
    return (compiled if block.training else plain)(*inputs, **more)


def _recomputed(block: nn.Module, forward: Callable[..., Any], *inputs: Any, **more: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*inputs, **more)
    # Nothing in a block draws from the global generator: the base has no dropout, the adapters have their own.
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **more)
