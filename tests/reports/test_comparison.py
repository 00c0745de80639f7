from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from invented_runs import make_run, texts, without_scores

from summarizer.config.plain import read_option
from summarizer.evaluation.predictions import Prediction, read_predictions, write_predictions
from summarizer.evaluation.statistics import holm
from summarizer.reports.compared import Comparison, as_json
from summarizer.reports.comparison import ROWS_SHOWN, compare_runs
from summarizer.runs.read_runs import read_run_files
from summarizer.runs.record import RunRecord
from summarizer.sweeps.record import begin


def compared(*folders: Path, by: str = "val/loss", with_articles: bool = False) -> Comparison:
    runs = [read_run_files(folder) for folder in folders]
    problems = {path: problem for run in runs for path, problem in run.problems.items()}
    return compare_runs(runs, by=by, with_articles=with_articles, problems=problems)


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """The one with the lowest loss writes the worst summaries."""
    return [
        make_run(tmp_path / str(dim), [f"adapter.dim={dim}"], loss=loss, likeness=likeness, seed=dim)
        for dim, loss, likeness in ((2, 2.5, 0.2), (4, 2.1, 0.1), (8, 2.3, 0.9))
    ]


def test_runs_are_ranked_by_loss_or_by_a_variant(three: list[Path]) -> None:
    by_loss = compared(*three)
    assert [run.name for run in by_loss.runs] == ["dim=4", "dim=8", "dim=2"]
    assert list(by_loss.best.values()) == ["dim=4"]
    assert by_loss.swept == ("adapter.dim",)
    by_rouge = compared(*three, by="rougeL")
    values = [run.scores.rouge["rougeL"].value for run in by_rouge.runs if run.scores]
    assert values == sorted(values, reverse=True)
    assert list(by_rouge.best.values()) == ["dim=8"]


def test_pairs_are_those_of_rouge_score_and_an_exact_test_with_holm(three: list[Path]) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
    scores = {
        folder.name: [
            {
                name: 100 * score.fmeasure
                for name, score in scorer.score(row.reference, row.prediction).items()
            }
            for row in read_predictions(folder / "predictions" / "validation.jsonl")
        ]
        for folder in three
    }
    found = compared(*three, by="rougeLsum").against_best
    assert set(found) == {"dim=2", "dim=4"}
    exact = {}
    for name in ("2", "4"):
        for variant in scores["8"][0]:
            gaps = np.array(
                [
                    best[variant] - other[variant]
                    for best, other in zip(scores["8"], scores[name], strict=True)
                ]
            )
            difference = found[f"dim={name}"][variant]
            assert difference.mean.value == pytest.approx(gaps.mean())
            assert difference.mean.low < gaps.mean() < difference.mean.high
            assert difference.rows == 12
            # All 2 ** 12 swaps, where the program draws 10,000 at random.
            signs = 1 - 2 * ((np.arange(2**12)[:, None] >> np.arange(12)) & 1)
            p = float((np.abs(signs @ gaps) >= abs(gaps.sum()) - 1e-9).mean())
            assert difference.p_value == pytest.approx(p, abs=0.015)
            exact[name, variant] = difference.p_value
    adjusted = dict(zip(exact, holm(list(exact.values())), strict=True))
    for (name, variant), p in adjusted.items():
        assert found[f"dim={name}"][variant].p_holm == p
    assert found["dim=2"]["rouge1"].significant, "a run that copies most of the reference is better"


def test_pairs_are_found_whatever_the_order_of_the_rows(three: list[Path]) -> None:
    straight = compared(*three).against_best["dim=8"]["rouge1"]
    file = three[2] / "predictions" / "validation.jsonl"
    write_predictions(file, read_predictions(file)[::-1])
    turned = compared(*three)
    assert len(turned.row_sets) == 1
    assert turned.against_best["dim=8"]["rouge1"].mean.value == pytest.approx(straight.mean.value)


@pytest.mark.parametrize(
    "other", [{"references": 9}, {"rows": 11}, {"split": "test"}], ids=["texts", "count", "split"]
)
def test_other_rows_are_another_table(tmp_path: Path, other: dict[str, Any]) -> None:
    one = make_run(tmp_path / "a", ["adapter.dim=2"])
    two = make_run(tmp_path / "b", ["adapter.dim=4"], **other)
    three = make_run(tmp_path / "c", ["adapter.dim=8"], loss=2.9)
    found = compared(one, two, three)
    assert len(found.row_sets) == 2
    assert [run.source.rpartition("/")[2] for run in found.runs] == ["c", "a", "b"], "the larger set first"
    assert len(found.best) == 2
    assert set(found.against_best) == {found.runs[1].name}, "paired with the best of its own rows alone"
    assert "do not compare" in found.notes[0]


def test_without_predictions_the_rows_are_known_by_lead_3(tmp_path: Path) -> None:
    whole = make_run(tmp_path / "whole", ["adapter.dim=2"])
    same, other = (
        make_run(tmp_path / name, [f"adapter.dim={dim}"], lead=lead)
        for name, dim, lead in (("same", 4, 40.0), ("other", 8, 40.001))
    )
    for folder in (same, other):
        (folder / "predictions" / "validation.jsonl").unlink()
    found = {run.source.rpartition("/")[2]: run for run in compared(whole, same, other).runs}
    assert found["same"].row_set == found["whole"].row_set != found["other"].row_set
    assert found["same"].predictions == {}
    assert found["other"].scores is not None


def test_summaries_that_do_not_score_what_is_said_are_not_paired(three: list[Path]) -> None:
    file = three[0] / "predictions" / "validation.jsonl"
    rows = read_predictions(file)
    write_predictions(file, [Prediction(row.id, "changed", row.reference) for row in rows])
    found = compared(*three)
    assert set(found.against_best) == {"dim=8"}
    (path,) = found.problems
    assert path.endswith("2/predictions/validation.jsonl")
    assert "score 0.00 rouge1" in found.problems[path]


def test_a_run_says_all_that_is_known_of_it(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", ["adapter.dim=2", "prompt.template='a b'", "x.api_key=verysecret"])
    (run,) = compared(folder).runs
    assert (run.name, run.record.status, run.why) == ("dim=2 template='a b' api_key=***", "completed", None)
    assert run.command == (
        "python -m summarizer.run adapter.dim=2 'prompt.template='\"'\"'a b'\"'\"'' 'x.api_key=***'"
    )
    assert run.config["adapter.dim"].number == 2
    assert run.config["x.api_key"].text == "***"
    assert "verysecret" not in as_json(compared(folder))
    assert [(point.step, point.value) for point in run.history["val/loss"]] == [(0, 5.0), (1, 4.0), (2, 3.0)]
    assert run.base is not None
    assert run.base.loss == 4.0
    assert run.lead3 is not None
    assert run.lead3.rouge["rouge1"].value == 40.0
    assert (run.record.wall_s, run.record.peak_memory_bytes, run.record.steps, run.record.best_step) == (
        65.0,
        2**30,
        2,
        2,
    )


def test_runs_without_scores_come_last_with_their_reason(tmp_path: Path, three: list[Path]) -> None:
    failed = without_scores(tmp_path / "16", ["adapter.dim=16"], error="NonFiniteLossError:\nloss is nan")
    running = make_run(tmp_path / "32", ["adapter.dim=32"])
    (running / "summary.json").unlink()
    found = compared(failed, running, *three)
    assert [run.name for run in found.runs] == ["dim=4", "dim=8", "dim=2", "dim=16", "dim=32"]
    assert (found.runs[3].record.status, found.runs[3].why) == ("failed", "NonFiniteLossError: loss is nan")
    assert (found.runs[4].record.status, found.runs[4].record.steps) == ("running", 2)
    assert found.runs[4].row_set is None


def test_the_settings_of_a_sweep_come_first(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path / "sweep" / str(i), ["adapter.alpha=3", f"adapter.dim={dim}"], rows=4)
        for i, dim in enumerate((2, 4))
    ]
    (tmp_path / "sweep").mkdir(exist_ok=True)
    begin(tmp_path / "sweep", [RunRecord(folder=str(i), overrides=(), group=i) for i in (0, 1)], "val/loss")
    folders += [make_run(tmp_path / str(alpha), [f"adapter.alpha={alpha}"], rows=4) for alpha in (5, 6, 7)]
    assert compared(*folders).swept == ("adapter.dim", "adapter.alpha")


def test_runs_of_one_setting_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name / "run", ["adapter.dim=2"], seed=i) for i, name in enumerate("ab")]
    third = make_run(tmp_path / "c" / "run", ["adapter.dim=4"])
    assert {run.name for run in compared(*folders, third).runs} == {"dim=2 (a/run)", "dim=2 (b/run)", "dim=4"}
    assert {run.name for run in compared(*folders).runs} == {"a/run", "b/run"}


def test_a_missing_score_is_no_best(tmp_path: Path) -> None:
    lost = make_run(tmp_path / "lost", ["adapter.dim=2"], loss=None)
    assert compared(lost).best == {}
    kept = make_run(tmp_path / "kept", ["adapter.dim=4"], loss=9.0)
    assert [run.name for run in compared(lost, kept).runs] == ["dim=4", "dim=2"]


def test_losses_of_different_models_carry_a_warning(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", ["model.name_or_path=tiny"])
    two = make_run(tmp_path / "two", ["model.name_or_path=other"])
    assert "tokenizer" in compared(one, two).notes[0]
    assert compared(one).notes == ()


def test_only_the_first_rows_are_shown_and_only_their_own_articles(tmp_path: Path) -> None:
    many = make_run(
        tmp_path / "many", ["data.validation=rows.jsonl", "data.source=files"], rows=ROWS_SHOWN + 5
    )
    data = {**_data_config(), "train": "gone.jsonl", "validation": str(tmp_path / "rows.jsonl")}
    config = json.dumps({"data": data, "model": {"name_or_path": "tiny"}})
    (many / ".hydra" / "config.yaml").write_text(config)
    rows = [
        {"id": f"row{i}", "article": f"Article {i}. " + "x" * 3000, "highlights": text}
        for i, text in enumerate(texts(0, ROWS_SHOWN + 5))
    ]
    rows[3]["highlights"] = "another reference"  # so this is not the row that was scored
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = compared(many, with_articles=True)
    (shown,) = found.rows.values()
    assert [row.id for row in shown] == [f"row{i}" for i in range(ROWS_SHOWN)]
    assert shown[3].article is None
    assert shown[4].article is not None
    assert shown[4].article.startswith("Article 4.")
    assert len(shown[4].article) < 1600
    assert set(found.runs[0].predictions) == {row.id for row in shown}
    assert compared(many).rows[found.row_sets[0]][4].article is None
    (tmp_path / "rows.jsonl").unlink()
    assert compared(many, with_articles=True).rows[found.row_sets[0]][4].article is None


def _data_config() -> dict[str, object]:
    return read_option("data", "files") | {
        "columns": {"article": "article", "summary": "highlights", "id": "id"}
    }


def test_json_holds_every_run_once_in_its_table(tmp_path: Path, three: list[Path]) -> None:
    failed = without_scores(tmp_path / "16", ["adapter.dim=16"])
    found = json.loads(as_json(compared(*three, failed)))
    (rows,) = found["row_sets"]
    assert rows["best"] == "dim=4"
    assert [run["name"] for run in rows["runs"]] == ["dim=4", "dim=8", "dim=2"]
    losses = [run["scores"]["loss"] for run in rows["runs"]]
    assert all(a <= b for a, b in pairwise(losses))
    assert rows["runs"][0]["best_minus_this"] is None
    assert rows["runs"][1]["best_minus_this"]["rougeL"]["rows"] == 12
    assert rows["runs"][0]["config"]["optimizer.betas"] == "[0.9, 0.999]"
    assert [run["name"] for run in found["unscored"]] == ["dim=16"]
