"""Layers whose weights are frozen and stored in a weight format; the rest of the model never notices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from summarizer.ops.decode_gemm import Epilogue, LowRankPairs, is_decode, is_decode_on_gpu
from summarizer.ops.elementwise import in_compute_dtype
from summarizer.ops.prefill_gemm import is_prefill_in_int8
from summarizer.quantization import weight_format
from summarizer.quantization.protocol import Gain


class FrozenWeight(nn.Module):
    """One stored weight of shape (d_out, d_in). Tied layers share one."""

    def __init__(self, format_name: str, shape: tuple[int, int]) -> None:
        super().__init__()
        self.format = weight_format(format_name)
        self.shape = shape
        self.transposed_in_checkpoint = False
        """Checkpoints hold it as (d_in, d_out), as GPT-2's Conv1D does."""
        self.read_by_the_model = False
        """The model's code has used it by itself, past its layer."""
        self.squares: dict[bool, Float[Tensor, " rows"]] = {}
        """Squared lengths of its rows (False) or columns (True), where they have been measured."""
        self._part_names: tuple[str, ...] = ()

    def load(self, parts: Mapping[str, Tensor]) -> None:
        """Take the stored tensors as buffers, without a copy."""
        for name, part in parts.items():
            self.register_buffer(name, part, persistent=False)
        self._part_names = tuple(parts)

    @property
    def parts(self) -> dict[str, Tensor]:
        if not self._part_names:
            raise RuntimeError("a frozen weight is used before it is loaded")
        return {name: getattr(self, name) for name in self._part_names}

    @property
    def stored_bytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values())

    @property
    def dtype(self) -> torch.dtype:
        """What models that look at `layer.weight.dtype` see: activations between layers are fp32."""
        return torch.float32

    @property
    def device(self) -> torch.device:
        return next(iter(self.parts.values())).device

    def dense(self, dtype: torch.dtype) -> Float[Tensor, "d_out d_in"]:
        return self.format.dequantize(self.parts, self.shape, dtype)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Torch calls this where a model uses `layer.weight` as a tensor, past the layer: it gets the whole weight.

        What an adapter beside the layer adds would not be in it, so the weight remembers it (`read_by_the_model`).
        """
        return func(*_whole(args), **_whole(kwargs or {}))

    def __getattr__(self, name: str) -> Any:
        """Whatever else a model asks of `layer.weight` that a tensor has, such as its transpose."""
        if name.startswith("_") or name in self.__dict__.get("_buffers", {}) or not hasattr(Tensor, name):
            return super().__getattr__(name)
        return getattr(self.read_whole(), name)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """As a tensor's, and not a module's, which would round the parts."""
        return self.read_whole().to(*args, **kwargs)

    def float(self) -> Any:
        return self.read_whole()

    def __getitem__(self, index: Any) -> Any:
        return self.read_whole()[index]

    def read_whole(self) -> Float[Tensor, "d_out d_in"]:
        """The dense weight, for code that goes past the layer."""
        self.read_by_the_model = True
        return self.dense(torch.float32)

    def matmul(self, x: Float[Tensor, "... d_in"], gain: Gain = None) -> Float[Tensor, "... d_out"]:
        """x @ W.T without a graph, times the gain: for passes that write their own backward."""
        return self.format.matmul(x, self.parts, self.shape, gain)

    def decodes(self, x: Float[Tensor, "... d_in"]) -> bool:
        """Whether `decode_gemm` may have a way for x, for those who would prepare x in vain."""
        return (self._is_decode(x) or is_decode_on_gpu(x)) and not torch.is_grad_enabled()

    def _is_decode(self, x: Float[Tensor, "... d_in"]) -> bool:
        few = is_decode(x, self.format.decode_rows)
        return few and not is_prefill_in_int8(x.reshape(-1, x.shape[-1]))

    def decode_gemm(
        self,
        x: Float[Tensor, "... d_in"],
        bias: Float[Tensor, " d_out"] | None = None,
        pairs: LowRankPairs | None = None,
    ) -> Float32[Tensor, "... d_out"] | None:
        """x @ W.T + bias and what adapters add, for a few rows that are to be multiplied with the weight as stored.

        Takes x before it is put into the compute dtype, and makes no graph. None means that x has too many rows, or
        that the format has no such way: the caller multiplies as in training.
        """
        if torch.is_grad_enabled():
            return None
        if self._is_decode(x):
            rows = x.reshape(-1, x.shape[-1]).float()
        elif is_decode_on_gpu(x):
            # A row alone is multiplied in fp32 whatever it comes in; to convert it would be a launch more.
            alone = x.numel() == x.shape[-1]
            rows = (x if alone else in_compute_dtype(x)).reshape(-1, x.shape[-1])
        else:
            return None
        y = self.format.decode_gemm(rows, self.parts, self.shape, Epilogue(bias, pairs))
        return None if y is None else y.reshape(*x.shape[:-1], -1)

    def prefill_gemm(
        self,
        x: Float[Tensor, "... d_in"],
        bias: Float[Tensor, " d_out"] | None = None,
        pairs: LowRankPairs | None = None,
    ) -> Float[Tensor, "... d_out"] | None:
        """The same for the rows of prompts, in the precision of x, which is the compute dtype. Makes no graph."""
        if torch.is_grad_enabled():
            return None
        rows = x.reshape(-1, x.shape[-1])
        y = self.format.prefill_gemm(rows, self.parts, self.shape, Epilogue(bias, pairs))
        return None if y is None else y.reshape(*x.shape[:-1], -1)

    def matmul_backward(
        self, grad: Float[Tensor, "... d_out"], gain: Gain = None
    ) -> Float[Tensor, "... d_in"]:
        """(grad times the gain) @ W."""
        return self.format.matmul_backward(grad, self.parts, self.shape, gain)

    def rows(self, ids: Int[Tensor, " ..."], dtype: torch.dtype) -> Float[Tensor, "... d_in"]:
        return self.format.rows(self.parts, self.shape, ids, dtype)


def _whole(given: Any) -> Any:
    """Arguments of a torch function, with whole weights in the place of frozen ones."""
    if isinstance(given, FrozenWeight):
        return given.read_whole()
    if isinstance(given, dict):
        return {name: _whole(value) for name, value in given.items()}
    return type(given)(map(_whole, given)) if type(given) in (tuple, list) else given


class _FrozenMatmul(torch.autograd.Function):
    """x @ W.T with W dequantized in each pass anew: backward keeps the stored weight, never a dense one."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: FrozenWeight) -> Tensor:
        ctx.weight = weight  # type: ignore[attr-defined]
        return weight.matmul(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return ctx.weight.matmul_backward(grad), None  # type: ignore[attr-defined]


class FrozenLinear(nn.Module):
    """y = x @ W.T + bias with a frozen stored W."""

    bias: Tensor | None

    def __init__(self, weight: FrozenWeight, *, bias: bool) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = weight
        self.register_buffer("bias", torch.empty(self.out_features, device="meta") if bias else None)

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        if (few := self.weight.decode_gemm(x, self.bias)) is not None:
            return few
        x = in_compute_dtype(x)
        if (many := self.weight.prefill_gemm(x, self.bias)) is not None:
            return many
        y: Tensor = _FrozenMatmul.apply(x, self.weight)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, {self.weight.format.name}"


class FrozenEmbedding(nn.Module):
    """Rows of a frozen stored weight times `scale`, in fp32."""

    def __init__(self, weight: FrozenWeight, scale: float = 1.0) -> None:
        """scale: of what is looked up, as Gemma has it; an adapter's share is multiplied by it too."""
        super().__init__()
        self.num_embeddings, self.embedding_dim = weight.shape
        self.weight = weight
        self.scale = scale

    def forward(self, ids: Int[Tensor, " ..."]) -> Float[Tensor, "... d"]:
        rows = self.weight.rows(ids, torch.float32)
        return rows if self.scale == 1 else rows * self.scale

    def extra_repr(self) -> str:
        scaled = "" if self.scale == 1 else f" times {self.scale:.4g}"
        return f"{self.num_embeddings} x {self.embedding_dim}{scaled}, {self.weight.format.name}"
