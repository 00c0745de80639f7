"""Mistakes in rows, in an adapter to start from and in checkpoints are said before any weight and any record."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest
from grids import job

from summarizer.errors import ConfigError
from summarizer.runs import experiment
from summarizer.runs.experiment import run_group
from summarizer.tracking.metrics import METRICS


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        pytest.fail("the base model is loaded")

    monkeypatch.setattr(experiment, "load_base", refuse)


def refusal(folder: Path, *overrides: str, **values: Any) -> str:
    record = job(folder, *overrides).model_copy(update={"sweep": None, **values})
    with pytest.raises(ConfigError) as caught:
        run_group([record])
    assert not (folder / METRICS).exists()
    return str(caught.value)


def test_rows(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"article": "One. Two.", "highlights": "One."}\n{"article": 7}\n')
    said = refusal(tmp_path / "run", "data=files", f"data.train={rows}", f"data.validation={rows}")
    assert said.startswith("data.max_bad_rows: 1 unusable row in data.train")


def test_an_adapter_to_start_from(tmp_path: Path, trained_run: Path) -> None:
    start = f"adapter.start_from={trained_run / 'adapter'}"
    assert "it has dim 2, adapter.dim is 4" in refusal(tmp_path / "run", start, "adapter.dim=4")


def test_checkpoints(tmp_path: Path, trained_run: Path) -> None:
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000002"
    checkpoint.mkdir(parents=True)
    for file in next((trained_run / "checkpoints").iterdir()).iterdir():
        (checkpoint / file.name).write_bytes(file.read_bytes()[:-1])
    said = refusal(tmp_path / "run", resumed=True)
    assert said.startswith(("resume: the only checkpoint", "resume: none of the"))
