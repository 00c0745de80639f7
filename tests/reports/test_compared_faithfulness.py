"""Faithfulness in a comparison: paired from the runs' own files, in any order of rows, by one judge alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from invented_runs import make_run

from summarizer.evaluation.metrics import RowShares
from summarizer.evaluation.predictions import RowFaithfulness, write_faithfulness
from summarizer.evaluation.record import Interval
from summarizer.evaluation.statistics import compare_shares
from summarizer.reports.comparison import BOOTSTRAP_SAMPLES, SEED, compare_runs
from summarizer.runs.read_runs import read_run_files

ROWS = 12


def scored(
    folder: Path, seed: int, *, overrides: list[str], loss: float, ids: list[str] | None = None
) -> np.ndarray:
    """A run that says which of its names its articles have, and how far they entail it; its counts of names."""
    draw = np.random.default_rng(seed)
    every = draw.integers(0, 4, ROWS)
    known = np.array([draw.integers(0, n + 1) for n in every])
    make_run(
        folder, overrides, loss=loss, seed=seed, summary={"faithfulness": {"names": Interval(50, 40, 60)}}
    )
    ids = [f"row{i}" for i in range(ROWS)] if ids is None else ids
    rows = [
        RowFaithfulness(
            id=row_id,
            scores={"names": (100.0 * known[i], every[i]), "entailment": (50.0 + seed, 1.0)},
            missing=[("names", 0, 3)] if known[i] < every[i] else [],
        )
        for i, row_id in enumerate(ids)
    ]
    write_faithfulness(folder / "faithfulness" / "validation.jsonl", rows[::-1] if seed % 2 else rows)
    return np.array([100 * known, every])


def compared(*folders: Path) -> tuple[dict[str, dict[str, float]], tuple[str, ...], dict[str, str]]:
    runs = [read_run_files(folder) for folder in folders]
    problems = {path: problem for run in runs for path, problem in run.problems.items()}
    found = compare_runs(runs, by="val/loss", with_articles=False, problems=problems)
    against = {
        name: {metric: difference.mean.value for metric, difference in of.items()}
        for name, of in found.against_best.items()
    }
    return against, found.notes, dict(found.problems)


def test_the_best_is_compared_by_what_its_articles_say(tmp_path: Path) -> None:
    parts = [
        scored(tmp_path / str(dim), dim, overrides=[f"adapter.dim={dim}", "evaluation.nli=/a"], loss=loss)
        for dim, loss in ((1, 2.0), (2, 3.0))
    ]
    against, notes, problems = compared(tmp_path / "1", tmp_path / "2")
    (found,) = against.values()
    shares = [of[0].sum() / of[1].sum() for of in parts]
    assert found["names"] == pytest.approx(shares[0] - shares[1])
    assert found["entailment"] == pytest.approx(-1)
    assert {"rouge1", "rougeLsum"} <= found.keys()
    assert not any("different models" in note for note in notes)
    assert not problems
    run = compare_runs([read_run_files(tmp_path / "1")], by="val/loss", with_articles=False).runs[0]
    assert run.scores is not None
    assert run.scores.faithfulness == {"names": Interval(50, 40, 60)}
    marks = [text.missing for text in run.predictions.values()]
    assert [bool(missing) for missing in marks] == [bool(a < 100 * b) for a, b in parts[0].T]


def test_rows_are_paired_in_whatever_order_a_file_has_them(tmp_path: Path) -> None:
    """Seed 1 writes its file backwards. The interval and p are those of the rows side by side."""
    parts = [
        scored(tmp_path / str(seed), seed, overrides=[f"adapter.dim={seed}"], loss=seed + 1.0)
        for seed in (1, 2)
    ]
    by_id = sorted(range(ROWS), key=lambda i: f"row{i}")
    one, other = ({"names": RowShares(*of[:, by_id].astype(float))} for of in parts)
    (expected,) = compare_shares({("1", "2"): (one, other)}, samples=BOOTSTRAP_SAMPLES, seed=SEED)
    runs = [read_run_files(tmp_path / str(seed)) for seed in (1, 2)]
    (found,) = compare_runs(runs, by="val/loss", with_articles=False).against_best.values()
    assert found["names"].mean == expected.mean
    assert found["names"].p_value == expected.p_value


def test_other_judges_and_other_rows_do_not_compare(tmp_path: Path) -> None:
    scored(tmp_path / "1", 1, overrides=["evaluation.nli=/a"], loss=2.0)
    scored(tmp_path / "2", 2, overrides=["evaluation.nli=/b"], loss=3.0)
    scored(tmp_path / "3", 3, overrides=["adapter.dim=3"], loss=4.0, ids=["x"] * ROWS)
    scored(tmp_path / "4", 4, overrides=["adapter.dim=4"], loss=5.0, ids=[f"other{i}" for i in range(ROWS)])
    against, notes, problems = compared(*(tmp_path / str(n) for n in (1, 2, 3, 4)))
    assert [set(of) - {"rouge1", "rouge2", "rougeL", "rougeLsum"} for of in against.values()] == [
        {"names"},
        set(),
        set(),
    ]
    assert any(note.startswith("entailment is by different models (evaluation.nli)") for note in notes)
    (said,) = problems.values()
    assert said == "its rows are not those of validation.jsonl; it is left out"
