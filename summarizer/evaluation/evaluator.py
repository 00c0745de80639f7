"""What a group's adapters, or the base model without them, do on held-out rows: loss and summaries."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import torch
from torch import Tensor

from summarizer.adapters.attach import AdaptedModel
from summarizer.config.schema import GenerationConfig
from summarizer.console.progress import bar
from summarizer.data.order import EncodedRow
from summarizer.data.prompt import Prompt
from summarizer.evaluation.base_answers import BaseAnswers
from summarizer.evaluation.metrics import RowLosses
from summarizer.generation.decoder import Decoder
from summarizer.models.causal_lm import token_nll
from summarizer.processes import Processes

T = TypeVar("T")
Work = Literal["loss", "summaries"]

log = logging.getLogger(__name__)


class EvaluationPace:
    """Seconds for a row of one trial, by what the last rows took.

    The base model is measured apart: trials that are evaluated together share much of the work. Until there is a
    measure of either, the other's counts for both; what was never measured counts as nothing.
    """

    def __init__(self) -> None:
        self._row_s: dict[tuple[Work, bool], float] = {}

    def took(self, work: Work, seconds: float, *, rows: int, trials: int | None) -> None:
        """trials: how many were evaluated together; None for the base model."""
        if rows:
            self._row_s[work, trials is None] = seconds / (rows * (trials or 1))

    def expected_s(self, *, loss_rows: int, summary_rows: int, base: bool = False) -> float:
        """The seconds that an evaluation of one trial, or of the base model, is expected to take."""
        rows: dict[Work, int] = {"loss": loss_rows, "summaries": summary_rows}
        return sum(
            count * self._row_s.get((work, base), self._row_s.get((work, not base), 0.0))
            for work, count in rows.items()
        )


@dataclass
class Evaluator:
    """Runs trials of a group, or the base model, over held-out rows."""

    adapted: AdaptedModel
    prompt: Prompt
    generation: GenerationConfig
    batch_size: int
    """How many rows of each trial are evaluated at the same time. Halved where they do not fit into memory."""
    processes: Processes
    between_batches: Callable[[], None]
    """Called after each batch, to answer a stop signal."""
    pace: EvaluationPace = field(default_factory=EvaluationPace)
    """How long rows take, by what was evaluated so far."""
    base_answers: BaseAnswers | None = None
    """Where the base model's answers are kept; None asks it each time."""

    def row_losses(self, rows: Sequence[EncodedRow], slots: Sequence[int] | None) -> list[RowLosses]:
        """The loss of each row, in the rows' order, of each slot's trial; None: of the base model."""
        if slots is None and self.base_answers is not None:
            nats = self.base_answers.losses(rows, lambda: self._row_losses(rows, None)[0].nats.tolist())
            of_row = zip(nats, (len(row.target_ids) for row in rows), strict=True)
            return [RowLosses.of(list(of_row))]
        return self._row_losses(rows, slots)

    def _row_losses(self, rows: Sequence[EncodedRow], slots: Sequence[int] | None) -> list[RowLosses]:
        begun_s = time.monotonic()
        nats = self._of_token_nll(rows, slots, lambda nll: nll.sum(dim=1).tolist(), "loss")
        tokens = [len(row.target_ids) for row in rows]
        count = 1 if slots is None else len(slots)
        self.pace.took(
            "loss", time.monotonic() - begun_s, rows=len(rows), trials=slots if slots is None else count
        )
        return [
            RowLosses.of([(of_row[trial], n) for of_row, n in zip(nats, tokens, strict=True)])
            for trial in range(count)
        ]

    def token_losses(self, rows: Sequence[EncodedRow]) -> list[list[float]]:
        """The loss of each token of each row's target, in nats, by the base model."""
        return [of_base for (of_base,) in self._of_token_nll(rows, None, torch.Tensor.tolist, "likelihood")]

    def _of_token_nll(
        self,
        rows: Sequence[EncodedRow],
        slots: Sequence[int] | None,
        of_row: Callable[[Tensor], list[T]],
        label: str,
    ) -> list[list[T]]:
        """For each row what `of_row` makes of its tokens' losses, shape (trials, tokens): an item a trial."""
        count = 1 if slots is None else len(slots)
        own: list[list[T]] = []
        """Of this process's rows."""

        def add(batch_rows: Sequence[EncodedRow]) -> None:
            batch = self.adapted.batch([batch_rows] * count, self.prompt)
            with torch.no_grad(), self.processes.autocast():
                nll = token_nll(self.adapted.model, batch).double().cpu()
            lengths = [len(row.target_ids) for row in batch_rows]
            own.extend(of_row(part) for part in torch.split(nll, lengths, dim=1))

        try:
            with self._showing(slots):
                self._in_batches(_label(label, slots), self.processes.share(rows), add)
        except torch.OutOfMemoryError:
            parts = [self._of_token_nll(rows, part, of_row, label) for part in self._halves(slots)]
            return [[one for part in of_parts for one in part] for of_parts in zip(*parts, strict=True)]
        return self.processes.gathered(own)

    def summaries(self, rows: Sequence[EncodedRow], slots: Sequence[int] | None) -> list[list[str]]:
        """The summary of each row, in the rows' order, by each slot's trial; None: one list, by the base model."""
        if slots is None and self.base_answers is not None:
            return [self.base_answers.summaries(rows, lambda: self._summaries(rows, None)[0])]
        return self._summaries(rows, slots)

    def _summaries(self, rows: Sequence[EncodedRow], slots: Sequence[int] | None) -> list[list[str]]:
        begun_s = time.monotonic()
        own = self.processes.share(list(enumerate(rows)))
        prompts = [
            self.prompt.generation_ids(row.article_ids, self.generation.max_new_tokens) for _, row in own
        ]
        written: dict[int, list[str]] = {}
        try:
            label = _label("summaries", slots)
            with bar(label, len(own), show=self.processes.is_main) as progress, self._showing(slots):
                while left := [place for place in range(len(own)) if place not in written]:
                    try:
                        for place, texts in self._written([prompts[place] for place in left]):
                            written[left[place]] = texts
                            progress.advance()
                            self.between_batches()
                    except torch.OutOfMemoryError:
                        self._halve_rows(len(left))
        except torch.OutOfMemoryError:
            return [texts for part in self._halves(slots) for texts in self._summaries(rows, part)]
        numbered = [(index, written[place]) for place, (index, _) in enumerate(own)]
        by_row = sorted(self.processes.gathered(numbered))
        count = 1 if slots is None else len(slots)
        self.pace.took(
            "summaries",
            time.monotonic() - begun_s,
            rows=len(rows),
            trials=slots if slots is None else count,
        )
        return [[texts[trial] for _, texts in by_row] for trial in range(count)]

    def _written(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, list[str]]]:
        """Each prompt's number and every shown trial's text, as soon as it is done."""
        decoder = Decoder(
            self.adapted,
            self.generation,
            end_id=self.prompt.end_id,
            pad_id=self.prompt.pad_id,
            batch_size=self.batch_size,
        )
        with self.processes.autocast():
            for place, answers in decoder.answers(prompts):
                yield place, [self.prompt.decode(answer) for answer in answers]

    def _showing(self, slots: Sequence[int] | None) -> AbstractContextManager[None]:
        return self.adapted.base_alone() if slots is None else self.adapted.only(slots)

    def _in_batches(self, label: str, items: Sequence[T], work: Callable[[Sequence[T]], None]) -> None:
        """Raises torch.OutOfMemoryError where not even one item fits."""
        start = 0
        with bar(label, len(items), show=self.processes.is_main) as progress:
            while start < len(items):
                batch = items[start : start + self.batch_size]
                try:
                    work(batch)
                except torch.OutOfMemoryError:
                    self._halve_rows(len(items))
                    continue
                start += len(batch)
                progress.advance(len(batch))
                self.between_batches()

    def _halve_rows(self, most: int) -> None:
        """For the handler of an out-of-memory; raised again at one row.  most: rows that there were."""
        if self.batch_size == 1:
            raise
        self.batch_size = max(min(self.batch_size, most) // 2, 1)
        log.warning("out of memory: from here on %d rows are evaluated at once", self.batch_size)

    def _halves(self, slots: Sequence[int] | None) -> list[Sequence[int]]:
        """For the handler of an out-of-memory at one row of each trial; raised again where no half helps."""
        if slots is None or len(slots) == 1 or self.processes.count > 1:
            raise  # with several processes, the others do not hear of it
        middle = len(slots) // 2
        log.warning(
            "out of memory: %d and %d trials are evaluated after each other", middle, len(slots) - middle
        )
        return [slots[:middle], slots[middle:]]


def _label(work: str, slots: Sequence[int] | None) -> str:
    """What a bar is called, so that a person sees whether the base model or trials are evaluated."""
    return f"{work} of the base model" if slots is None else work
