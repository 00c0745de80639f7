"""The notebook for a free GPU: executed whole, with the embedded model in GPT-J's place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import notebooks
import pytest
from small_runs import REPOSITORY

NOTEBOOK = REPOSITORY / "experiments" / "gptj_cnn_dailymail" / "colab.ipynb"
TINY_SETTINGS = """
CONFIG = ["data=sample", "trainer.precision=fp32", "evaluation.bootstrap_samples=50"]
ROWS = 8
HELD_OUT = 4
MAX_TOKENS = 160
SUMMARY_TOKENS = 6
EPOCHS = 1
WANDB = False
SOURCE = ""
"""


def test_no_outputs_are_stored() -> None:
    assert not notebooks.stored_outputs(notebooks.read(NOTEBOOK))


def test_the_test_replaces_every_setting_and_no_other() -> None:
    found = notebooks.names(notebooks.settings_of(notebooks.read(NOTEBOOK)).source)
    assert found == notebooks.names(TINY_SETTINGS)
    assert len(found) == 8


@pytest.mark.slow
@pytest.mark.timeout(900)  # six commands, each of which imports torch anew
def test_every_cell_with_the_embedded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "colab"
    folder.mkdir()
    said = notebooks.execute(NOTEBOOK, TINY_SETTINGS, folder, monkeypatch)
    (plan,) = (text for source, text in said.items() if "plan=true" in source)
    assert "frozen weights, norms and tables" in plan
    assert json.loads((folder / "outputs/dim2/summary.json").read_text())["status"] == "completed"
    assert (folder / "outputs/dim2/adapter/adapter_model.safetensors").is_file()
    assert (folder / "loss.png").stat().st_size > 10_000
    runs = [folder / "outputs/sweep" / str(number) / "summary.json" for number in range(4)]
    assert [json.loads(run.read_text())["status"] for run in runs] == ["completed"] * 4
    (shown,) = (text for source, text in said.items() if "<iframe" in source)
    assert "adapter.dim" in shown
    assert set(os.listdir(folder)) == {"outputs", "article.txt", "loss.png", "compare.html"}
