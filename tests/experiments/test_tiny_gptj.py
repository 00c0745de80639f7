"""The study that pre-trains the package's model: its text, tokenizer and loop, and its short command."""

from __future__ import annotations

import json
import lzma
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import REPOSITORY

# Its files import each other by name, as the command does.
sys.path.insert(0, str(REPOSITORY / "experiments" / "tiny_gptj"))

import pretraining
from bpe import train_tokenizer
from prose import Tokens, cut, fingerprint, hold_out, read_documents, tokenize, unigram_loss
from recipe import Recipe, TextPart, TokenizerPart, read_recipe

from summarizer.config.paths import PACKAGE
from summarizer.errors import ConfigError
from summarizer.models.stored_base import read_base

STUDY = REPOSITORY / "experiments" / "tiny_gptj"
PROSE = (
    "The harbour at Ellmouth opened on Monday after a winter of repairs. Boats came in before dawn.\n\n"
    "“It is good to be back,” said one skipper; naïve hopes of an early spring had cost him £900.\n"
) * 40
SHORT = read_recipe(STUDY / "short.yaml")


# ---- text --------------------------------------------------------------------------------------------------------


def test_documents_are_the_text_cut_where_paragraphs_end() -> None:
    parts = list(cut(PROSE, 500))
    assert "".join(parts) == PROSE
    assert all(250 < len(part) <= 500 for part in parts[:-1])
    assert all(part.endswith("\n\n") for part in parts[:-1])
    assert list(cut("x" * 11, 5)) == ["xxxxx", "xxxxx", "x"]
    assert list(cut("", 5)) == []


def test_documents_come_from_all_kinds_of_files_in_an_order_of_the_seed(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("two", encoding="utf-8")
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress("één".encode()))
    (tmp_path / "README.md").write_text("not text")
    for number in range(8):
        (tmp_path / f"{number}.txt").write_text(str(number))
    found = read_documents(tmp_path, 100, 0)
    assert sorted(found) == sorted([*"01234567", "two", "één"])
    assert found == read_documents(tmp_path, 100, 0) != read_documents(tmp_path, 100, 1)
    assert fingerprint(found) != fingerprint(found[::-1])
    with pytest.raises(ConfigError, match="holds no"):
        read_documents(STUDY, 100, 0)
    (tmp_path / "a.txt.xz").write_bytes(b"no xz")
    with pytest.raises(ConfigError, match=r"a\.txt\.xz cannot be read"):
        read_documents(tmp_path, 100, 0)


def test_the_last_tokens_are_held_out() -> None:
    tokens = np.arange(1000, dtype=np.uint16)
    found = hold_out(tokens, TextPart(document_characters=10, held_out_tokens=300), 100)
    assert found.training.tolist() == list(range(700))
    assert found.held_out.tolist() == list(range(700, 1000))
    with pytest.raises(ConfigError, match="too few"):
        hold_out(tokens, TextPart(document_characters=10, held_out_tokens=900), 100)


def test_the_loss_by_frequencies_alone() -> None:
    """Counts 3, 1, 0 become 4, 2, 1 of 7."""
    tokens = Tokens(np.array([0, 0, 0, 1], dtype=np.uint16), np.array([0, 2], dtype=np.uint16))
    assert unigram_loss(tokens, 3) == pytest.approx((math.log(7 / 4) + math.log(7)) / 2)


# ---- tokenizer ---------------------------------------------------------------------------------------------------


def test_the_tokenizer_gives_every_text_back_and_is_the_same_again() -> None:
    part = TokenizerPart(entries=300, spare=4)
    documents = list(cut(PROSE, 500))
    tokenizer = train_tokenizer(documents, part, 64)
    assert len(tokenizer) == part.size == 304
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id) == (0, 0, 0)
    assert tokenizer.convert_tokens_to_ids(["<|extratoken_1|>", "<|extratoken_4|>"]) == [300, 303]
    for text in (PROSE, "  日本語 \t\n🙂 <|endoftext", ""):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    again = train_tokenizer(documents, part, 64)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    encoded = tokenize(documents[:2], tokenizer)
    assert encoded.tolist() == [*tokenizer(documents[0]).input_ids, 0, *tokenizer(documents[1]).input_ids, 0]
    with pytest.raises(ConfigError, match="gives only"):
        train_tokenizer(["too little"], part, 64)


# ---- recipe, loop ------------------------------------------------------------------------------------------------


def test_the_recipe_makes_a_model_of_the_shipped_one_s_shape() -> None:
    recipe = read_recipe(STUDY / "recipe.yaml")
    with torch.device("meta"):
        model = pretraining.build_model(recipe)
    assert sum(parameter.numel() for parameter in model.parameters()) == 12_637_952
    shipped = json.loads((PACKAGE / "models/embedded/tiny_gptj/config.json").read_text())
    made = model.config.to_dict()
    same = ("n_embd", "n_layer", "n_head", "rotary_dim", "n_positions", "vocab_size", "activation_function")
    assert {key: made[key] for key in same} == {key: shipped[key] for key in same}
    assert (model.config.resid_pdrop, model.config.embd_pdrop, model.config.attn_pdrop) == (0.2, 0.2, 0.0)


def test_mistakes_of_a_recipe_come_together(tmp_path: Path) -> None:
    text = (STUDY / "short.yaml").read_text()
    path = tmp_path / "recipe.yaml"
    path.write_text(
        text.replace("heads: 2", "heads: 0").replace("lr: 5.0e-3", "lr: -1").replace("seed", "sede")
    )
    with pytest.raises(ConfigError) as caught:
        read_recipe(path)
    said = str(caught.value)
    assert all(part in said for part in ("model.heads", "training.lr", "sede"))
    path.write_text(text.replace("heads: 2", "heads: 3"))
    with pytest.raises(ConfigError, match="not a multiple"):
        read_recipe(path)


def test_a_pass_sees_every_window_once_and_a_later_start_the_same() -> None:
    training = SHORT.training.model_copy(update={"steps": 12, "batch": 3, "context": 10})
    tokens = np.arange(102, dtype=np.uint16)  # nine windows, and a first token of 0 to 9
    found = list(pretraining.batches(tokens, training, 0, 0))
    assert len(found) == 12
    for of_pass in range(4):
        windows = torch.cat(found[3 * of_pass : 3 * of_pass + 3])
        starts = sorted(windows[:, 0].tolist())
        assert np.diff(starts).tolist() == [10] * 8
        assert torch.equal(windows, windows[:, :1] + torch.arange(11))
    assert [b[0, 0].item() for b in found[:3]] != [b[0, 0].item() for b in found[3:6]]
    for batch, later in zip(found[5:], pretraining.batches(tokens, training, 0, 5), strict=True):
        assert torch.equal(batch, later)


def test_the_rate_warms_up_and_falls_by_a_cosine() -> None:
    training = SHORT.training.model_copy(
        update={"lr": 1.0, "warmup_steps": 4, "steps": 12, "final_fraction": 0.2}
    )
    rates = [pretraining.learning_rate(training, step) for step in range(12)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[7] == pytest.approx(0.6)  # half way
    assert rates[11] == pytest.approx(0.2)


def test_the_held_out_loss_is_transformers_own() -> None:
    model = pretraining.build_model(SHORT).eval()
    tokens = np.random.default_rng(0).integers(0, 512, size=100).astype(np.uint16)
    loss, count = pretraining.held_out_loss(model, tokens, 32, 2, torch.device("cpu"))
    assert count == 96
    windows = torch.from_numpy(np.stack([tokens[i : i + 33] for i in (0, 32, 64)]).astype(np.int64))
    with torch.no_grad():
        expected = [float(model(input_ids=w[None], labels=w[None]).loss) for w in windows]
    assert loss == pytest.approx(sum(expected) / 3, rel=1e-5)


def tiny() -> Recipe:
    return SHORT.model_copy(
        update={
            "model": SHORT.model.model_copy(update={"layers": 1, "width": 16, "rotary": 4, "dropout": 0.3}),
            "training": SHORT.training.model_copy(
                update={
                    "steps": 6,
                    "batch": 2,
                    "context": 16,
                    "evaluate_every_steps": 3,
                    "checkpoint_every_steps": 2,
                }
            ),
        }
    )


def test_it_goes_on_to_the_very_same_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With dropout. Stopped behind a checkpoint, so that a step is taken twice."""
    text = np.random.default_rng(0).integers(0, 512, size=600).astype(np.uint16)
    tokens, device = Tokens(text[:500], text[500:]), torch.device("cpu")
    whole, expected = pretraining.pretrain(tiny(), tokens, tmp_path / "whole", device, "a")
    real, taken = pretraining._step, 0

    def stopping(*arguments: object) -> float:
        nonlocal taken
        taken += 1
        if taken == 4:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pretraining, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        pretraining.pretrain(tiny(), tokens, tmp_path / "cut", device, "a")
    monkeypatch.setattr(pretraining, "_step", real)
    with pytest.raises(ConfigError, match="another recipe or text"):
        pretraining.pretrain(tiny(), tokens, tmp_path / "cut", device, "b")
    model, course = pretraining.pretrain(tiny(), tokens, tmp_path / "cut", device, "a")
    assert course.train_losses == expected.train_losses
    assert course.held_out_losses == expected.held_out_losses
    for ours, theirs in zip(model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


# ---- the command -------------------------------------------------------------------------------------------------


def short(out: Path) -> list[str]:
    return [sys.executable, str(STUDY / "train.py"), "--short", "--device=cpu", f"--out={out}"]


@pytest.mark.slow
def test_the_short_command_learns_and_survives_a_kill(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    once = subprocess.run(
        short(tmp_path / "once"), capture_output=True, text=True, timeout=280, env=environment
    )
    assert once.returncode == 0, once.stderr
    results = json.loads((tmp_path / "once" / "results.json").read_text())
    assert results["held_out_loss"] < results["unigram_loss"] - 0.5
    assert results["unigram_loss"] < math.log(512)
    assert len(results["train_losses"]) == SHORT.training.steps
    assert len(results["samples"]) == 3
    assert (tmp_path / "once" / "curve.png").read_bytes().startswith(b"\x89PNG")

    killed = subprocess.Popen(
        short(tmp_path / "twice"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    course = tmp_path / "twice" / "checkpoint" / "course.json"
    until_s = time.monotonic() + 200
    while not course.exists() and killed.poll() is None and time.monotonic() < until_s:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert json.loads(course.read_text())["step"] < SHORT.training.steps
    again = subprocess.run(
        short(tmp_path / "twice"), capture_output=True, text=True, timeout=280, env=environment
    )
    assert again.returncode == 0, again.stderr
    resumed = json.loads((tmp_path / "twice" / "results.json").read_text())
    for same in ("train_losses", "held_out_losses", "held_out_loss", "text_sha256", "samples"):
        assert resumed[same] == results[same], same
    first, second = (dict(read_base(tmp_path / name / "embedded")) for name in ("once", "twice"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_mistakes_of_the_command_are_messages(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, STUDY / "train.py", tmp_path / "nowhere", f"--out={tmp_path}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 2
    assert "no folder at" in ended.stderr
    assert "Traceback" not in ended.stderr
