"""The loss of each token from its logits.

On a CPU with AVX-512 and bf16 in C: a pass over the logits in their own precision, and one more for their gradient,
where torch's operators make several copies of them in fp32.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int
from torch import Tensor

from summarizer.ops import native

SOURCE = "loss.c"


def supports(logits: Tensor) -> bool:
    """Whether the kernel runs here and is made for such logits."""
    known = logits.dtype in (torch.bfloat16, torch.float32)
    return known and native.is_eager(logits, logits.dtype) and native.available(SOURCE)


def token_losses(
    logits: Float[Tensor, "rows v"], targets: Int[Tensor, " rows"], ignored: int
) -> Float32[Tensor, " rows"]:
    """-log softmax(logits)[target] of each row, in nats; 0 where the target is the negative number `ignored`."""
    assert ignored < 0, "no token's number"
    if supports(logits):
        losses: Tensor = _TokenLosses.apply(logits, targets)  # type: ignore[no-untyped-call]
        return losses
    return F.cross_entropy(logits.float(), targets, ignore_index=ignored, reduction="none")


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        losses: Tensor
        losses, logs = torch.ops.summarizer.token_losses(logits, targets)
        ctx.save_for_backward(logits, targets, logs)
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return torch.ops.summarizer.token_losses_backward(grads[0], *ctx.saved_tensors), None


# --- in C ---------------------------------------------------------------------------------------------------------


class _Given(ctypes.Structure):
    """`TokenLosses` of loss.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("logits", "targets", "logs", "losses", "grads")),
        ("rows", ctypes.c_long),
        ("v", ctypes.c_long),
        ("in_bf16", ctypes.c_int),
        ("threads", ctypes.c_int),
    ]


def _call(
    name: str, logits: Tensor, targets: Tensor, logs: Tensor, losses: Tensor, grads: Tensor | None
) -> None:
    rows, v = logits.shape
    tensors = {"logits": logits, "targets": targets, "logs": logs, "losses": losses, "grads": grads}
    given = native.structure(
        _Given,
        **tensors,
        rows=rows,
        v=v,
        in_bf16=logits.dtype == torch.bfloat16,
        threads=torch.get_num_threads(),
    )
    native.kernel(SOURCE, name)(ctypes.byref(given))


def _forward(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    losses, logs = _shaped(logits, targets)
    _call("token_losses", logits.contiguous(), targets.contiguous(), logs, losses, None)
    return losses, logs


def _backward(grad: Tensor, logits: Tensor, targets: Tensor, logs: Tensor) -> Tensor:
    dense, own = logits.contiguous(), targets.contiguous()
    grads = _shaped_backward(grad, logits, targets, logs)
    _call("token_losses_backward", dense, own, logs, grad.contiguous(), grads)
    return grads


def _shaped(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    assert targets.shape == logits.shape[:1], "a target for each row"
    assert targets.dtype == torch.int64, "numbers of tokens"
    losses, logs = (logits.new_empty(len(logits), dtype=torch.float32) for _ in range(2))
    return losses, logs


def _shaped_backward(grad: Tensor, logits: Tensor, targets: Tensor, logs: Tensor) -> Tensor:
    assert grad.dtype == torch.float32, "as the losses"
    return logits.new_empty(logits.shape)


native.define_operator("token_losses(Tensor logits, Tensor targets) -> (Tensor, Tensor)", _forward, _shaped)
native.define_operator(
    "token_losses_backward(Tensor grad, Tensor logits, Tensor targets, Tensor logs) -> Tensor",
    _backward,
    _shaped_backward,
)
