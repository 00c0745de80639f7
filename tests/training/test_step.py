"""What one step asks of the device: counted operator by operator, where no GPU is at hand to time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode
from training_groups import build_group, spec_of

from summarizer.quantization import weight_format
from summarizer.training.step import Group
from summarizer.training.trainer import train_step

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero")
"""Operators whose result decides what the host does next: on a GPU, each waits for all work before it."""


class Operators(TorchDispatchMode):
    """Counts every operator below autograd, backward's too."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func.__name__.partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def operators_of_a_step(group: Group) -> Counter[str]:
    # Optimizers make their state in the first step.
    train_step(group, [trial.next_batch() for trial in group.trials])
    with Operators() as operators:
        train_step(group, [trial.next_batch() for trial in group.trials])
    return operators.seen


@pytest.mark.slow
def test_nothing_in_a_step_waits_for_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But the lengths of the examples, which CPU attention reads where a GPU's kernel takes them as they are."""
    from summarizer.ops import attention

    monkeypatch.setattr(attention, "attention_on_cpu", lambda q, k, v, *more: q * k.mean() * v.mean())
    for overrides in ((), ("trainer.microbatch_size=1",), ("trainer.max_grad_norm=null",)):
        seen = operators_of_a_step(build_group([spec_of(*overrides)], tmp_path))
        assert {name: seen[name] for name in WAITS if seen[name]} == {}
        assert sum(seen.values()) > 500


def test_a_frozen_weight_is_dequantized_once_in_each_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = build_group([spec_of("quantization=int8"), spec_of("quantization=int8", "seed=1")], tmp_path)
    int8 = weight_format("int8")
    calls: Counter[str] = Counter()
    for name in ("matmul", "matmul_backward"):
        real = getattr(int8, name)

        def counted(*args: Any, name: str = name, real: Any = real) -> Any:
            calls[name] += 1
            return real(*args)

        monkeypatch.setattr(int8, name, counted)
    operators_of_a_step(group)
    linears = sum(layer.role != "embedding" for layer in group.adapted.layers.values())
    assert linears == 37
    assert calls == {"matmul": 2 * linears, "matmul_backward": 2 * linears}, "two steps, however many trials"


def test_more_trials_take_the_same_products(tmp_path: Path) -> None:
    """All of a group's adapters of a layer are one batched product: what grows is the optimizers' part alone."""
    one, three = (
        operators_of_a_step(
            build_group([spec_of("optimizer=adamw", f"seed={seed}") for seed in range(n)], tmp_path)
        )
        for n in (1, 3)
    )
    for name in ("mm", "fp32_linear", "bmm", "baddbmm_", "narrowed", "add_widened_", "row_sums"):
        assert one[name] == three[name], name
    for name in ("gelu", "native_layer_norm", "embedding"):
        assert one[name] == three[name], name
    assert one["fp32_linear"] == 2 * 37
    assert one["baddbmm_"] + one["add_widened_"] == 2 * 37, "by torch, or by a kernel that is compiled here"


def test_the_head_computes_the_summary_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = build_group([spec_of()], tmp_path)
    rows = group.trials[0].next_batch()
    seen: list[int] = []
    group.adapted.model.head.register_forward_hook(
        lambda _, inputs, output: seen.append(output.shape[:-1].numel())
    )
    train_step(group, [rows])
    assert seen == [sum(len(row.target_ids) for row in rows)]
