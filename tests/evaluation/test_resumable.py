from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from summarizer.data.articles import Item
from summarizer.errors import ConfigError, RunsFailed
from summarizer.evaluation.resumable import ScoredModel, open_files, read_summaries, write_missing
from summarizer.generation.summarizer import Prepared, Summarizer

ITEMS = [Item(f"r{n}", f"test row {n}", f"article {n}") for n in range(5)]


class FakeSummarizer(Summarizer):
    """Writes "trial: article", last article first; `fits` articles at once fit into its memory."""

    def __init__(self, fits: int = 100) -> None:
        self.batch_size = 4
        self.fits = fits
        self.asked: list[tuple[tuple[int, ...] | None, int]] = []

    def prepare(self, article: str) -> Prepared:
        return Prepared((1,), int(article.split()[1]), 0)

    def summaries(
        self,
        articles: Sequence[Prepared],
        *,
        trials: Sequence[int] | None = (0,),
        on_step: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[int, list[str]]]:
        assert on_step is not None
        self.asked.append((None if trials is None else tuple(trials), len(articles)))
        for index in reversed(range(len(articles))):
            if self.batch_size > self.fits and index < len(articles) - 1:
                raise torch.OutOfMemoryError
            on_step(0, 1)
            yield index, [f"{trial}: {articles[index].article_tokens}" for trial in trials or ["base"]]


def models(folder: Path) -> list[ScoredModel]:
    return [
        ScoredModel("a", 0, folder / "a" / "predictions.jsonl", {"adapter": "a"}),
        ScoredModel("b", 1, folder / "b" / "predictions.jsonl", {"adapter": "b"}),
        ScoredModel("base", None, folder / "a" / "predictions.base.jsonl", {"adapter": None}),
    ]


def run(
    folder: Path, items: Sequence[Item], summarizer: FakeSummarizer, names: str = "a b base"
) -> dict[str, list[str]]:
    wanted = [model for model in models(folder) if model.name in names.split()]
    with open_files(wanted, items) as files:
        write_missing(wanted, files, lambda: summarizer)
        return {name: read_summaries(file) for name, file in files.items()}


def expected(trial: object, count: int = len(ITEMS)) -> list[str]:
    return [f"{trial}: {n}" for n in range(count)]


def test_runs_write_side_by_side_and_in_the_rows_order(tmp_path: Path) -> None:
    summarizer = FakeSummarizer()
    found = run(tmp_path, ITEMS, summarizer)
    assert found == {"a": expected(0), "b": expected(1), "base": expected("base")}
    assert summarizer.asked == [((0, 1), 5), (None, 5)]


def test_each_model_goes_on_from_where_it_came(tmp_path: Path) -> None:
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
    file = models(tmp_path)[1].file
    os.truncate(file, file.stat().st_size - 9)
    summarizer = FakeSummarizer()
    assert run(tmp_path, ITEMS, summarizer) == whole
    assert summarizer.asked == [((1,), 1)]


def test_memory_that_runs_out_halves_the_batch(tmp_path: Path) -> None:
    summarizer = FakeSummarizer(fits=1)
    assert run(tmp_path, ITEMS, summarizer)["b"] == expected(1)
    assert summarizer.batch_size == 1
    assert [count for _, count in summarizer.asked] == [5, 4, 3, 5]
    with pytest.raises(RunsFailed, match="of several runs, take one at a time"):
        run(tmp_path / "new", ITEMS, FakeSummarizer(fits=0))


def test_other_settings_and_other_rows_are_refused(tmp_path: Path) -> None:
    run(tmp_path, ITEMS, FakeSummarizer())
    with pytest.raises(ConfigError, match=r"not in this input.*name another folder by --output"):
        run(tmp_path, ITEMS[:2], FakeSummarizer())
    other = ScoredModel("a", 0, models(tmp_path)[0].file, {"adapter": "other"})
    with (
        pytest.raises(ConfigError, match="the adapter was another one; name another folder by --output"),
        open_files([other], ITEMS),
    ):
        pass


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    with (
        open_files(models(tmp_path), ITEMS),
        pytest.raises(ConfigError, match="another process is writing"),
        open_files(models(tmp_path), ITEMS),
    ):
        pass


def test_a_line_without_its_summary_is_named(tmp_path: Path) -> None:
    run(tmp_path, ITEMS, FakeSummarizer())
    file = models(tmp_path)[0].file
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    del rows[2]["prediction"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ConfigError, match=r"predictions.jsonl:3: no text under prediction"):
        run(tmp_path, ITEMS, FakeSummarizer())
