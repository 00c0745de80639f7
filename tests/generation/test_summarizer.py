"""The order in which summaries come, and what happens where memory ends. A stand-in writes them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from summarizer.console import progress
from summarizer.console.progress import Bar
from summarizer.data.articles import Item
from summarizer.errors import RunsFailed
from summarizer.generation import summarizer as summarizer_module
from summarizer.generation.summarizer import (
    Prepared,
    Rate,
    Summarizer,
    summaries_as_done,
    summaries_in_order,
)


class Longest(Summarizer):
    """Finishes the longest article first, as the decoder begins it; holds so many at once and no more."""

    def __init__(self, batch_size: int, room: int = 1000) -> None:
        self.batch_size, self.room = batch_size, room
        self.calls: list[int] = []

    def prepare(self, article: str) -> Prepared:
        return Prepared(tuple(map(ord, article)), len(article), 0)

    def summaries(
        self,
        articles: Sequence[Prepared],
        *,
        trials: Sequence[int] | None = (0,),
        on_step: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[int, list[str]]]:
        self.calls.append(len(articles))
        assert on_step is not None
        on_step(sum(article.article_tokens for article in articles), 0)
        for done, index in enumerate(sorted(range(len(articles)), key=lambda i: -articles[i].article_tokens)):
            if self.batch_size > self.room and done == 2:
                raise torch.OutOfMemoryError("no room")
            on_step(0, 1)
            yield index, ["".join(map(chr, articles[index].prompt_ids)).upper()]


ITEMS = [
    Item(str(number), f"row {number}", "x" * length) for number, length in enumerate([3, 1, 4, 1, 5, 9, 2, 6])
]


def rate() -> Rate:
    return Rate(Bar("summaries", len(ITEMS), 0, silent=True))


def test_each_is_given_as_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summarizer_module, "PREPARED_ARTICLES", 5)
    model = Longest(2)
    done = list(summaries_as_done(model, ITEMS, [0], rate()))
    assert [index for index, _ in done] == [4, 2, 0, 1, 3, 5, 7, 6]
    assert all(summary.item is ITEMS[index] for index, summary in done)
    assert all(summary.prediction == summary.item.article.upper() for _, summary in done)
    assert model.calls == [5, 3]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_in_order_is_in_order(batch_size: int) -> None:
    model = Longest(batch_size)
    done = list(summaries_in_order(model, [*ITEMS, ITEMS[0]], None, rate()))
    assert [summary.item.id for summary in done] == [*(item.id for item in ITEMS), "0"]


def test_what_did_not_fit_is_written_in_smaller_batches() -> None:
    model = Longest(8, room=2)
    done = list(summaries_as_done(model, ITEMS, [0], rate()))
    assert sorted(index for index, _ in done) == list(range(8))
    assert model.batch_size == 2
    assert model.calls == [8, 6, 4]
    nothing = Longest(1, room=0)
    with pytest.raises(RunsFailed, match="does not hold one article"):
        list(summaries_as_done(nothing, ITEMS, [0], rate()))


def test_prompts_that_are_read_are_told_before_the_first_summary(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "PLAIN_LINE_EVERY_S", 0.0)
    with caplog.at_level(logging.INFO), progress.bar("summaries", len(ITEMS)) as bar:
        list(summaries_as_done(Longest(8), ITEMS, [0], Rate(bar)))
    first, then, *_ = caplog.messages
    assert first == "summaries: 0/8, reading 31 tokens"
    assert then.startswith("summaries: 0/8, ")
    assert "reading" not in then
