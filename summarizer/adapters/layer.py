"""The layer that carries the adapters of `n` trials beside one frozen layer.

Its input holds the rows of all trials, trial by trial; only this layer and the loss know that `n` exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from summarizer.adapters.protocol import Adapter, Parameters, Role
from summarizer.model.frozen import FrozenEmbedding, FrozenLinear, in_product_precision


@dataclass
class GroupState:
    """What all adapted layers of a model share: whose rows they see, and in which pass."""

    adapters: Sequence[Adapter]
    seeds: Sequence[int]
    scales: Float[Tensor, "n 1 1"]
    enabled: bool = True
    """False shows the base alone, whatever the number of rows."""
    training: bool = False
    """Dropout is on."""
    passes: int = 0
    """Forward passes trained so far: with the seed, all that a trial's dropout masks depend on."""

    @property
    def size(self) -> int:
        return len(self.adapters)

    @property
    def drops(self) -> bool:
        return self.training and any(adapter.input_dropout for adapter in self.adapters)


class AdaptedLayer(nn.Module):
    """A frozen layer and a stack of `n` trials' adapter tensors, padded with zeros to the largest dim.

    `trials[i]` holds trial i's own parameters: views of its share of the stack, whose gradients are views of
    the stack's gradient, so that one batched product serves all and each optimizer sees only its own. A trial
    that leaves this layer alone has no parameters here and a share of zeros, which no optimizer touches.
    """

    def __init__(
        self,
        base: FrozenLinear | FrozenEmbedding,
        role: Role,
        tensors: Sequence[Parameters | None],
        group: GroupState,
        index: int,
    ) -> None:
        super().__init__()
        self.base = base
        self.role = role
        self._group = group
        self._index = index
        device = base.weight.device
        present = [own for own in tensors if own is not None]
        names = list(present[0])
        self.stacked = nn.ParameterDict()
        self.trials: list[dict[str, nn.Parameter]] = [{} for _ in tensors]
        for name in names:
            largest = max(own[name].shape[0] for own in present)
            stack = torch.zeros(len(tensors), largest, *present[0][name].shape[1:], device=device)
            parameter = nn.Parameter(stack)
            parameter.grad = torch.zeros_like(stack)
            self.stacked[name] = parameter
            for i, own in enumerate(tensors):
                if own is not None:
                    dim = own[name].shape[0]
                    stack[i, :dim] = own[name].to(device)
                    share = nn.Parameter(parameter.data[i, :dim])
                    share.grad = parameter.grad[i, :dim]
                    self.trials[i][name] = share

    def forward(self, x: Tensor) -> Tensor:
        group = self._group
        if not group.enabled:
            return self.base(x)  # type: ignore[no-any-return]
        kind = type(group.adapters[0])
        stacked = dict(self.stacked.items())
        if isinstance(self.base, FrozenEmbedding):
            rows: Tensor = self.base(x)
            delta = kind.delta_embedding(x.reshape(group.size, -1), stacked, group.scales)
            return rows + delta.reshape(rows.shape)
        product_input = in_product_precision(x)
        dropped = self._dropped(product_input) if group.drops else None
        y = kind.adapted_linear(
            self.base,
            product_input.reshape(group.size, -1, x.shape[-1]),
            None if dropped is None else dropped.reshape(group.size, -1, x.shape[-1]),
            stacked,
            group.scales,
        )
        return y.reshape(*x.shape[:-1], -1)

    # Compiled, the number of the pass would be a constant, and each step's code compiled anew.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _dropped(self, x: Float[Tensor, "rows ... d_in"]) -> Float[Tensor, "rows ... d_in"]:
        """Inverted dropout (Srivastava et al. 2014), each trial's mask from its own generator.

        The generator starts from (seed, pass, layer): a pass that is recomputed, or resumed, draws the same
        mask.
        """
        group = self._group
        shares = x.reshape(group.size, -1, x.shape[-1])
        masks = []
        for i, (adapter, seed) in enumerate(zip(group.adapters, group.seeds, strict=True)):
            generator = torch.Generator(device=x.device)
            generator.manual_seed(mixed_seed(seed, group.passes, self._index))
            keep = 1.0 - adapter.input_dropout
            mask = torch.rand(shares[i].shape, generator=generator, device=x.device) < keep
            masks.append(mask.to(x.dtype) / keep)
        return (shares * torch.stack(masks)).reshape(x.shape)


def mixed_seed(*parts: int) -> int:
    """One 63-bit seed from several small numbers. Source: SplitMix64's finaliser (Steele et al. 2014)."""
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1
