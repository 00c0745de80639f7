"""Watch a training step's memory and arithmetic, on real tensors or on fake ones that hold no numbers.

The step that is watched is the one that trains, so that a plan needs no formula for any model. What runs inside
one kernel (a workspace, say) is not seen: only the tensors that go in and out.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

Part = Literal["base", "adapters", "gradients", "activations", "logits", "temporaries"]
"""activations: made in a forward pass (or in its recomputation) and alive at its end, for the backward.
logits: what the head and the loss make in both passes. temporaries: all else that the step makes."""
PARTS: tuple[Part, ...] = ("base", "adapters", "gradients", "activations", "logits", "temporaries")


@dataclass(frozen=True)
class StepCost:
    """What one forward and backward pass takes."""

    peak_bytes: int
    at_peak: dict[Part, int]
    """Bytes of each part at that moment; they sum to peak_bytes."""
    flops: int
    """Of matrix products and attention, two for each multiply and add; a recomputation counts again."""


@dataclass
class _Storage:
    bytes: int
    part: Part | None
    """Known from the start of what is there before the step, and of what the head makes."""
    kept: bool = False
    """Alive at the end of the forward pass that made it."""

    @property
    def settled(self) -> Part:
        return self.part or ("activations" if self.kept else "temporaries")


@dataclass
class _Ledger:
    """Every storage of the step, and the order in which they came and went."""

    storages: list[_Storage] = field(default_factory=list)
    events: list[tuple[int, bool]] = field(default_factory=list)
    """A storage's number, and whether it came (or went)."""
    alive: dict[int, int] = field(default_factory=dict)
    """By address: numbers of storages. An address is free for another once its storage is gone."""
    finalisers: list[weakref.finalize[..., Any]] = field(default_factory=list)

    def add(self, tensor: Tensor, part: Part | None) -> int | None:
        """The storage's number where it is new."""
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self.alive:
            return None
        number = len(self.storages)
        self.storages.append(_Storage(storage.nbytes(), part))
        self.events.append((number, True))
        self.alive[address] = number
        self.finalisers.append(weakref.finalize(storage, self._remove, address, number))
        return number

    def _remove(self, address: int, number: int) -> None:
        if self.alive.get(address) == number:
            del self.alive[address]
            self.events.append((number, False))

    def close(self) -> None:
        for finaliser in self.finalisers:
            finaliser.detach()

    def peak(self) -> tuple[int, dict[Part, int]]:
        """The largest sum, and its parts; by going through the events again, now that all parts are known."""
        now: Counter[Part] = Counter()
        total = most = 0
        at_peak: Counter[Part] = Counter()
        for number, came in self.events:
            storage = self.storages[number]
            change = storage.bytes if came else -storage.bytes
            total += change
            now[storage.settled] += change
            if total > most:
                most, at_peak = total, now.copy()
        return most, {part: at_peak[part] for part in PARTS}


class _Watch(TorchDispatchMode):
    def __init__(self, ledger: _Ledger) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledger = ledger
        self.flops = 0
        self.in_head = False
        self.made: list[int] = []
        """Storages of the forward pass under way."""
        self.depth = 0
        """Modules entered and not yet left, in a recomputation."""
        self.recomputing = False
        self.backward = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.recomputing and self.depth == 0:
            self.end_pass()  # only now have the frames of a recomputation that ended early let go of their tensors
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                number = self.ledger.add(tensor, "logits" if self.in_head else None)
                if number is not None and (self.recomputing or not self.backward):
                    self.made.append(number)
        packet = getattr(func, "_overloadpacket", None)
        if (formula := _FORMULAS.get(packet)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out

    def end_pass(self) -> None:
        alive = set(self.ledger.alive.values())
        for number in self.made:
            self.ledger.storages[number].kept = number in alive
        self.made.clear()
        self.recomputing = False

    def enter(self, module: nn.Module, inputs: Any) -> None:
        if self.backward:
            self.depth += 1
            self.recomputing = True

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.backward:
            self.depth -= 1

    def enter_head(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.in_head = True
        if inputs[0].requires_grad:
            inputs[0].register_hook(self.leave_head)

    def leave_head(self, grad: Tensor) -> None:
        self.in_head = False


def step_cost(
    forward: Callable[[], Tensor], resident: Mapping[Part, Iterable[Tensor]], head: nn.Module | None = None
) -> StepCost:
    """Run `forward`, back-propagate the scalar that it returns, and say what that took.

    resident: the tensors that are there before, by part. head: the module whose work, and all of the forward pass
    after it, counts as `logits`. On fake tensors, call it within their mode; the result is the same as on real
    ones, but for devices whose kernels differ.
    """
    ledger = _Ledger()
    for part, tensors in resident.items():
        for tensor in tensors:
            ledger.add(tensor, part)
    watch = _Watch(ledger)
    with _hooks(watch, head), watch:
        loss = forward()
        watch.end_pass()
        watch.backward = True
        loss.backward()
    ledger.close()
    peak_bytes, at_peak = ledger.peak()
    return StepCost(peak_bytes, at_peak, watch.flops)


@contextmanager
def _hooks(watch: _Watch, head: nn.Module | None) -> Iterator[None]:
    with ExitStack() as stack:
        handles = [
            register_module_forward_pre_hook(watch.enter),
            register_module_forward_hook(watch.leave, always_call=True),
        ]
        if head is not None:
            handles.append(head.register_forward_pre_hook(watch.enter_head))
        for handle in handles:
            stack.callback(handle.remove)
        yield


def _cpu_attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _cpu_attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> int:
    shapes = (grad.shape, query.shape, key.shape, value.shape)
    return int(sdpa_backward_flop_count(*shapes))


_FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    # torch 2.13 counts the GPU's kernels alone.
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_attention_backward,
}
