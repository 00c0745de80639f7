from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from itertools import chain

import pytest
from data_examples import example_rows

from summarizer.config.schema import DataConfig
from summarizer.data import stream
from summarizer.data.prompt import Prompt
from summarizer.data.splits import build_split
from summarizer.data.stream import StreamedSplit
from summarizer.errors import ConfigError

pytestmark = pytest.mark.versions

SpecBuilder = Callable[..., DataConfig]
Writer = Callable[..., str]
BAD = {"id": "bad", "article": None, "highlights": "x"}


def names(
    split: StreamedSplit, start: int, count: int, seed: int = 0, shuffle: bool = True, group: bool = False
) -> list[list[str]]:
    batches = split.batches(seed, 4, start, shuffle=shuffle, group_by_length=group)
    return [[row.id for row in batch] for batch in itertools.islice(batches, count)]


@pytest.fixture
def streamed(data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt) -> StreamedSplit:
    return StreamedSplit(data_spec(write_jsonl(example_rows(50)), streaming=True), prompt)


def test_epoch_after_epoch_each_row_once(streamed: StreamedSplit) -> None:
    batches = names(streamed, 0, 25)
    assert all(len(batch) == 4 for batch in batches)
    flat = list(chain.from_iterable(batches))
    everything = sorted(f"r{number}" for number in range(50))
    assert sorted(flat[:50]) == sorted(flat[50:]) == everything
    assert flat[:50] != flat[50:]
    assert streamed.steps_per_epoch(4) is None


def test_the_rows_are_those_of_the_split_in_memory(
    streamed: StreamedSplit, data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt
) -> None:
    split = build_split(data_spec(write_jsonl(example_rows(50))), "train", prompt)
    ours = next(streamed.batches(0, 50, 0, shuffle=False, group_by_length=False))
    theirs = next(split.batches(0, 50, 0, shuffle=False, group_by_length=False))
    assert [(row.id, list(row.article_ids), row.target_ids) for row in ours] == [
        (row.id, row.article_ids, row.target_ids) for row in theirs
    ]
    assert streamed.report == split.report


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_resumed_stream_goes_on_exactly(
    streamed: StreamedSplit, monkeypatch: pytest.MonkeyPatch, group: bool, shuffle: bool
) -> None:
    monkeypatch.setattr(stream, "WINDOW_BATCHES", 5)
    monkeypatch.setattr("summarizer.data.order.WINDOW_BATCHES", 5)
    whole = names(streamed, 0, 32, group=group, shuffle=shuffle)
    for start in (1, 4, 5, 12, 13, 27):
        assert names(streamed, start, 32 - start, group=group, shuffle=shuffle) == whole[start:]
    assert (names(streamed, 0, 32, seed=1, group=group, shuffle=shuffle) == whole) is not shuffle


def test_passing_over_rows_tokenizes_no_article(
    streamed: StreamedSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    articles: list[str] = []
    original = Prompt.encode_article

    def counting(prompt: Prompt, article: str) -> list[int]:
        articles.append(article)
        return original(prompt, article)

    monkeypatch.setattr(Prompt, "encode_article", counting)
    names(streamed, 100, 2)
    assert len(articles) == 8


def test_grouping_makes_batches_of_like_length(streamed: StreamedSplit) -> None:
    def spread(group: bool) -> int:
        batches = streamed.batches(0, 4, 0, shuffle=True, group_by_length=group)
        lengths = [[len(row.article_ids) for row in batch] for batch in itertools.islice(batches, 50)]
        return sum(max(batch) - min(batch) for batch in lengths)

    assert spread(True) < spread(False) / 5


def test_rows_wander_about_as_far_as_the_buffer_reaches(
    data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt
) -> None:
    path = write_jsonl(example_rows(400, words=2))
    firsts = Counter()
    for seed in range(30):
        split = StreamedSplit(data_spec(path, streaming=True, shuffle_buffer_rows=40), prompt)
        first = list(chain.from_iterable(names(split, 0, 10, seed=seed)))
        assert all(int(name[1:]) < 80 for name in first)  # the n-th drawn is below buffer + n
        firsts[first[0]] += 1
    assert len(firsts) > 12


def test_a_limit_ends_each_epoch(data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt) -> None:
    split = StreamedSplit(data_spec(write_jsonl(example_rows(50)), streaming=True, rows={"train": 8}), prompt)
    flat = list(chain.from_iterable(names(split, 0, 6)))
    assert Counter(flat) == {f"r{number}": 3 for number in range(8)}


def test_bad_rows_are_counted_once_over_all_epochs(
    data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt
) -> None:
    long = {"id": "long", "article": "a", "highlights": "word " * 300}
    path = write_jsonl([*example_rows(4), BAD, *example_rows(8)[4:], long])
    split = StreamedSplit(data_spec(path, streaming=True, max_bad_rows=2), prompt)
    assert len(names(split, 0, 10)) == 10
    assert [row.where for row in split.report.bad] == [
        "train.jsonl row 5 (id bad)",
        "train.jsonl row 10 (id long)",
    ]
    strict = StreamedSplit(data_spec(path, streaming=True, max_bad_rows=1), prompt)
    with pytest.raises(ConfigError, match=r"data\.max_bad_rows: 2 unusable rows in data\.train, 1 accepted"):
        names(strict, 0, 10)


def test_a_stream_without_a_usable_row_ends_in_an_error(
    data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt
) -> None:
    split = StreamedSplit(data_spec(write_jsonl([BAD]), streaming=True, max_bad_rows=3), prompt)
    with pytest.raises(ConfigError, match=r"data\.train: has no usable row: train\.jsonl row 1"):
        names(split, 0, 1)


def test_what_a_stream_cannot_do(data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt) -> None:
    path = write_jsonl(example_rows(3))
    with pytest.raises(ConfigError, match=r"data\.rows_seed"):
        StreamedSplit(data_spec(path, streaming=True, rows={"train": 2}, rows_seed=1), prompt)
    with pytest.raises(ConfigError, match=r"set data\.rows\.train"):
        build_split(data_spec(path, streaming=True), "train", prompt)
    with pytest.raises(ConfigError, match="no such file"):
        StreamedSplit(data_spec("/nowhere/x.jsonl", streaming=True), prompt)
