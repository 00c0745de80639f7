"""`python -m summarizer.run` from end to end, in this process: what a run folder holds, and how a command ends."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_runs import SHARED, TINY

from summarizer.errors import RunsFailed
from summarizer.evaluation.predictions import read_predictions
from summarizer.run import command
from summarizer.runs import launch
from summarizer.runs.record import read_summary
from summarizer.tracking import wandb_run
from summarizer.tracking.metrics import read_metrics

pytestmark = pytest.mark.versions


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["run", *arguments])
    return command(arguments)


def test_a_run_leaves_what_the_contract_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    code = run(
        monkeypatch,
        *TINY,
        "adapter.dim=3",
        "trainer.epochs=1",
        "optimizer.lr=1e-3",
        f"hydra.run.dir={folder}",
    )
    assert code == 0

    summary = read_summary(folder)
    raw = json.loads((folder / "summary.json").read_text())
    assert [key for key, value in raw.items() if value is None] == ["error"]
    assert (summary.status, summary.ended_by, summary.steps, summary.epochs) == (
        "completed",
        "epochs",
        4,
        1.0,
    )
    assert summary.trainable_parameters == 154_752  # 3/2 of the 103,168 at dim 2
    assert "adapter.dim=3" in summary.overrides
    assert (summary.split, summary.rows, summary.quantization) == ("validation", 4, "int8")
    assert summary.rouge is not None
    assert summary.baseline is not None
    assert summary.systems == {
        "rouge": "the adapter of this run on embedded:tiny_gptj in int8",
        "baseline": "Lead-3: the first three sentences of each article, without any model",
        "base": "the untrained base model: embedded:tiny_gptj in int8, without an adapter",
    }
    assert (
        summary.baseline["rouge1"].value > summary.rouge["rouge1"].value
    )  # four rows in, nothing beats Lead-3

    metrics = read_metrics(folder / "metrics.jsonl")
    trained = [row for row in metrics if "train/loss" in row]
    assert [row["step"] for row in trained] == [1, 2, 3, 4]
    assert {
        "epoch",
        "tokens",
        "train/lr",
        "train/grad_norm",
        "train/tokens_per_s",
        "train/memory_bytes",
    } <= trained[0].keys()
    assert [row["step"] for row in metrics if "val/rouge1" in row] == [0, 4]
    assert trained[-1]["tokens"] == summary.tokens

    for name in ("validation.jsonl", "validation.base.jsonl"):
        assert len(read_predictions(folder / "predictions" / name)) == 4
    assert (folder / "adapter" / "tokenizer.json").is_file()
    assert not [path for path in folder.rglob("*") if "wandb" in path.name], "tracking is off here"
    assert sorted(path.name for path in (folder / ".hydra").iterdir()) == [
        "config.yaml",
        "hydra.yaml",
        "overrides.yaml",
    ]
    logged = (folder / "run.log").read_text()
    assert "adapted: 38 layers" in logged
    for step in ("step 0, the base model", "step 4"):
        assert re.search(rf"{step}: val/loss \d\.\d+, val/rouge1 \(2 rows\) ", logged), "ROUGE is of few rows"


@pytest.mark.slow
def test_the_saved_adapter_scores_what_the_summary_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained with a high rate, so that the best step is not the last; then loaded again by start_from."""
    first, second = tmp_path / "first", tmp_path / "second"
    small = (
        *TINY,
        "trainer.evaluate_every_steps=1",
        "optimizer.lr=3e-2",
        "evaluation.rows_during_training=0",
    )
    assert run(monkeypatch, *small, "trainer.max_steps=6", f"hydra.run.dir={first}") == 0
    summary = read_summary(first)
    losses = {
        row["step"]: row["val/loss"] for row in read_metrics(first / "metrics.jsonl") if "val/loss" in row
    }
    best = min((step for step in losses if step), key=losses.__getitem__)
    assert summary.best_step == best
    assert summary.val_loss == pytest.approx(losses[best], rel=1e-5)

    more = (*small, "trainer.max_steps=1", f"adapter.start_from={first}/adapter", "optimizer.lr=1e-12")
    assert run(monkeypatch, *more, f"hydra.run.dir={second}") == 0
    assert read_summary(second).val_loss == pytest.approx(losses[best], rel=1e-4)


def test_mistakes_are_one_message_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [
        "+adapter.dmi=4",
        "adapter.dim=eight",
        "optimizer.lr=-1",
        "data=files",
        "data.train=/nowhere/x.jsonl",
    ]
    assert run(monkeypatch, *arguments) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert lines[0] == "4 mistakes:"
    by_key = {line.split(":")[0].strip(): line for line in lines[1:]}
    assert by_key.keys() == {"adapter.dmi", "adapter.dim", "optimizer.lr", "data.train"}
    assert "did you mean 'dim'?" in by_key["adapter.dmi"]
    assert list(tmp_path.rglob("*.*")) == []  # no config, no log: the folder that Hydra made is gone


def test_a_mistake_that_only_the_model_shows_costs_no_training_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    code = run(monkeypatch, *TINY, 'prompt.completion_token="<|extratoken_99|>"', f"hydra.run.dir={folder}")
    assert code == 2
    assert "prompt.completion_token" in capfd.readouterr().err
    assert not folder.exists()


def test_mistakes_in_the_rows_are_found_before_wandb_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever may be wrong with them: a key twice, an id twice. wandb would have had a run that failed."""
    rows = [json.dumps({"id": str(i), "article": f"A {i} b c.", "highlights": "a"}) for i in range(4)]
    monkeypatch.setattr(wandb_run, "open_tracker", lambda *_, **__: pytest.fail("wandb was begun"))
    for name, bad in (("key", rows[0][:-1] + ', "article": "twice"}'), ("id", rows[0])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join([*rows[1:], rows[0], bad]))
        data = (
            "data=files",
            f"data.train={tmp_path}/{name}.jsonl",
            f"data.validation={tmp_path}/{name}.jsonl",
        )
        more = (
            "data.columns.id=id",
            "tracking=wandb",
            "tracking.mode=offline",
            f"hydra.run.dir={tmp_path}/run",
        )
        assert run(monkeypatch, *TINY, *data, *more) == 2
        said = capfd.readouterr().err
        assert ("more than once" if name == "key" else "an earlier row has this id") in said
        assert "base model: " not in said
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("code", "kept"), [(2, False), (1, True)])
def test_a_mistake_that_other_processes_said_leaves_nothing(
    code: int, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*_: object) -> None:
        raise RunsFailed("", code)

    monkeypatch.setattr(launch, "prepare_training", lambda *_: ended)
    assert run(monkeypatch, *TINY, "trainer.processes=2", f"hydra.run.dir={tmp_path}/run") == code
    assert (tmp_path / "run").exists() is kept


def test_an_adapter_that_does_not_fit_is_refused_before_the_base_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 2, "lora_alpha": 2}'
    )
    save_file({"x.lora_A.weight": torch.ones(2, 8)}, tmp_path / "adapter" / "adapter_model.safetensors")
    start = (f"adapter.start_from={tmp_path / 'adapter'}", f"hydra.run.dir={tmp_path}/run")
    assert run(monkeypatch, *TINY, *start, "adapter.dim=3") == 2
    said = capfd.readouterr().err
    assert "has dim 2, adapter.dim is 3" in said
    assert "base model: " not in said
    assert run(monkeypatch, *TINY, *start, "adapter.dim=2") == 2
    assert "adapts x, which this base has no layer for" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("key", "value"), [("exclude", "'*.nothing'"), ("targets", "head")])
def test_a_target_that_matches_nothing_is_known_before_rows_and_weights_are_read(
    key: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    everything = ("adapter.exclude=[lm_head]",) if key == "targets" else ()
    code = run(monkeypatch, *TINY, f"adapter.{key}=[{value}]", *everything, f"hydra.run.dir={folder}")
    assert code == 2
    said = capfd.readouterr().err
    assert f"adapter.{key}: " in said
    assert " rows;" not in said
    assert "base model: " not in said
    assert not folder.exists()


def test_a_run_that_diverges_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    code = run(monkeypatch, *TINY, "optimizer.lr=1e30", "evaluation.base=false", f"hydra.run.dir={folder}")
    assert code == 1
    assert "at step 2 on rows" in capfd.readouterr().err
    summary = read_summary(folder)
    assert summary.status == "failed"
    assert summary.error is not None
    assert "NonFiniteLossError" in summary.error


def test_a_folder_that_holds_a_run_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    assert run(monkeypatch, *TINY, f"hydra.run.dir={tmp_path}") == 2
    assert "resume=" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.skipif(
    not SHARED.is_dir(), reason="needs ../shared, which lies beside the project's own checkout"
)
def test_real_rows_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = SHARED / "cnn_dailymail"
    folder = tmp_path / "run"
    data = ("data=files", f"data.train={rows}/train.jsonl.gz", f"data.validation={rows}/validation.jsonl.gz")
    small = ("trainer.max_steps=2", "evaluation.base=false", "prompt.max_tokens=256", "evaluation.rows=2")
    assert run(monkeypatch, *TINY, *data, *small, f"hydra.run.dir={folder}") == 0
    assert read_summary(folder).rows == 2


@pytest.mark.parametrize("quantization", ["blockwise8", "nf4", "none"])
def test_every_format_trains(quantization: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    small = (
        "trainer.max_steps=2",
        "evaluation.base=false",
        "evaluation.rows_during_training=0",
        "evaluation.rows=1",
    )
    assert run(monkeypatch, *TINY, *small, f"quantization={quantization}", f"hydra.run.dir={folder}") == 0
    summary = read_summary(folder)
    assert summary.quantization == ("nf4+int8" if quantization == "nf4" else quantization)
    assert summary.train_loss is not None
    assert summary.train_loss.first is not None
    assert 3 < summary.train_loss.first < 7


@pytest.mark.slow
def test_bf16_gives_the_losses_of_fp32_to_its_own_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = (
        "trainer.max_steps=2",
        "evaluation.base=false",
        "evaluation.rows_during_training=0",
        "evaluation.rows=1",
    )
    losses = {}
    for precision in ("fp32", "bf16"):
        folder = tmp_path / precision
        arguments = (*TINY, *small, f"trainer.precision={precision}", f"hydra.run.dir={folder}")
        assert run(monkeypatch, *arguments) == 0
        losses[precision] = [
            row["train/loss"] for row in read_metrics(folder / "metrics.jsonl") if "train/loss" in row
        ]
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=2e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_on_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    assert (
        run(monkeypatch, *TINY, "trainer.device=cuda", "trainer.precision=bf16", f"hydra.run.dir={folder}")
        == 0
    )
    assert read_summary(folder).status == "completed"


def test_an_offline_wandb_run_lies_beside_and_holds_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {"WANDB_API_KEY": "k" * 20 + "0123456789abcdef0123", "HF_TOKEN": "hf_" + "s" * 34}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "run"
    small = (*TINY, "tracking=wandb", "trainer.max_steps=2", "evaluation.base=false", "evaluation.rows=1")
    assert run(monkeypatch, *small, f"hydra.run.dir={folder}") == 0
    (record,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    content = record.read_bytes()
    for word in (b"train/loss", b"val/rouge1", b"train/grad_norm", b"samples"):
        assert word in content
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        for name, value in secrets.items():
            assert value.encode() not in path.read_bytes(), f"{name} in {path}"
