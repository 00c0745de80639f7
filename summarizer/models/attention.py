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
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, Cache, PreTrainedModel

from summarizer import compat
from summarizer.ops import attention

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
    return attention.packed_attention(query, key, value, attention_mask.reshape(-1), scaling), None


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
