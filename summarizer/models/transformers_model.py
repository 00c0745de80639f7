"""Every causal language model that is none of ours, through transformers' public API (and, rarely, `compat`)."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from summarizer import compat
from summarizer.data.batches import Batch
from summarizer.errors import ConfigError
from summarizer.models.causal_lm import CausalLM
from summarizer.ops.attention import packed_attention
from summarizer.quantization.frozen import FrozenEmbedding, FrozenLinear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PACKED = "packed"
"""What a config's attention implementation is called while sequences are packed."""
PADDED = "sdpa"
"""The same where each row is a sequence, and while `generate` writes."""
PROBED = (9, 4)
"""Lengths of the two sequences that a loaded model is asked about."""
CLOSE = 1e-3
"""Of the largest logit: fp32 sums in another order differ by a hundredth of that."""
READ_BY_THE_MODEL = "the model's code reads its weight by itself, past any adapter"
UNKNOWN_PARTS = ("mamba", "conv", "recurrent", "rwkv", "linear_attn", "ssm", "sinks")
"""In the names of modules that carry a state from token to token, from one packed sequence into the next, or that
attend in a way of their own."""
UNKNOWN_SETTINGS = ("attn_logit_softcapping", "alibi", "attention_chunk_size", "kv_lora_rank")
"""Of a config: where one is set, attention is more than softmax(q k^T) v."""
UNKNOWN_REQUESTS = ("softcap", "s_aux", "position_bias")
"""The same, as attention functions are asked for it."""

log = logging.getLogger(__name__)


class TransformersModel(CausalLM):
    """A model of transformers whose linear layers and embeddings may be replaced.

    Where its attention goes through transformers' interface, and plainly, sequences are packed; else each is a
    padded row of its own. Its texts are written by `generate`.
    """

    pads_on_the_left: bool | None = None
    """Whether padding ahead of a prompt changes nothing in what `generate` writes; None until it is asked."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.config = model.config
        self._none = nn.Module()
        self._packs = attends_plainly(model)
        if self._packs:
            _register()

    @property
    def module(self) -> PreTrainedModel:
        return self.model

    @property
    def embedding(self) -> nn.Module:
        embedding: nn.Module | None = self.model.get_input_embeddings()
        return self._none if embedding is None else embedding

    @property
    def head(self) -> nn.Module:
        """What the model names as its head; where it names none, a module that is none of its parts."""
        head: nn.Module | None = self.model.get_output_embeddings()
        return self._none if head is None else head

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
        names_head = self.head is not self._none
        with head_at(self.head, batch.positions) if names_head else nullcontext():
            logits: Tensor = self.model(input_ids=batch.input_ids, use_cache=False, **given).logits
        return logits if names_head else at_positions(logits, batch.positions)

    def logits(self, ids: Int[Tensor, "rows t"]) -> Float[Tensor, "rows t v"]:
        if self._packs:
            self.model.set_attn_implementation(PADDED)
        logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits

    def check_batches(self, device: torch.device) -> None:
        """Find out by its numbers whether a loaded model gives in a batch what it gives for a sequence alone.

        Raises ConfigError where it does not, sees tokens that come later, or hands no gradient back. Where only
        packing changes its numbers, sequences are padded from here on.
        """
        rows = int(getattr(self.config.get_text_config(), "vocab_size", None) or PROBED[0])
        long, short = ([(7 * place + 3) % rows for place in range(length)] for length in PROBED)
        try:
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                alone = self.logits(torch.tensor([short], device=device))[0].float()
                batch = _padded_batch([long, short]).to(device)
                padded = self.summary_logits(batch)[0].float().unflatten(0, (2, -1))[:, : len(short)]
                apart = [float((row - alone).abs().max()) for row in padded]
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of code that takes no such rows, whatever it says of itself
            raise ConfigError.single(
                "model.name_or_path",
                f"{self.architecture} cannot be trained here: of two padded rows it gives no logits at each token "
                f"({_in_a_line(error)})",
            ) from error
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            packed = self._packed_logits(_packed_batch([long, short]).to(device)) if self._packs else None
        close = CLOSE * float(alone.abs().max())
        whys = ("it sees tokens that come later", "padding changes its numbers")
        for difference, why in zip(apart, whys, strict=True):
            if not difference <= close:
                raise ConfigError.single(
                    "model.name_or_path",
                    f"{self.architecture} cannot be trained here: {why}; a model of another kind than a causal "
                    "language model's, or a config that does not say is_decoder, computes so",
                )
        self._require_gradients(torch.tensor([short], device=device))
        self._leave_weights_read()
        own = None if packed is None else packed[-len(short) :].float()
        if self._packs and (own is None or not float((own - alone).abs().max()) <= close):
            log.warning(
                "base model: %s gives other numbers for packed sequences; they are padded", self.architecture
            )
            self._packs = False
            self.model.set_attn_implementation(PADDED)

    def _packed_logits(self, batch: Batch) -> Tensor | None:
        try:
            return self.summary_logits(batch)[0]
        except Exception as error:  # of code that takes no packed sequences, whatever it says of itself
            why = f"{type(error).__name__}: {error}"
            log.info("base model: %s takes no packed sequences (%s)", self.architecture, why)
            return None

    def _require_gradients(self, ids: Int[Tensor, "rows t"]) -> None:
        """Raises ConfigError where the model's code does not go backward as it computes after training.

        Reformer's does not: it draws its attention anew for every pass in training.
        """

        def leaf(_: nn.Module, inputs: tuple[Any, ...], rows: Tensor) -> Tensor:
            return rows.detach().requires_grad_().clone()  # which a model may change in place

        handle = self.embedding.register_forward_hook(leaf)
        try:
            with torch.enable_grad(), torch.autocast(ids.device.type, enabled=False):
                logits = self.logits(ids)
                if logits.requires_grad:  # not past an embedding that the model does not name
                    logits.sum().backward()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the model's own code says
            raise ConfigError.single(
                "model.name_or_path",
                f"{self.architecture} cannot be trained here: without random parts, which would differ from what "
                f"the trained model computes, it gives no gradients ({_in_a_line(error)})",
            ) from error
        finally:
            handle.remove()

    def note_weights_read(self, ids: Int[Tensor, "rows t"]) -> None:
        """Find the layers whose weights the model's code reads by itself: no adapter is to stand beside them.

        Raises whatever such a pass raises.
        """
        try:
            with torch.no_grad(), torch.autocast(ids.device.type, enabled=False):
                self.logits(ids)
        finally:
            self._leave_weights_read()

    def _leave_weights_read(self) -> None:
        layers = {
            name: READ_BY_THE_MODEL
            for name, module in self.model.named_modules()
            if isinstance(module, FrozenLinear | FrozenEmbedding) and module.weight.read_by_the_model
        }
        self.not_adapted = {**layers, **self.not_adapted}

    def generate(self, **given: Any) -> Any:
        """What `generate` of transformers returns for such arguments: ids, or all that its config asks for."""
        if self._packs:
            self.model.set_attn_implementation(PADDED)
        return self.model.generate(**given)


def _in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _padded_batch(examples: Sequence[Sequence[int]]) -> Batch:
    """One trial's, every place of which is asked for what follows."""
    width = max(map(len, examples))
    ids = torch.tensor([[*own, *[0] * (width - len(own))] for own in examples])
    mask = torch.tensor([[1] * len(own) + [0] * (width - len(own)) for own in examples])
    places = torch.arange(ids.numel())[None]
    return Batch(ids, None, mask, None, places, torch.zeros_like(places), torch.zeros_like(ids))


def _packed_batch(examples: Sequence[Sequence[int]]) -> Batch:
    ids = torch.tensor([[token for own in examples for token in own]])
    positions = torch.tensor([[place for own in examples for place in range(len(own))]])
    ends = torch.tensor([0, *accumulate(map(len, examples))], dtype=torch.int32)
    places = torch.arange(ids.numel())[None]
    return Batch(ids, positions, None, ends, places, torch.zeros_like(places), torch.zeros_like(ids))


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
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(PACKED, attend)
    AttentionMaskInterface.register(PACKED, lambda *given, **more: None)


def at_positions(rows: Float[Tensor, "rows t d"], positions: Int[Tensor, "n m"]) -> Float[Tensor, "n m d"]:
    """Of each trial's tokens those at its `positions`."""
    by_trial = rows.reshape(len(positions), -1, rows.shape[-1])
    return by_trial.gather(1, positions[..., None].expand(-1, -1, rows.shape[-1]))


@contextmanager
def head_at(head: nn.Module, positions: Int[Tensor, "n m"]) -> Iterator[None]:
    """Within the block, the head sees a trial's tokens at its `positions` alone.

    It is the widest layer of all, and a summary is short beside its article.
    """

    def gathered(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        (hidden,) = inputs
        return (at_positions(hidden, positions),)

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
