from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from summarizer.data.articles import Item
from summarizer.errors import ConfigError, RunsFailed
from summarizer.runs.summarizer import Prepared
from summarizer.scoring.predicting import Writer, fill, opened_files, predictions

ITEMS = [Item(f"r{n}", f"test row {n}", f"article {n}") for n in range(5)]


class FakeSummarizer:
    """Writes "trial: article", last article first; `fits` articles at once fit into its memory."""

    def __init__(self, fits: int = 100) -> None:
        self.articles_at_once = 4
        self.fits = fits
        self.asked: list[tuple[tuple[int, ...] | None, int]] = []

    def summaries(
        self, articles: Sequence[Prepared], *, trials: Sequence[int] | None, on_step: Callable[[int], None]
    ) -> Iterator[tuple[int, list[str]]]:
        self.asked.append((None if trials is None else tuple(trials), len(articles)))
        for index in reversed(range(len(articles))):
            if self.articles_at_once > self.fits and index < len(articles) - 1:
                raise torch.OutOfMemoryError
            on_step(1)
            yield index, [f"{trial}: {articles[index].article_tokens}" for trial in trials or ["base"]]


def prepare(summarizer: Any, article: str) -> Prepared:
    return Prepared((1,), int(article.split()[1]), 0)


def writers(folder: Path) -> list[Writer]:
    return [
        Writer("a", 0, folder / "a" / "predictions.jsonl", {"adapter": "a"}),
        Writer("b", 1, folder / "b" / "predictions.jsonl", {"adapter": "b"}),
        Writer("base", None, folder / "a" / "predictions.base.jsonl", {"adapter": None}),
    ]


def run(
    folder: Path, items: Sequence[Item], summarizer: FakeSummarizer, names: str = "a b base"
) -> dict[str, list[str]]:
    wanted = [writer for writer in writers(folder) if writer.name in names.split()]
    with opened_files(wanted, items) as files:
        fill(wanted, files, lambda: summarizer, prepare)  # type: ignore[arg-type,return-value]
        return {name: predictions(file) for name, file in files.items()}


def expected(trial: object, count: int = len(ITEMS)) -> list[str]:
    return [f"{trial}: {n}" for n in range(count)]


def test_runs_write_side_by_side_and_in_the_rows_order(tmp_path: Path) -> None:
    summarizer = FakeSummarizer()
    found = run(tmp_path, ITEMS, summarizer)
    assert found == {"a": expected(0), "b": expected(1), "base": expected("base")}
    assert summarizer.asked == [((0, 1), 5), (None, 5)]


def test_each_writer_goes_on_from_where_it_came(tmp_path: Path) -> None:
    run(tmp_path, ITEMS[:2], FakeSummarizer(), "a")
    run(tmp_path, ITEMS[:1], FakeSummarizer(), "b base")
    summarizer = FakeSummarizer()
    found = run(tmp_path, ITEMS, summarizer)
    assert found == {"a": expected(0), "b": expected(1), "base": expected("base")}
    assert sorted(summarizer.asked, key=str) == [((0, 1), 3), ((1,), 1), (None, 4)]
    again = FakeSummarizer()
    assert run(tmp_path, ITEMS, again) == found
    assert again.asked == [], "nothing was left"


def test_a_torn_last_line_is_written_again(tmp_path: Path) -> None:
    whole = run(tmp_path, ITEMS, FakeSummarizer())
    file = writers(tmp_path)[1].file
    os.truncate(file, file.stat().st_size - 9)
    summarizer = FakeSummarizer()
    assert run(tmp_path, ITEMS, summarizer) == whole
    assert summarizer.asked == [((1,), 1)]


def test_memory_that_runs_out_halves_the_batch(tmp_path: Path) -> None:
    summarizer = FakeSummarizer(fits=1)
    assert run(tmp_path, ITEMS, summarizer)["b"] == expected(1)
    assert summarizer.articles_at_once == 1
    assert [count for _, count in summarizer.asked] == [5, 4, 3, 5]
    with pytest.raises(RunsFailed, match="of several runs, take one at a time"):
        run(tmp_path / "new", ITEMS, FakeSummarizer(fits=0))


def test_other_settings_and_other_rows_are_refused(tmp_path: Path) -> None:
    run(tmp_path, ITEMS, FakeSummarizer())
    with pytest.raises(ConfigError, match=r"not in this input.*name another folder by --output"):
        run(tmp_path, ITEMS[:2], FakeSummarizer())
    other = Writer("a", 0, writers(tmp_path)[0].file, {"adapter": "other"})
    with (
        pytest.raises(ConfigError, match="the adapter was another one; name another folder by --output"),
        opened_files([other], ITEMS),
    ):
        pass


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    with (
        opened_files(writers(tmp_path), ITEMS),
        pytest.raises(ConfigError, match="another process is writing"),
        opened_files(writers(tmp_path), ITEMS),
    ):
        pass


def test_a_line_without_its_summary_is_named(tmp_path: Path) -> None:
    run(tmp_path, ITEMS, FakeSummarizer())
    file = writers(tmp_path)[0].file
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    del rows[2]["prediction"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ConfigError, match=r"predictions.jsonl:3: no text under prediction"):
        run(tmp_path, ITEMS, FakeSummarizer())
