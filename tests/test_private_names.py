"""What a library has not made public is touched in summarizer/compat.py alone: read off every module's syntax tree.

A library may change such things in any release, and did. Found are imports of private modules and names, attributes
with an underscore that the file itself does not define, and assignments into another package's modules and classes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import hydra_plugins.summarizer_fused
from summarizer.config.paths import PACKAGE

PLUGINS = Path(hydra_plugins.summarizer_fused.__file__).parents[1]
OWN = ("summarizer", "hydra_plugins")
COMPAT = "summarizer/compat.py"

PRIVATE_PARTS = ("_*", "modeling_*", "integrations", "core_model_loading", "conversion_mapping")
"""Of a module's dotted name. What transformers documents to build on is imported from `transformers` itself."""
PRIVATE_PACKAGES = ("wandb.sdk", "wandb.proto")
DOCUMENTED = ("_target_", "_recursive_", "_partial_", "_convert_", "_args_")
"""Keys of Hydra's configs."""
SETTINGS = ("os.environ", "sys.argv", "sys.stderr", "sys.modules", "torch.backends", "matplotlib.rcParams")
"""What a library documents as there to be assigned to."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def is_private_module(name: str) -> bool:
    """Whether a dotted name is of another package, and of what that has not made public."""
    parts = name.split(".")
    if not name or parts[0] in OWN:
        return False
    return any(f"{name}.".startswith(f"{package}.") for package in PRIVATE_PACKAGES) or any(
        fnmatchcase(part, pattern) and (is_private(part) or not part.startswith("_"))
        for part in parts
        for pattern in PRIVATE_PARTS
    )


def dotted(node: ast.expr) -> str | None:
    """`a.b.c` of a name and its attributes, looking through subscripts: what an assignment reaches into."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return base and f"{base}.{node.attr}"
    return dotted(node.value) if isinstance(node, ast.Subscript) else None


def constant(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All that runs: what is for type checkers alone is left out."""
    yield tree
    if isinstance(tree, ast.If) and ast.unparse(tree.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        for node in tree.orelse:
            yield from nodes(node)
        return
    for node in ast.iter_child_nodes(tree):
        yield from nodes(node)


def annotations(tree: ast.AST) -> set[int]:
    """The nodes of annotations, which nothing evaluates where a file begins with `from __future__`."""
    found: list[ast.expr | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            found.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(node.returns)
    return {id(node) for top in found if top is not None for node in ast.walk(top)}


class Module:
    """What one file defines, and what it has from other packages."""

    def __init__(self, text: str) -> None:
        self.tree = ast.parse(text)
        self.nodes = list(nodes(self.tree))
        self.foreign: dict[str, str] = {}
        """Dotted names in other packages, by the names that this file has for them."""
        self.defined: set[str] = set()
        """Names of its functions, classes, their attributes, and what it gives `self`."""
        for node in self.nodes:
            self._note(node)

    def _note(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                whole = alias.name if alias.asname else alias.name.partition(".")[0]
                self._import(alias.asname or whole, whole)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                self._import(alias.asname or alias.name, f"{node.module}.{alias.name}")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self.defined.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                for part in target.elts if isinstance(target, ast.Tuple | ast.List) else [target]:
                    if isinstance(part, ast.Name):
                        self.defined.add(part.id)
                        if node.value is not None and (origin := self.origin(node.value)):
                            self.foreign[part.id] = origin
                    elif isinstance(part, ast.Attribute) and is_own(part.value):
                        self.defined.add(part.attr)

    def _import(self, name: str, origin: str) -> None:
        if origin.partition(".")[0] not in OWN:
            self.foreign[name] = origin

    def origin(self, node: ast.expr) -> str | None:
        """The dotted name, in another package, of a name and its attributes; None for what is not from one."""
        name, _, rest = (dotted(node) or "").partition(".")
        if name not in self.foreign:
            return None
        return f"{self.foreign[name]}.{rest}" if rest else self.foreign[name]

    def found(self) -> Iterator[tuple[int, str]]:
        """Line numbers, and what is private there."""
        ignored = annotations(self.tree)
        for node in self.nodes:
            if id(node) not in ignored or is_private_annotation(node):
                for what in self._found_at(node):
                    yield getattr(node, "lineno", 0), what

    def _found_at(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (f"import of {a.name}" for a in node.names if is_private_module(a.name))
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            for alias in node.names:
                if is_private_module(whole := f"{node.module}.{alias.name}"):
                    yield f"import of {whole}"
        elif isinstance(node, ast.Attribute):
            if is_private(node.attr) and not is_own(node.value) and not self._knows(node.attr):
                yield f"attribute {ast.unparse(node)}"
        elif isinstance(node, ast.Subscript):
            if self.origin(node.value) == "sys.modules" and is_private_module(constant(node.slice) or ""):
                yield f"import of {constant(node.slice)}"
        elif isinstance(node, ast.Call):
            yield from self._found_in(node)
        for target in assigned(node):
            yield from self._assigned(target)

    def _found_in(self, call: ast.Call) -> Iterator[str]:
        name = dotted(call.func) or ""
        origin = self.origin(call.func) or name
        arguments = [constant(argument) or "" for argument in call.args]
        if origin in ("importlib.import_module", "__import__", "sys.modules.get"):
            if arguments and is_private_module(arguments[0]):
                yield f"import of {arguments[0]}"
        elif name in ("getattr", "hasattr", "setattr", "delattr") and len(call.args) > 1:
            if is_private(arguments[1]) and not is_own(call.args[0]) and not self._knows(arguments[1]):
                yield f"attribute {ast.unparse(call)}"
            if name in ("setattr", "delattr"):
                yield from self._reached(call.args[0], arguments[1])

    def _assigned(self, target: ast.expr) -> Iterator[str]:
        if isinstance(target, ast.Tuple | ast.List):
            for part in target.elts:
                yield from self._assigned(part)
        elif isinstance(target, ast.Starred):
            yield from self._assigned(target.value)
        elif isinstance(target, ast.Attribute):
            yield from self._reached(target.value, target.attr)
        elif isinstance(target, ast.Subscript):
            yield from self._reached(target.value, "")

    def _reached(self, into: ast.expr, name: str) -> Iterator[str]:
        """name: what is set or deleted there; empty for what only running tells, and for an item."""
        if name == "__class__":
            yield f"assignment to {ast.unparse(into)}.__class__"
        origin = self.origin(into)
        if origin and not any(f"{origin}.{name}".startswith(setting) for setting in SETTINGS):
            yield f"assignment into {origin}"

    def _knows(self, name: str) -> bool:
        return name in self.defined or name in DOCUMENTED


def is_own(node: ast.expr) -> bool:
    """Whether it is `self`, `cls`, `super()` or the class of one of these."""
    return ast.unparse(node) in ("self", "cls", "super()", "type(self)")


def is_private_annotation(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and is_private(node.attr)


def assigned(node: ast.AST) -> list[ast.expr]:
    """What a statement assigns to or deletes."""
    if isinstance(node, ast.Assign | ast.Delete):
        return node.targets
    if isinstance(node, ast.AugAssign | ast.AnnAssign | ast.For | ast.AsyncFor | ast.NamedExpr):
        return [node.target]
    if isinstance(node, ast.withitem):
        return [node.optional_vars] if node.optional_vars else []
    return []


def read(*packages: Path) -> dict[str, Module]:
    """All modules of these packages but compat.py, by path."""
    found = {
        path.relative_to(root.parent).as_posix(): path for root in packages for path in root.rglob("*.py")
    }
    return {name: Module(path.read_text("utf-8")) for name, path in sorted(found.items()) if name != COMPAT}


def private_names(modules: dict[str, Module]) -> list[str]:
    """Everything private outside of compat.py, as lines for a person."""
    return [f"{name}:{line}: {what}" for name, one in modules.items() for line, what in one.found()]


def test_nothing_private_is_used_outside_compat() -> None:
    modules = read(PACKAGE, PLUGINS)
    assert len(modules) > 100
    assert "hydra_plugins/summarizer_fused/launcher.py" in modules
    assert private_names(modules) == []


def test_compat_is_where_they_are() -> None:
    assert len(list(Module((PACKAGE / "compat.py").read_text("utf-8")).found())) > 5


@pytest.mark.parametrize(
    "planted",
    [
        "import torch._dynamo",
        "import torch._dynamo.utils as dynamo",
        "from torch._subclasses.fake_tensor import FakeTensor",
        "from hydra._internal import utils",
        "from hydra import _internal",
        "from transformers import modeling_utils",
        "from transformers.models.gptj import modeling_gptj",
        "from transformers.models.llama.modeling_llama import LlamaRMSNorm",
        "from transformers.modeling_layers import GradientCheckpointingLayer",
        "from transformers.integrations.sdpa_attention import sdpa_attention_forward",
        "from transformers.core_model_loading import rename_source_key",
        "from transformers.conversion_mapping import get_model_conversion_mapping",
        "from wandb.proto.wandb_internal_pb2 import Record",
        "from wandb.sdk.lib import wbauth",
        "import wandb.sdk",
        "from argparse import _ArgumentGroup",
        "def later() -> None:\n    from torch._dynamo import utils",
        "if TYPE_CHECKING:\n    pass\nelse:\n    import torch._dynamo",
        "from importlib import import_module\nimport_module('torch._dynamo')",
        "import importlib\nimportlib.import_module('transformers.modeling_utils')",
        "__import__('torch._dynamo')",
        "import sys\nsys.modules.get('torch._dynamo.utils')",
        "import sys\nsys.modules['torch._dynamo.utils']",
        "import torch\ntorch._int_mm(1, 2)",
        "def f(dataset) -> None:\n    print(dataset._fingerprint)",
        "def f(parser: argparse._ArgumentGroup) -> None: ...",
        "getattr(thing, '_name', None)",
        "hasattr(thing, '_name')",
        "setattr(thing, '_name', 1)",
        "delattr(thing, '_name')",
        "thing._name = 1",
        "import torch\ntorch.add = None",
        "import torch as t\nt.nn.Linear.forward = None",
        "from torch import nn\nnn.Linear.forward = None",
        "from torch.nn import Linear\nLinear.calls += 1",
        "from torch.nn import Linear\ndel Linear.forward",
        "from torch.nn import Linear\nLinear.forward, own = None, 1",
        "from transformers import activations\nactivations.ACT2FN['gelu'] = None",
        "from transformers import activations\ndel activations.ACT2FN['gelu']",
        "from torch.nn import Linear\nsetattr(Linear, name, None)",
        "from torch.nn import Linear\ndelattr(Linear, 'forward')",
        "from torch.nn import Linear\nkind = Linear\nkind.forward = None",
        "def f(layer, kind) -> None:\n    layer.__class__ = kind",
        "setattr(layer, '__class__', kind)",
    ],
)
def test_a_planted_use_is_caught(planted: str, tmp_path: Path) -> None:
    root = tmp_path / "summarizer"
    (root / "config").mkdir(parents=True)
    (root / "compat.py").write_text(planted)
    (root / "config" / "bad.py").write_text(f"from summarizer import errors\n{planted}\n")
    (line,) = private_names(read(root))
    assert line.startswith("summarizer/config/bad.py:")


@pytest.mark.parametrize(
    "harmless",
    [
        "from summarizer._own import _name",
        "from __future__ import annotations",
        "from torch.utils.checkpoint import checkpoint",
        "if TYPE_CHECKING:\n    from hydra._internal.callbacks import Callbacks",
        "class A:\n    def f(self) -> None:\n        self._name = 1\n        super()._other()",
        "class A:\n    _name: int = 3\n\ndef f(one: A) -> int:\n    return one._name",
        "class A:\n    def _f(self, other) -> None:\n        other._f()",
        "def f(config) -> str:\n    return str(config.sweeper._target_)",
        "import torch\ntorch.backends.cuda.matmul.allow_tf32 = True",
        "import os\nos.environ['A'] = 'b'\ndel os.environ['A']",
        "import torch\nlayer = torch.nn.Linear(2, 2)\nlayer.weight = None",
        "from summarizer import progress\nprogress.shown = True",
        "print(error.__cause__, type(error).__name__)",
    ],
)
def test_what_is_public_or_our_own_is_not_caught(harmless: str, tmp_path: Path) -> None:
    (tmp_path / "summarizer").mkdir()
    (tmp_path / "summarizer" / "good.py").write_text(harmless)
    assert private_names(read(tmp_path / "summarizer")) == []
