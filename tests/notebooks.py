"""Notebooks of the studies: read, given other settings, and executed whole."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

CELL_S = 240
"""Seconds that one cell may take."""


def read(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def settings_of(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The one cell that is tagged so."""
    (cell,) = (cell for cell in notebook.cells if "settings" in cell.metadata.get("tags", ()))
    return cell


def names(source: str) -> set[str]:
    """What a cell of settings sets."""
    return {line.split(" = ")[0] for line in source.splitlines() if " = " in line}


def stored_outputs(notebook: nbformat.NotebookNode) -> list[str]:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell.source for cell in code if cell.outputs or cell.execution_count is not None]


def execute(path: Path, settings: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What each cell of code printed and showed, by its source, when run with these settings in that folder."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("IPYTHONDIR", str(folder.parent / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(folder.parent / "jupyter"))
    notebook = read(path)
    settings_of(notebook).source = settings
    NotebookClient(notebook, timeout=CELL_S, resources={"metadata": {"path": str(folder)}}).execute()
    return {
        cell.source: "".join(
            output.get("text", "") + "".join(output.get("data", {}).get("text/html", ""))
            for output in cell.outputs
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
