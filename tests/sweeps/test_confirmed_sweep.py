"""Which rows choose and which confirm; and a sweep that is killed while it confirms, by the public command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from composing import composed
from small_runs import TINY

from summarizer.data.hold_out import article_hash, is_confirming
from summarizer.data.prompt import build_prompt
from summarizer.data.splits import build_split
from summarizer.models.source import model_folder
from summarizer.models.tokenizer import load_tokenizer
from summarizer.runs.heldout import choosing, confirming_rows, confirms_on, held_out
from summarizer.runs.preflight import preflight
from summarizer.sweeps.confirmation import read_confirmation
from summarizer.tracking.metrics import read_metrics

KILLED_AT_THE_END = """
import os, signal
import summarizer.sweeps.confirm as confirm

confirm.write_confirmation = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from summarizer.run import main
main()
"""


def test_rows_that_choose_confirm_nothing() -> None:
    spec = preflight(composed("data.test=null"))
    prompt = build_prompt(spec.prompt, load_tokenizer(model_folder(spec.model)))
    validation = held_out(build_split(spec.data, "validation", prompt), "auto")
    chooses = choosing(spec, validation, of_sweep=True)
    confirms = confirming_rows(spec, prompt, of_sweep=True)
    assert confirms is not None
    sides = [{row.id for row in side.rows} for side in (chooses, confirms)]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == {row.id for row in validation.rows}
    assert all(map(is_confirming, confirms.articles))
    assert not any(map(is_confirming, chooses.articles))
    assert choosing(spec, validation, of_sweep=False) is validation, "a run alone holds nothing out unasked"


def test_which_split_confirms() -> None:
    whole = preflight(composed())
    assert confirms_on(whole, of_sweep=True) == "test"
    assert confirms_on(preflight(composed("data.test=null")), of_sweep=True) == "validation"
    assert confirms_on(preflight(composed("data.test=null")), of_sweep=False) is None
    assert (
        confirms_on(preflight(composed("evaluation.confirm_split=validation")), of_sweep=False)
        == "validation"
    )
    assert confirms_on(preflight(composed("evaluation.confirm_split=null")), of_sweep=True) is None


def test_the_half_that_confirms_is_no_part_of_the_smallest_hashes() -> None:
    """Rows that data.validation=0.1 holds out are those of the smallest hashes: they are halved like any others."""
    articles = [f"article {i}" for i in range(4000)]
    held = [article for article in articles if article_hash(article) < 0.1 * 2**64]
    assert 300 < len(held) < 500
    share = sum(map(is_confirming, held)) / len(held)
    assert 0.4 < share < 0.6
    assert is_confirming("a  b\nc") == is_confirming("a b c")


@pytest.mark.slow
def test_a_sweep_killed_while_it_confirms_is_confirmed_once_when_resumed(tmp_path: Path) -> None:
    grid = [
        *(
            "-m",
            *TINY,
            "data.test=null",
            "data.rows.validation=12",
            "trainer.max_steps=3",
            "evaluation.rows=1",
        ),
        *(
            "evaluation.base=false",
            "evaluation.rows_during_training=0",
            "adapter.dim=2,8",
            "hydra.sweep.dir=sweep",
        ),
    ]
    killed = subprocess.run([sys.executable, "-c", KILLED_AT_THE_END, *grid], cwd=tmp_path, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert read_confirmation(tmp_path / "sweep") is None
    resume = [sys.executable, "-m", "summarizer.run", "resume=sweep"]
    first = subprocess.run(resume, cwd=tmp_path, check=True, capture_output=True, text=True)
    found = read_confirmation(tmp_path / "sweep")
    assert found is not None
    assert "base model:" not in first.stderr, "what had been measured is not measured again"
    assert found.split == "validation"
    again = subprocess.run(resume, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "confirming:" not in again.stderr
    assert read_confirmation(tmp_path / "sweep") == found
    for setting in found.settings:
        (run,) = setting.runs
        rows = read_metrics(tmp_path / "sweep" / run / "metrics.jsonl")
        recorded = [row["val/loss"] for row in rows if row.get("val/loss") is not None]
        files = (tmp_path / "sweep" / run / "evaluations" / "confirming").glob("*.loss.json")
        kept = [json.loads(file.read_text()) for file in files]
        # The rows that ranked it, measured again, have the loss that it was ranked by.
        (chose,) = [one for one in kept if len(one["tokens"]) != found.rows]
        assert chose["loss"] == pytest.approx(recorded[-1], abs=1e-6)
        assert found.rows + len(chose["tokens"]) == 12
