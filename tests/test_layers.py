"""Imports point downwards, through the layers of this file, which are read off the syntax tree of every module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from summarizer.config.paths import PACKAGE

LAYERS: tuple[tuple[str, ...], ...] = (
    ("__init__", "compat", "errors", "atomic", "digests", "files", "json_files", "yaml_files"),
    ("console",),
    ("config",),
    ("heartbeat", "processes"),
    ("data",),
    ("ops",),
    ("quantization",),
    ("models",),
    ("adapters",),
    ("generation",),
    ("evaluation",),
    ("tracking",),
    ("training",),
    ("runs", "sweeps", "reports"),
    ("exporting",),
    ("serving",),
    ("run", "summarize", "evaluate", "export", "serve", "compare", "sweep"),
    ("__main__",),
)
"""Lowest first. A module may import its own layer (never in a circle) and those below it."""

RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}


def name_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def modules(root: Path) -> dict[str, Path]:
    return {name_of(path, root): path for path in sorted(root.rglob("*.py"))}


def imports(path: Path, root: Path) -> Iterator[str]:
    """The package's modules that a module imports, inside functions too, but not for type checkers alone."""
    known = modules(root)
    package = name_of(path, root).split(".")[: -1 if path.stem != "__init__" else None]
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            pending += node.orelse
            continue
        pending += ast.iter_child_nodes(node)
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names = [
                f"{module}.{alias.name}" if f"{module}.{alias.name}" in known else module
                for alias in node.names
            ]
        for name in names:
            if name == root.name:
                yield f"{root.name}.__init__"
            elif name.startswith(f"{root.name}."):
                yield name


def layer(name: str) -> str:
    return name.split(".")[1]


def upward(root: Path) -> list[str]:
    """Every import that points upwards, as a line for a person."""
    return [
        f"{name} imports {imported}"
        for name, path in modules(root).items()
        for imported in imports(path, root)
        if RANK[layer(imported)] > RANK[layer(name)]
    ]


def test_every_module_has_a_layer() -> None:
    found = modules(PACKAGE)
    assert len(found) > 50
    homeless = {layer(name) for name in found} - RANK.keys()
    assert not homeless, f"give these a place in LAYERS: {sorted(homeless)}"


def test_imports_point_downwards() -> None:
    seen = [(name, i) for name, path in modules(PACKAGE).items() for i in imports(path, PACKAGE)]
    assert len(seen) > 150
    assert ("summarizer.config.schema", "summarizer.config.targets") in seen
    assert ("summarizer.run", "summarizer.runs.launch") in seen, "imports inside functions are seen"
    assert ("summarizer.runs.preflight", "summarizer.data.files") in seen
    assert upward(PACKAGE) == []


def test_imports_run_in_no_circle() -> None:
    graph = {name: set(imports(path, PACKAGE)) - {name} for name, path in modules(PACKAGE).items()}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")
    assert order.index("summarizer.errors") < order.index("summarizer.run")


@pytest.mark.parametrize(
    "planted",
    [
        "from summarizer.training.trainer import fit",
        "import summarizer.training.trainer",
        "from summarizer import run",
        "from ..training import trainer",
        "def later() -> None:\n    from summarizer.training import trainer",
        "if True:\n    import summarizer.runs.experiment as e",
    ],
)
def test_a_planted_import_is_caught(planted: str, tmp_path: Path) -> None:
    root = tmp_path / "summarizer"
    for name in (
        "__init__",
        "errors",
        "run",
        "experiment",
        "config/__init__",
        "training/__init__",
        "training/trainer",
    ):
        (root / f"{name}.py").parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.py").write_text("")
    (root / "config" / "bad.py").write_text(
        "from typing import TYPE_CHECKING\nfrom summarizer.errors import x\n"
        "if TYPE_CHECKING:\n    from summarizer.run import y\n"
    )
    assert upward(root) == []
    (root / "config" / "bad.py").write_text(planted)
    assert len(upward(root)) == 1
