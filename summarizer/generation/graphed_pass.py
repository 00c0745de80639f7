"""One new token of each beam through a whole model on a card: its launches, captured once and replayed.

A token is some hundred launches, and Python ahead of each one takes longer than a card does for what it launches.
Source: CUDA graphs as PyTorch has them (docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from jaxtyping import Float32, Int
from torch import Tensor
from transformers import PreTrainedModel

log = logging.getLogger(__name__)

PASSES_AHEAD = 1
"""Taken on a stream beside the usual one before a pass is captured, since what libraries and kernels do at their
first use must not be. They are passes like any other, whose tokens count."""


class FixedPass:
    """The model's own pass, with inputs and, by `KeyValues.at_fixed_places`, all else at the same place each time.

    Within `attending_by` and `stored_weights_in_place`. For as long as no slots leave.
    """

    def __init__(self, model: PreTrainedModel, rows: int, device: torch.device) -> None:
        self.model = model
        self.ids = torch.zeros(rows, 1, dtype=torch.int64, device=device)
        self.positions = torch.zeros_like(self.ids)
        self.borders = torch.zeros(1, 1, 1, 1, dtype=torch.int32, device=device)

    def __call__(
        self, ids: Int[Tensor, " rows"], positions: Int[Tensor, " rows"]
    ) -> Float32[Tensor, "rows v"]:
        """The next token's logits, valid until the next pass. `KeyValues.begin_writing` comes before it."""
        self.ids.copy_(ids[:, None])
        self.positions.copy_(positions[:, None])
        return self.logits()

    def logits(self) -> Float32[Tensor, "rows v"]:
        """Of what lies there now."""
        out: Tensor = self.model(
            input_ids=self.ids,
            attention_mask=self.borders,
            position_ids=self.positions,
            use_cache=False,
        ).logits
        return out[:, 0].float()


class GraphedPass(FixedPass):
    """The same on a card, captured after `PASSES_AHEAD`; where that fails, the log says so, and nothing is."""

    def __init__(self, model: PreTrainedModel, rows: int, device: torch.device) -> None:
        super().__init__(model, rows, device)
        self._ahead = PASSES_AHEAD
        self._failed = False
        self._captured: tuple[torch.cuda.CUDAGraph, Tensor] | None = None

    def logits(self) -> Float32[Tensor, "rows v"]:
        if self._ahead:
            self._ahead -= 1
            return self._beside(super().logits)
        if self._captured is None and not self._failed:
            self._capture()
        if self._captured is None:
            return super().logits()
        graph, logits = self._captured
        graph.replay()
        return logits

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
                captured = super().logits()
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
