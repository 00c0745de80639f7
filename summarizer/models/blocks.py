"""A model's blocks, one after the other: what is compiled, and what is recomputed to save memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from summarizer.models.causal_lm import CausalLM
from summarizer.ops import attention


def recompute_blocks(model: CausalLM, count: int | None = None) -> int:
    """Keep of the first `count` blocks (None: of all) only the inputs, and compute the rest anew for backward.

    Returns how many that are.
    Source: activation checkpointing, Chen et al. 2016 (arXiv:1604.06174).
    """
    found = model.blocks[:count]
    for block in found:
        block.forward = partial(_recomputed, block, block.forward)
    return len(found)


def compile_blocks(model: CausalLM, *, graphs: bool = False) -> int:
    """Compile each block, and return how many there are; blocks of the same shape share their code.

    The compiling happens in the first step, for all lengths at once, since they differ from batch to batch. To be
    done before adapters are attached, which ask what the last block sees, and after `recompute_blocks`: the
    compiler decides what of a block to compute anew, and checkpointing by itself would compute it uncompiled.

    graphs: on a GPU, record what a block launches once for each shape that comes, and replay it from then on:
    one launch for each pass of a block. The first two passes of a shape are slow, so batches should have few
    (`data.batches.PaddingBuckets`), and `begin_pass` stands before each. Source: CUDA graph trees, PyTorch's
    documentation, torch.compiler_cudagraph_trees.
    """
    found = model.blocks
    model.blocks_are_alike = True
    attention.leave_out_of_graphs()
    how: dict[str, Any] = {"mode": "reduce-overhead"} if graphs else {}
    for block in found:
        block.forward = partial(
            _compiled, block, torch.compile(block.forward, dynamic=True, **how), block.forward
        )
    return len(found)


def begin_pass() -> None:
    """Say that what recorded graphs computed before is needed no more: the pass before is back-propagated.

    Without it each compiled block may be taken for a new pass, and an earlier block's result overwritten; and
    after a pass that ran out of memory, whose backward never came, none would be begun again.
    """
    torch.compiler.cudagraph_mark_step_begin()


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
