"""The notebook for a free GPU: executed whole, with the embedded model in GPT-J's place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
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


def read() -> nbformat.NotebookNode:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    return notebook


def settings_of(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    (cell,) = (cell for cell in notebook.cells if "settings" in cell.metadata.get("tags", ()))
    return cell


def test_no_outputs_are_stored() -> None:
    code = [cell for cell in read().cells if cell.cell_type == "code"]
    assert len(code) >= 10
    assert not [cell.source for cell in code if cell.outputs or cell.execution_count is not None]


def test_the_test_replaces_every_setting_and_no_other() -> None:
    def names(source: str) -> set[str]:
        return {line.split(" = ")[0] for line in source.splitlines() if " = " in line}

    assert names(settings_of(read()).source) == names(TINY_SETTINGS)


@pytest.mark.slow
@pytest.mark.timeout(900)  # six commands, each of which imports torch anew
def test_every_cell_with_the_embedded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    folder = tmp_path / "colab"
    folder.mkdir()
    notebook = read()
    settings_of(notebook).source = TINY_SETTINGS
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(folder)}}).execute()

    said = {
        cell.source: "".join(
            output.get("text", "") + "".join(output.get("data", {}).get("text/html", ""))
            for output in cell.outputs
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
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
