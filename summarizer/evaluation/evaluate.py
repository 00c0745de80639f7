"""What a group's adapters, or the base alone, do on held-out rows: loss and summaries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch

from summarizer.adapters.attach import AdaptedModel
from summarizer.config.specs import GenerationSpec
from summarizer.data.order import EncodedRow
from summarizer.data.prompt import Prompt
from summarizer.generation.decode import generate
from summarizer.model.nll import summary_nll
from summarizer.processes import Processes
from summarizer.progress import bar

T = TypeVar("T")


@dataclass(frozen=True)
class Evaluator:
    """Runs a group over held-out rows. `between_batches` is called after each, to answer a stop signal."""

    adapted: AdaptedModel
    prompt: Prompt
    generation: GenerationSpec
    batch_size: int
    processes: Processes
    between_batches: Callable[[], None]

    def losses(self, rows: Sequence[EncodedRow], *, base: bool = False) -> list[float]:
        """Mean loss in nats per summary token over all rows, one per trial (one in all for the base)."""
        trials = 1 if base else self.adapted.group.size
        totals = torch.zeros(trials + 1, dtype=torch.float64)
        with self._showing(base):
            for batch_rows in self._batches("loss", self.processes.share(rows)):
                batch = self.adapted.batch([batch_rows] * trials, self.prompt)
                with torch.no_grad(), self.processes.autocast():
                    nll = summary_nll(self.adapted.model, batch)
                totals[:trials] += nll.double().cpu()
                totals[trials] += sum(len(row.target_ids) for row in batch_rows)
        totals = self.processes.summed(totals.float().to(self.processes.device)).cpu()
        return [float(total / totals[trials]) for total in totals[:trials]]

    def summaries(self, rows: Sequence[EncodedRow], *, base: bool = False) -> list[list[str]]:
        """Each trial's summary of each row (of the base alone: one list), in the rows' order."""
        trials = 1 if base else self.adapted.group.size
        own = self.processes.share(list(enumerate(rows)))
        # Rows of like length together: less padding, and the longest first shows early whether memory suffices.
        own.sort(key=lambda item: -len(item[1].article_ids))
        written: list[tuple[int, list[str]]] = []
        with self._showing(base):
            for items in self._batches("summaries", own):
                prompts = [
                    self.prompt.generation_ids(row.article_ids, self.generation.max_new_tokens)
                    for _, row in items
                ]
                with self.processes.autocast():
                    answers = generate(
                        self.adapted.model,
                        prompts,
                        self.generation,
                        trials=trials,
                        end_id=self.prompt.end_id,
                        pad_id=self.prompt.pad_id,
                        device=self.processes.device,
                    )
                for k, (index, _) in enumerate(items):
                    written.append(
                        (index, [self.prompt.decode(answers[trial][k]) for trial in range(trials)])
                    )
        by_row = sorted(self.processes.gathered(written))
        return [[texts[trial] for _, texts in by_row] for trial in range(trials)]

    def _showing(self, base: bool) -> AbstractContextManager[None]:
        return self.adapted.base_alone() if base else nullcontext()

    def _batches(self, label: str, items: Sequence[T]) -> Iterator[Sequence[T]]:
        with bar(label, len(items), show=self.processes.is_main) as progress:
            for start in range(0, len(items), self.batch_size):
                batch = items[start : start + self.batch_size]
                yield batch
                progress.advance(len(batch))
                self.between_batches()
