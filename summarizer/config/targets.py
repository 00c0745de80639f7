"""`_target_` nodes: a class named in YAML, its arguments checked against its signature before it is built.

A run folder may come from elsewhere, so that `_target_` names only classes of a short list of packages, and
only of the kind that the place asks for (an adapter, an optimizer). Nothing is imported before its package is
known; a class whose source says plainly what it takes (`declared`) is not imported at all to check a config.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from summarizer import compat
from summarizer.config.declared import NotPlainError, declared_class
from summarizer.config.messages import shown
from summarizer.config.paths import conf_folder
from summarizer.errors import ConfigError

ALLOWED_PACKAGES = {
    "adapter": ("summarizer.adapters",),
    "optimizer": ("torch.optim", "bitsandbytes.optim", "transformers.optimization", "summarizer.training"),
}
BASES = {"adapter": "summarizer.adapters.protocol.Adapter", "optimizer": "torch.optim.Optimizer"}
"""What a class of each group must derive from."""

BOUNDS: Mapping[str, Any] = {
    "lr": Annotated[float, Field(gt=0)],
    "eps": Annotated[float, Field(gt=0)],
    "weight_decay": Annotated[float, Field(ge=0)],
    "momentum": Annotated[float, Field(ge=0, lt=1)],
    "betas": list[Annotated[float, Field(ge=0, lt=1)]],
}
"""Types and bounds of the optimizer arguments that PyTorch and bitsandbytes name alike but leave without."""


class OptimizerConfig(BaseModel):
    """An optimizer: its class, and arguments that were checked against the class's signature."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    target: str
    """The class's dotted path."""
    arguments: Mapping[str, Any]
    """The arguments as the config has them, the learning rate among them."""

    @property
    def lr(self) -> float:
        """The learning rate that the schedule multiplies."""
        return float(self.arguments["lr"])

    def build(self, parameters: Iterable[Any]) -> Any:
        """The optimizer over these parameters."""
        return import_target(self.target)(parameters, **self.arguments)


def imported_adapter(adapter: BaseModel) -> Any:
    """The adapter as an instance of its class, of which a config that nobody runs has the fields alone."""
    kind = import_target(f"{type(adapter).__module__}.{type(adapter).__qualname__}")
    return adapter if isinstance(adapter, kind) else kind.model_validate(adapter.model_dump())


def import_target(path: str) -> Any:
    """The class at a dotted path. Raises ImportError or AttributeError where there is none."""
    module, _, name = path.rpartition(".")
    return getattr(compat.import_without_compiling(module), name)


def arguments_of(group: str, path: object, *, imported: bool) -> type[BaseModel]:
    """What the class that a config group's `_target_` names takes, as a strict, closed pydantic model.

    imported: import the class and ask it, instead of reading its source where that is plain.
    Raises ConfigError as `resolve_target` does.
    """
    allowed = _allowed(group, path)
    return (not imported and _declared_arguments(group, allowed)) or arguments_model(
        resolve_target(group, allowed)
    )


@cache
def _declared_arguments(group: str, path: str) -> type[BaseModel] | None:
    """The arguments as the class's source has them; None where that is not plain, or no class of this kind."""
    try:
        declared, base = declared_class(path), declared_class(BASES[group])
        if base.path not in [one.path for one in declared.lineage()] or declared.path == base.path:
            return None
        if group == "adapter":
            return declared.fields_model()
        return _signature_model(declared.node.name, declared.signature())
    except NotPlainError:
        return None


def _allowed(group: str, path: object) -> str:
    allowed = ALLOWED_PACKAGES[group]
    if isinstance(path, str) and any(path.startswith(package + ".") for package in allowed):
        return path
    raise ConfigError.single(
        f"{group}._target_", f"{shown(path)} is not allowed; it must be a class of {_either(allowed)}"
    )


def resolve_target(group: str, path: object) -> type:
    """The class that a config group's `_target_` names, imported.

    Raises ConfigError where it is not text, outside ALLOWED_PACKAGES[group], not there, or of another kind.
    """
    key = f"{group}._target_"
    path = _allowed(group, path)
    try:
        found = import_target(path)
    except (ImportError, AttributeError) as error:
        raise ConfigError.single(key, f"{path!r} cannot be imported: {error}") from error
    base = import_target(BASES[group])
    if not (isinstance(found, type) and issubclass(found, base) and found is not base):
        raise ConfigError.single(key, f"{path!r} is not a subclass of {base.__module__}.{base.__qualname__}")
    return found


def _either(names: tuple[str, ...]) -> str:
    return ", ".join(names[:-1]) + f" or {names[-1]}" if len(names) > 1 else names[0]


def arguments_model(target: type) -> type[BaseModel]:
    """A strict, closed pydantic model of a class's arguments, the optimizer's parameters left out."""
    if issubclass(target, BaseModel):
        return target
    return _signature_model(target.__name__, inspect.signature(target))


def _signature_model(class_name: str, signature: inspect.Signature) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if name == "params" or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        kind = BOUNDS.get(name, _type_of_default(default))
        if isinstance(default, tuple | list):
            # Adafactor has a pair where others have one number, eps.
            items = kind if name == "betas" else list
            kind = Annotated[items, Field(min_length=len(default), max_length=len(default))]
        # The schedule multiplies it, so that a config which deletes it has nothing to train with.
        fields[name] = (kind, ... if name == "lr" else default)
    rules = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    return create_model(class_name, __config__=rules, **fields)


def takes_any(optimizer: OptimizerConfig) -> bool:
    """Whether an optimizer is one that takes all these arguments together, as each of them is sound by itself.

    So the project's own choices do where nothing but what BOUNDS bounds was given; a test builds each of them
    at its bounds. Transformers' Adafactor, for one, refuses a rate unless it is also told not to scale it.
    """
    return any(
        option.get("_target_") == optimizer.target and set(optimizer.arguments) <= set(option) & set(BOUNDS)
        for option in shipped_optimizers()
    )


@cache
def shipped_optimizers() -> tuple[Mapping[str, Any], ...]:
    """The options of conf/optimizer."""
    from summarizer.config.plain import read_option

    files = sorted((conf_folder() / "optimizer").glob("[!_]*.yaml"))
    return tuple(read_option("optimizer", file.stem) for file in files)


def refusal(optimizer: OptimizerConfig) -> str | None:
    """Why an optimizer whose arguments are sound one by one cannot be built with all of them."""
    import torch

    try:
        optimizer.build([torch.nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        return f"{optimizer.target} refuses these arguments: {error}"
    return None


def _type_of_default(default: object) -> Any:
    # Libraries annotate loosely (`lr: float | Tensor`) or not at all; the default tells what a YAML can give.
    if isinstance(default, bool):
        return bool
    if isinstance(default, int | float):
        return float
    if isinstance(default, str):
        return str
    if isinstance(default, tuple | list):
        return list
    return Any
