"""`python -m summarizer.export` from a run's folder to what plain peft, transformers and CTranslate2 load."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from trained_runs import example, exported, logits, opened, save_run, summary_of, written_by_the_card
from transformers import AutoModelForCausalLM

from summarizer import atomic
from summarizer.errors import ConfigError
from summarizer.exporting.ctranslate2 import log_probs_of_converted
from summarizer.exporting.measure import log_probs_of

pytestmark = pytest.mark.versions

KINDS = ["gptj", "llama_tied", "gpt2"]
with_ctranslate2 = pytest.mark.skipif(
    importlib.util.find_spec("ctranslate2") is None, reason="ctranslate2 is not installed"
)


@pytest.mark.parametrize("kind", KINDS)
def test_merged(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = save_run(kind, tmp_path, "quantization.format=int8")
    folder, lines = exported(run, "merged", dtype="fp32")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    assert model.dtype == torch.float32
    torch.testing.assert_close(logits(model), logits(opened(run).adapted.model), rtol=1e-3, atol=2e-4)
    assert lines[0] == "weights: trained (the nearer to the unmerged model)"
    assert re.match(r"KL from the unmerged model: \S+ nats per summary token; original \S+$", lines[1])
    assert written_by_the_card(folder, capsys) == summary_of(run)
    assert lines[1] in ModelCard.load(folder / "README.md").text
    shutil.rmtree(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_peft(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = save_run(kind, tmp_path)
    folder, lines = exported(run, "peft")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, folder).eval()
    torch.testing.assert_close(logits(model), logits(opened(run).adapted.model), rtol=1e-3, atol=2e-4)
    assert sum(line.startswith(f"exported: {folder}") for line in lines) == 1
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"
    assert str(tmp_path) not in "".join(file.read_text() for file in folder.glob("*.[jm]*"))
    (folder / "base").symlink_to(tmp_path / "base")
    assert written_by_the_card(folder, capsys) == summary_of(run)


def test_peft_with_its_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the adapter was trained on goes along, so that the answers are those of training."""
    run = save_run("gpt2", tmp_path, "quantization.format=nf4")
    folder, lines = exported(run, "peft", with_base=True, dtype="fp32")
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, folder).eval()
    torch.testing.assert_close(logits(model), logits(opened(run).adapted.model), rtol=1e-3, atol=2e-4)
    assert "as the adapter was trained on it (nf4), dequantized" in lines[0]
    assert written_by_the_card(folder, capsys) == summary_of(run)


def test_peft_says_what_its_base_is(tmp_path: Path) -> None:
    run = save_run("gptj", tmp_path, "quantization.format=int8")
    folder, lines = exported(run, "peft")
    assert lines[0].startswith("The adapter was trained beside weights in int8")
    assert lines[0] in (folder / "README.md").read_text()


@with_ctranslate2
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("gptj", marks=pytest.mark.slow),
        "llama_tied",
        pytest.param("gpt2", marks=pytest.mark.slow),
    ],
)
def test_ctranslate2(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = save_run(kind, tmp_path, "quantization.format=int8")
    folder, lines = exported(run, "ctranslate2", dtype="fp32")
    ours = opened(run)
    own = log_probs_of(ours.adapted.model, ours.adapted.device)(example())
    theirs = log_probs_of_converted(folder)(example())
    torch.testing.assert_close(theirs, own, rtol=1e-3, atol=1e-3)
    assert re.match(r"as CTranslate2 computes it, in fp32 on a CPU: KL \S+ nats", lines[-3])
    assert not list((run / "export").glob(atomic.SCRATCH_PREFIX + "*"))
    assert written_by_the_card(folder, capsys) == summary_of(run)


@pytest.mark.slow
@with_ctranslate2
def test_ctranslate2_in_int8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = save_run("gptj", tmp_path)
    folder, lines = exported(run, "ctranslate2")
    ours = opened(run)
    own = log_probs_of(ours.adapted.model, ours.adapted.device)(example())
    theirs = log_probs_of_converted(folder)(example())
    error = float((own.exp() * (own - theirs)).sum(dim=1).mean())
    assert 1e-5 < error < 0.5
    assert "in int8 it rounds merged weights and activations" in lines[-3]
    (run / "export").rename(tmp_path / "first")
    monkeypatch.setattr("summarizer.exporting.ctranslate2.MOST_CONVERSION_KL", 1e-7)
    with pytest.raises(ConfigError, match="answers something else"):
        exported(run, "ctranslate2")
    assert not list((run / "export").iterdir())


@with_ctranslate2
def test_a_model_that_ctranslate2_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = save_run("olmo2", tmp_path, targets=["linear"])
    monkeypatch.setattr("summarizer.exporting.steps.load_runs", lambda *_, **__: pytest.fail("too late"))
    with pytest.raises(
        ConfigError, match="No conversion is registered for the model configuration Olmo2Config"
    ):
        exported(run, "ctranslate2")


# ---- the command ---------------------------------------------------------------------------------------------


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "summarizer.export", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    save_run("gptj", tmp_path, "quantization.format=int8")
    done = command("run", "--format", "merged", "--output", "out", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0)
    assert done.stdout.splitlines()[0].startswith("weights: trained")
    assert "exported: out (merged, " in done.stdout
    again = command("run", "--format", "merged", "--output", "out", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith("1 mistake:\n  --output: out is not empty")
    assert "torch" not in command("--help", cwd=tmp_path).stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["run", "--format", "merge"],
            "--format: 'merge' is not one of peft, merged, ctranslate2, gguf, gguf-lora; did you mean 'merged'?",
        ),
        (["nowhere", "--format", "peft"], "RUN: "),
    ],
)
def test_mistakes(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from summarizer.export import command as in_process

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert in_process(arguments) == 2
    heard = capsys.readouterr()
    assert heard.out == ""
    assert said in heard.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--fromat", "merged"], "unknown flag --fromat; did you mean --format?"),
        ([], "RUN: is required"),
    ],
)
def test_misuse(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    from summarizer.export import command as in_process

    assert in_process(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_base_that_has_moved(tmp_path: Path) -> None:
    run = save_run("gptj", tmp_path)
    before = logits(opened(run).adapted.model)
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match="--model says where the base lies now"):
        exported(run, "merged")
    folder, _ = exported(run, "merged", model=str(tmp_path / "moved"), dtype="fp32")
    torch.testing.assert_close(
        logits(AutoModelForCausalLM.from_pretrained(folder)), before, rtol=1e-3, atol=2e-4
    )


@pytest.mark.parametrize("format_name", ["peft", "merged"])
def test_a_full_disk_leaves_nothing(
    format_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = save_run("gptj", tmp_path)

    def full(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    for user in ("folders",):
        monkeypatch.setattr(f"summarizer.exporting.{user}.write_tensors", full)
    with pytest.raises(OSError, match="No space left"):
        exported(run, format_name)
    assert not list((run / "export").iterdir())


def test_what_came_to_the_output_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = save_run("gptj", tmp_path)
    from summarizer.exporting import peft as module

    def arriving(*arguments: Any, **more: Any) -> None:
        (run / "export" / "peft").mkdir(parents=True)
        (run / "export" / "peft" / "theirs").touch()

    monkeypatch.setattr(module, "write_card", arriving)
    with pytest.raises(ConfigError, match="is not empty"):
        exported(run, "peft")
    assert [path.name for path in (run / "export").rglob("*")] == ["peft", "theirs"]


def test_adapters_that_are_none_are_refused(tmp_path: Path) -> None:
    run = save_run("gptj", tmp_path)
    weights = run / "adapter" / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(ConfigError, match=r"adapter_model\.safetensors is damaged.*saves it anew"):
        exported(run, "peft")
    (run / "adapter" / "digests.json").unlink()  # it comes from elsewhere
    with pytest.raises(ConfigError, match="missing or truncated"):
        exported(run, "peft")
    weights.rename(weights.with_name("adapter_model.bin"))  # a pickle is never looked for
    with pytest.raises(ConfigError, match="missing or truncated"):
        exported(run, "peft")
    weights.write_bytes(whole)
    config = run / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}))
    with pytest.raises(ConfigError, match="use_dora=True"):
        exported(run, "peft")
    shutil.rmtree(run / "adapter")
    with pytest.raises(ConfigError, match="never trained to an end"):
        exported(run, "merged")


def test_control_tokens_end_a_summary_there_too(tmp_path: Path) -> None:
    """A run's own end token is the exported tokenizer's, so that decoding drops it and generation stops there."""
    run = save_run("gptj", tmp_path, "prompt.end_token=<|extratoken_2|>")
    folder, _ = exported(run, "merged")
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token == "<|extratoken_2|>"
    assert GenerationConfig.from_pretrained(folder).eos_token_id == tokenizer.eos_token_id == 8177
    assert tokenizer.decode([500, 8177], skip_special_tokens=True) == tokenizer.decode([500])


def test_beams_and_sampling_go_along(tmp_path: Path) -> None:
    from transformers import GenerationConfig

    run = save_run(
        "gptj",
        tmp_path,
        "generation.num_beams=3",
        "generation.length_penalty=2.0",
        "generation.min_new_tokens=2",
    )
    folder, _ = exported(run, "peft")
    own = GenerationConfig.from_pretrained(folder)
    assert (own.num_beams, own.length_penalty, own.min_new_tokens, own.max_new_tokens) == (3, 2.0, 2, 8)
