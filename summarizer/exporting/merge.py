"""A base's weights with one trial's adapter added, made one at a time.

W' = W + (alpha / dim) B A. Source: Hu et al. 2021 (arXiv:2106.09685), section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from summarizer.adapters.attach import AdaptedModel
from summarizer.adapters.layer import AdaptedLayer
from summarizer.adapters.lora import LoRA
from summarizer.errors import ConfigError
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
        """Raises ConfigError for an adapter of a kind that cannot be merged."""
        self.adapted, self.trial = adapted, trial
        base = original or adapted.model
        self.layers = frozen_layers(base)
        """The layers whose weights are merged, by the original model's names."""
        self.plain = plain_tensors(base)
        """What no adapter touches, by the same names."""
        # A subclass may compute something else of the same pair.
        if trial is not None and type(adapter := adapted.stack.adapters[trial]) is not LoRA:
            raise ConfigError.single(
                "--format",
                f"{type(adapter).__name__} adapters cannot be merged; --format peft keeps them apart",
            )

    def weight(self, name: str) -> Float[Tensor, "d_out d_in"]:
        """One layer's merged weight in fp32, on the device of the adapters; (v, d) for an embedding."""
        dense = self.layers[name].weight.dense(torch.float32).to(self.adapted.device)
        own = self.pair(name)
        if own is None or self.trial is None:
            return dense
        left, right = own
        scale = self.adapted.stack.adapters[self.trial].scale
        # Not in place: an unquantized base gives the very tensor that it computes with.
        return torch.addmm(dense, left.detach(), right.detach(), alpha=scale)

    def pair(self, name: str) -> tuple[Float[Tensor, "d_out r"], Float[Tensor, "r d_in"]] | None:
        """The two matrices whose product the adapter adds to a layer's weight; None where it adds none."""
        layer = self.adapted.layers.get(name)
        if self.trial is None or layer is None or not layer.trials[self.trial]:
            return None
        a, b = layer.trials[self.trial]["a"], layer.trials[self.trial]["b"]
        return (a.t(), b) if layer.role == "embedding" else (b.t(), a)


class _MergedLayer(nn.Module):
    """Stands in for a layer and its adapter: the merged weight is made for each pass and let go."""

    def __init__(self, merge: Merge, name: str, dtype: torch.dtype) -> None:
        super().__init__()
        self._merge, self._name, self._dtype = merge, name, dtype
        layer = merge.layers[name]
        self._embedding_scale = layer.scale if isinstance(layer, FrozenEmbedding) else None
        bias = None if isinstance(layer, FrozenEmbedding) else layer.bias
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
