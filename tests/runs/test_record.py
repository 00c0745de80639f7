from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from summarizer.errors import ConfigError
from summarizer.evaluation.record import VARIANTS, Interval
from summarizer.json_files import GitState
from summarizer.runs.record import (
    BaseScores,
    RunRecord,
    TrainLoss,
    read_summary,
    write_summary,
)

DESIGN = """
    status overrides seed steps epochs tokens wall_s tokens_per_s peak_memory_bytes trainable_parameters
    train_loss val_loss rouge baseline split rows model quantization versions git data_fingerprint
"""
CONTRACT = {
    *DESIGN.split(),
    *("mfu", "startup_s", "base", "ended_by", "best_step", "error", "adapter", "rouge_tokenizer", "systems"),
    *("faithfulness", "baseline_faithfulness", "held_out_rows"),
}
SCORES = {variant: Interval(20.0 + i, 19.0, 25.5) for i, variant in enumerate(VARIANTS)}


def complete(folder: Path = Path()) -> RunRecord:
    return RunRecord(
        folder=str(folder),
        status="completed",
        ended_by="epochs",
        overrides=("adapter.dim=2",),
        seed=0,
        steps=3,
        best_step=2,
        epochs=3.0,
        tokens=99,
        wall_s=1.5,
        tokens_per_s=66.0,
        mfu=0.4,
        startup_s={"imports": 3.1, "first step": 0.5},
        peak_memory_bytes=2**33,
        trainable_parameters=4_346_752,
        train_loss=TrainLoss(first=2.0, last=1.0),
        val_loss=1.5,
        rouge=SCORES,
        baseline=SCORES,
        base=BaseScores(val_loss=2.5, rouge=SCORES),
        split="validation",
        rows=50,
        model="embedded:tiny_gptj",
        quantization="int8",
        adapter="adapter",
        versions={"torch": "2.13.0", "peft": None},
        git=GitState(commit="abc", dirty=True),
        data_fingerprint="f00",
    )


def test_round_trip_with_the_contracts_fields(tmp_path: Path) -> None:
    write_summary(tmp_path, complete(tmp_path))
    assert read_summary(tmp_path) == complete(tmp_path)
    raw = json.loads((tmp_path / "summary.json").read_text())
    assert set(raw) == CONTRACT
    assert set(raw["rouge"]) == set(raw["baseline"]) == set(VARIANTS)
    assert raw["rouge"]["rouge2"] == {"value": 21.0, "low": 19.0, "high": 25.5}
    assert raw["train_loss"] == {"first": 2.0, "last": 1.0}
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]


def test_a_run_that_failed_early_has_nulls_and_no_nan(tmp_path: Path) -> None:
    failed = RunRecord(
        folder=str(tmp_path),
        status="failed",
        ended_by="error",
        error="loss is nan at step 3",
        overrides=(),
        seed=1,
        model="m",
        quantization="none",
        versions={},
        train_loss=TrainLoss(first=2.0, last=float("nan")),
        val_loss=float("inf"),
        mfu=float("nan"),
    )
    write_summary(tmp_path, failed)
    text = (tmp_path / "summary.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    raw = json.loads(text)
    assert set(raw) == CONTRACT
    assert raw["train_loss"]["last"] is None
    assert raw["val_loss"] is None
    assert raw["rouge"] is None
    assert read_summary(tmp_path) == failed


def test_a_missing_variant_is_refused() -> None:
    with pytest.raises(ValidationError, match="rougeLsum"):
        RunRecord.model_validate(
            {**complete().model_dump(), "rouge": {variant: Interval(1, 1, 1) for variant in VARIANTS[:3]}}
        )


@pytest.mark.parametrize("path", ["/tmp/adapter", "../adapter", "a/../../b"])
def test_the_adapters_path_stays_below(path: str) -> None:
    with pytest.raises(ValidationError, match="below the run folder"):
        RunRecord.model_validate({**complete().model_dump(), "adapter": path})


def test_a_broken_file_names_each_field(tmp_path: Path) -> None:
    raw = complete().summary()
    raw["status"] = "done"
    raw["rouge"]["rouge1"]["low"] = "x"
    (tmp_path / "summary.json").write_text(json.dumps(raw))
    with pytest.raises(ConfigError) as caught:
        read_summary(tmp_path)
    keys = [issue.key for issue in caught.value.issues]
    assert [key.removeprefix(f"{tmp_path / 'summary.json'}: ") for key in keys] == [
        "status",
        "rouge.rouge1.low",
    ]


def test_no_file_and_no_json(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no summary"):
        read_summary(tmp_path)
    (tmp_path / "summary.json").write_text('{"status": ')
    with pytest.raises(ConfigError, match="Invalid JSON"):
        read_summary(tmp_path)
