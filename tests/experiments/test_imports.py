"""What the studies import of the package is there: they run rarely, and a name that moved would show late."""

from __future__ import annotations

import ast
import importlib
from importlib.util import find_spec
from pathlib import Path

import pytest
from small_runs import REPOSITORY

STUDIES = sorted((REPOSITORY / "experiments").rglob("*.py"))


def imported(path: Path) -> set[tuple[str, str]]:
    """(module, name) of each `from summarizer... import name`, inside functions too."""
    return {
        (node.module, alias.name)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "summarizer"
        for alias in node.names
    }


def test_there_are_studies() -> None:
    assert len(STUDIES) > 40
    assert len(set().union(*map(imported, STUDIES))) > 100


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: "/".join(path.parts[-2:]))
def test_a_study_imports_what_is_there(path: Path) -> None:
    for module, name in imported(path):
        if find_spec("triton") is None and "kernels" in name:
            continue  # the kernels themselves are written in it
        assert hasattr(importlib.import_module(module), name) or find_spec(f"{module}.{name}"), (module, name)
