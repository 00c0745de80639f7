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

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from summarizer import compat

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
    """By the storage's id, which Python keeps as long as the storage lives: its number."""
    finalizers: list[weakref.finalize[..., Any]] = field(default_factory=list)

    def add(self, tensor: Tensor, part: Part | None) -> int | None:
        """The storage's number where it is new."""
        storage = tensor.untyped_storage()
        if id(storage) in self.alive:
            return None
        number = len(self.storages)
        self.storages.append(_Storage(storage.nbytes(), part))
        self.events.append((number, True))
        self.alive[id(storage)] = number
        self.finalizers.append(weakref.finalize(storage, self._remove, id(storage), number))
        return number

    def _remove(self, identity: int, number: int) -> None:
        if self.alive.get(identity) == number:
            del self.alive[identity]
            self.events.append((number, False))

    def close(self) -> None:
        for finalizer in self.finalizers:
            finalizer.detach()

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


class _Watch:
    def __init__(self, ledger: _Ledger) -> None:
        self.ledger = ledger
        self.flops = 0
        self.in_head = False
        self.made: list[int] = []
        """Storages of the forward pass under way."""
        self.depth = 0
        """Modules entered and not yet left, in a recomputation."""
        self.recomputing = False
        self.backward = False

    def see(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.recomputing and self.depth == 0:
            self.end_pass()  # only now have the frames of a recomputation that ended early let go of their tensors
        out = operator(*args, **kwargs)
        for tensor in _tensors(out):
            number = self.ledger.add(tensor, "logits" if self.in_head else None)
            if number is not None and (self.recomputing or not self.backward):
                self.made.append(number)
        if (formula := _FORMULAS.get(str(operator).rpartition(".")[0])) is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
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
    with _hooks(watch, head), compat.operators_seen_by(watch.see):
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


def _tensors(out: Any) -> Iterator[Tensor]:
    """Of what an operator returns: a tensor, several, or lists of them."""
    if isinstance(out, Tensor):
        yield out
    elif isinstance(out, list | tuple):
        for part in out:
            yield from _tensors(part)


def _cpu_attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _cpu_attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> int:
    shapes = (grad.shape, query.shape, key.shape, value.shape)
    return int(sdpa_backward_flop_count(*shapes))


_FORMULAS: dict[str, Callable[..., int]] = {
    **{str(operator): formula for operator, formula in flop_registry.items()},
    # torch 2.13 counts the GPU's kernels alone.
    "aten._scaled_dot_product_flash_attention_for_cpu": _cpu_attention,
    "aten._scaled_dot_product_flash_attention_for_cpu_backward": _cpu_attention_backward,
}
"""By the name of the operator, of all its overloads."""
