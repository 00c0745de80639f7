"""The run over transformers' architectures: some of them whole, and what it makes of those that are wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import REPOSITORY, measure_of

sys.path.insert(0, str(REPOSITORY / "experiments" / "conformance"))

import conformance
from conformance import FAILS, REFUSED, WORKS, WRONG
from tiny_configs import OVERRIDES, model_types, tiny_config

pytestmark = pytest.mark.versions
measure = measure_of(REPOSITORY / "experiments" / "conformance")

SAMPLE = ("mixtral", "mamba", "diffllama", "bart", "gemma2")
SLOW_SAMPLE = ("git", "falcon", "qwen2_moe", "gpt_neo", "recurrent_gemma", "bloom", "xglm", "phi3", "phimoe")


@pytest.mark.parametrize(
    "model_type", [*SAMPLE, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW_SAMPLE)]
)
def test_an_architecture_gives_here_what_it_gives_in_transformers(model_type: str, tmp_path: Path) -> None:
    report = conformance.conformance(model_type, tmp_path)
    assert (report.outcome, report.why) == (WORKS, "")
    assert report.adapted > 2
    assert len(report.checks) >= 9


def test_experts_are_left_and_said(tmp_path: Path) -> None:
    report = conformance.conformance("mixtral", tmp_path)
    assert any("experts" in name for name in report.left)
    assert any(
        "experts.gate_up_proj" in line and "neither quantized nor adapted" in line for line in report.lines
    )


def test_a_loss_that_is_another_s_is_called_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = conformance.own_losses
    monkeypatch.setattr(conformance, "own_losses", lambda *given: own(*given) + 0.01)
    report = conformance.conformance("gpt2", tmp_path)
    assert report.outcome == WRONG
    assert report.checks["loss"].startswith("differs by 0.01")
    assert report.checks["text"] == ""


def test_a_model_that_sees_later_tokens_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OVERRIDES, "bert", {"is_decoder": False})
    report = conformance.conformance("bert", tmp_path)
    assert report.outcome == REFUSED
    assert "it sees tokens that come later" in report.why


def test_a_process_that_does_not_end_or_dies_is_a_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "conformance", lambda *_: __import__("time").sleep(60))
    assert "not done within" in measure.in_a_process("gpt2", 0.5).why
    monkeypatch.setattr(measure, "conformance", lambda *_: __import__("os")._exit(3))
    report = measure.in_a_process("gpt2", 60)
    assert (report.outcome, report.why) == (FAILS, "its process ended with 3")


def test_what_has_a_line_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = []

    def in_a_process(model_type: str, limit_s: float) -> conformance.Report:
        tried.append(model_type)
        return conformance.Report(model_type, "A", WORKS, batches="packed")

    monkeypatch.setattr(measure, "in_a_process", in_a_process)
    out = tmp_path / "lines.jsonl"

    def run(*more: str) -> list[str]:
        tried.clear()
        monkeypatch.setattr(sys, "argv", ["measure.py", "--out", str(out), *more])
        measure.main()
        return list(tried)

    assert run("--only", "gpt2,llama") == ["gpt2", "llama"]
    assert run("--only", "gpt2,llama,opt") == ["opt"]
    assert run("--only", "gpt2", "--again") == ["gpt2"]
    parts = [set(run("--shard", f"{part}/3")) for part in (1, 2, 3)]
    assert set().union(*parts) == set(model_types()) - {"gpt2", "llama", "opt"}
    assert len(measure.read(out)) == len(model_types()) > 150


def line(model_type: str, **more: Any) -> dict[str, Any]:
    known = {"architecture": "A", "outcome": WORKS, "why": "", "batches": "packed", "adapted": 3, "left": []}
    return {"model_type": model_type, **known, "checks": {}, "lines": [], "seconds": 1.0, **more}


def test_the_table_counts_and_names_each(tmp_path: Path) -> None:
    lines = {
        "a": line("a"),
        "b": line("b", batches="padded", left=["x.experts.w"]),
        "c": line("c", outcome=WRONG, why="loss: differs by 1"),
        "d": line("d", outcome=REFUSED, why="ConfigError: model.name_or_path: no | never"),
    }
    text = measure.table(lines)
    assert "| works | 2 |" in text
    assert "| wrong | 1 |" in text
    assert "50 %" in text
    assert "no \\| never" in text
    assert "`x.experts.w`" in text


def test_every_tiny_config_is_tiny() -> None:
    config = tiny_config("llama")
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (96, 32, 2)
    assert json.dumps(config.to_dict())
    assert torch.get_default_dtype() == torch.float32
