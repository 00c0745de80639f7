from __future__ import annotations

import errno
import json
import math
from pathlib import Path

import numpy as np
import pytest

from summarizer import files
from summarizer.errors import ConfigError
from summarizer.runs.read_runs import finite
from summarizer.tracking.metrics import MetricsFile, read_metrics


def test_lines_are_there_at_once(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    file = MetricsFile(tmp_path / "run" / "metrics.jsonl")
    file.log({"step": 1, "train/loss": 2.5})
    assert read_metrics(tmp_path / "run" / "metrics.jsonl") == [{"step": 1, "train/loss": 2.5}]
    file.log({"step": 2, "train/loss": np.float32(0.5), "tokens": 10})
    assert (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[1] == (
        '{"step": 2, "train/loss": 0.5, "tokens": 10}'
    )


def test_floats_survive_to_the_last_bit(tmp_path: Path) -> None:
    loss = 0.1 + 0.2
    MetricsFile(tmp_path / "m").log({"step": 0, "loss": loss})
    assert read_metrics(tmp_path / "m")[0]["loss"] == loss


def test_not_finite_is_null(tmp_path: Path) -> None:
    MetricsFile(tmp_path / "m").log(
        {"step": 1, "a": float("nan"), "b": float("-inf"), "c": np.float32("inf")}
    )

    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is not JSON")

    assert json.loads((tmp_path / "m").read_text(), parse_constant=refuse) == {
        "step": 1,
        "a": None,
        "b": None,
        "c": None,
    }


def test_a_record_needs_its_step(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="step"):
        MetricsFile(tmp_path / "m").log({"loss": 1.0})


@pytest.mark.parametrize("cut", [1, 5, 14])
def test_a_line_cut_by_a_kill(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "m"
    file = MetricsFile(path)
    for step in (1, 2, 3):
        file.log({"step": step, "x": 0.5})
    path.write_bytes(path.read_bytes()[:-cut])
    kept = [1, 2, 3] if cut == 1 else [1, 2]  # without its newline alone, a line is whole
    assert [record["step"] for record in read_metrics(path)] == kept
    MetricsFile(path).log({"step": 4})
    assert [record["step"] for record in read_metrics(path)] == [*kept, 4]


def test_only_known_records_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "m"
    MetricsFile(path).keep(lambda row: row["step"] <= 3)
    assert not path.exists()
    file = MetricsFile(path)
    for step in (1, 2, 2, 3, 4):
        file.log({"step": step, "x": 1 / 3})
    before = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(path.read_bytes() + b'{"step": 5, "x"')
    file.keep(lambda row: row["step"] <= 3)
    assert path.read_bytes() == b"".join(before[:4])
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(ConfigError, match=r"m:2: not a JSON object"):
        read_metrics(path)
    with pytest.raises(ConfigError, match="no metrics"):
        read_metrics(tmp_path / "none")


def test_a_number_that_no_float_holds_is_infinite(tmp_path: Path) -> None:
    (tmp_path / "m").write_text(
        '{"step": 1, "train/loss": ' + "9" * 400 + ', "val/loss": -' + "9" * 400 + "}\n"
    )
    (row,) = read_metrics(tmp_path / "m")
    assert (row["train/loss"], row["val/loss"]) == (math.inf, -math.inf)
    assert finite(row["train/loss"]) is None


@pytest.mark.parametrize("at_once", [True, False])
def test_a_full_disk_leaves_no_half_line(
    at_once: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system refuses a line as a whole, or takes what fits of it."""
    path = tmp_path / "m"
    file = MetricsFile(path)
    file.log({"step": 1})

    class FullDisk:
        def __init__(self, raw: object) -> None:
            self.raw = raw

        def __enter__(self) -> FullDisk:
            return self

        def __exit__(self, *exc: object) -> None:
            self.raw.close()

        def __getattr__(self, name: str) -> object:
            return getattr(self.raw, name)

        def write(self, line: bytes) -> int:
            written: int = self.raw.write(line[:4])
            if not at_once:
                return written
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(
            files,
            "open",
            lambda *a, **k: FullDisk(open(*a, **k)),  # noqa: SIM115 - it closes by itself
            raising=False,
        )
        with pytest.raises(OSError, match=r"No space|fit on the disk") as refused:
            file.log({"step": 2})
    assert refused.value.errno == errno.ENOSPC  # by which the command says it without a traceback
    file.log({"step": 3})
    assert [record["step"] for record in read_metrics(path)] == [1, 3]
