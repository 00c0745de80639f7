"""`python -m summarizer.compare` from end to end, on small runs of the embedded model and on broken ones."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from small_runs import REPOSITORY, TINY, run_here

from summarizer.compare import command
from summarizer.config.paths import conf_folder
from summarizer.runs.record import RunRecord, read_summary

Ended = tuple[int, str, str]
Compare = Callable[..., Ended]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two rates, two steps each, with the base scored too."""
    sweep = tmp_path_factory.mktemp("compared") / "sweep"
    overrides = [override for override in TINY if not override.startswith("evaluation.rows")]
    run_here(
        [
            "-m",
            *overrides,
            "evaluation.base=true",
            "evaluation.rows_during_training=0",
            "trainer.max_steps=2",
            "optimizer.lr=1e-4,3e-2",
            f"hydra.sweep.dir={sweep}",
        ]
    )
    return sweep


@pytest.fixture
def sweep(trained: Path, tmp_path: Path) -> Path:
    """The sweep, in a place of the test's own."""
    return shutil.copytree(trained, tmp_path / "sweep")


@pytest.fixture
def compare(capsys: pytest.CaptureFixture[str]) -> Compare:
    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        code = command([*map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def found_rouge(summary: RunRecord) -> float:
    assert summary.rouge is not None
    return summary.rouge["rougeLsum"].value


@pytest.mark.slow
def test_a_trained_sweep_is_compared(sweep: Path, compare: Compare, tmp_path: Path) -> None:
    code, out, err = compare(sweep, "--json", tmp_path / "found.json", "--html", tmp_path / "page.html")
    assert code == 0, err
    summaries = {number: read_summary(sweep / number) for number in ("0", "1")}
    losses = {number: summary.val_loss or 0.0 for number, summary in summaries.items()}
    best = min(losses, key=losses.__getitem__)
    found = json.loads((tmp_path / "found.json").read_text())
    (rows,) = found["row_sets"]
    assert (rows["split"], rows["rows"]) == ("validation", 4)
    assert [run["source"] for run in rows["runs"]] == [
        str(sweep / number) for number in sorted(losses, key=losses.__getitem__)
    ]
    for run in rows["runs"]:
        summary = summaries[run["source"][-1]]
        assert summary.rouge is not None
        assert run["scores"]["rouge"]["rouge2"] == asdict(summary.rouge["rouge2"])
        assert len(run["predictions"]) == len(run["base_predictions"]) == 4
        assert f"  {run['command']}\n" in out
    other = next(run for run in rows["runs"] if run["name"] != rows["best"])
    gap = [found_rouge(summaries[number]) for number in (best, other["source"][-1])]
    assert other["best_minus_this"]["rougeLsum"]["mean"]["value"] == pytest.approx(gap[0] - gap[1])
    assert rows["rows_shown"][0]["article"], "the sample's articles lie in the package"
    assert found["swept"] == ["optimizer.lr"]
    assert {run["name"] for run in rows["runs"]} == {"lr=0.0001", "lr=0.03"}
    assert "base model" in out
    assert "Lead-3" in out
    assert "share their time and memory" in out
    assert other["command"] in (tmp_path / "page.html").read_text()


def test_the_command_that_is_shown_composes_the_config_that_was_run(sweep: Path, compare: Compare) -> None:
    _, out, _ = compare(sweep / "1")
    (line,) = [line for line in out.splitlines() if line.startswith("  python -m summarizer.run")]
    with initialize_config_dir(str(conf_folder()), version_base=None):
        composed = compose("config", shlex.split(line)[3:])
    kept = OmegaConf.load(sweep / "1" / ".hydra" / "config.yaml")
    assert OmegaConf.to_container(composed, resolve=True) == OmegaConf.to_container(kept, resolve=True)


def test_the_command_of_a_run_whose_embedding_had_no_format_of_its_own(sweep: Path, compare: Compare) -> None:
    old = shutil.copytree(sweep / "1", sweep.parent / "old")
    kept = OmegaConf.load(old / ".hydra" / "config.yaml")
    del kept.quantization["embedding_format"]
    kept.quantization.format = "nf4"
    OmegaConf.save(kept, old / ".hydra" / "config.yaml")
    _, out, _ = compare(old)
    (line,) = [line for line in out.splitlines() if line.startswith("  python -m summarizer.run")]
    assert line.endswith(" quantization.embedding_format=null")
    _, out, _ = compare(sweep / "1")
    assert "embedding_format" not in out


def test_what_cannot_be_read_is_named_and_the_rest_compared(sweep: Path, compare: Compare) -> None:
    broken = shutil.copytree(sweep / "0", sweep.parent / "broken")
    (broken / "summary.json").write_text('{"status": "comp')
    empty = sweep.parent / "empty"
    empty.mkdir()
    code, out, err = compare(sweep, broken, empty, "nowhere")
    assert code == 1
    assert "lr=0.03" in out
    for words in (
        f"{broken}: summary.json: Invalid JSON",
        f"{empty}: holds no run",
        "nowhere: no such folder",
    ):
        assert f"Could not be read: {words}" in out
    assert "3 things could not be read" in err


def test_nothing_to_read_is_a_mistake(compare: Compare, tmp_path: Path) -> None:
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    (tmp_path / "run" / ".hydra" / "config.yaml").write_text("seed: 0\n")
    code, out, err = compare(tmp_path / "run", "nowhere")
    assert (code, out) == (2, "")
    assert "2 mistakes:" in err
    assert "never began to train" in err
    assert "nowhere: no such folder" in err


def test_commands_that_were_refused_are_counted_and_no_problem(
    sweep: Path, compare: Compare, tmp_path: Path
) -> None:
    for number in range(5):
        refused = tmp_path / "refused" / str(number)
        (refused / ".hydra").mkdir(parents=True)
        (refused / ".hydra" / "config.yaml").write_text("seed: 0\n")
        (refused / "run.log").touch()
    code, out, err = compare(sweep, tmp_path / "refused")
    assert code == 0, err
    assert "Note: 5 folders in which no run began were left out.\n" in out
    code, _, err = compare(tmp_path / "refused")
    assert code == 2
    assert "there is no run to compare: in 5 folders none began to train" in err
    (tmp_path / "refused" / "3" / "run.log").write_text("Traceback\n")
    code, out, _ = compare(sweep, tmp_path / "refused")
    assert code == 1
    assert "Note: 4 folders" in out
    assert f"{tmp_path / 'refused' / '3'}: it never began to train" in out


@pytest.mark.parametrize("left", ["empty metrics", "no summary", "no predictions"])
def test_a_run_that_says_little_is_compared(sweep: Path, compare: Compare, left: str) -> None:
    run = sweep / "0"
    if left == "no predictions":
        shutil.rmtree(run / "predictions")
    else:
        (run / "summary.json").unlink()
    if left == "empty metrics":
        (run / "metrics.jsonl").write_text("")
    code, out, err = compare(sweep)
    assert code == 0, err
    assert ("running" in out) == (left != "no predictions")
    assert "lr=0.0001" in out
    assert "paired over" not in out


def test_mistaken_flags_cost_no_reading(sweep: Path, compare: Compare, tmp_path: Path) -> None:
    code, out, err = compare(sweep, "--by", "rougLsum", "--html", tmp_path, "--json", sweep / "sweep.json")
    assert (code, out) == (2, "")
    assert "--by: 'rougLsum' is not one of val/loss, rouge1, rouge2, rougeL, rougeLsum" in err
    assert f"--html: {tmp_path} is a folder" in err
    assert compare(sweep, "--html", tmp_path / "no" / "page.html")[:2] == (2, "")
    assert not (tmp_path / "no").exists()
    assert "is there already and is no comparison" in err
    assert "runs" in json.loads((sweep / "sweep.json").read_text())


def test_an_earlier_comparison_is_replaced_in_one_step(
    sweep: Path, compare: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "found.json"
    assert compare(sweep, "--json", file)[0] == 0
    before = file.read_text()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = compare(sweep, "--json", file, "--by", "rouge1")
    assert code == 1
    assert "No space left" in err
    assert file.read_text() == before
    monkeypatch.undo()
    assert compare(sweep, "--json", file, "--by", "rouge1")[0] == 0
    assert json.loads(file.read_text())["ranked_by"] == "rouge1"


def test_nothing_in_a_config_is_run(sweep: Path, compare: Compare, tmp_path: Path) -> None:
    config = sweep / "0" / ".hydra" / "config.yaml"
    text = config.read_text()
    planted = "_target_: os.system\n  command: touch " + str(tmp_path / "planted")
    config.write_text(text.replace("_target_: summarizer.adapters.lora.LoRA", planted))
    code, out, _ = compare(sweep)
    assert code == 0
    assert not (tmp_path / "planted").exists()
    config.write_text(text.replace("seed: 0", "seed: ${oc.env:HOME}"))
    code, out, _ = compare(sweep)
    assert code == 1
    assert os.environ["HOME"] + "\n" not in out
    assert "is not resolved in a run folder" in out


def test_a_reader_that_leaves_is_no_crash(sweep: Path) -> None:
    left = subprocess.run(
        f"{sys.executable} -m summarizer.compare {sweep} --json {sweep}/found.json | true",
        shell=True,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in left.stderr
    assert (sweep / "found.json").is_file(), "written before the table, which nobody read"
