"""`python -m summarizer.evaluate` from end to end, on a small run of the embedded model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import KILLED_WITHIN_A_LINE, REPOSITORY, TRAINED_ROWS
from terminal import run_in_terminal

from summarizer.config.paths import PACKAGE
from summarizer.evaluate import command
from summarizer.evaluation import mlperf, resumable
from summarizer.evaluation.predictions import read_predictions
from summarizer.evaluation.record import Evaluation, read_evaluation
from summarizer.generation.summarizer import Prepared, Summarizer
from summarizer.generation.summary_file import Summary, SummaryFile
from summarizer.runs.record import read_summary

SAMPLE = PACKAGE / "data" / "sample"


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """The run, in a place of the test's own: its evaluations lie inside it."""
    return shutil.copytree(trained_run, tmp_path / "sweep" / "0")


@pytest.fixture
def other(trained_run: Path, tmp_path: Path) -> Path:
    """A run with an adapter of zeros: the base itself, under another name."""
    folder = shutil.copytree(trained_run, tmp_path / "sweep" / "1")
    file = folder / "adapter" / "adapter_model.safetensors"
    save_file({name: 0 * tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    (file.parent / "digests.json").unlink()
    return folder


Ended = tuple[int, str, str]
Evaluate = Callable[..., Ended]


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str]) -> Evaluate:
    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        code = command([*map(str, arguments), "--precision", "fp32"])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def scores(run: Path, name: str = "scores", split: str = "validation") -> Evaluation:
    return read_evaluation(run / "evaluations" / split / f"{name}.json")


def lines(path: Path) -> list[tuple[str, str, str]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["id"], row["prediction"], row["reference"]) for row in rows]


def own(run: Path, name: str) -> list[tuple[str, str, str]]:
    return [
        (row.id, row.prediction, row.reference)
        for row in read_predictions(run / "predictions" / f"{name}.jsonl")
    ]


def test_a_runs_scores_are_those_that_it_gave_itself(run: Path, evaluate: Evaluate) -> None:
    code, printed, said = evaluate(run)
    assert code == 0, said
    folder = run / "evaluations" / "validation"
    assert lines(folder / "predictions.jsonl") == own(run, "validation")
    assert lines(folder / "predictions.base.jsonl") == own(run, "validation.base")
    assert own(run, "validation") != own(run, "validation.base"), "or nothing tells the adapter from the base"
    found, summary = scores(run), read_summary(run)
    adapter, base, lead, random = found.systems
    assert [system.name for system in found.systems] == ["adapter", "base model", "Lead-3", "Random-3"]
    assert summary.base is not None
    assert (adapter.rouge, base.rouge, lead.rouge) == (summary.rouge, summary.base.rouge, summary.baseline)
    assert adapter.loss == pytest.approx(summary.val_loss, rel=1e-5)
    assert base.loss == pytest.approx(summary.base.val_loss, rel=1e-5)
    assert (lead.loss, random.loss) == (None, None)
    assert (found.rows.split, found.rows.count) == ("validation", TRAINED_ROWS)
    assert {difference.second for difference in found.differences} == {"base model", "Lead-3"}
    for part in (
        "rougeLsum",
        "MLPerf's ROUGE-L, not a paper's",
        "base model",
        "coverage",
        "hardly a difference can be significant",
    ):
        assert part in printed
    assert "--rows all lifts it" in printed
    assert adapter.cut_articles
    assert (
        f"{adapter.cut_articles} of 4 articles were cut at their end to fit prompt.max_tokens=160" in printed
    )
    assert "# Scores\n\n## embedded:sample" in (folder / "scores.md").read_text()
    assert "default tokenizer" not in said


def test_a_second_call_only_scores_again(run: Path, evaluate: Evaluate) -> None:
    code, first, said = evaluate(run, "--batch-size", 3)
    assert (code, "base model:" in said) == (0, True)
    before = scores(run)
    code, second, said = evaluate(run)
    assert (code, "base model:" in said) == (0, False), "no model is loaded for it"
    assert (first, before) == (second, scores(run))
    code, _, said = evaluate(run, "--rows", TRAINED_ROWS + 2, "--no-loss")
    assert (code, "going on, 4 of them are there already" in said) == (0, True)
    assert scores(run).rows.count == TRAINED_ROWS + 2
    assert scores(run).systems[0].loss is None
    assert lines(run / "evaluations/validation/predictions.jsonl")[:TRAINED_ROWS] == own(run, "validation")


def test_runs_stand_side_by_side(run: Path, other: Path, evaluate: Evaluate) -> None:
    code, printed, said = evaluate(run, other)
    assert code == 0, said
    assert lines(run / "evaluations/validation/predictions.jsonl") == own(run, "validation")
    assert lines(other / "evaluations/validation/predictions.jsonl") == own(run, "validation.base")
    found = scores(run, "comparison")
    names = [system.name for system in found.systems]
    assert names == ["sweep/0", "sweep/1", "base model", "Lead-3", "Random-3"]
    assert found.systems[1].rouge == found.systems[2].rouge
    assert found.systems[1].loss == pytest.approx(found.systems[2].loss, rel=1e-6)
    assert found.systems[0].loss == pytest.approx(read_summary(run).val_loss, rel=1e-5)
    (best,) = {difference.first for difference in found.differences}
    assert {difference.second for difference in found.differences} == {*names[:4]} - {best}
    assert f"{best}, the best run by rougeLsum, was chosen on these very rows" in " ".join(printed.split())
    assert not (run / "evaluations/validation/scores.json").exists(), "each run's own scores are left alone"


def test_runs_of_like_names_keep_their_summaries_apart(
    trained_run: Path, evaluate: Evaluate, tmp_path: Path
) -> None:
    runs = [shutil.copytree(trained_run, tmp_path / "x" / name) for name in ("a-b/c", "a/b-c")]
    code, _, said = evaluate(*runs, "--no-base", "--no-loss", "-o", tmp_path / "out")
    assert code == 0, said
    found = read_evaluation(tmp_path / "out" / "comparison.json").systems[:2]
    assert [system.name for system in found] == ["x/a-b/c", "x/a/b-c"]
    for system in found:
        assert lines(tmp_path / "out" / system.name / "predictions.jsonl") == own(trained_run, "validation")


def test_rows_of_ones_own_are_scored_in_a_folder_of_their_name(
    run: Path, evaluate: Evaluate, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (SAMPLE / "test.jsonl").read_text().splitlines()[:3]]
    path = tmp_path / "my news.jsonl"
    path.write_text(
        "".join(json.dumps({"body": r["article"], "abstract": r["highlights"]}) + "\n" for r in rows)
    )
    flags = ("--data", path, "--column", "body", "--summary-column", "abstract", "--no-base", "--no-loss")
    code, printed, said = evaluate(run, *flags)
    assert code == 0, said
    found = scores(run, split="my-news")
    assert [system.name for system in found.systems] == ["adapter", "Lead-3", "Random-3"]
    assert (found.rows.count, found.rows.data, found.rows.split) == (3, str(path), "my-news")
    assert [row[0] for row in lines(run / "evaluations/my-news/predictions.jsonl")] == ["0", "1", "2"]
    code, printed, said = evaluate(run, *flags, "--rows", 9, "-o", tmp_path / "out")
    assert code == 0, said
    assert "9 rows were asked for, but there are only 3" in printed
    assert read_evaluation(tmp_path / "out" / "scores.json").rows.count == 3
    kept = lines(tmp_path / "out" / "predictions.jsonl")
    assert kept == lines(run / "evaluations/my-news/predictions.jsonl")


def test_another_reference_column_scores_the_same_summaries_anew(
    run: Path, evaluate: Evaluate, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (SAMPLE / "test.jsonl").read_text().splitlines()[:3]]
    path = tmp_path / "news.jsonl"
    path.write_text("".join(json.dumps(r | {"title": f"Title {r['id']}."}) + "\n" for r in rows))
    assert evaluate(run, "--data", path, "--no-base")[0] == 0
    first, kept = scores(run, split="news"), lines(run / "evaluations/news/predictions.jsonl")
    code, _, said = evaluate(run, "--data", path, "--summary-column", "title", "--no-base")
    assert code == 0, said
    second = scores(run, split="news")
    assert second.systems[1].rouge != first.systems[1].rouge, "of Lead-3"
    assert second.systems[0].loss != first.systems[0].loss
    now = lines(run / "evaluations/news/predictions.jsonl")
    assert now == [(id, text, f"Title {id}.") for id, text, _ in kept], (
        "what is scored lies beside the scores"
    )


def test_a_file_called_as_a_split_is_not_the_splits(run: Path, evaluate: Evaluate, tmp_path: Path) -> None:
    assert evaluate(run, "--no-base", "--no-loss")[0] == 0
    before = (run / "evaluations/validation/scores.json").read_bytes()
    theirs = tmp_path / "validation.jsonl"
    theirs.write_text((SAMPLE / "test.jsonl").read_text().splitlines()[0] + "\n")
    code, _, said = evaluate(run, "--data", theirs, "--no-base", "--no-loss")
    assert code == 0, said
    assert scores(run, split="validation-file").rows.count == 1
    assert (run / "evaluations/validation/scores.json").read_bytes() == before


def test_a_base_too_short_for_mlperfs_task_is_refused(run: Path, evaluate: Evaluate) -> None:
    code, _, said = evaluate(run, "--protocol", "mlperf-gptj", "--data", SAMPLE / "validation.jsonl")
    assert code == 2
    assert "mlperf-gptj takes 2,047 tokens; embedded:tiny_gptj has 1,024 positions" in said


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "most_tokens", "beams"), [("mlperf", None, 1), ("mlperf-gptj", 150, 4)])
def test_mlperfs_tasks_have_their_own_prompts_and_verdicts(
    protocol: Literal["mlperf", "mlperf-gptj"],
    most_tokens: int | None,
    beams: int,
    run: Path,
    evaluate: Evaluate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = ("--protocol", protocol, "--data", SAMPLE / "validation.jsonl", "--rows", 1)
    task = replace(mlperf.TASKS[protocol], max_prompt_tokens=most_tokens)  # this base has few positions
    monkeypatch.setattr(mlperf, "TASKS", {**mlperf.TASKS, protocol: task})
    read: list[tuple[int, ...]] = []
    real = Summarizer.summaries

    def watched(
        self: Summarizer, articles: Sequence[Prepared], **more: Any
    ) -> Iterator[tuple[int, list[str]]]:
        assert self.generation == task.generation_of(self.generation)
        assert self.generation.num_beams == beams
        read.extend(article.prompt_ids for article in articles)
        return real(self, articles, **more)

    monkeypatch.setattr(Summarizer, "summaries", watched)
    code, printed, said = evaluate(run, *flags, "--no-base")
    assert code == 0, said
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(PACKAGE / "models" / "embedded" / "tiny_gptj")
    articles = [
        json.loads(line)["article"] for line in (SAMPLE / "validation.jsonl").read_text().splitlines()
    ]
    assert [list(ids) for ids in read] == [
        tokenizer(task.prompt(article)).input_ids[: most_tokens or 1024 - 128] for article in articles[:1]
    ]
    found = read_evaluation(run / "evaluations" / f"validation-{protocol}" / "scores.json")
    assert (found.protocol, found.systems[0].loss) == (protocol, None)
    judged = found.systems[0].mlperf
    assert judged is not None
    assert judged.refusal == "not the whole split (1 of 13,368 rows): no verdict"
    flat = " ".join(printed.split())
    for part in (
        "no verdict",
        "taken on trust",
        "sentences cut by",
        "this base is embedded:tiny_gptj",
        f"{task.reference['rouge1']}",
    ):
        assert part in flat


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--split", "tset"),
            ["--split: 'tset' is not one of test, validation, train; did you mean 'test'?"],
        ),
        (
            ("--protocol", "mlpref"),
            ["--protocol: 'mlpref' is not one of own, mlperf, mlperf-gptj; did you mean 'mlperf'?"],
        ),
        (
            ("--rows", "x", "--batch-size", "0", "--beams", "-1", "--max-bad-rows", "few"),
            [
                "--rows: 'x' is",
                "--batch-size: 0 is",
                "--beams: -1 is",
                "--max-bad-rows: 'few' is",
                "4 mistakes",
            ],
        ),
        (("--column", "body"), ["--column: names a column of --data FILE, which is not given"]),
        (("--data", "nowhere.jsonl"), ["--data: no such file: nowhere.jsonl"]),
        (("--data", "{empty}"), ["--data: ", "empty.jsonl is empty"]),
        (
            ("--data", str(SAMPLE / "test.jsonl"), "--column", "artikel"),
            ["--column: no column 'artikel'", "'article'"],
        ),
        (("--max-new-tokens", "159"), ["--max-new-tokens: 159 leaves no room for an article"]),
        (("--protocol", "mlperf", "--beams", "2"), ["--beams: has no place beside --protocol mlperf"]),
        (
            ("--protocol", "mlperf", "--split", "test"),
            ["--split: --protocol mlperf is over cnn_dailymail's valid"],
        ),
        (
            ("--bertscore-layer", "3"),
            ["--bertscore-layer: is a layer of --bertscore FOLDER, which is not given"],
        ),
        (("--nli", "x"), ["--nli: no model in x"]),
        (("--protocol", "mlperf", "--article-gain"), ["--article-gain: is by the run's own prompt"]),
        (("--bertscore", "x", "--bertscore-layer", "3"), ["--bertscore: no encoder in x"]),
        (("-o", "{empty}"), ["--output: ", "is a file; name a folder"]),
        (("-o", "{empty}/below/it"), ["--output: ", "empty.jsonl is a file; name a folder"]),
        pytest.param(
            ("--device", "cuda", "--bertscore-layer", "3", "--data", "nowhere.jsonl"),
            ["2 mistakes", "--device: cuda, but", "--bertscore-layer: is a layer"],
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        (("{run}",), ["is named twice"]),
        (("nowhere",), ["nowhere: no such folder"]),
        (("--model", "/nowhere"), ["no folder at '/nowhere'"]),
    ],
)
def test_mistakes_are_said_and_end_in_2(
    arguments: tuple[str, ...], said: list[str], run: Path, evaluate: Evaluate, tmp_path: Path
) -> None:
    (tmp_path / "empty.jsonl").touch()
    typed = [word.format(empty=tmp_path / "empty.jsonl", run=run) for word in arguments]
    code, printed, errors = evaluate(run, *typed)
    assert (code, printed) == (2, ""), errors
    for part in said:
        assert part in errors
    assert "Traceback" not in errors
    assert not (run / "evaluations").exists()


def edited(run: Path, *changes: tuple[str, str]) -> None:
    config = run / ".hydra" / "config.yaml"
    text = config.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    config.write_text(text)


def test_rows_that_are_gone_are_told_with_a_way_out(run: Path, evaluate: Evaluate) -> None:
    edited(run, ("embedded:sample/validation.jsonl", "/gone/validation.jsonl"))
    code, _, said = evaluate(run)
    assert code == 2
    assert "data.validation: no such file: /gone/validation.jsonl" in said
    assert "--data FILE names other rows to score on" in said


def test_runs_that_do_not_compare_are_refused(run: Path, other: Path, evaluate: Evaluate) -> None:
    edited(other, ("validation: 4", "validation: 3"))
    code, _, said = evaluate(run, other)
    assert code == 2
    assert "have other validation rows (data.rows.validation differ)" in said
    edited(other, ("max_new_tokens: 6", "max_new_tokens: 7"))
    code, _, said = evaluate(run, other, "--rows", 2)
    assert code == 2
    assert "write differently: --max-new-tokens was 6, now it is 7; say one for both by the flag" in said
    edited(other, ("max_tokens: 160", "max_tokens: 150"))
    code, _, said = evaluate(run, other)
    assert code == 2
    assert "differs from" in said
    assert "in prompt; take them one by one" in said


def test_summaries_made_otherwise_are_not_gone_on_with(run: Path, evaluate: Evaluate) -> None:
    assert evaluate(run, "--no-base", "--no-loss")[0] == 0
    before = (run / "evaluations/validation/predictions.jsonl").read_bytes()
    code, _, said = evaluate(run, "--max-new-tokens", 3)
    assert code == 2
    assert "--max-new-tokens was 6, now it is 3; name another folder by --output" in said
    assert (run / "evaluations/validation/predictions.jsonl").read_bytes() == before


def test_a_link_in_the_place_of_a_folder_leads_nothing_elsewhere(
    run: Path, evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "home"
    for folder in (elsewhere, elsewhere / "validation"):
        folder.mkdir()
    write = resumable.write_missing

    def lead_elsewhere(*given: Any) -> None:
        (run / "evaluations").rename(run / "moved")
        (run / "evaluations").symlink_to(elsewhere)
        write(*given)

    monkeypatch.setattr(resumable, "write_missing", lead_elsewhere)
    code, out, err = evaluate(run)
    assert code == 0, err
    assert [*elsewhere.rglob("*")] == [elsewhere / "validation"]
    assert {path.name for path in (run / "moved" / "validation").iterdir()} == {
        *("predictions.jsonl", "predictions.jsonl.settings.json", "predictions.loss.json"),
        *("predictions.base.jsonl", "predictions.base.jsonl.settings.json", "predictions.base.loss.json"),
        *("scores.json", "scores.md"),
    }
    assert "/proc" not in out + err
    assert "/proc" not in (run / "moved" / "validation" / "scores.json").read_text()


@pytest.mark.slow
def test_messages_name_a_file_of_an_evaluation_as_it_lies(
    run: Path, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluate(run)[0] == 0
    folder = run / "evaluations" / "validation"
    monkeypatch.chdir(run)
    shutil.copy(folder / "predictions.base.jsonl", folder / "kept")
    (folder / "predictions.base.jsonl").write_text("{}\n")
    code, _, err = evaluate(run)
    assert (code, "evaluations/validation/predictions.base.jsonl exists but cannot" in err) == (2, True)
    shutil.move(folder / "kept", folder / "predictions.base.jsonl")
    (folder / "predictions.loss.json").write_text("{}")
    code, _, err = evaluate(run)
    assert (code, "evaluations/validation/predictions.loss.json: loss" in err) == (2, True)
    shutil.rmtree(folder)
    folder.write_text("")
    code, _, err = evaluate(run)
    assert code != 0
    assert "evaluations/validation" in err
    assert "Traceback" not in err
    assert "/proc" not in err


@pytest.mark.slow
def test_a_stopped_evaluation_says_how_to_go_on(
    run: Path, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, stops = SummaryFile.append, iter([None, signal.SIGINT, None, None, signal.SIGTERM])

    def a_signal_now_and_then(self: SummaryFile, summary: Summary) -> None:
        real(self, summary)
        if (stop := next(stops, None)) is not None:
            os.kill(os.getpid(), stop)

    monkeypatch.setattr(SummaryFile, "append", a_signal_now_and_then)
    for done, code in ((2, 130), (5, 143)):
        ended, _, said = evaluate(run)
        assert ended == code
        assert f"Stopped: {done} of 8 summaries are in " in said
        assert said.endswith("evaluations/validation; the same command resumes from there.\n")
    assert evaluate(run)[0] == 0
    assert scores(run).systems[0].rouge == read_summary(run).rouge


@pytest.mark.slow
def test_a_killed_process_costs_its_last_line_alone(run: Path, evaluate: Evaluate, tmp_path: Path) -> None:
    arguments = [str(run), "--precision", "fp32"]
    script = KILLED_WITHIN_A_LINE.format(call=6, arguments=arguments, command="evaluate")
    killed = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = (run / "evaluations/validation/predictions.base.jsonl").read_bytes()
    assert (left.count(b"\n"), left.endswith(b"\n")) == (1, False)
    assert evaluate(run)[0] == 0
    assert evaluate(run, "-o", tmp_path / "whole")[0] == 0
    for name in ("predictions.jsonl", "predictions.base.jsonl"):
        whole = (tmp_path / "whole" / name).read_bytes()
        assert (run / "evaluations/validation" / name).read_bytes() == whole
    paths = {"predictions": None}
    continued, uninterrupted = (
        [system.model_copy(update=paths) for system in found.systems]
        for found in (scores(run), read_evaluation(tmp_path / "whole" / "scores.json"))
    )
    assert continued == uninterrupted


@pytest.mark.slow
def test_at_a_terminal_it_shows_progress_and_a_table_that_fits(run: Path) -> None:
    arguments = [str(run), "--precision", "fp32"]
    script = f"import sys\nfrom summarizer.evaluate import command\nsys.exit(command({arguments!r}))"
    screen, code = run_in_terminal(script, width=80, height=50)
    shown = "\n".join(line.rstrip() for line in screen.lines)
    assert code == 0, shown
    for part in ("summaries of the base ━", "loss ━", "scoring ━", "4/4", "tokens/s"):
        assert part in shown
    assert not screen.cursor_hidden
    table = next(line for line in screen.lines if line.startswith("system"))
    assert table.split() == ["system", "loss", "rouge1", "rouge2", "rougeL", "rougeLsum"]


def test_misuse_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["run", "--spilt", "test"], "unknown flag --spilt; did you mean --split?"),
        ([], "RUN: is required"),
    ):
        assert command(arguments) == 2
        assert said in capsys.readouterr().err
