"""A trial's optimizer in a few launches: hundreds of small tensors stepped as one or two long ones.

An adapter has some hundred small tensors, and bitsandbytes launches a kernel, and waits for the GPU, at each.
Where a step treats each number by itself, it may as well see the tensors laid end to end: to the last bit the
same, since quantized state is kept in blocks and each tensor starts a block of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from summarizer import compat
from summarizer.config.schema import RunConfig
from summarizer.config.targets import import_target

ELEMENTWISE = {
    "torch": r"SGD|Adam|AdamW|NAdam|RAdam|Adamax|Adagrad|RMSprop|Adadelta|ASGD|Rprop",
    "bitsandbytes": r"(Paged)?(Adam|AdamW|Lion|SGD|RMSprop|Adagrad|AdEMAMix)(8bit|32bit)?",
}
"""Optimizers, by package, whose step treats each number by itself; LAMB, LARS, Adafactor, Muon ask for norms,
rows or products of a whole tensor."""
BLOCK = 256
"""Numbers that share a scale in bitsandbytes' 8-bit state (its optim/optimizer.py); a multiple of what every
vector instruction takes at once, too."""
LARGEST_FLAT = 2**20
"""Numbers in a flat tensor, unless one tensor alone has more. A GPU has few launches at this size, a processor's
cache suffers beyond it (AdamW over 5.7 million numbers on one CPU core, November 2026: 23 ms at 2**17, 41 ms here,
73 ms in one piece, 53 ms tensor by tensor), and the scratch takes 8 MiB. Checkpoints depend on it."""

LR_RATIO = "lr_ratio"
"""Of a parameter group: its learning rate over the optimizer's; 1 where it is missing."""

ParameterGroup = dict[str, Any]
"""Parameters under `params`, and settings of theirs, as torch's optimizers take them."""
Build = Callable[[list[Any]], torch.optim.Optimizer]
"""Of a list of parameters, or of parameter groups."""


def build_optimizer(
    spec: RunConfig, parameters: dict[str, nn.Parameter], scratch: Scratch
) -> torch.optim.Optimizer:
    """The config's optimizer over one trial's parameters, flat where that changes nothing.

    scratch: of the trial's group.
    """
    groups = _groups(parameters, spec.adapter.lr_ratios)
    own = list(parameters.values())
    build: Build = spec.optimizer.build
    # What torch fuses has few launches already, and on a processor another rounding at the end of each tensor.
    fused = spec.optimizer.arguments.get("fused")
    alike = len({(parameter.device, parameter.dtype) for parameter in own}) == 1
    elementwise = is_elementwise(import_target(spec.optimizer.target))
    if alike and not fused and elementwise:
        probe = _probe(build)
        if compat.smallest_8bit_state(probe) is not None:
            return FlatOptimizer(build, groups, scratch, probe)
    return build(own if len(groups) == 1 else groups)


def _groups(parameters: dict[str, nn.Parameter], ratios: Mapping[str, float]) -> list[ParameterGroup]:
    """The parameters by their learning rates; each group says its ratio to the optimizer's under LR_RATIO."""
    by_ratio: dict[float, list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        by_ratio.setdefault(ratios.get(name.rpartition(".")[2], 1.0), []).append(parameter)
    return [{"params": members, LR_RATIO: ratio} for ratio, members in by_ratio.items()]


def is_elementwise(kind: type[torch.optim.Optimizer]) -> bool:
    """Whether optimizers of this class treat each number by itself, as far as is known."""
    pattern = ELEMENTWISE.get(kind.__module__.partition(".")[0])
    return pattern is not None and re.fullmatch(pattern, kind.__name__) is not None


class Scratch:
    """Room for one flat tensor and its gradient at a time, which the optimizers of a group share.

    They step in turn, so that it is as large as the largest that asked.
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[torch.device, torch.dtype], Float[Tensor, "2 numbers"]] = {}

    def rows(self, numbers: int, like: Tensor) -> Float[Tensor, "2 numbers"]:
        """Two rows of at least so many numbers, on the device and of the type of `like`."""
        key = like.device, like.dtype
        if key not in self._rows or self._rows[key].shape[1] < numbers:
            self._rows.pop(key, None)  # the old ones go before the new ones come
            self._rows[key] = torch.zeros(2, numbers, dtype=like.dtype, device=like.device)
        return self._rows[key]


class FlatOptimizer(torch.optim.Optimizer):
    """Steps `groups` of parameters as `build(groups)` would, through flat copies of them.

    Parameters and gradients stay where they are; each step gathers them into scratch that all optimizers of a group
    share, and scatters the new values. Every parameter has its gradient. Hyper-parameters, the learning rate among
    them, are those of each group in `param_groups`.
    """

    def __init__(
        self,
        build: Build,
        groups: Sequence[nn.Parameter] | Sequence[ParameterGroup],
        scratch: Scratch,
        probe: torch.optim.Optimizer | None = None,
    ) -> None:
        """probe: one that `build` built before, of anything; of bitsandbytes' each takes 30 ms to build."""
        probe = probe or _probe(build)
        limit = compat.smallest_8bit_state(probe) or 0
        super().__init__(groups, dict(probe.defaults))
        self._of_group = [
            [
                _Flat(build, members, scratch, small=small)
                for members, small in _laid_out(limit, group["params"])
            ]
            for group in self.param_groups
        ]
        self._flats = [flat for flats in self._of_group for flat in flats]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every parameter."""
        for group, flats in zip(self.param_groups, self._of_group, strict=True):
            settings = {key: value for key, value in group.items() if key not in ("params", LR_RATIO)}
            for flat in flats:
                flat.step(settings)
                self.state[flat.parameter] = flat.inner.state[flat.parameter]

    def state_dict(self) -> dict[str, Any]:
        """The flat tensors' states, and how many numbers of each parameter lie in them."""
        return {
            "flats": [flat.inner.state_dict() for flat in self._flats],
            "sizes": [flat.sizes for flat in self._flats],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError for the state of parameters of other sizes, or of an optimizer that was not flat."""
        if state_dict.get("sizes") != [flat.sizes for flat in self._flats]:
            raise ValueError("the optimizer's state is not of parameters of these sizes, laid end to end")
        for flat, state in zip(self._flats, state_dict["flats"], strict=True):
            flat.inner.load_state_dict(state)
            self.state[flat.parameter] = flat.inner.state[flat.parameter]
        for group, flats in zip(self.param_groups, self._of_group, strict=True):
            saved = flats[0].inner.param_groups[0]
            group.update({key: value for key, value in saved.items() if key != "params"})


class _Flat:
    """Some parameters laid end to end, each at the start of a block, and the optimizer that steps them.

    The optimizer's own parameter has values only during a step.
    """

    def __init__(
        self, build: Build, members: Sequence[nn.Parameter], scratch: Scratch, *, small: bool
    ) -> None:
        """small: too small for 8-bit state one by one, which together they would get."""
        self._members: list[Tensor] = list(members)
        self.sizes = [member.numel() for member in members]
        self._numbers = sum(_span(size) for size in self.sizes)
        first = members[0]
        self._scratch = scratch
        # Some optimizers make their state here, as large as the parameter.
        self.parameter = nn.Parameter(scratch.rows(self._numbers, first)[0, : self._numbers])
        self.inner = build([self.parameter])
        if small:
            compat.keep_state_in_32_bits(self.inner)
        self._nothing = torch.empty(0, dtype=first.dtype, device=first.device)
        self.parameter.data = self._nothing
        self._viewed: Tensor | None = None
        """The scratch that the views below are of."""
        self._values: list[Tensor] = []
        self._gradients: list[Tensor] = []
        self._gaps: list[Tensor] = []

    def step(self, settings: dict[str, Any]) -> None:
        """Gather, step, scatter. settings: hyper-parameters by name."""
        rows = self._scratch.rows(self._numbers, self._nothing)
        if rows is not self._viewed:
            self._view(rows)
        gradients = [member.grad for member in self._members if member.grad is not None]
        assert len(gradients) == len(self._members), "a parameter without a gradient"
        compat.foreach_copy_(self._values, self._members)
        compat.foreach_copy_(self._gradients, gradients)
        if self._gaps:
            compat.foreach_zero_(self._gaps)  # what another trial left there would become state
        self.parameter.data, self.parameter.grad = rows[0, : self._numbers], rows[1, : self._numbers]
        self.inner.param_groups[0].update(settings)
        compat.step_without_waiting(self.inner, self.parameter)
        compat.foreach_copy_(self._members, self._values)
        self.parameter.grad = None
        self.parameter.data = self._nothing

    def _view(self, rows: Float[Tensor, "2 numbers"]) -> None:
        spans = [_span(size) for size in self.sizes]
        shapes = [member.shape for member in self._members]
        values, gradients = (row[: self._numbers].split(spans) for row in rows)
        self._values, self._gradients = (
            [part[:size].view(shape) for part, size, shape in zip(parts, self.sizes, shapes, strict=True)]
            for parts in (values, gradients)
        )
        parts = zip((*values, *gradients), 2 * self.sizes, strict=True)
        self._gaps = [part[size:] for part, size in parts if size < len(part)]
        self._viewed = rows


def _span(size: int) -> int:
    """Numbers that a tensor of this size takes up in a flat one: whole blocks."""
    return -(-size // BLOCK) * BLOCK


def _laid_out(limit: int, parameters: Sequence[nn.Parameter]) -> Iterator[tuple[list[nn.Parameter], bool]]:
    """Which parameters lie in a flat tensor together, in order, and whether they are too small for 8-bit state.

    limit: numbers from which on a tensor's state would be kept in 8 bits.
    """
    for small in (False, True):
        members: list[nn.Parameter] = []
        numbers = 0
        for parameter in parameters:
            if (parameter.numel() < limit) != small:
                continue
            if members and numbers + _span(parameter.numel()) > LARGEST_FLAT:
                yield members, small
                members, numbers = [], 0
            members.append(parameter)
            numbers += _span(parameter.numel())
        if members:
            yield members, small


def _probe(build: Build) -> torch.optim.Optimizer:
    """One of what it builds, whose settings are those of all."""
    return build([nn.Parameter(torch.zeros(1))])
