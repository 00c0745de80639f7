"""Items in, summaries out: many at a time as they are done, or in the order of the items."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from summarizer.console.progress import Bar
from summarizer.data.articles import Item
from summarizer.errors import RunsFailed
from summarizer.runs.summarizer import Prepared, Summarizer
from summarizer.summaries.output import Summary

PREPARED_AT_ONCE = 2048
"""Items that are held as tokens; the decoder sorts them by length, and its slots run empty at their end alone."""
BATCHES_AHEAD = 4
"""Where summaries wait for earlier ones: as many batches are sorted by length together."""

log = logging.getLogger(__name__)


class Rate:
    """How fast summaries are written, beside their bar."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._start_s = time.monotonic()
        self._summaries = self._tokens = 0

    def step(self, tokens: int) -> None:
        self._tokens += tokens
        self._note()

    def summary(self) -> None:
        self._summaries += 1
        self._note()
        self._bar.advance()

    def _note(self) -> None:
        elapsed_s = max(time.monotonic() - self._start_s, 1e-3)
        each = self._summaries / elapsed_s
        pace = (
            "" if not each else f"{each:.1f} articles/s, " if each >= 1 else f"{1 / each:.1f} s an article, "
        )
        self._bar.note(f"{pace}{self._tokens / elapsed_s:.0f} tokens/s")


def prepared_by_run(summarizer: Summarizer, article: str) -> Prepared:
    """By the run's own prompt, cut as in training."""
    return summarizer.prepare(article)


def texts_as_done(
    summarizer: Summarizer,
    items: Sequence[Item],
    trials: Sequence[int] | None,
    rate: Rate,
    prepare: Callable[[Summarizer, str], Prepared] = prepared_by_run,
) -> Iterator[tuple[int, Prepared, list[str]]]:
    """Each item's place, what was read of it, and its summary by each of these adapters (None: by the base model).

    Where a GPU's memory does not hold the batch, the rest is written with half as many articles at once.
    Raises RunsFailed where it does not hold one.
    """
    for start in range(0, len(items), PREPARED_AT_ONCE):
        part = items[start : start + PREPARED_AT_ONCE]
        left = {start + place: prepare(summarizer, item.article) for place, item in enumerate(part)}
        while left:
            asked = list(left.items())
            try:
                articles = [article for _, article in asked]
                for place, texts in summarizer.summaries(articles, trials=trials, on_step=rate.step):
                    index, article = asked[place]
                    del left[index]
                    yield index, article, texts
                    rate.summary()
            except torch.OutOfMemoryError as error:
                _take_half(summarizer, error)


def summaries_as_done(
    summarizer: Summarizer, items: Sequence[Item], trials: Sequence[int] | None, rate: Rate
) -> Iterator[tuple[int, Summary]]:
    """Each item's place and its summary by one adapter, or by the base model where `trials` is None."""
    for index, article, texts in texts_as_done(summarizer, items, trials, rate):
        yield index, Summary(items[index], texts[0], article.article_tokens, article.cut_tokens)


def summaries_in_order(
    summarizer: Summarizer, items: Sequence[Item], trials: Sequence[int] | None, rate: Rate
) -> Iterator[Summary]:
    """The summaries, each as soon as all before it are out."""
    ahead = BATCHES_AHEAD * summarizer.articles_at_once
    for start in range(0, len(items), ahead):
        done: dict[int, Summary] = {}
        following = 0
        for index, summary in summaries_as_done(summarizer, items[start : start + ahead], trials, rate):
            done[index] = summary
            while following in done:
                yield done.pop(following)
                following += 1


def _take_half(summarizer: Summarizer, error: torch.OutOfMemoryError) -> None:
    at_once = summarizer.articles_at_once
    if at_once == 1:
        raise RunsFailed(
            "The device's memory does not hold one article beside the model; of several runs, take one at a time.",
            1,
        ) from error
    torch.cuda.empty_cache()
    summarizer.articles_at_once = at_once // 2
    log.warning("out of memory with %d articles at once; going on with %d", at_once, at_once // 2)
