"""The order in which summaries come, and what happens where memory ends. A stand-in writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from summarizer.console.progress import Bar
from summarizer.data.articles import Item
from summarizer.errors import RunsFailed
from summarizer.summaries import writing
from summarizer.summaries.writing import Rate, summaries_as_done, summaries_in_order


class Longest:
    """Finishes the longest article first, as the decoder begins it; holds so many at once and no more."""

    def __init__(self, articles_at_once: int, room: int = 1000) -> None:
        self.articles_at_once, self.room = articles_at_once, room
        self.calls: list[int] = []

    def prepare(self, article: str) -> Any:
        return SimpleNamespace(article=article, article_tokens=len(article), cut_tokens=0)

    def summaries(
        self, articles: Sequence[Any], *, trials: Sequence[int] | None, on_step: Callable[[int], None]
    ) -> Iterator[tuple[int, list[str]]]:
        self.calls.append(len(articles))
        for done, index in enumerate(sorted(range(len(articles)), key=lambda i: -len(articles[i].article))):
            if self.articles_at_once > self.room and done == 2:
                raise torch.OutOfMemoryError("no room")
            on_step(1)
            yield index, [articles[index].article.upper()]


ITEMS = [
    Item(str(number), f"row {number}", "x" * length) for number, length in enumerate([3, 1, 4, 1, 5, 9, 2, 6])
]


def rate() -> Rate:
    return Rate(Bar("summaries", len(ITEMS), 0, silent=True))


def test_each_is_given_as_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PREPARED_AT_ONCE", 5)
    model: Any = Longest(2)
    done = list(summaries_as_done(model, ITEMS, [0], rate()))
    assert [index for index, _ in done] == [4, 2, 0, 1, 3, 5, 7, 6]
    assert all(summary.item is ITEMS[index] for index, summary in done)
    assert all(summary.prediction == summary.item.article.upper() for _, summary in done)
    assert model.calls == [5, 3]


@pytest.mark.parametrize("at_once", [1, 2, 8])
def test_in_order_is_in_order(at_once: int) -> None:
    model: Any = Longest(at_once)
    done = list(summaries_in_order(model, [*ITEMS, ITEMS[0]], None, rate()))
    assert [summary.item.id for summary in done] == [*(item.id for item in ITEMS), "0"]


def test_what_did_not_fit_is_written_in_smaller_batches() -> None:
    model: Any = Longest(8, room=2)
    done = list(summaries_as_done(model, ITEMS, [0], rate()))
    assert sorted(index for index, _ in done) == list(range(8))
    assert model.articles_at_once == 2
    assert model.calls == [8, 6, 4]
    nothing: Any = Longest(1, room=0)
    with pytest.raises(RunsFailed, match="does not hold one article"):
        list(summaries_as_done(nothing, ITEMS, [0], rate()))
