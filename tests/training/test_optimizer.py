"""Flat optimizers against the same optimizers tensor by tensor: every bit."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import weakref
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from torch import nn
from training_groups import spec_of

from summarizer.config.targets import OptimizerConfig
from summarizer.training import optimizer as flat_optimizer
from summarizer.training.checkpoint import load_state, save_state
from summarizer.training.optimizer import FlatOptimizer, Scratch, build_optimizer, is_elementwise

SHAPES = [(2, 64), (3, 1000), (2, 4096), (1, 7), (2, 2304), (3, 4099), (4, 1000)]
"""Too small for 8-bit state and large enough, in turn; whole blocks of 256 and not."""

ARGUMENTS: dict[str, list[dict[str, Any]]] = {
    "torch.SGD": [{}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}],
    "torch.Adam": [{"amsgrad": True, "weight_decay": 0.1}],
    "torch.AdamW": [{}, {"foreach": True}],
    "torch.NAdam": [{"decoupled_weight_decay": True, "weight_decay": 0.1}],
    "torch.RAdam": [{}],
    "torch.Adamax": [{}],
    "torch.Adagrad": [{"initial_accumulator_value": 0.1, "lr_decay": 0.1}],
    "torch.RMSprop": [{"centered": True, "momentum": 0.9}],
    "torch.Adadelta": [{}],
    "torch.ASGD": [{"t0": 2.0}],
    "torch.Rprop": [{}],
    "bnb.Adam": [{"weight_decay": 0.1}],
    "bnb.Adam8bit": [{}, {"weight_decay": 0.1}, {"min_8bit_size": 5000}],
    "bnb.AdamW8bit": [{}, {"weight_decay": 0.1, "min_8bit_size": 0}],
    "bnb.PagedAdamW8bit": [{}],
    "bnb.Lion8bit": [{"weight_decay": 0.1}],
    "bnb.SGD8bit": [{"momentum": 0.9, "weight_decay": 0.1}],
    "bnb.RMSprop8bit": [{"weight_decay": 0.1}],
    "bnb.Adagrad8bit": [{}],
    "bnb.AdEMAMix8bit": [{}, {"t_alpha": 4, "t_beta3": 4}],
    "bnb.Lion": [{}],
    "bnb.AdEMAMix": [{}],
}
CASES = [(name, arguments) for name, several in ARGUMENTS.items() for arguments in several]


def builder(name: str, arguments: dict[str, Any]) -> flat_optimizer.Build:
    package, _, kind = name.partition(".")
    module: Any = torch.optim if package == "torch" else bnb.optim
    assert is_elementwise(getattr(module, kind))
    return partial(getattr(module, kind), lr=1e-2, **arguments)


def drawn(shapes: Sequence[tuple[int, ...]] = SHAPES, seed: int = 0) -> list[nn.Parameter]:
    """Each a view of the lower part of a stack, and so its gradient, as trials have them."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for shape in shapes:
        stack, gradients = torch.zeros(2, 3, shape[0] + 1, *shape[1:])
        stack[1, : shape[0]] = torch.randn(shape, generator=generator)
        parameter = nn.Parameter(stack[1, : shape[0]])
        parameter.grad = gradients[1, : shape[0]]
        found.append(parameter)
    return found


def take_steps(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in parameters:
            assert parameter.grad is not None
            # Small ones follow large ones, and one step has none: what state underflows to is compared as well.
            size = 0.0 if step == 3 else 10.0**-step
            parameter.grad.copy_(size * torch.randn(parameter.shape, generator=generator))
        optimizer.param_groups[0]["lr"] = 1e-2 / (step + 1)
        optimizer.step()


def assert_equal(found: list[nn.Parameter], expected: list[nn.Parameter]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.versions
@pytest.mark.filterwarnings("ignore:Paged optimizers")
@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_flat_steps_are_those_of_tensor_by_tensor(name: str, arguments: dict[str, Any]) -> None:
    build = builder(name, arguments)
    expected, found = drawn(), drawn()
    take_steps(expected, build(list(expected)), range(5))
    take_steps(found, FlatOptimizer(build, found, Scratch()), range(5))
    assert_equal(found, expected)
    assert not torch.equal(found[0], drawn()[0]), "they have moved"


def test_parameters_and_gradients_stay_where_they_are() -> None:
    parameters = drawn()
    addresses = [(p.data_ptr(), p.grad.data_ptr()) for p in parameters if p.grad is not None]
    take_steps(parameters, FlatOptimizer(builder("bnb.Adam8bit", {}), parameters, Scratch()), range(2))
    assert [(p.data_ptr(), p.grad.data_ptr()) for p in parameters if p.grad is not None] == addresses
    assert all(not p.grad.eq(0).all() for p in parameters if p.grad is not None), "nor are they cleared"


@pytest.mark.versions
@pytest.mark.parametrize("name", ["bnb.Adam8bit", "torch.AdamW"])
def test_trials_that_step_in_turn_do_not_see_each_other(name: str) -> None:
    """They share scratch; layouts of other sizes leave something of theirs where gaps are, and in growing."""
    build = builder(name, {})
    layouts = [SHAPES[:3], SHAPES[::-1], [(5, 5001)], SHAPES]
    trials = [drawn(shapes, seed) for seed, shapes in enumerate(layouts)]
    scratch = Scratch()
    optimizers = [FlatOptimizer(build, parameters, scratch) for parameters in trials]
    for step in range(4):
        for parameters, optimizer in zip(trials, optimizers, strict=True):
            take_steps(parameters, optimizer, range(step, step + 1))
    for seed, shapes in enumerate(layouts):
        alone = drawn(shapes, seed)
        optimizer = FlatOptimizer(build, alone, Scratch())
        take_steps(alone, optimizer, range(4))
        assert_equal(trials[seed], alone)
        for one, other in zip(states(optimizers[seed]), states(optimizer), strict=True):
            assert torch.equal(one, other), "gaps too, hence checkpoints"


def states(optimizer: FlatOptimizer) -> list[torch.Tensor]:
    return [
        value
        for held in optimizer.state.values()
        for value in held.values()
        if isinstance(value, torch.Tensor)
    ]


def test_long_layouts_are_cut_and_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat_optimizer, "LARGEST_FLAT", 5000)
    expected, found = drawn(), drawn()
    build = builder("bnb.Adam8bit", {})
    optimizer = FlatOptimizer(build, found, Scratch())
    assert optimizer.state_dict()["sizes"] == [[8192], [4608], [12297], [128, 3000, 7], [4000]]
    take_steps(expected, build(list(expected)), range(4))
    take_steps(found, optimizer, range(4))
    assert_equal(found, expected)


def test_scratch_is_as_large_as_the_largest_that_asked_and_goes_with_its_owner() -> None:
    scratch = Scratch()
    optimizers = [FlatOptimizer(builder("torch.SGD", {}), drawn(SHAPES[:count]), scratch) for count in (2, 4)]
    largest = max(flat._numbers for optimizer in optimizers for flat in optimizer._flats)
    held = weakref.ref(scratch.rows(1, torch.zeros(())))
    assert held().shape == (2, largest)  # type: ignore[union-attr]
    assert scratch.rows(1, torch.zeros((), dtype=torch.bfloat16)).shape == (2, 1), "of each type its own"
    del scratch, optimizers
    gc.collect()
    assert held() is None


def test_one_trial_keeps_no_more_than_its_state() -> None:
    """What a step leaves behind beside the 2 x 4 bytes a number of AdamW's state is empty."""
    parameters = drawn()
    optimizer = FlatOptimizer(builder("torch.AdamW", {}), parameters, Scratch())
    take_steps(parameters, optimizer, range(1))
    numbers = sum(-(-p.numel() // 256) * 256 for p in parameters)
    assert sum(value.nbytes for value in states(optimizer)) == 8 * numbers + 4
    assert all(p.numel() == 0 and p.grad is None for p in optimizer.state)


@pytest.mark.versions
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("name", ["adam8bit", "adamw8bit", "lion8bit", "adamw", "sgd"])
def test_a_restored_optimizer_continues_to_the_last_bit(name: str, flat: bool, tmp_path: Path) -> None:
    spec = spec_of(f"optimizer={name}")

    def fresh() -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
        parameters = drawn()
        if not flat:
            return parameters, spec.optimizer.build(list(parameters))
        optimizer = build_optimizer(spec, {str(k): p for k, p in enumerate(parameters)}, Scratch())
        assert isinstance(optimizer, FlatOptimizer)
        return parameters, optimizer

    through, optimizer = fresh()
    take_steps(through, optimizer, range(6))
    first, optimizer = fresh()
    take_steps(first, optimizer, range(3))
    save_state(optimizer.state_dict(), tmp_path / "optimizer")
    resumed, optimizer = fresh()
    for new, old in zip(resumed, first, strict=True):
        new.data.copy_(old.data)
    optimizer.load_state_dict(load_state(tmp_path / "optimizer"))
    take_steps(resumed, optimizer, range(3, 6))
    assert_equal(resumed, through)


RESTARTED = """
import sys
from pathlib import Path
import torch
from test_optimizer import builder, drawn, take_steps
from summarizer.training.optimizer import FlatOptimizer, Scratch
from summarizer.training.checkpoint import load_state, save_state
folder, parameters = Path(sys.argv[1]), drawn()
optimizer = FlatOptimizer(builder("bnb.Adam8bit", {}), parameters, Scratch())
if (folder / "values.safetensors").exists():
    for parameter, value in zip(parameters, load_state(folder / "values"), strict=True):
        parameter.data.copy_(value)
    optimizer.load_state_dict(load_state(folder / "optimizer"))
take_steps(parameters, optimizer, range(int(sys.argv[2]), int(sys.argv[3])))
save_state([p.data for p in parameters], folder / "values")
save_state(optimizer.state_dict(), folder / "optimizer")
"""


@pytest.mark.slow
def test_a_new_process_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    here = Path(__file__).parent
    for start, end in ((0, 2), (2, 5)):
        subprocess.run(
            [sys.executable, "-c", RESTARTED, str(tmp_path), str(start), str(end)],
            check=True,
            env={"PYTHONPATH": f"{here}:{here.parent}:{here.parents[1]}", "OMP_NUM_THREADS": "1"},
        )
    expected = drawn()
    take_steps(expected, FlatOptimizer(builder("bnb.Adam8bit", {}), expected, Scratch()), range(5))
    for value, parameter in zip(load_state(tmp_path / "values"), expected, strict=True):
        assert torch.equal(value, parameter)


@pytest.mark.versions
def test_state_of_other_sizes_is_refused() -> None:
    state = FlatOptimizer(builder("torch.AdamW", {}), drawn(SHAPES[:2]), Scratch()).state_dict()
    optimizer = FlatOptimizer(builder("torch.AdamW", {}), drawn(SHAPES[1:3]), Scratch())
    with pytest.raises(ValueError, match="sizes"):
        optimizer.load_state_dict(state)
    with pytest.raises(ValueError, match="sizes"):
        optimizer.load_state_dict(builder("torch.AdamW", {})(drawn(SHAPES[1:3])).state_dict())


def test_saved_hyper_parameters_come_back_as_they_do_tensor_by_tensor() -> None:
    saved = FlatOptimizer(
        partial(torch.optim.AdamW, lr=0.5, weight_decay=0.3), drawn(), Scratch()
    ).state_dict()
    optimizer = FlatOptimizer(partial(torch.optim.AdamW, lr=0.1), drawn(), Scratch())
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["weight_decay"] == 0.3


@pytest.mark.parametrize(
    "path",
    ["bitsandbytes.optim.LAMB", "bitsandbytes.optim.LARS", "torch.optim.Muon", "torch.optim.Adafactor"],
)
def test_what_looks_at_whole_tensors_stays_tensor_by_tensor(path: str) -> None:
    kind = path.rpartition(".")[2]
    arguments = {"lr": 1e-3, "momentum": 0.9} if kind == "LARS" else {"lr": 1e-3}
    spec = spec_of().model_copy(update={"optimizer": OptimizerConfig(target=path, arguments=arguments)})
    optimizer = build_optimizer(spec, {"a": drawn([(4, 8)])[0]}, Scratch())
    assert type(optimizer).__name__ == kind
    assert not isinstance(optimizer, FlatOptimizer)


def test_what_torch_fuses_stays_as_it_is() -> None:
    for fused in (True, False):
        spec = spec_of().model_copy(
            update={
                "optimizer": OptimizerConfig(
                    target="torch.optim.AdamW", arguments={"lr": 0.1, "fused": fused}
                )
            }
        )
        optimizer = build_optimizer(spec, {"a": drawn([(4, 8)])[0]}, Scratch())
        assert isinstance(optimizer, FlatOptimizer) != fused


@pytest.mark.versions
def test_every_class_of_the_packages_is_judged() -> None:
    """A new optimizer of a new version is stepped tensor by tensor until someone has looked at it."""
    known = {
        "torch": "Adafactor|LBFGS|Muon|Optimizer|SparseAdam",
        "bitsandbytes": "LAMB.*|LARS.*|PytorchLARS",
    }
    judged = 0
    for package, module in (("torch", torch.optim), ("bitsandbytes", bnb.optim)):
        for name, kind in vars(module).items():
            if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer):
                assert is_elementwise(kind) != bool(re.fullmatch(known[package], name)), name
                judged += 1
    assert judged > 40
    kept = type("Adam", (torch.optim.Adam,), {"__module__": "summarizer.training.other"})
    assert not is_elementwise(kept)


def test_a_step_calls_few_operators() -> None:
    """Beside the copies, which a GPU makes in a few launches, an optimizer's own on each flat tensor."""
    parameters = drawn([(2, 64)] * 100)
    counts = []
    for optimizer in (
        bnb.optim.Adam8bit(parameters),
        FlatOptimizer(bnb.optim.Adam8bit, parameters, Scratch()),
    ):
        take_steps(parameters, optimizer, range(1))
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            optimizer.step()
        copies = ("aten::copy_", "aten::zero_", "aten::fill_")
        counts.append(sum(event.count for event in profile.key_averages() if event.key not in copies))
    assert counts[1] < 60 < 1000 < counts[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["bnb.Adam8bit", "bnb.Lion8bit", "bnb.AdEMAMix8bit", "torch.AdamW"])
def test_on_a_gpu_too(name: str) -> None:
    build, both = builder(name, {}), []
    for flat in (False, True):
        parameters = drawn()
        for parameter in parameters:
            gradient = parameter.grad
            assert gradient is not None
            parameter.grad = None
            parameter.data, parameter.grad = parameter.data.cuda(), gradient.cuda()
        optimizer = FlatOptimizer(build, parameters, Scratch()) if flat else build(list(parameters))
        for step in range(4):
            generator = torch.Generator().manual_seed(step)
            for parameter in parameters:
                assert parameter.grad is not None
                parameter.grad.copy_(torch.randn(parameter.shape, generator=generator))
            optimizer.step()
        both.append(parameters)
    assert_equal(both[1], both[0])
