"""`datasets.load_dataset` takes a folder for a hub name: the real library reads, without a network."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from data_examples import example_rows

from summarizer.config.schema import DataConfig
from summarizer.console import progress
from summarizer.data.hold_out import HASHES, article_hash
from summarizer.data.prompt import Prompt
from summarizer.data.sources import _made_from
from summarizer.data.splits import build_split
from summarizer.data.stream import StreamedSplit
from summarizer.errors import ConfigError

pytestmark = pytest.mark.versions

SpecBuilder = Callable[..., DataConfig]


@pytest.fixture
def folder(write_jsonl: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    (tmp_path / "set").mkdir()
    write_jsonl(example_rows(20), "set/train.jsonl")
    write_jsonl([*example_rows(3), {"id": "bad", "article": None, "highlights": "x"}], "set/validation.jsonl")
    return str(tmp_path / "set")


def hub(data_spec: SpecBuilder, path: str, **changes: Any) -> DataConfig:
    return data_spec(
        changes.pop("train", "train"), source="hub", path=path, validation="validation", **changes
    )


def test_a_split_of_a_data_set(data_spec: SpecBuilder, folder: str, prompt: Prompt) -> None:
    split = build_split(hub(data_spec, folder, rows={"train": 12}), "train", prompt)
    assert list(split.rows["article"]) == [row["article"] for row in example_rows(12)]


def test_columns_are_recognized_and_rows_held_out_there_too(
    data_spec: SpecBuilder, folder: str, prompt: Prompt, tmp_path: Path
) -> None:
    columns = {"article": None, "summary": None, "id": None}
    (tmp_path / "other").mkdir()
    rows = [{"document": row["article"], "summary": row["highlights"]} for row in example_rows(40)]
    (tmp_path / "other" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = data_spec("train", source="hub", path=str(tmp_path / "other"), validation=0.25, columns=columns)
    train, validation = (build_split(spec, name, prompt) for name in ("train", "validation"))
    assert len(train) + len(validation) == 40
    assert set(validation.rows["article"]) == {
        row["document"] for row in rows if article_hash(row["document"]) / HASHES < 0.25
    }
    assert train.notes[0].startswith("columns: the article is 'document', the summary is 'summary'")
    stream = StreamedSplit(spec.model_copy(update={"streaming": True}), prompt)
    first = next(stream.batches(0, 1, 0, shuffle=False, group_by_length=False))
    assert first == train.encoded([0])


def test_bad_rows_are_named_by_data_set_and_split(
    data_spec: SpecBuilder, folder: str, prompt: Prompt
) -> None:
    with pytest.raises(ConfigError, match=r"set validation row 4 \(id bad\): article is null"):
        build_split(hub(data_spec, folder), "validation", prompt)


def test_the_second_time_it_is_found(
    data_spec: SpecBuilder, folder: str, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = hub(data_spec, folder)
    first = build_split(spec, "train", prompt)
    monkeypatch.setattr("summarizer.data.splits.tokenize", None)
    assert build_split(spec, "train", prompt).rows.table.to_pylist() == first.rows.table.to_pylist()


def test_streaming_reads_the_same_rows_and_keeps_none(
    data_spec: SpecBuilder, folder: str, prompt: Prompt, cache: Path
) -> None:
    spec = hub(data_spec, folder, streaming=True, max_bad_rows=1)
    batch = next(StreamedSplit(spec, prompt).batches(0, 20, 0, shuffle=False, group_by_length=False))
    kept = build_split(hub(data_spec, folder), "train", prompt)
    assert [list(row.article_ids) for row in batch] == list(kept.rows["article_ids"])
    entries = len(list(cache.rglob("*.arrow")))
    validation = build_split(spec, "validation", prompt)
    assert list(validation.rows["id"]) == ["r0", "r1", "r2"]
    assert len(validation.encoded([2, 0])) == 2
    assert len(list(cache.rglob("*.arrow"))) == entries


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"train": "trian"}, "data.train: .*trian.*train"),
        ({"config": "4.0"}, "data.config: .*4.0.*default"),
        ({"columns": {"article": "text"}}, "data.columns.article: no column 'text'.*article, highlights"),
        ({"train": ["train", "validation"]}, "data.train: .*not a list"),
    ],
)
def test_mistakes_are_one_line(
    data_spec: SpecBuilder, folder: str, prompt: Prompt, changes: dict[str, Any], key: str, streaming: bool
) -> None:
    spec = hub(data_spec, folder, streaming=streaming, **changes)
    with pytest.raises(ConfigError, match=key) as caught:
        list(
            itertools.islice(
                StreamedSplit(spec, prompt).batches(0, 1, 0, shuffle=False, group_by_length=False), 1
            )
        )
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (ConnectionError("Couldn't reach 'a/b' on the Hub"), r"out of reach.*data=files data\.train=PATH"),
        (
            datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist"),
            "data.path: a/b: Dataset 'a/b'",
        ),
        (RuntimeError("Dataset scripts are no longer supported"), "data.path: a/b: Dataset scripts"),
    ],
)
def test_a_hub_out_of_reach_or_without_the_set(
    data_spec: SpecBuilder, prompt: Prompt, monkeypatch: pytest.MonkeyPatch, raised: Exception, message: str
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise raised

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(ConfigError, match=message):
        build_split(hub(data_spec, "a/b"), "train", prompt)


def test_a_stream_that_breaks_off(
    data_spec: SpecBuilder, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows() -> Any:
        yield from example_rows(150)
        raise ConnectionError("reset by peer")

    stream = datasets.IterableDataset.from_generator(rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: stream)
    batches = StreamedSplit(hub(data_spec, "a/b", streaming=True), prompt).batches(
        0, 10, 0, shuffle=False, group_by_length=False
    )
    with pytest.raises(ConfigError, match=r"a/b train: reading broke off at row 151: reset by peer"):
        list(itertools.islice(batches, 20))


def test_in_a_pipe_a_line_stands_for_the_librarys_bars(
    data_spec: SpecBuilder,
    folder: str,
    prompt: Prompt,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "PLAIN_LINE_EVERY_S", 0.0)
    with caplog.at_level(logging.INFO):
        build_split(hub(data_spec, folder), "train", prompt)
    assert any(line.startswith("downloading ") for line in caplog.messages), caplog.messages
    assert "examples/s" not in capfd.readouterr().err
    assert not datasets.are_progress_bars_disabled(), "the library's bars are as they were"


@pytest.mark.parametrize("split", ["train", "train[:7]", "train+validation"])
def test_a_split_is_known_by_what_it_was_made_from(split: str, folder: str, tmp_path: Path) -> None:
    """By the fingerprint that `datasets` itself has for it, so that tokens kept by an earlier version are found."""

    def loaded() -> datasets.Dataset:
        return datasets.load_dataset(folder, split=split, download_mode="force_redownload")

    first = loaded()
    assert _made_from(first, split) == first._fingerprint
    assert _made_from(first, split) == _made_from(loaded(), split)
    file = tmp_path / "set" / "train.jsonl"
    file.write_text(file.read_text() + file.read_text())
    assert _made_from(loaded(), split) != _made_from(first, split)
    assert _made_from(datasets.Dataset.from_dict({"a": [1]}), split) is None
