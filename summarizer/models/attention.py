"""Causal attention over packed examples, for every model that lets its attention be chosen.

transformers hands the attention mask through to the attention function as it is where it has four dimensions. A
packed batch puts there, instead of a mask, where its examples begin and end (`Batch.attention_mask`): no mask is
made, no padding is computed, and an example sees nothing of its neighbors.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int32
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface, Cache, PreTrainedModel

from summarizer import compat
from summarizer.models.causal_blocks import causal_attention
from summarizer.ops import causal
from summarizer.quantization.frozen import in_product_precision

NAME = "packed"
"""What a config's attention implementation is called."""
MARK = "attends_by_summarizer"
"""The attribute by which a model is known to attend by `attend`."""
UNKNOWN_PARTS = ("mamba", "conv", "recurrent", "rwkv", "linear_attn", "ssm", "sinks")
"""In the names of modules that carry a state from token to token, across the borders of packed examples, or that
attend in a way of their own."""
UNKNOWN_SETTINGS = ("attn_logit_softcapping", "alibi", "attention_chunk_size")
"""Of a config: where one is set, attention is more than softmax(q k^T) v."""
UNKNOWN_REQUESTS = ("softcap", "s_aux", "position_bias")
"""The same, as attention functions are asked for it."""
VARLEN_TAKES = frozenset(inspect.signature(varlen_attn).parameters)
"""torch 2.11 and 2.13 name what they take differently, and 2.11 takes less."""


@runtime_checkable
class KeptKeyValues(Protocol):
    """Keys and values of earlier tokens, and attention to them."""

    def attend(
        self,
        layer: int,
        query: Float[Tensor, "rows heads t d"],
        key: Float[Tensor, "rows kv_heads t d"],
        value: Float[Tensor, "rows kv_heads t d"],
        scaling: float | None,
    ) -> Float[Tensor, "rows t heads d"]:
        """Keep the new keys and values, and attend to them and to the earlier ones."""
        ...


_key_values: KeptKeyValues | None = None


@contextmanager
def attending_by(key_values: KeptKeyValues) -> Iterator[None]:
    """Within the block, every layer's attention is that of `key_values`.

    So no cache of transformers' has to be filled, whose layout knows no beams that share a prompt. Not for two
    threads at once.
    """
    global _key_values
    _key_values = key_values
    try:
        yield
    finally:
        _key_values = None


def attend(
    module: nn.Module,
    query: Float[Tensor, "rows heads t d"],
    key: Float[Tensor, "rows kv_heads s d"],
    value: Float[Tensor, "rows kv_heads s d"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Float[Tensor, "rows t heads d"], None]:
    """An attention function as transformers wants it: packed where the mask holds borders, else its own SDPA.

    Within `attending_by`, whatever the mask is, by what keeps the keys and values there.
    """
    if _key_values is not None:
        return _key_values.attend(module.layer_idx, query, key, value, scaling), None  # type: ignore[arg-type]
    if attention_mask is None or attention_mask.dtype != torch.int32:
        if attention_mask is not None and attention_mask.is_floating_point():
            attention_mask = attention_mask.to(
                query.dtype
            )  # made for products in fp32, as eager attention has them
        sdpa = AttentionInterface()["sdpa"]
        return sdpa(module, query, key, value, attention_mask, scaling=scaling, **more)  # type: ignore[no-any-return]
    asked = [name for name in UNKNOWN_REQUESTS if more.get(name) is not None]
    assert not asked, f"packed attention has no {asked}: choose_attention should have left the model alone"
    return packed_attention(query, key, value, attention_mask.reshape(-1), scaling), None


def packed_attention(
    query: Float[Tensor, "rows heads t d"],
    key: Float[Tensor, "rows kv_heads t d"],
    value: Float[Tensor, "rows kv_heads t d"],
    borders: Int32[Tensor, " borders"],
    scaling: float | None = None,
) -> Float[Tensor, "rows t heads d"]:
    """Causal attention within each stretch between two borders, which count the tokens of all rows."""
    # What autocast does for torch's own attention. Rotations in fp32 leave q and k in fp32, and v not.
    query, key, value = (in_product_precision(tensor) for tensor in (query, key, value))
    if query.is_cuda and not _has_flash(query):
        return _masked(query, key, value, borders, scaling)
    rows, heads, t, d = query.shape
    # Values of another width than the keys', which no kernel here knows, do not fit these shapes.
    q, k, v = (tensor.transpose(1, 2).reshape(rows * t, tensor.shape[1], d) for tensor in (query, key, value))
    take = _flash if q.is_cuda else _stretch_by_stretch
    mixed: Tensor = take(q, k, v, borders, scaling)
    return mixed.reshape(rows, t, heads, d)


def _has_flash(x: Tensor) -> bool:
    """Source of the widths: FlashAttention's own checks, which nothing pads for where examples are packed."""
    # Of the ways to ask for the capability, the compiler knows this one as a constant.
    ampere_or_later = torch.cuda.get_device_properties(x.device).major >= 8
    width = x.shape[-1]
    return x.dtype in (torch.bfloat16, torch.float16) and ampere_or_later and width % 8 == 0 and width <= 256


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _stretch_by_stretch(q: Tensor, k: Tensor, v: Tensor, borders: Tensor, scaling: float | None) -> Tensor:
    """On the CPU, where reading the borders costs nothing: each example for itself and nothing for padding."""
    lengths = borders.diff().tolist()
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    if causal.takes(q):
        return causal.causal_attention(q, k, v, lengths, scale)
    stretches = zip(*(torch.split(tensor, lengths) for tensor in (q, k, v)), strict=True)
    alone = _whole if q.dtype == torch.float32 else causal_attention
    return torch.cat([alone(query, key, value, scale) for query, key, value in stretches])


def _whole(q: Tensor, k: Tensor, v: Tensor, scaling: float) -> Tensor:
    q, k, v = (tensor.transpose(0, 1)[None] for tensor in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)
    return mixed[0].transpose(0, 1)


def _flash(q: Tensor, k: Tensor, v: Tensor, borders: Tensor, scaling: float | None) -> Tensor:
    """FlashAttention over the stretches (Dao 2023, arXiv:2307.08691)."""
    longest = len(q)  # no stretch has more tokens; it only sizes a grid
    more: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in VARLEN_TAKES else {"is_causal": True}
    if q.shape[1] != k.shape[1]:
        if "enable_gqa" in VARLEN_TAKES:
            more["enable_gqa"] = True
        else:
            k, v = (tensor.repeat_interleave(q.shape[1] // tensor.shape[1], dim=1) for tensor in (k, v))
    if scaling is not None:
        if "scale" in VARLEN_TAKES:
            more["scale"] = scaling
        else:
            q = q * (scaling * q.shape[-1] ** 0.5)
    out: Tensor = varlen_attn(q, k, v, borders, borders, longest, longest, **more)  # type: ignore[assignment]
    return out


def _masked(
    query: Float[Tensor, "rows heads t d"],
    key: Float[Tensor, "rows kv_heads t d"],
    value: Float[Tensor, "rows kv_heads t d"],
    borders: Int32[Tensor, " borders"],
    scaling: float | None,
) -> Float[Tensor, "rows t heads d"]:
    """Where there is no such kernel (fp32, older cards, odd heads): a mask made on the device, without reading it.

    Row by row, so that an overflow in one trial's reaches no other's: 0 x inf is NaN, behind a mask too.
    """
    rows, heads, t, _ = query.shape
    places = torch.arange(rows * t, device=query.device).reshape(rows, t)
    stretch = torch.searchsorted(borders, places, right=True)
    mask = (stretch[:, None, :, None] == stretch[:, None, None, :]) & (
        places[:, None, :, None] >= places[:, None, None, :]
    )
    key, value = (tensor.repeat_interleave(heads // tensor.shape[1], dim=1) for tensor in (key, value))
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return mixed.transpose(1, 2)


def choose_attention(model: PreTrainedModel) -> None:
    """Give a model this attention where it attends by SDPA through transformers' interface, and plainly."""
    config = model.config.get_text_config()
    names = {part for name, _ in model.named_modules() for part in name.lower().split(".")}
    if (
        compat.attention_implementation(model)
        in ("sdpa", NAME)  # a config that was built from before has ours
        and compat.attends_through_interface(model)
        and getattr(config, "is_causal", True)
        and "position_ids" in inspect.signature(model.forward).parameters
        and not any(getattr(config, setting, None) for setting in UNKNOWN_SETTINGS)
        and not any(part in name for name in names for part in UNKNOWN_PARTS)
    ):
        _register()
        model.set_attn_implementation(NAME)
        if compat.attention_implementation(model) == NAME:
            mark_packed(model)


def mark_packed(model: PreTrainedModel) -> None:
    """Say of a model that all of its layers attend by `attend`."""
    setattr(model, MARK, True)


def is_packed(model: PreTrainedModel) -> bool:
    """Whether all of a model's layers attend by `attend`."""
    return bool(getattr(model, MARK, False))


def packs_examples(model: PreTrainedModel, max_tokens: int) -> bool:
    """Whether several examples in one row, of up to max_tokens each, give what each gives alone."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return is_packed(model) and (window is None or window >= max_tokens)


def cache_among(given: Mapping[str, Any]) -> Cache | None:
    """The cache of earlier keys and values among what a layer is given: by its type, since its name changes."""
    return next((value for value in given.values() if isinstance(value, Cache)), None)


def _register() -> None:
    """Make the name known to transformers, with masks as its SDPA has them."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, AttentionMaskInterface()["sdpa"])
