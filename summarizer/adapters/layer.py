"""The layer that carries the adapters of `n` trials beside one frozen layer.

Its input holds the rows of all trials, trial by trial; only this layer and the loss know that `n` exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from typing import Any, NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from summarizer.adapters.dropout import dropout_mask
from summarizer.adapters.protocol import Adapter, Parameters, Role, Stacked
from summarizer.errors import ConfigError
from summarizer.ops import kernel_graph
from summarizer.ops.elementwise import in_compute_dtype
from summarizer.quantization.frozen import FrozenEmbedding, FrozenLinear, FrozenWeight


@dataclass(frozen=True)
class DropoutInputs:
    """What a forward pass's dropout masks are drawn from."""

    keys: Int[Tensor, " n"]
    """Of each trial's seed and the steps that it has done."""
    tokens: Int[Tensor, "n m"]
    """Each token's number within its trial's batch of the step."""
    tokens_at_positions: Int[Tensor, "n s"]
    """Of those that the head sees, and what else is `at_positions`."""
    keep: Float[Tensor, "n 1 1"]
    """Probability with which an input is kept."""


@dataclass
class AdapterStackState:
    """What all adapted layers of a model share: whose rows they see, and in which step."""

    device: torch.device
    adapters: Sequence[Adapter] = ()
    seeds: Sequence[int] = ()
    shared: Sequence[Parameters] = ()
    """Each trial's `Adapter.draw_shared`."""
    shown: int | None = None
    """How many of the trials the model shows now; None for all."""
    enabled: bool = True
    """False shows the base model, whatever the number of rows."""
    training: bool = False
    """Dropout is on."""
    dropout_inputs: DropoutInputs | None = None
    """What dropout masks depend on beside the layer; set for each forward pass of training."""
    _kept: dict[tuple[str, torch.Size], Tensor] = field(default_factory=dict)
    """The tensors of `dropout_inputs` by name and shape, which stay where they are in memory."""

    def keep_in_place(self, inputs: DropoutInputs) -> DropoutInputs:
        """The same numbers in the tensors that held those of the passes before, of the same shapes.

        A recorded graph knows only where they lie: the compiler takes what hangs on a module for what never moves.
        """
        kept = {}
        for each in fields(inputs):
            given: Tensor = getattr(inputs, each.name)
            kept[each.name] = self._kept.setdefault((each.name, given.shape), given)
            if kept[each.name] is not given:
                kept[each.name].copy_(given)
        return DropoutInputs(**kept)

    def set_trials(
        self, adapters: Sequence[Adapter], seeds: Sequence[int], shared: Sequence[Parameters]
    ) -> None:
        self.adapters, self.seeds, self.shared = tuple(adapters), tuple(seeds), tuple(shared)

    @property
    def size(self) -> int:
        """Trials that the model shows now."""
        return len(self.adapters) if self.shown is None else self.shown

    @property
    def drops(self) -> bool:
        return self.training and any(adapter.input_dropout for adapter in self.adapters)


class UnreadWeight:
    """What a model's code finds as the `weight` of an adapted layer: its type and place, and no numbers.

    Code that multiplies with it goes past the layer, and past the adapter. Raises ConfigError for that.
    """

    def __init__(self, frozen: FrozenWeight) -> None:
        self.dtype, self.device, self.shape = frozen.dtype, frozen.device, frozen.shape

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        self._refuse()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        cls._refuse()

    @classmethod
    def _refuse(cls) -> NoReturn:
        raise ConfigError.single(
            "adapter.exclude",
            "this model's code reads an adapted layer's weight by itself, past the adapter; exclude that layer",
        )


class TrialStack(nn.Module):
    """The tensors of neighboring trials of one kind beside one layer, padded with zeros to the largest.

    Each trial's own parameters are views of its share of the stack, whose gradients are views of the stack's
    gradient, so that one batched product serves all and each optimizer sees only its own. A trial that leaves the
    layer alone has a share of zeros, which no optimizer touches. A tensor that its kind keeps as it was drawn
    requires no gradient, and a stack of such tensors alone has none.
    """

    scale: Float[Tensor, "n 1 1"]

    def __init__(
        self, adapters: Sequence[Adapter], trials: Sequence[dict[str, nn.Parameter]], first_slot: int
    ) -> None:
        super().__init__()
        self.kind = type(adapters[0])
        self.slots = slice(first_slot, first_slot + len(trials))
        self.tensors = nn.ParameterDict()
        self._sizes: dict[str, tuple[int, ...]] = {}
        for name in dict.fromkeys(name for own in trials for name in own):
            present = [own[name] for own in trials if name in own]
            self._sizes[name] = tuple(own[name].shape[0] if name in own else 0 for own in trials)
            trained = any(parameter.requires_grad for parameter in present)
            zeros = present[0].new_zeros(len(trials), max(self._sizes[name]), *present[0].shape[1:])
            stack = nn.Parameter(zeros, requires_grad=trained)
            stack.grad = torch.zeros_like(stack) if trained else None
            for i, own in enumerate(trials):
                if name in own:
                    rows = own[name].shape[0]
                    share = stack.data[i, :rows]
                    share.copy_(own[name].data)
                    own[name].data = share
                    if stack.grad is not None and own[name].requires_grad:
                        own[name].grad = stack.grad[i, :rows]
            self.tensors[name] = stack
        device = next(iter(self.tensors.values())).device if self.tensors else None
        scales = torch.tensor([adapter.scale for adapter in adapters], device=device).reshape(-1, 1, 1)
        self.register_buffer("scale", scales, persistent=False)
        self._variants = tuple(adapter.variant for adapter in adapters)

    def stacked(self, shared: Sequence[Parameters]) -> Stacked:
        """shared: of all trials of the group."""
        own = tuple(shared[self.slots])
        return Stacked(dict(self.tensors.items()), self._sizes, self.scale, self._variants, own)


class AdaptedLayer(nn.Module):
    """A frozen layer and the adapters of `n` trials, in stacks of neighbors of one kind.

    When trials come or go the stacks are laid anew; a trial's parameters stay the same objects.
    """

    def __init__(
        self,
        base: FrozenLinear | FrozenEmbedding,
        role: Role,
        state: AdapterStackState,
        index: int,
        before: Sequence[Adapter] = (),
        *,
        at_positions: bool,
    ) -> None:
        """index: the layer's number in the model.  before: trials that leave this layer alone, as it has them.

        at_positions: in training its rows are those at the batch's positions alone.
        """
        super().__init__()
        self.base = base
        self.role = role
        self.at_positions = at_positions
        self._state = state
        # A tensor, so that compiled code is the same for all layers.
        self._number = torch.tensor(index, device=base.weight.device)
        self.adapters: list[Adapter] = list(before)
        """The trials' configs as they are for this layer."""
        self.trials: list[dict[str, nn.Parameter]] = [{} for _ in before]
        """Each trial's own parameters; none where it leaves this layer alone."""
        self.stacks = nn.ModuleList()
        self._is_adapted = False
        self._shown: list[tuple[slice, type[Adapter], Stacked]] | None = None

    @property
    def weight(self) -> UnreadWeight:
        return UnreadWeight(self.base.weight)

    @property
    def bias(self) -> Tensor | None:
        return None if isinstance(self.base, FrozenEmbedding) else self.base.bias

    def add(self, adapters: Sequence[Adapter], tensors: Sequence[Parameters | None]) -> None:
        """Trials behind the others, with their first values; None for one that leaves this layer alone.

        adapters: as they are for this layer.
        """
        device = self.base.weight.device
        self._lay(
            [*self.adapters, *adapters],
            self.trials
            + [
                {
                    name: nn.Parameter(value.to(device), requires_grad=name not in adapter.kept_as_drawn)
                    for name, value in (own or {}).items()
                }
                for adapter, own in zip(adapters, tensors, strict=True)
            ],
        )

    def keep(self, slots: Sequence[int]) -> None:
        """Only the trials in these slots stay, in this order."""
        self._lay([self.adapters[slot] for slot in slots], [self.trials[slot] for slot in slots])

    def show(self, slots: Sequence[int] | None) -> None:
        """Compute for the trials in these slots alone, as they are now, without gradients; None for all."""
        self._shown = None
        if slots is None or not self._is_adapted:
            return
        self._shown = []
        for stack, own in self._parts(slots):
            first = self._shown[-1][0].stop if self._shown else 0
            stacked = self._prepared(stack.kind, stack.stacked(self._state.shared).of(own))
            self._shown.append((slice(first, first + len(own)), stack.kind, stacked))

    def _parts(self, slots: Sequence[int]) -> Iterator[tuple[TrialStack, list[int]]]:
        """Neighbors among these slots that lie in one stack, and their places there."""
        stacks = [stack for stack in self._all_stacks() for _ in range(stack.slots.start, stack.slots.stop)]
        for _, same in groupby(slots, key=lambda slot: stacks[slot].slots.start):
            members = list(same)
            stack = stacks[members[0]]
            yield stack, [slot - stack.slots.start for slot in members]

    def _all_stacks(self) -> list[TrialStack]:
        return list(self.stacks)  # type: ignore[arg-type]  # a ModuleList does not say of what

    def _lay(self, adapters: list[Adapter], trials: list[dict[str, nn.Parameter]]) -> None:
        self.adapters, self.trials = adapters, trials
        # Known ahead of a pass: a compiler that reads the trials' own parameters compiles anew when they change.
        self._is_adapted = any(trials)
        self.stacks = nn.ModuleList()
        start = 0
        for _, same in groupby(adapters, key=type):
            stop = start + len(list(same))
            self.stacks.append(TrialStack(adapters[start:stop], trials[start:stop], start))
            start = stop

    def forward(self, x: Tensor) -> Tensor:
        if not self._state.enabled or not self._is_adapted:
            return self.base(x)  # type: ignore[no-any-return]
        parts = self._shown or self._laid()
        if isinstance(self.base, FrozenEmbedding):
            rows: Tensor = self.base(x)
            ids, by_trial = (each.reshape(self._state.size, -1, *each.shape[x.dim() :]) for each in (x, rows))
            adapted = [
                kind.adapted_embedding(self.base, by_trial[slots], ids[slots], stacked)
                if stacked.tensors
                else by_trial[slots]
                for slots, kind, stacked in parts
            ]
            # A copy, since blocks that are compiled are compiled once more for a first input that is a view.
            return _joined(adapted).reshape(rows.shape).clone()
        if len(parts) == 1:
            return self._linear(x, *parts[0])
        kernel_graph.require(False, "adapters of several kinds")
        # Converted before it is cut, since the twin of a part would be made in each layer anew.
        whole = in_compute_dtype(x) if torch.is_grad_enabled() else x
        inputs = whole.reshape(self._state.size, -1, x.shape[-1])
        outputs = [self._linear(inputs[slots], slots, kind, stacked) for slots, kind, stacked in parts]
        return _joined(outputs).reshape(*x.shape[:-1], -1)

    def _laid(self) -> list[tuple[slice, type[Adapter], Stacked]]:
        shared = self._state.shared
        laid = [(stack.slots, stack.kind, stack.stacked(shared)) for stack in self._all_stacks()]
        if torch.is_grad_enabled():
            return laid
        return [(slots, kind, self._prepared(kind, stacked)) for slots, kind, stacked in laid]

    def _prepared(self, kind: type[Adapter], stacked: Stacked) -> Stacked:
        return kind.prepared(self.base, stacked) if stacked.tensors else stacked

    def _linear(self, x: Tensor, slots: slice, kind: type[Adapter], stacked: Stacked) -> Tensor:
        """The rows of x, all of the trials in these slots, as those change what the frozen layer gives."""
        assert isinstance(self.base, FrozenLinear)
        if not stacked.tensors:
            y: Tensor = self.base(x)
            return y
        if (few := kind.decode_linear(self.base, x, stacked)) is not None:
            return few
        inputs = in_compute_dtype(x).reshape(slots.stop - slots.start, -1, x.shape[-1])
        dropped = self._dropped(inputs, slots) if self._state.drops else None
        y = kind.adapted_linear(self.base, inputs, dropped, stacked)
        return y.reshape(*x.shape[:-1], -1)

    def _dropped(self, x: Float[Tensor, "n m d_in"], slots: slice) -> Float[Tensor, "n m d_in"]:
        """Inverted dropout (Srivastava et al. 2014), each token's mask by the trial's seed and step alone."""
        inputs = self._state.dropout_inputs
        assert inputs is not None
        tokens = inputs.tokens_at_positions if self.at_positions else inputs.tokens
        keys, own, keep = inputs.keys[slots], tokens[slots], inputs.keep[slots]
        return x * dropout_mask(keys, self._number, own, x.shape[-1], keep, x.dtype)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
