from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from damage import DAMAGE
from data_examples import example_rows

from summarizer import atomic
from summarizer.config.schema import DataConfig
from summarizer.data import sources, splits
from summarizer.data.cache import SCHEMA
from summarizer.data.prompt import Prompt
from summarizer.data.splits import build_split
from summarizer.errors import ConfigError

SpecBuilder = Callable[..., DataConfig]
Writer = Callable[..., str]


def test_the_second_time_nothing_is_tokenized(
    data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt, encodings: list[int]
) -> None:
    spec = data_spec(write_jsonl(example_rows(20)))
    first = build_split(spec, "train", prompt)
    assert sum(encodings) == 20
    before = pa.total_allocated_bytes()
    second = build_split(spec, "train", prompt)
    assert pa.total_allocated_bytes() - before < second.rows.table.nbytes / 2, "it is memory-mapped"
    assert sum(encodings) == 20
    assert second.rows.table.to_pylist() == first.rows.table.to_pylist()
    assert (second.report, second.fingerprint) == (first.report, first.fingerprint)


def test_what_changes_the_rows_or_tokens_is_tokenized_again(
    data_spec: SpecBuilder,
    write_jsonl: Writer,
    prompt: Prompt,
    encodings: list[int],
    tokenizer: Any,
) -> None:
    from summarizer.config.schema import PromptConfig
    from summarizer.data.prompt import build_prompt

    rows = example_rows(3)
    spec = data_spec(write_jsonl(rows))
    fingerprint = build_split(spec, "train", prompt).fingerprint
    stat = os.stat(str(spec.train))
    rows[0]["article"] = rows[0]["article"].replace("Tuesday", "Mondays")  # as long, at the same time
    write_jsonl(rows)
    os.utime(str(spec.train), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert os.stat(str(spec.train)).st_size == stat.st_size
    assert build_split(spec, "train", prompt).fingerprint != fingerprint
    other = build_prompt(
        PromptConfig(template="{article}\nTL;DR:", completion_token=None, end_token=None, max_tokens=64),
        tokenizer,
    )
    build_split(spec, "train", other)
    build_split(data_spec(str(spec.train), columns={"id": None}), "train", prompt)
    build_split(data_spec(str(spec.train), rows={"train": 3}), "train", prompt)
    assert sum(encodings) == 5 * 3
    build_split(data_spec(str(spec.train), max_bad_rows=7, processes=1), "train", prompt)  # changes neither
    assert sum(encodings) == 5 * 3


def test_a_large_file_is_told_apart_by_its_time(
    data_spec: SpecBuilder,
    write_jsonl: Writer,
    prompt: Prompt,
    encodings: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "HASHED_FILE_BYTES", 1)
    spec = data_spec(write_jsonl(example_rows(3)))
    for seconds in (1000, 1000, 2000):
        os.utime(str(spec.train), (seconds, seconds))
        build_split(spec, "train", prompt)
    assert sum(encodings) == 2 * 3


@pytest.mark.parametrize("what", [*DAMAGE, "whole batches gone", "of an earlier version"])
@pytest.mark.parametrize("name", ["rows.arrow", "report.json", "digests.json"])
def test_a_damaged_entry_is_built_again_with_a_warning(
    name: str,
    what: str,
    data_spec: SpecBuilder,
    write_jsonl: Writer,
    prompt: Prompt,
    cache: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spec = data_spec(write_jsonl(example_rows(20)))
    first = build_split(spec, "train", prompt)
    rows = first.rows.table.to_pylist()
    (file,) = cache.rglob(name)
    if what == "whole batches gone":
        # Arrow itself reads such a file without complaint.
        pa.ipc.new_stream(file.with_name("rows.arrow"), SCHEMA).close()
    elif what == "of an earlier version":
        file.with_name("digests.json").unlink()
    else:
        DAMAGE[what](file)
    again = build_split(spec, "train", prompt)
    assert again.rows.table.to_pylist() == rows
    assert (again.report, again.fingerprint) == (first.report, first.fingerprint)
    assert "made anew" in caplog.text
    caplog.clear()
    build_split(spec, "train", prompt)
    assert "anew" not in caplog.text


def test_what_a_killed_process_left_is_cleared(
    data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = data_spec(write_jsonl(example_rows(20)))
    monkeypatch.setattr(atomic.shutil, "rmtree", lambda *a, **k: None)  # as though killed before cleaning up
    with monkeypatch.context() as broken:
        broken.setattr(splits.EntryWriter, "close", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build_split(spec, "train", prompt)
    monkeypatch.undo()
    monkeypatch.setenv("SUMMARIZER_CACHE", str(cache))
    assert list(cache.rglob(atomic.SCRATCH_PREFIX + "*"))
    assert len(build_split(spec, "train", prompt)) == 20
    assert not list(cache.rglob(atomic.SCRATCH_PREFIX + "*"))


def test_a_cache_that_cannot_be_written_is_the_users_to_mend(
    data_spec: SpecBuilder,
    write_jsonl: Writer,
    prompt: Prompt,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "a_file").touch()
    monkeypatch.setenv("SUMMARIZER_CACHE", str(tmp_path / "a_file"))
    with pytest.raises(ConfigError, match=r"set \$SUMMARIZER_CACHE"):
        build_split(data_spec(write_jsonl(example_rows(2))), "train", prompt)


def _built(spec: DataConfig, prompt: Prompt) -> str:
    return build_split(spec, "train", prompt).fingerprint


def test_builders_of_the_same_split_at_once_all_succeed_and_one_builds(
    data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt, encodings: list[int]
) -> None:
    spec = data_spec(write_jsonl(example_rows(200)))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(_built, [spec] * 4, [prompt] * 4))
    assert len(set(found)) == 1
    assert sum(encodings) == 200


@pytest.mark.slow
def test_two_processes_that_build_the_same_split_both_succeed(
    data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt
) -> None:
    spec = data_spec(write_jsonl(example_rows(200)))
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, context) as pool:
        found = list(pool.map(_built, [spec] * 2, [prompt] * 2))
    assert found == [_built(spec, prompt)] * 2
