"""Every causal language model that is none of ours, through transformers' public API alone."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from summarizer import compat
from summarizer.data.batches import Batch
from summarizer.models.causal_lm import CausalLM
from summarizer.ops.attention import packed_attention

PACKED = "packed"
"""What a config's attention implementation is called while sequences are packed."""
PADDED = "sdpa"
"""The same where each row is a sequence, and while `generate` writes."""
UNKNOWN_PARTS = ("mamba", "conv", "recurrent", "rwkv", "linear_attn", "ssm", "sinks")
"""In the names of modules that carry a state from token to token, from one packed sequence into the next, or that
attend in a way of their own."""
UNKNOWN_SETTINGS = ("attn_logit_softcapping", "alibi", "attention_chunk_size")
"""Of a config: where one is set, attention is more than softmax(q k^T) v."""
UNKNOWN_REQUESTS = ("softcap", "s_aux", "position_bias")
"""The same, as attention functions are asked for it."""


class TransformersModel(CausalLM):
    """A model of transformers whose linear layers and embeddings may be replaced.

    Where its attention goes through transformers' interface, and plainly, sequences are packed; else each is a
    padded row of its own. Its texts are written by `generate`.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.config = model.config
        self._packs = attends_plainly(model)
        if self._packs:
            _register()

    @property
    def module(self) -> PreTrainedModel:
        return self.model

    @property
    def embedding(self) -> nn.Module:
        embedding: nn.Module = self.model.get_input_embeddings()
        return embedding

    @property
    def head(self) -> nn.Module:
        head: nn.Module = self.model.get_output_embeddings()
        return head

    @property
    def blocks(self) -> list[nn.Module]:
        found = compat.blocks(self.model)
        return _longest_list(self.model) if found is None else found

    @property
    def architecture(self) -> str:
        return type(self.model).__name__

    def packs(self, max_tokens: int) -> bool:
        config = self.config.get_text_config()
        window = (
            getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
        )
        return self._packs and (window is None or window >= max_tokens)

    def summary_logits(self, batch: Batch) -> Float[Tensor, "n m v"]:
        packed = batch.cu_seqlens is not None
        given: dict[str, Any] = {"attention_mask": batch.attention_mask}
        if packed:
            # What transformers itself hands to attention over packed sequences, as FlashAttention takes it.
            longest, ends = batch.input_ids.numel(), batch.cu_seqlens
            given = {
                "position_ids": batch.position_ids,
                **{"cu_seq_lens_q": ends, "cu_seq_lens_k": ends},
                **{"max_length_q": longest, "max_length_k": longest},
            }
        if self._packs:
            self.model.set_attn_implementation(PACKED if packed else PADDED)
        with head_at(self.head, batch.positions):
            logits: Tensor = self.model(input_ids=batch.input_ids, use_cache=False, **given).logits
        return logits

    def logits(self, ids: Int[Tensor, "rows t"]) -> Float[Tensor, "rows t v"]:
        if self._packs:
            self.model.set_attn_implementation(PADDED)
        logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits

    def generate(self, **given: Any) -> Int[Tensor, "rows t"]:
        """The ids that `generate` of transformers returns for such arguments."""
        if self._packs:
            self.model.set_attn_implementation(PADDED)
        written: Tensor = self.model.generate(**given)
        return written


def attends_plainly(model: PreTrainedModel) -> bool:
    """Whether a model attends by SDPA through transformers' interface, by softmax(q k^T) v and nothing else."""
    config = model.config.get_text_config()
    names = {part for name, _ in model.named_modules() for part in name.lower().split(".")}
    return (
        compat.attention_implementation(model)
        in (PADDED, PACKED)  # a config that was built from before has ours
        and compat.attends_through_interface(model)
        and getattr(config, "is_causal", True)
        and "position_ids" in inspect.signature(model.forward).parameters
        and not any(getattr(config, setting, None) for setting in UNKNOWN_SETTINGS)
        and not any(part in name for name in names for part in UNKNOWN_PARTS)
    )


def attend(
    module: nn.Module,
    query: Float[Tensor, "rows heads t d"],
    key: Float[Tensor, "rows kv_heads t d"],
    value: Float[Tensor, "rows kv_heads t d"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Float[Tensor, "rows t heads d"], None]:
    """An attention function as transformers wants it, over packed sequences."""
    asked = [name for name in UNKNOWN_REQUESTS if more.get(name) is not None]
    assert not asked, f"packed attention has no {asked}: attends_plainly should have said no"
    assert attention_mask is None, "packed sequences have no mask"
    cu_seqlens = more.get("cu_seq_lens_q")
    assert cu_seqlens is not None, "this model does not hand on where its sequences begin"
    return packed_attention(query, key, value, cu_seqlens, scaling), None


def _register() -> None:
    """Make the name known to transformers, and that it wants no mask."""
    AttentionInterface.register(PACKED, attend)
    AttentionMaskInterface.register(PACKED, lambda *given, **more: None)


@contextmanager
def head_at(head: nn.Module, positions: Int[Tensor, "n m"]) -> Iterator[None]:
    """Within the block, the head sees a trial's tokens at its `positions` alone.

    It is the widest layer of all, and a summary is short beside its article.
    """

    def gathered(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        (hidden,) = inputs
        by_trial = hidden.reshape(len(positions), -1, hidden.shape[-1])
        return (by_trial.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1])),)

    handle = head.register_forward_pre_hook(gathered)
    try:
        yield
    finally:
        handle.remove()


def _longest_list(model: nn.Module) -> list[nn.Module]:
    """The longest list of modules of one class, each with parts of its own; of several as long, the first."""
    lists = [
        list(module)
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len({type(part) for part in module}) == 1
    ]
    whole = [parts for parts in lists if len(list(parts[0].children())) > 1]
    return max(whole, key=len, default=[])
