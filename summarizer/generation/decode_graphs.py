"""One new token of each beam through a whole model, without Python between its kernels.

A token is some hundred kernels, and Python ahead of each one takes longer than a GPU does for what it launches; on
a CPU it finds the caches full of weights, and takes about a sixth of a token's time. So the model's forward is
recorded once, as a kernel graph on a CPU and as a CUDA graph on a GPU, and run from then on.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from summarizer.adapters.layer import AdaptedLayer
from summarizer.generation.kv_cache import KVCache
from summarizer.models.attention import Sequences
from summarizer.models.causal_lm import PackedModel
from summarizer.ops import kernel_graph, native
from summarizer.ops.rotary import RotaryTable
from summarizer.quantization.frozen import FrozenLinear

EAGER_PASSES = 1
"""Taken on a stream beside the usual one before a pass is captured, since what libraries and kernels do at their
first use must not be. They are passes like any other, whose tokens count."""

log = logging.getLogger(__name__)


class DecodeStep(ABC):
    """The pass of a fixed number of rows, with the adapters, keys and values of when it was made.

    Within `stored_weights_in_place`, and for as long as no slots leave.
    """

    @abstractmethod
    def __call__(self, ids: Int[Tensor, " rows"], positions: Int[Tensor, " rows"]) -> Float[Tensor, "rows v"]:
        """The next token's logits, valid until the next pass. `KVCache.begin_decode` comes before it."""


def decode_step(model: PackedModel, cache: KVCache, rows: int) -> DecodeStep:
    """The fastest that there is for a model that has read prompts into the cache."""
    if cache.at_fixed_places:
        return CudaGraphStep(model, cache, rows)
    return KernelGraphStep.recorded(model, cache, rows) or EagerStep(model, cache, rows)


class EagerStep(DecodeStep):
    """The model's forward as it is."""

    def __init__(self, model: PackedModel, cache: KVCache, rows: int) -> None:
        self.model, self.cache = model, cache
        self._ends = torch.arange(rows + 1, dtype=torch.int32, device=cache.device)
        """Each row is a sequence of its own, whose earlier tokens the cache knows."""

    def __call__(self, ids: Int[Tensor, " rows"], positions: Int[Tensor, " rows"]) -> Float[Tensor, "rows v"]:
        logits: Tensor = self.model(ids, Sequences(positions, self._ends), self.cache)
        return logits.float()


# --- on a CPU -----------------------------------------------------------------------------------------------------


class KernelGraphStep(DecodeStep):
    """The kernels of everything behind the embedding, recorded from the forward."""

    def __init__(
        self, model: PackedModel, graph: kernel_graph.KernelGraph, hidden: Tensor, rotary: RotaryTable
    ) -> None:
        self.model, self.graph, self.hidden, self.rotary = model, graph, hidden, rotary
        self.logits: Float32[Tensor, "rows v"] = torch.empty(0)

    @classmethod
    def recorded(cls, model: PackedModel, cache: KVCache, rows: int) -> KernelGraphStep | None:
        """None where a part of the model has no kernel that can be recorded."""
        if not native.available(kernel_graph.SOURCE):
            return None
        sequences = Sequences(torch.zeros(rows, dtype=torch.int64), torch.arange(rows + 1, dtype=torch.int32))
        hidden, rotary = torch.empty(rows, model.config.hidden_size), model.rotary(sequences.positions)
        try:
            with kernel_graph.recorded() as graph, _layers_checked(model):
                step = cls(model, graph, hidden, rotary)
                step.logits = model.through_blocks(hidden, rotary, sequences, cache)
        except kernel_graph.NotRecordableError as reason:
            log.debug("decode: no kernel graph: %s", reason)
            return None
        return step

    def __call__(
        self, ids: Int[Tensor, " rows"], positions: Int[Tensor, " rows"]
    ) -> Float32[Tensor, "rows v"]:
        self.hidden.copy_(self.model.embedding(ids))
        table = self.model.rotary(positions)
        self.rotary.cos.copy_(table.cos)
        self.rotary.sin.copy_(table.sin)
        self.graph.run()
        return self.logits


@contextmanager
def _layers_checked(model: nn.Module) -> Iterator[None]:
    """Within the block, raises NotRecordableError where a layer's product is not the kernel that was recorded last.

    torch's way, which a layer takes for want of a kernel, would run now and never again.
    """
    given: dict[nn.Module, Tensor] = {}

    def before(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        given[layer] = inputs[0]

    def after(layer: nn.Module, _: object, y: Tensor) -> None:
        kernel_graph.require_last(given.pop(layer), y, type(layer).__name__)

    handles = [
        handle
        for layer in model.modules()
        if isinstance(layer, FrozenLinear | AdaptedLayer)
        for handle in (
            # Ahead of hooks that would hand the layer a copy.
            layer.register_forward_pre_hook(before, prepend=True),
            layer.register_forward_hook(after),
        )
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# --- on a GPU -----------------------------------------------------------------------------------------------------


class CudaGraphStep(DecodeStep):
    """The forward's launches, captured after `EAGER_PASSES`; where that fails, the log says so, and nothing is.

    Its inputs and, by `KVCache.at_fixed_places`, all else lie at the same place each time.
    Source: CUDA graphs as PyTorch has them (docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
    """

    def __init__(self, model: PackedModel, cache: KVCache, rows: int) -> None:
        self.eager = EagerStep(model, cache, rows)
        self.ids, self.positions = torch.zeros(2, rows, dtype=torch.int64, device=cache.device).unbind()
        self._eager_passes = EAGER_PASSES
        self._failed = False
        self._captured: tuple[torch.cuda.CUDAGraph, Tensor] | None = None

    def __call__(self, ids: Int[Tensor, " rows"], positions: Int[Tensor, " rows"]) -> Float[Tensor, "rows v"]:
        self.ids.copy_(ids)
        self.positions.copy_(positions)
        if self._eager_passes:
            self._eager_passes -= 1
            return self._beside(self._forward)
        if self._captured is None and not self._failed:
            self._capture()
        if self._captured is None:
            return self._forward()
        graph, logits = self._captured
        graph.replay()
        return logits

    def _forward(self) -> Float[Tensor, "rows v"]:
        return self.eager(self.ids, self.positions)

    def _beside(self, compute: Callable[[], Tensor]) -> Tensor:
        """Computed on a stream of its own, before and after what the usual one computes."""
        usual, beside = torch.cuda.current_stream(), torch.cuda.Stream()
        beside.wait_stream(usual)
        with torch.cuda.stream(beside):
            y = compute()
        usual.wait_stream(beside)
        y.record_stream(usual)
        return y

    def _capture(self) -> None:
        try:
            graph = torch.cuda.CUDAGraph()
            # What other threads do meanwhile, such as pinning memory, is none of this graph's.
            with _nothing_cached(), torch.cuda.graph(graph, capture_error_mode="thread_local"):
                captured = self._forward()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            _warn(str(error))
            self._failed = True
            return
        self._captured = graph, captured


@contextmanager
def _nothing_cached() -> Iterator[None]:
    """A weight that autocast converts for a graph must not be one that it frees when its block ends."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


@lru_cache
def _warn(cause: str) -> None:
    """Once for each cause: a pass is captured for every number of slots."""
    log.warning("a token's launches are not captured as a graph but launched one by one, slower: %s", cause)
