"""What a class takes, read off its source, against what the class itself says once it is imported."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import bitsandbytes
import pytest
import torch
from pydantic import BaseModel
from transformers import optimization

from summarizer.adapters.lora import LoRA
from summarizer.config.declared import NotPlainError, declared_class
from summarizer.config.targets import (
    BOUNDS,
    OptimizerConfig,
    arguments_model,
    arguments_of,
    refusal,
    shipped_optimizers,
    takes_any,
)

OPTIMIZERS = sorted(
    f"{module.__name__}.{name}"
    for module in (torch.optim, bitsandbytes.optim, optimization)
    for name, found in vars(module).items()
    if isinstance(found, type)
    and issubclass(found, torch.optim.Optimizer)
    and found is not torch.optim.Optimizer
)


def same(declared: type[BaseModel], asked: type[BaseModel]) -> None:
    assert list(declared.model_fields) == list(asked.model_fields)
    for name, field in asked.model_fields.items():
        assert repr(declared.model_fields[name]) == repr(field)
    assert declared.model_config == asked.model_config


@pytest.mark.parametrize("path", OPTIMIZERS)
def test_the_source_says_what_the_class_says(path: str) -> None:
    module, _, name = path.rpartition(".")
    found = getattr(sys.modules[module], name)
    same(arguments_of("optimizer", path, imported=False), arguments_model(found))


def test_many_optimizers_are_read_without_being_imported() -> None:
    assert len(OPTIMIZERS) > 40
    others = set()
    for path in OPTIMIZERS:
        try:
            assert "torch.optim.optimizer.Optimizer" in [one.path for one in declared_class(path).lineage()]
            declared_class(path).signature()
        except NotPlainError:
            others.add(path.rpartition(".")[2])
    assert others <= {"Muon", "Adafactor", "LayerWiseDummyOptimizer"}, (
        "these are imported, which takes seconds"
    )


def test_an_adapter_s_fields_are_those_of_its_class() -> None:
    same(arguments_of("adapter", "summarizer.adapters.lora.LoRA", imported=False), LoRA)
    assert arguments_of("adapter", "summarizer.adapters.lora.LoRA", imported=True) is LoRA


def test_what_is_shipped_is_read_without_an_import_of_torch() -> None:
    program = """
        import json, sys
        from summarizer.config.targets import arguments_of, shipped_optimizers
        for option in shipped_optimizers():
            arguments_of("optimizer", option["_target_"], imported=False)
        arguments_of("adapter", "summarizer.adapters.lora.LoRA", imported=False)
        print(json.dumps(sorted({"torch", "bitsandbytes", "numpy"} & set(sys.modules))))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("option", shipped_optimizers(), ids=lambda option: option["_target_"])
def test_shipped_optimizers_take_all_that_is_sound(option: dict[str, object]) -> None:
    """So that whether one refuses its arguments need not be asked of it."""
    arguments = {key: value for key, value in option.items() if key != "_target_"}
    edges = {
        "lr": (1e-30, 1e30),
        "eps": (1e-30, 1e30),
        "weight_decay": (0.0, 1e30),
        "momentum": (0.0, 0.999999),
        "betas": ([0.0, 0.0], [0.999999, 0.999999]),
    }
    assert edges.keys() == BOUNDS.keys()
    tried = 0
    for key in arguments.keys() & edges.keys():
        for value in edges[key]:
            target = OptimizerConfig(target=str(option["_target_"]), arguments={**arguments, key: value})
            assert takes_any(target)
            assert refusal(target) is None
            tried += 1
    assert tried >= 6


def test_others_are_asked_whether_they_take_their_arguments() -> None:
    assert not takes_any(OptimizerConfig(target="torch.optim.SGD", arguments={"lr": 0.1, "nesterov": True}))
    assert not takes_any(OptimizerConfig(target="transformers.optimization.Adafactor", arguments={"lr": 0.1}))
    assert "relative_step" in str(
        refusal(OptimizerConfig(target="transformers.optimization.Adafactor", arguments={"lr": 0.1}))
    )


PLAIN = """
    from typing import Annotated, Literal
    from pydantic import BaseModel, ConfigDict, Field

    Kind = Literal["a", "b"]

    class Base:
        def __init__(self, params, lr=1e-3, *rest, name: str = "x", **more):
            pass

    class Child(Base):
        pass

    class Fields(BaseModel):
        model_config = ConfigDict(extra="forbid")
        kind: Kind
        size: Annotated[int, Field(ge=1)] = 3

        def method(self):
            return 1
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A package of a name of its own, so that no test reads another's."""
    name = f"declared_{abs(hash(request.node.name))}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(
        "raise RuntimeError('imported')\nfrom .inner import Child as Renamed\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    source = getattr(request, "param", PLAIN)
    (tmp_path / name / "inner.py").write_text(textwrap.dedent(source))
    return name


def test_a_name_is_followed_to_where_it_is_defined(module: str) -> None:
    found = declared_class(f"{module}.Renamed")
    assert [one.path for one in found.lineage()] == [f"{module}.inner.Child", f"{module}.inner.Base"]
    assert str(found.signature()) == "(params, lr=0.001, *rest, name='x', **more)"
    kinds = [parameter.kind for parameter in found.signature().parameters.values()]
    assert inspect.Parameter.KEYWORD_ONLY in kinds


def test_fields_come_with_types_bounds_and_defaults(module: str) -> None:
    fields = declared_class(f"{module}.inner.Fields").fields_model()
    assert fields.model_validate({"kind": "a"}).model_dump() == {"kind": "a", "size": 3}
    for wrong in ({"kind": "c"}, {"kind": "a", "size": 0}, {"kind": "a", "more": 1}, {}):
        with pytest.raises(ValueError, match="validation error"):
            fields.model_validate(wrong)


@pytest.mark.parametrize(
    "module",
    [
        "class Base:\n    def __init__(self): ...\n@wrap\nclass Child(Base): ...",
        "class Child(metaclass=Meta): ...",
        "class Child(make()): ...",
        "class A: ...\nclass B: ...\nclass Child(A, B): ...",
        "class Child:\n    def __new__(cls, x): ...\n    def __init__(self, x): ...",
        "class Child:\n    @wrap\n    def __init__(self, x): ...",
        "class Child:\n    def __init__(self, x=compute()): ...",
        "class Child:\n    if x:\n        def __init__(self, y): ...",
        "class Child: ...\nChild = wrap(Child)",
        "if x:\n    class Child: ...",
        "from nowhere_at_all import Child",
        "from .inner import Child",
        "",
    ],
    indirect=True,
)
def test_what_is_not_plain_is_not_guessed(module: str) -> None:
    with pytest.raises(NotPlainError):
        declared_class(f"{module}.inner.Child").signature()


@pytest.mark.parametrize(
    "module",
    [
        "from pydantic import BaseModel, field_validator\nclass Child(BaseModel):\n    x: int\n"
        "    @field_validator('x')\n    def check(cls, x): ...",
        "from pydantic import BaseModel\nclass Child(BaseModel):\n    x: int = compute()",
        "from pydantic import BaseModel\nfrom torch import Tensor\nclass Child(BaseModel):\n    x: Tensor",
        "from pydantic import BaseModel\nclass Child(BaseModel):\n    x: int\n    def __init__(self): ...",
        "from pydantic import BaseModel\nclass Child(BaseModel):\n    x: int\n    def model_post_init(self): ...",
    ],
    indirect=True,
)
def test_fields_that_are_more_than_types_are_not_guessed(module: str) -> None:
    with pytest.raises(NotPlainError):
        declared_class(f"{module}.inner.Child").fields_model()


@pytest.mark.parametrize(
    "path", ["", "x", "torch.optim", "antigravity.x", "sys.flags", "no_such_package.x.Y"]
)
def test_what_is_no_class_with_source(path: str) -> None:
    with pytest.raises(NotPlainError):
        declared_class(path)
