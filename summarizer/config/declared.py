"""What a class takes, read off its source without importing it.

`import torch` takes seconds and bitsandbytes twice as many, which is long to wait for the news that a key was
mistyped. A class's lineage, the signature of its `__init__` and the fields of a pydantic model all stand in
source text. Only what is plain there is read: a class that a decorator, a metaclass, a condition or a call makes
is none, and then the class itself has to be asked.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, resolve_name
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

MOST_RE_EXPORTS = 8
"""Modules that a name is followed through; more than any library has, and an end for those in a circle."""
PLAIN_BASES = frozenset({"builtins.object", "abc.ABC", "pydantic.BaseModel"})
"""Classes that add nothing to a signature or to a model's fields."""
LIGHT_PACKAGES = ("typing", "collections.abc", "pydantic", "annotated_types", "summarizer.config")
"""What the annotation of a field may be made of; they are imported already or cost nothing."""
PLAIN_DECORATORS = frozenset({"property", "abstractmethod", "staticmethod", "classmethod"})
"""Decorators of methods that leave a model's fields as they are, as a validator's would not."""


class NotPlainError(Exception):
    """The source says it in a way that is not read here."""


@dataclass(frozen=True)
class Module:
    """A module that nothing has run."""

    name: str
    package: str
    tree: ast.Module

    def binding(self, name: str) -> ast.stmt:
        """The one statement at the top of the module that gives a name its value."""
        found = [node for node in self.tree.body if name in _bound(node)]
        if len(found) != 1:
            raise NotPlainError(f"{self.name} binds {name} {len(found)} times")
        return found[0]

    def origin(self, node: ast.ImportFrom, name: str) -> tuple[str, str]:
        """The module and the name there of what an import calls `name` here."""
        (alias,) = (alias for alias in node.names if (alias.asname or alias.name) == name)
        base = (
            resolve_name("." * node.level + (node.module or ""), self.package) if node.level else node.module
        )
        assert base is not None
        return base, alias.name


@dataclass(frozen=True)
class DeclaredClass:
    """A class as its module's source states it."""

    module: Module
    node: ast.ClassDef
    bases: tuple[DeclaredClass, ...]
    """The classes it derives from, without those of PLAIN_BASES."""

    @property
    def path(self) -> str:
        """The dotted path of where it is defined, whatever it is re-exported as."""
        return f"{self.module.name}.{self.node.name}"

    def lineage(self) -> Iterator[DeclaredClass]:
        """Itself, then its one base, and so on."""
        yield self
        if len(self.bases) > 1:
            raise NotPlainError(f"{self.path} has several bases")
        for base in self.bases:
            yield from base.lineage()

    def signature(self) -> inspect.Signature:
        """The signature of a call that makes an instance, as `inspect.signature` has it."""
        lineage = list(self.lineage())
        for one in lineage:
            for node in one.node.body:
                if {"__new__", "__signature__"} & _bound(node):
                    raise NotPlainError(f"{one.path} is not made by __init__ alone")
        for one in lineage:
            inits = [node for node in one.node.body if "__init__" in _bound(node)]
            if not inits:
                continue
            init = inits[0]
            if len(inits) > 1 or not isinstance(init, ast.FunctionDef) or init.decorator_list:
                raise NotPlainError(f"{one.path}.__init__ is no plain function")
            return inspect.Signature(list(_parameters(init.args))[1:])
        raise NotPlainError(f"{self.path} has no __init__")

    def fields_model(self) -> type[BaseModel]:
        """A pydantic model with the fields and the rules of this one, and none of its methods."""
        fields: dict[str, Any] = {}
        rules = ConfigDict()
        for one in reversed(list(self.lineage())):
            for node in one.node.body:
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    default = ... if node.value is None else _value(node.value, one.module)
                    fields[node.target.id] = (_value(node.annotation, one.module), default)
                elif isinstance(node, ast.Assign) and _bound(node) == {"model_config"}:
                    rules |= _value(node.value, one.module)
                elif not _leaves_fields_alone(node):
                    raise NotPlainError(f"{one.path} has more than fields and methods")
        return create_model(self.node.name, __config__=rules, __module__=self.module.name, **fields)


def declared_class(path: str) -> DeclaredClass:
    """The class at a dotted path, followed to where it is defined. Raises NotPlainError where it is not seen."""
    module, _, name = path.rpartition(".")
    for _ in range(MOST_RE_EXPORTS):
        source = _module(module)
        node = source.binding(name)
        if isinstance(node, ast.ClassDef):
            return _class_of(source, node)
        if not isinstance(node, ast.ImportFrom):
            break
        module, name = source.origin(node, name)
    raise NotPlainError(f"{path} is not seen to be a class")


def _class_of(module: Module, node: ast.ClassDef) -> DeclaredClass:
    if node.decorator_list or node.keywords:
        raise NotPlainError(f"{module.name}.{node.name} is made by more than its body")
    bases = []
    for base in node.bases:
        if (path := _path_of(module, base)) not in PLAIN_BASES:
            bases.append(declared_class(path))
    return DeclaredClass(module, node, tuple(bases))


def _path_of(module: Module, node: ast.expr) -> str:
    """The dotted path that a name stands for, such as `optim.Optimizer` after `from torch import optim`."""
    if isinstance(node, ast.Attribute):
        return f"{_path_of(module, node.value)}.{node.attr}"
    if not isinstance(node, ast.Name):
        raise NotPlainError(f"{module.name} computes {ast.unparse(node)}")
    name = node.id
    try:
        bound = module.binding(name)
    except NotPlainError:
        if hasattr(builtins, name):
            return f"builtins.{name}"
        raise
    if isinstance(bound, ast.ImportFrom):
        return ".".join(module.origin(bound, name))
    if isinstance(bound, ast.Import):
        return next((alias.name for alias in bound.names if alias.asname == name), name)
    return f"{module.name}.{name}"


@cache
def _module(name: str) -> Module:
    """A module's source, found as an import finds it, but without running the packages around it."""
    top, *inner = name.split(".")
    spec = find_spec(top) if top else None
    for part in inner:
        if spec is None or spec.submodule_search_locations is None:
            break
        spec = PathFinder.find_spec(f"{spec.name}.{part}", list(spec.submodule_search_locations))
    return _parsed(spec, name)


def _parsed(spec: ModuleSpec | None, name: str) -> Module:
    if spec is None or spec.name != name or not isinstance(spec.loader, InspectLoader):
        raise NotPlainError(f"{name} is no module with source")
    try:
        source = spec.loader.get_source(name)
    except (ImportError, OSError) as error:
        raise NotPlainError(f"{name} has no source") from error
    if source is None:
        raise NotPlainError(f"{name} has no source")
    package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
    try:
        return Module(name, package, ast.parse(source))
    except (SyntaxError, ValueError) as error:
        raise NotPlainError(f"{name} cannot be parsed") from error


def _bound(node: ast.AST) -> set[str]:
    """Names that a statement gives a value or takes it from; those inside its blocks too, the functions' not."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    if isinstance(node, ast.Name):
        return set() if isinstance(node.ctx, ast.Load) else {node.id}
    return {name for inner in ast.iter_child_nodes(node) for name in _bound(inner)}


def _parameters(arguments: ast.arguments) -> Iterator[inspect.Parameter]:
    kinds = inspect.Parameter
    positional: Sequence[ast.arg] = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    for place, (argument, default) in enumerate(zip(positional, defaults, strict=True)):
        kind = kinds.POSITIONAL_ONLY if place < len(arguments.posonlyargs) else kinds.POSITIONAL_OR_KEYWORD
        yield _parameter(argument, kind, default)
    if arguments.vararg is not None:
        yield kinds(arguments.vararg.arg, kinds.VAR_POSITIONAL)
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield _parameter(argument, kinds.KEYWORD_ONLY, default)
    if arguments.kwarg is not None:
        yield kinds(arguments.kwarg.arg, kinds.VAR_KEYWORD)


def _parameter(argument: ast.arg, kind: Any, default: ast.expr | None) -> inspect.Parameter:
    if default is None:
        return inspect.Parameter(argument.arg, kind)
    try:
        return inspect.Parameter(argument.arg, kind, default=ast.literal_eval(default))
    except ValueError as error:
        raise NotPlainError(f"the default of {argument.arg} is computed") from error


def _leaves_fields_alone(node: ast.stmt) -> bool:
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)  # a docstring
    if not isinstance(node, ast.FunctionDef) or node.name.startswith(("__", "model_")):
        return False
    return all(isinstance(one, ast.Name) and one.id in PLAIN_DECORATORS for one in node.decorator_list)


def _value(expression: ast.expr, module: Module) -> Any:
    """What an annotation or a default stands for, where it is made of LIGHT_PACKAGES and the module's own names."""
    names = [node for node in ast.walk(expression) if isinstance(node, ast.Name)]
    known = {node.id: _named(node, module) for node in names}
    code = compile(ast.Expression(expression), module.name, "eval")
    return eval(code, {"__builtins__": {}}, known)


def _named(name: ast.Name, module: Module) -> Any:
    path = _path_of(module, name)
    package, _, attribute = path.rpartition(".")
    if package == "builtins":
        return getattr(builtins, attribute)
    if package == module.name:
        node = module.binding(name.id)
        if not isinstance(node, ast.Assign):
            raise NotPlainError(f"{path} is no plain value")
        return _value(node.value, module)
    if not any(f"{package}.".startswith(f"{light}.") for light in LIGHT_PACKAGES):
        raise NotPlainError(f"{path} would have to be imported")
    return getattr(importlib.import_module(package), attribute)
