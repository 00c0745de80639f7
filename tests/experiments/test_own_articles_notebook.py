"""The notebook for one's own articles: executed whole, with a tiny chat model and its own invented articles."""

from __future__ import annotations

import json
import os
from pathlib import Path

import notebooks
import pytest
from small_runs import REPOSITORY
from trained_runs import save_base
from transformers import AutoTokenizer

NOTEBOOK = REPOSITORY / "experiments" / "own_articles" / "own_articles.ipynb"
SETTINGS = """
ARTICLES = "articles.csv"
MODEL = {model!r}
MAX_TOKENS = 160
EPOCHS = 1
SUMMARY_TOKENS = 6
MORE = ["data.rows.train=8", "trainer.precision=fp32", "evaluation.bootstrap_samples=50"]
SOURCE = ""
"""
CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_no_outputs_are_stored() -> None:
    assert not notebooks.stored_outputs(notebooks.read(NOTEBOOK))


def test_the_test_replaces_every_setting_and_no_other() -> None:
    found = notebooks.names(notebooks.settings_of(notebooks.read(NOTEBOOK)).source)
    assert found == notebooks.names(SETTINGS)
    assert len(found) == 7


@pytest.mark.slow
@pytest.mark.timeout(900)  # five commands, each of which imports torch anew
def test_every_cell_with_a_tiny_chat_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    model = save_base("llama_tied", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(model)
    folder = tmp_path / "own"
    folder.mkdir()
    said = notebooks.execute(NOTEBOOK, SETTINGS.format(model=str(model)), folder, monkeypatch)
    (preview,) = (text for source, text in said.items() if "preview=1" in source)
    assert "prompt: chat" in preview
    assert "example 1 of 1" in preview
    runs = [folder / "outputs/sweep" / str(number) / "summary.json" for number in range(4)]
    assert [json.loads(run.read_text())["status"] for run in runs] == ["completed"] * 4
    (shown,) = (text for source, text in said.items() if "<iframe" in source)
    assert "adapter.dim" in shown
    assert {path.name for path in (folder / "for-llama-cpp").iterdir()} >= {
        "adapter.gguf",
        "base.gguf",
        "README.md",
    }
    assert set(os.listdir(folder)) == {
        "outputs",
        "articles.csv",
        "article.txt",
        "compare.html",
        "for-llama-cpp",
    }
