"""A base's weights with one trial's adapter in them, made one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from summarizer.adapters.attach import AdaptedModel
from summarizer.adapters.layer import AdaptedLayer
from summarizer.adapters.protocol import Adapter, Parameters
from summarizer.models.causal_lm import CausalLM
from summarizer.quantization.frozen import FrozenEmbedding, FrozenLinear


def frozen_layers(model: CausalLM) -> dict[str, FrozenLinear | FrozenEmbedding]:
    """The layers with stored weights, by the name that the original model has for each."""
    found: dict[str, FrozenLinear | FrozenEmbedding] = {}
    for name, module in model.module.named_modules():
        if isinstance(module, AdaptedLayer):
            found[name] = module.base
        elif isinstance(module, FrozenLinear | FrozenEmbedding) and name.removesuffix(".base") not in found:
            found[name] = module
    return found


def plain_tensors(model: CausalLM) -> dict[str, Tensor]:
    """What keeps its precision in a base (biases, norms, layers that are not frozen), by the original's name."""
    layers = frozen_layers(model)
    inside = tuple(f"{name}." for name in layers)
    plain = {
        name: tensor
        for name, tensor in model.module.state_dict(keep_vars=True).items()
        if not name.startswith(inside)
    }
    for name, layer in layers.items():
        if isinstance(layer, FrozenLinear) and layer.bias is not None:
            plain[f"{name}.bias"] = layer.bias
    return plain


class Merge:
    """One trial's adapter in the base that it was trained on, or in another with the same layers.

    trial: None leaves the base as it is.  original: with the checkpoint's own weights; None takes those of the
    base as the adapter was trained on it, dequantized.
    """

    def __init__(self, adapted: AdaptedModel, trial: int | None, original: CausalLM | None = None) -> None:
        self.adapted, self.trial = adapted, trial
        base = original or adapted.model
        self.layers = frozen_layers(base)
        """The layers whose weights are merged, by the original model's names."""
        self.plain = plain_tensors(base)
        """What keeps its precision, by the same names."""
        for name in self.layers:
            if self.is_adapted(name) and f"{name}.bias" in self.plain:
                adapter, tensors = self._of(name)
                self.plain[f"{name}.bias"] = adapter.merged_bias(self.plain[f"{name}.bias"], tensors)

    def weight(self, name: str) -> Float[Tensor, "d_out d_in"]:
        """One layer's merged weight in fp32, on the device of the adapters; (v, d) for an embedding."""
        dense = self.layers[name].weight.dense(torch.float32).to(self.adapted.device)
        if not self.is_adapted(name):
            return dense
        adapter, tensors = self._of(name)
        return adapter.merged(self.adapted.layers[name].base, dense, tensors)

    def is_adapted(self, name: str) -> bool:
        """Whether the adapter changes a layer."""
        layer = self.adapted.layers.get(name)
        return self.trial is not None and layer is not None and bool(layer.trials[self.trial])

    def _of(self, name: str) -> tuple[Adapter, Parameters]:
        assert self.trial is not None
        layer = self.adapted.layers[name]
        shared = self.adapted.stack.shared[self.trial]
        return layer.adapters[self.trial], {**layer.trials[self.trial], **shared}


class _MergedLayer(nn.Module):
    """Stands in for a layer and its adapter: the merged weight is made for each pass and let go."""

    def __init__(self, merge: Merge, name: str, dtype: torch.dtype) -> None:
        super().__init__()
        self._merge, self._name, self._dtype = merge, name, dtype
        layer = merge.layers[name]
        self._embedding_scale = layer.scale if isinstance(layer, FrozenEmbedding) else None
        bias = merge.plain.get(f"{name}.bias")
        self._bias = None if bias is None else bias.to(merge.adapted.device).to(dtype).float()

    def forward(self, x: Float[Tensor, "... d_in"] | Int[Tensor, ...]) -> Float[Tensor, "... d_out"]:
        weight = self._merge.weight(self._name).to(self._dtype).float()
        if self._embedding_scale is not None:
            return F.embedding(x, weight) * self._embedding_scale
        return F.linear(x, weight, self._bias)


@contextmanager
def merged_into(merge: Merge, dtype: torch.dtype) -> Iterator[None]:
    """Within the block the adapted model computes with the merged weights, rounded to `dtype`.

    Products stay in fp32, and no more than one merged weight is held at a time.
    """
    model = merge.adapted.model
    own = {name: model.module.get_submodule(name) for name in frozen_layers(model)}
    plain = {
        name: tensor
        for name, tensor in plain_tensors(model).items()
        if tensor.is_floating_point() and name.removesuffix(".bias") not in own
    }
    before = {name: tensor.detach().clone() for name, tensor in plain.items()}
    merged = {name: _MergedLayer(merge, name, dtype) for name in own}
    try:
        with torch.no_grad():
            for name, tensor in plain.items():
                tensor.copy_(merge.plain[name].to(dtype))
        for name, layer in merged.items():
            model.module.set_submodule(name, layer)
        yield
    finally:
        for name, module in own.items():
            model.module.set_submodule(name, module)
        with torch.no_grad():
            for name, tensor in plain.items():
                tensor.copy_(before[name])
