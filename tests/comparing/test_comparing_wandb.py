from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from invented_runs import make_run
from wandb.proto.wandb_internal_pb2 import Record
from wandb_records import private_wandb, record

from summarizer.comparing.comparison import compare_runs
from summarizer.comparing.finding import Place, find
from summarizer.comparing.reading import Read, read_run
from summarizer.errors import ConfigError
from summarizer.evaluation.predictions import read_predictions
from summarizer.runs.record import read_configured, read_summary
from summarizer.tracking.tracker import SampleSummary
from summarizer.tracking.wandb_log import BLOCK_BYTES, HEADER, KINDS, read_log, read_raw, read_records

OVERRIDES = ["adapter.dim=4"]
LONG = "word " * 20_000
"""So that a record goes over several blocks."""


@pytest.fixture(scope="module", autouse=True)
def own_wandb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield from private_wandb(tmp_path_factory)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run's folder, and the folder that wandb made of the same run, with its first two rows."""
    place = tmp_path_factory.mktemp("made")
    run = make_run(place / "run", OVERRIDES)
    rows = read_predictions(run / "predictions" / "validation.jsonl")[:2]
    samples = [
        SampleSummary(row.id, f"Article of {row.id}.", row.reference, "base", row.prediction) for row in rows
    ]
    config = dict(read_configured(run).config)
    config["tracking"] = {"note": LONG}
    summary = read_summary(run).model_dump()
    return run, record(place / "elsewhere", config, OVERRIDES, summary, samples)


def wandb_file(folder: Path) -> Path:
    (file,) = folder.glob("*.wandb")
    return file


def read(folder: Path) -> Read:
    found = read_run(Place(None, (folder,)))
    assert found is not None
    return found


def test_a_record_of_wandbs_own_is_read_whole(made: tuple[Path, Path]) -> None:
    run, folder = made
    log = read_log(wandb_file(folder))
    assert log.exit_code == 0
    assert log.id is not None
    assert folder.name.endswith(log.id)
    assert log.config["tracking"] == {"note": LONG}
    assert len(LONG) > 3 * BLOCK_BYTES
    found = read(folder)
    assert found.summary == read_summary(run), "every number as the run's own file has it"
    assert found.overrides == tuple(OVERRIDES)
    assert [row["step"] for row in found.metrics] == [1, 2, 3, 4, 5, 6]
    assert [row["train/loss"] for row in found.metrics] == [5 / step for step in range(1, 7)]
    assert found.metrics[-1]["val/loss"] == 2.5
    assert [row.id for row in found.predictions] == ["row0", "row1"]
    assert found.articles["row1"] == "Article of row1."
    assert found.base_predictions[0].prediction == "base"
    assert found.problems == {}


def test_records_say_what_wandbs_own_class_reads_in_them(made: tuple[Path, Path]) -> None:
    file = wandb_file(made[1])
    kinds = set()
    for ours, theirs in zip(read_records(file), map(Record.FromString, read_raw(file)), strict=True):
        kind = theirs.WhichOneof("record_type")
        if kind not in KINDS["Record"]:
            assert ours.WhichOneof("record_type") is None
            continue
        kinds.add(kind)
        assert ours.WhichOneof("record_type") == kind
        found, expected = getattr(ours, kind), getattr(theirs, kind)
        for name in found.DESCRIPTOR.fields_by_name:
            assert str(getattr(found, name)) == str(getattr(expected, name))
    assert kinds >= {"run", "history", "exit"}


def test_it_stands_beside_runs_of_the_same_rows(made: tuple[Path, Path], tmp_path: Path) -> None:
    _, folder = made
    other = read_run(Place(make_run(tmp_path / "other", ["adapter.dim=8"], loss=3.5)))
    assert other is not None
    found = compare_runs([other, read(folder)], by="val/loss", with_articles=True)
    assert len(found.row_sets) == 1
    assert [run.name for run in found.runs] == ["dim=4", "dim=8"]
    assert set(found.runs[0].predictions) == {"row0", "row1"}
    assert found.against_best == {}, "two of twelve summaries are no pairing"
    assert found.rows[found.row_sets[0]][0].article == "Article of row0."


def test_a_file_cut_short_is_a_run_without_an_end(made: tuple[Path, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(made[1], tmp_path / made[1].name)
    file = wandb_file(folder)
    whole = file.read_bytes()
    lengths = []
    for end in (len(whole) - 3, len(whole) - 1500, len(whole) - 4000):
        file.write_bytes(whole[:end])
        found = read(folder)
        assert found.summary is None
        assert found.exit_code is None
        lengths.append(len(found.metrics))
        (run,) = compare_runs([found], by="val/loss", with_articles=False).runs
        assert run.status == "running"
    assert max(lengths) == 6
    file.write_bytes(whole + bytes(100))  # room that was set aside and not yet written
    assert read(folder).summary is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: b"", "empty"),
        (lambda data: b"{}", "not a file of wandb's"),
        (lambda data: HEADER, "cut off before"),
        (lambda data: data[:3000] + b"????" + data[3004:], "wrong checksum"),
        (lambda data: HEADER + _block(b"\xff\xff\xff") + data[7:], "damaged"),
    ],
)
def test_a_damaged_file_is_named(made: tuple[Path, Path], tmp_path: Path, change: Any, said: str) -> None:
    file = tmp_path / "run-x.wandb"
    file.write_bytes(change(wandb_file(made[1]).read_bytes()))
    with pytest.raises(ConfigError, match=said):
        read_log(file)


def _block(data: bytes) -> bytes:
    import zlib

    return struct.pack("<IHB", zlib.crc32(b"\x01" + data), len(data), 1) + data


def test_a_table_that_a_record_names_outside_its_folder_is_not_read(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(made[1], tmp_path / made[1].name)
    (table,) = folder.glob("files/media/table/*.json")
    outside = tmp_path / "secret.json"
    shutil.move(table, outside)
    table.symlink_to(outside)
    assert read(folder).predictions == []


def test_a_run_that_was_resumed_is_one(tmp_path: Path) -> None:
    config = {"adapter": {"dim": 2}}
    first = record(tmp_path / "run", config, [], None, [], steps=3)
    second_place = tmp_path / "again"
    second_place.mkdir()
    shutil.copy(tmp_path / "run" / "wandb_id.txt", second_place)
    summary = read_summary(make_run(tmp_path / "like")).model_dump()
    second = record(second_place, config, [], summary, [], steps=3, first_step=3)
    together = tmp_path / "all" / "wandb"
    together.mkdir(parents=True)
    for number, folder in enumerate((first, second)):
        shutil.copytree(folder, together / f"offline-run-2026010{number}_000000-{folder.name[-8:]}")
    found = find([together])
    (place,) = found.places
    read = read_run(place)
    assert read is not None
    assert [row["step"] for row in read.metrics] == [1, 2, 3, 4, 5]
    assert read.summary is not None
