"""The report at a run's end: every figure in it against the one it was made from, at any width."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from rich.console import Console
from small_runs import REPOSITORY

from summarizer.config.check import check
from summarizer.config.paths import conf_folder
from summarizer.data.order import EncodedRow
from summarizer.evaluation.metrics import RowLosses, Scores, bootstrap
from summarizer.evaluation.pipeline import ADAPTER, BASE, LEAD
from summarizer.evaluation.record import VARIANTS
from summarizer.evaluation.statistics import sign_flip_test
from summarizer.reports import run_report as report
from summarizer.reports.run_report import Finished, show_report
from summarizer.reports.sentences import p_text
from summarizer.runs.heldout import HeldOut
from summarizer.runs.record import RunRecord

ROWS = 12
TOKENS = np.arange(10, 10 + ROWS)


def system(loss: float | None, rouge: float, summary: str) -> Scores:
    """The same in every row, so that every interval is a point."""
    per_row = dict.fromkeys(VARIANTS, np.full(ROWS, rouge))
    losses = None if loss is None else RowLosses(loss * TOKENS, TOKENS)
    return Scores(bootstrap(per_row, 20, 0), per_row=per_row, row_losses=losses, summaries=[summary] * ROWS)


def finished(folder: Path, *overrides: str, **changed: Any) -> Finished:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        spec = check(compose("config", overrides=["evaluation.bootstrap_samples=20", *overrides]))
    scores = {ADAPTER: system(3.5, 15.5, "A school."), LEAD: system(None, 41.0, "It began.")}
    if spec.evaluation.base:
        scores[BASE] = system(4.75, 9.0, "[bold]same[/] same")
    article = "word " * 200
    values: dict[str, Any] = {
        "spec": spec,
        "record": RunRecord(
            folder=str(folder),
            overrides=overrides,
            trainable_parameters=103_168,
            steps=150,
            epochs=3.0,
            best_step=100,
            wall_s=71.3,
        ),
        "scores": scores,
        "rows": HeldOut(
            "validation",
            [EncodedRow(str(i), [], []) for i in range(ROWS)],
            [article] * ROWS,
            ["A school shut."] * ROWS,
            "rouge-score",
        ),
        "base_parameters": 12_637_952,
        "training_rows": 100,
        "evaluations": 3,
    }
    return Finished(**values | changed)


def shown(monkeypatch: pytest.MonkeyPatch, run: Finished, width: int = 80) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, soft_wrap=True, highlight=False)
    monkeypatch.setattr(report, "console", lambda: console)
    show_report(run)
    return stream.getvalue()


def words(text: str) -> str:
    return " ".join(text.split())


def cells(text: str, start: str) -> list[str]:
    """Of the first line that starts so: a table's, which is above the example."""
    line = next(line for line in text.splitlines() if line.startswith(start))
    return line.removeprefix(start).split()


def test_what_was_trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = words(shown(monkeypatch, finished(tmp_path)))
    assert (
        "Adapters of dimension 2 beside embedded:tiny_gptj: 103,168 parameters, 0.82 % of the base's 12,637,952, "
        "which stay as they were, in int8." in text
    )
    assert (
        "On 100 articles, 3 times over (150 steps of 2 articles) at learning rate 1e-3, in 71 s. Saved is the "
        "adapter of step 100." in text
    )


def test_fewer_steps_than_articles_and_a_stream(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record = RunRecord(
        folder=str(tmp_path), trainable_parameters=5, steps=7, epochs=0.14, best_step=7, wall_s=600.0
    )
    text = words(shown(monkeypatch, finished(tmp_path, record=record)))
    assert "On 14 articles (7 steps of 2 articles) at learning rate 1e-3, in 10 min." in text
    assert "Saved is" not in text
    streamed = words(shown(monkeypatch, finished(tmp_path, record=record, training_rows=None)))
    assert "On 7 steps of 2 articles at learning rate 1e-3, in 10 min." in streamed


def test_the_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = shown(monkeypatch, finished(tmp_path))
    assert cells(text, "before  ") == ["4.750", *["9.00"] * 4]
    assert cells(text, "after  ") == ["3.500", *["15.50"] * 4]
    assert cells(text, "Lead-3  ") == ["41.00"] * 4
    assert " 4.75–4.75 " in text
    p = sign_flip_test(np.full((ROWS, 1), 1.0), 0)[0]
    both = [*p_text(p).removeprefix("= ").split(), *p_text(5 * p).removeprefix("= ").split()]
    assert cells(text, "loss  ") == ["-1.250", "-1.250", "to", "-1.250", "12–0", *both, "yes,", "better"]
    assert cells(text, "rouge1  ") == ["+6.50", "+6.50", "to", "+6.50", "12–0", *both, "yes,", "better"]
    assert "is ahead of it by all four ROUGE scores." in words(text)
    assert "chosen among 3 evaluations by val/loss" in words(text)
    notes = text.split("all four ROUGE scores.")[-1].split("One article")[0].strip().splitlines()
    assert len(notes) <= 5, "definitions stand in the docs"
    page, _, section = report.DEFINITIONS.partition("#")
    assert f"See {report.DEFINITIONS}" in words(text)
    headings = [
        line.lstrip("# ") for line in (REPOSITORY / page).read_text().splitlines() if line.startswith("#")
    ]
    assert section in [heading.lower().replace(" ", "-") for heading in headings]


def test_one_article_whose_texts_are_no_markup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = shown(monkeypatch, finished(tmp_path))
    example = text.split("One article, with the median change of rouge1 of all")[1].split("\n\n")[0]
    assert "before     [bold]same[/] same\n" in example
    assert "after      A school.\n" in example
    assert "Lead-3     It began.\n" in example
    assert example.endswith("reference  A school shut.")
    assert example.split("before")[0].rstrip().endswith("word ...")


STEERING = "\x1b]52;c;cm0=\x07\x1b[2J\x1b]0;title\x07\u202e\u2066\x9b31m\x08\r"
"""The clipboard, the screen, the title, the direction of letters, a color, and the cursor's place."""


def test_no_text_of_others_steers_the_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    systems = {
        ADAPTER: system(3.5, 15.5, f"after{STEERING}wards"),
        BASE: system(4.75, 9.0, f"be{STEERING}fore"),
        LEAD: system(None, 41.0, f"lead{STEERING}"),
    }
    rows = HeldOut(
        f"validation{STEERING}",
        [EncodedRow(str(i), [], []) for i in range(ROWS)],
        [f"art{STEERING}icle"] * ROWS,
        [f"ref{STEERING}erence"] * ROWS,
        "words",
    )
    record = finished(tmp_path).record.model_copy(update={"overrides": (f"tracking.tags=[run{STEERING}]",)})
    run = finished(tmp_path, scores=systems, rows=rows, record=record)
    text = shown(monkeypatch, run)
    assert not {letter for letter in text if not letter.isprintable()} - {"\n"}
    assert "52;c;cm0=" in text.split("article    art")[1].split("\n")[0]
    assert all(part in text for part in ("wards", "fore", "lead", "icle", "erence"))


@pytest.mark.parametrize(
    ("base", "row"),
    [([0, 0, 0, 0, 0], 3), ([0, 2, 4, 5, 0], 4), (None, 3)],
)
def test_the_article_shown_is_neither_the_best_nor_the_worst(base: list[float] | None, row: int) -> None:
    def scored(rouge: list[float]) -> Scores:
        per_row = {"rouge1": np.array(rouge, dtype=float)}
        return Scores({}, per_row=per_row, summaries=[""] * len(rouge))

    systems = {ADAPTER: scored([5, 1, 9, 4, 2])} | ({} if base is None else {BASE: scored(base)})
    assert report.typical_row(systems) == row


def test_only_files_that_are_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "summary.json").touch()
    (tmp_path / "adapter").mkdir()
    listed = shown(monkeypatch, finished(tmp_path)).split("Files in")[1].split("\n\n")[0]
    assert "summary.json   these" in listed
    assert "adapter/       the adapter" in listed
    assert "wandb" not in listed
    assert "predictions" not in listed


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_but_a_command_or_a_path_is_wider_than_the_terminal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, width: int
) -> None:
    lines = shown(monkeypatch, finished(tmp_path), width).splitlines()
    assert (
        max(len(line) for line in lines if " -m summarizer." not in line and "Files in" not in line) <= width
    )
    assert max(map(len, lines)) > 70
    assert "\x1b" not in "".join(lines)
    assert "…" not in "".join(lines), "nothing is cut off"


def test_without_the_base_nothing_is_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = shown(monkeypatch, finished(tmp_path, "evaluation=loss_only"))
    assert "before" not in text
    assert "significant" not in text.lower()
    assert "The base model was not scored (evaluation.base=false)" in words(text)


def test_a_test_split_was_not_chosen_by(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = finished(tmp_path).rows
    of_test = replace(rows, split="test")
    assert "flatters" not in shown(monkeypatch, finished(tmp_path, rows=of_test))
    assert "flatters" not in shown(monkeypatch, finished(tmp_path, evaluations=1))


def test_a_loss_beyond_all_bounds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = finished(tmp_path)
    scores = {**run.scores, ADAPTER: system(float("nan"), 1.0, "")}
    text = shown(monkeypatch, finished(tmp_path, scores=scores))
    assert "The loss is not a finite number" in words(text)
    assert cells(text, "after  ")[0] == "nan"
    assert "after      (empty)" in text
