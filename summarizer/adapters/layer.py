"""The layer that carries the adapters of `n` trials beside one frozen layer.

Its input holds the rows of all trials, trial by trial; only this layer and the loss know that `n` exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from summarizer.adapters.dropout import dropout_mask
from summarizer.adapters.protocol import Adapter, Parameters, Role
from summarizer.errors import ConfigError
from summarizer.ops.elementwise import in_compute_dtype
from summarizer.quantization.frozen import FrozenEmbedding, FrozenLinear, FrozenWeight


@dataclass(frozen=True)
class DropoutInputs:
    """What a forward pass's dropout masks are drawn from."""

    keys: Int[Tensor, " n"]
    """Of each trial's seed and the steps that it has done."""
    tokens: Int[Tensor, "n m"]
    """Each token's number within its trial's batch of the step."""
    head_tokens: Int[Tensor, "n s"]
    """Of the tokens that the head sees."""
    keep: Float[Tensor, "n 1 1"]
    """Probability with which an input is kept."""


@dataclass
class AdapterStackState:
    """What all adapted layers of a model share: whose rows they see, and in which step."""

    device: torch.device
    adapters: Sequence[Adapter] = ()
    seeds: Sequence[int] = ()
    scales: Float[Tensor, "n 1 1"] = field(init=False)
    enabled: bool = True
    """False shows the base model, whatever the number of rows."""
    training: bool = False
    """Dropout is on."""
    dropout_inputs: DropoutInputs | None = None
    """What dropout masks depend on beside the layer; set for each forward pass of training."""
    _kept: dict[tuple[str, torch.Size], Tensor] = field(default_factory=dict)
    """The tensors of `dropout_inputs` by name and shape, which stay where they are in memory."""

    def __post_init__(self) -> None:
        self.set_trials(self.adapters, self.seeds)

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

    def set_trials(self, adapters: Sequence[Adapter], seeds: Sequence[int]) -> None:
        self.adapters, self.seeds = tuple(adapters), tuple(seeds)
        scales = [adapter.scale for adapter in adapters]
        self.scales = torch.tensor(scales, device=self.device).reshape(-1, 1, 1)

    @property
    def size(self) -> int:
        """Trials that the model shows now."""
        return len(self.scales)

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


class AdaptedLayer(nn.Module):
    """A frozen layer and a stack of `n` trials' adapter tensors, padded with zeros to the largest dim.

    `trials[i]` holds trial i's own parameters: views of its share of the stack, whose gradients are views of
    the stack's gradient, so that one batched product serves all and each optimizer sees only its own. A trial
    that leaves this layer alone has no parameters here and a share of zeros, which no optimizer touches. A tensor
    that its kind keeps as it was drawn requires no gradient, and a stack of such tensors alone has none. When
    trials come or go the stack is laid anew; a trial's parameters stay the same objects.
    """

    def __init__(
        self, base: FrozenLinear | FrozenEmbedding, role: Role, stack: AdapterStackState, index: int
    ) -> None:
        super().__init__()
        self.base = base
        self.role = role
        self._stack = stack
        # A tensor, so that compiled code is the same for all layers.
        self._number = torch.tensor(index, device=base.weight.device)
        self.stacked = nn.ParameterDict()
        self.trials: list[dict[str, nn.Parameter]] = [{} for _ in stack.adapters]
        self._dims: tuple[int, ...] = ()
        self._shown: tuple[dict[str, Tensor], tuple[int, ...]] | None = None

    @property
    def weight(self) -> UnreadWeight:
        return UnreadWeight(self.base.weight)

    @property
    def bias(self) -> Tensor | None:
        return None if isinstance(self.base, FrozenEmbedding) else self.base.bias

    def add(self, adapters: Sequence[Adapter], tensors: Sequence[Parameters | None]) -> None:
        """Trials behind the others, with their first values; None for one that leaves this layer alone."""
        device = self.base.weight.device
        self._lay(
            self.trials
            + [
                {
                    name: nn.Parameter(value.to(device), requires_grad=name not in adapter.kept_as_drawn)
                    for name, value in (own or {}).items()
                }
                for adapter, own in zip(adapters, tensors, strict=True)
            ]
        )

    def keep(self, slots: Sequence[int]) -> None:
        """Only the trials in these slots stay, in this order."""
        self._lay([self.trials[slot] for slot in slots])

    def show(self, slots: Sequence[int] | None) -> None:
        """Compute for the trials in these slots alone, without gradients; None for all."""
        if slots is None:
            self._shown = None
        else:
            stacked = {name: stack.detach()[list(slots)] for name, stack in self.stacked.items()}
            self._shown = stacked, tuple(self._dims[slot] for slot in slots)

    def _lay(self, trials: list[dict[str, nn.Parameter]]) -> None:
        self.trials = trials
        self._dims = tuple(max((tensor.shape[0] for tensor in own.values()), default=0) for own in trials)
        present = [own for own in trials if own]
        self.stacked = nn.ParameterDict()
        for name in present[0] if present else ():
            first = present[0][name]
            largest = max(own[name].shape[0] for own in present)
            trained = any(own[name].requires_grad for own in present)
            zeros = first.new_zeros(len(trials), largest, *first.shape[1:])
            stack = nn.Parameter(zeros, requires_grad=trained)
            stack.grad = torch.zeros_like(stack) if trained else None
            for i, own in enumerate(trials):
                if own:
                    dim = own[name].shape[0]
                    share = stack.data[i, :dim]
                    share.copy_(own[name].data)
                    own[name].data = share
                    if stack.grad is not None and own[name].requires_grad:
                        own[name].grad = stack.grad[i, :dim]
            self.stacked[name] = stack

    def forward(self, x: Tensor) -> Tensor:
        stack = self._stack
        if not stack.enabled or not self.stacked:
            return self.base(x)  # type: ignore[no-any-return]
        kind = type(stack.adapters[0])
        stacked, dims = self._shown or (dict(self.stacked.items()), self._dims)
        if isinstance(self.base, FrozenEmbedding):
            rows: Tensor = self.base(x)
            scales = stack.scales if self.base.scale == 1 else stack.scales * self.base.scale
            delta = kind.delta_embedding(x.reshape(stack.size, -1), stacked, scales, dims)
            return rows + delta.reshape(rows.shape)
        if (few := kind.decode_linear(self.base, x, stacked, stack.scales)) is not None:
            return few
        product_input = in_compute_dtype(x).reshape(stack.size, -1, x.shape[-1])
        y = kind.adapted_linear(
            self.base,
            product_input,
            self._dropped(product_input) if stack.drops else None,
            stacked,
            stack.scales,
            dims,
        )
        return y.reshape(*x.shape[:-1], -1)

    def _dropped(self, x: Float[Tensor, "n m d_in"]) -> Float[Tensor, "n m d_in"]:
        """Inverted dropout (Srivastava et al. 2014), each token's mask by the trial's seed and step alone."""
        inputs = self._stack.dropout_inputs
        assert inputs is not None
        tokens = inputs.head_tokens if self.role == "head" else inputs.tokens
        return x * dropout_mask(inputs.keys, self._number, tokens, x.shape[-1], inputs.keep, x.dtype)
