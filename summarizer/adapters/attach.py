"""Put adapters beside the frozen layers of a base, for a group of trials."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from summarizer import compat
from summarizer.adapters.dropout import trial_keys
from summarizer.adapters.layer import AdaptedLayer, AdapterStackState, DropoutInputs, TrialStack
from summarizer.adapters.protocol import Adapter, Parameters, Role
from summarizer.console.progress import bar
from summarizer.data.batches import Batch, PaddingBuckets, collate, moved
from summarizer.data.order import EncodedRow
from summarizer.data.prompt import Prompt
from summarizer.errors import ConfigError, suggestion
from summarizer.models.causal_lm import CausalLM
from summarizer.quantization.frozen import FrozenEmbedding, FrozenLinear


@dataclass(frozen=True)
class AdaptedModel:
    """A base that carries the adapters of `n` trials, which come and go between steps."""

    model: CausalLM
    device: torch.device
    roles: dict[str, Role]
    """Of the layers that can be adapted, by module name."""
    layers: dict[str, AdaptedLayer]
    """Those that a trial adapts, or did, by the name of the module that each stands in for."""
    stack: AdapterStackState

    def add(self, adapters: Sequence[Adapter], seeds: Sequence[int]) -> None:
        """Give slots behind the others to more trials; trial i's tensors are drawn from `seeds[i]` alone.

        Raises ConfigError where a target matches nothing, or a layer's shape does not allow what is asked for.
        """
        chosen = [targets(adapter, self.roles) for adapter in adapters]
        shared = self._shared(adapters, chosen)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        long = any(adapter.starts_from_the_base for adapter in adapters)
        with bar("taking adapters from the weights", len(self.roles), show=long) as progress:
            for index, (name, role) in enumerate(self.roles.items()):
                base = self._base(name)
                own = [adapter.for_layer(name, role) for adapter in adapters]
                tensors = [
                    _drawn(adapter, base, generator) if name in wanted else None
                    for adapter, generator, wanted in zip(own, generators, chosen, strict=True)
                ]
                progress.advance()
                if name not in self.layers:
                    if all(drawn is None for drawn in tensors):
                        continue
                    before = [adapter.for_layer(name, role) for adapter in self.stack.adapters]
                    at_positions = role == "head" or self.model.is_at_positions(name)
                    self.layers[name] = AdaptedLayer(
                        base, role, self.stack, index, before, at_positions=at_positions
                    )
                    self.model.module.set_submodule(name, self.layers[name])
                self.layers[name].add(own, tensors)
        stack = self.stack
        stack.set_trials([*stack.adapters, *adapters], [*stack.seeds, *seeds], [*stack.shared, *shared])

    def keep(self, slots: Sequence[int]) -> None:
        """Only the trials in these slots stay, in this order; the others' tensors are let go."""
        for layer in self.layers.values():
            layer.keep(slots)
        stack = self.stack
        stack.set_trials(
            [stack.adapters[slot] for slot in slots],
            [stack.seeds[slot] for slot in slots],
            [stack.shared[slot] for slot in slots],
        )

    def _shared(self, adapters: Sequence[Adapter], chosen: Sequence[Iterable[str]]) -> list[Parameters]:
        """What the layers of each new trial share, which trials of like keys share too.  chosen: the layers."""
        drawn = {}
        for slot, adapter in enumerate(self.stack.adapters):
            own = [layer.base for layer in self.layers.values() if layer.trials[slot]]
            drawn[_shared_key(adapter, own)] = self.stack.shared[slot]
        found = []
        for adapter, names in zip(adapters, chosen, strict=True):
            kind, key = _shared_key(adapter, [self._base(name) for name in names])
            if (kind, key) not in drawn:
                own_tensors = adapter.draw_shared(key)
                drawn[kind, key] = {name: tensor.to(self.device) for name, tensor in own_tensors.items()}
            found.append(drawn[kind, key])
        return found

    def _base(self, name: str) -> FrozenLinear | FrozenEmbedding:
        base = self.layers[name].base if name in self.layers else self.model.module.get_submodule(name)
        assert isinstance(base, FrozenLinear | FrozenEmbedding)
        return base

    def batch(
        self,
        trials: Sequence[Sequence[EncodedRow]],
        prompt: Prompt,
        numbers: Sequence[Sequence[int]] | None = None,
        buckets: PaddingBuckets | None = None,
    ) -> Batch:
        """The examples of each trial (one trial's in all for the base model) as this model takes them.

        numbers: of each example, and buckets: as `collate` takes them.
        """
        packed = self.model.packs(prompt.max_tokens)
        if buckets is not None and not packed:  # a row is one example, and positions end where the model's do
            buckets = replace(buckets, tokens=prompt.max_tokens)
        return collate(trials, prompt, packed=packed, numbers=numbers, buckets=buckets).to(self.device)

    def set_dropout_inputs(self, batch: Batch, steps: Sequence[int], *, in_place: bool = False) -> None:
        """Let the next pass's dropout depend on its tokens and the steps that each trial has done.

        in_place: in the same memory for all batches of a shape. The pass before is to be back-propagated by then.
        """
        stack = self.stack
        if not any(adapter.input_dropout for adapter in stack.adapters):
            return
        tokens = batch.token_numbers.reshape(stack.size, -1)
        seeds, done = moved(torch.tensor([[*stack.seeds], [*steps]]), self.device)
        keep = torch.tensor([1.0 - adapter.input_dropout for adapter in stack.adapters])
        dropout_inputs = DropoutInputs(
            trial_keys(seeds, done),
            tokens,
            tokens.gather(1, batch.positions),
            moved(keep, self.device).reshape(-1, 1, 1),
        )
        stack.dropout_inputs = stack.keep_in_place(dropout_inputs) if in_place else dropout_inputs

    def parameters_of(self, slot: int) -> dict[str, nn.Parameter]:
        """What a slot's trial trains, `LAYER.TENSOR` by name; shapes as its adapter drew them."""
        return {
            f"{name}.{tensor}": parameter
            for name, layer in self.layers.items()
            for tensor, parameter in layer.trials[slot].items()
            if parameter.requires_grad
        }

    def peft_patterns(self, slot: int) -> dict[str, Any]:
        """Options of a slot's `peft` config that say how its layers differ."""
        layers = {name: layer.adapters[slot] for name, layer in self.layers.items() if layer.trials[slot]}
        return self.stack.adapters[slot].peft_patterns(layers)

    def stacks(self) -> Iterator[nn.Parameter]:
        """The stacked parameters of all layers; gradients accumulate in those that are trained."""
        for layer in self.layers.values():
            yield from layer.stacks.parameters()

    def zero_grad(self) -> None:
        """In place: the trials' gradients are views of the stacks'."""
        compat.foreach_zero_([stack.grad for stack in self.stacks() if stack.grad is not None])

    @contextmanager
    def base_alone(self) -> Iterator[None]:
        """Within the block the model computes as if nothing were attached."""
        self.stack.enabled = False
        try:
            yield
        finally:
            self.stack.enabled = True

    @contextmanager
    def only(self, slots: Sequence[int]) -> Iterator[None]:
        """Within the block the model holds the trials in these slots alone, for passes without gradients.

        Their values are not to change in it.
        """
        self.stack.shown = len(slots)
        for layer in self.layers.values():
            layer.show(slots)
        try:
            yield
        finally:
            self.stack.shown = None
            for layer in self.layers.values():
                layer.show(None)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Within the block dropout is on and activations may be recomputed."""
        self._train(True)
        try:
            yield
        finally:
            self._train(False)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within the block, inside that of `training`, they are off."""
        self._train(False)
        try:
            yield
        finally:
            self._train(True)

    def _train(self, on: bool) -> None:
        # The frozen base computes in training what it computes after it, without dropout or random routing: each
        # trial would have to draw that alike. A block's own flag says whether it may be recomputed or compiled.
        for block in self.model.blocks:
            block.training = on
        self.stack.training = on


def roles(model: CausalLM) -> dict[str, Role]:
    """The frozen layers that an adapter can stand beside, by module name, in the model's order."""
    head, embedding = model.head, model.embedding
    found: dict[str, Role] = {}
    for name, module in model.module.named_modules():
        if name in model.not_adapted:
            continue
        if module is head and isinstance(module, FrozenLinear):
            found[name] = "head"
        elif module is embedding and isinstance(module, FrozenEmbedding):
            found[name] = "embedding"
        elif isinstance(module, FrozenLinear):
            found[name] = "linear"
    return found


def targets(adapter: Adapter, layer_roles: dict[str, Role]) -> dict[str, Role]:
    """The layers that one adapter's config asks for.

    A target that the model has no layer for, such as a head that computes more than a product, is left out: loading
    says so. So is one that the kind is not defined for, of which `describe` tells. Raises ConfigError where an
    exclusion matches nothing, or nothing is left.
    """
    if issues := list(adapter.mistakes(layer_roles)):
        raise ConfigError(issues)
    for pattern in adapter.exclude:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in layer_roles):
            raise ConfigError.single(
                "adapter.exclude", f"{pattern!r} matches no layer{suggestion(pattern, layer_roles)}"
            )
    chosen = {
        name: role
        for name, role in layer_roles.items()
        if role in adapter.targets
        and role in adapter.adaptable()
        and not any(fnmatch.fnmatchcase(name, pattern) for pattern in adapter.exclude)
    }
    if not chosen:
        found = ", ".join(sorted(set(layer_roles.values()))) or "none"
        raise ConfigError.single("adapter.targets", f"no layer is left to adapt (this model has: {found})")
    return chosen


def attach(model: CausalLM, adapters: Sequence[Adapter], seeds: Sequence[int]) -> AdaptedModel:
    """Make `model` carry trials, in place, and give the first ones their slots.

    Raises as `AdaptedModel.add` does.
    """
    modules = model.module.modules()
    device = next(m.weight.device for m in modules if isinstance(m, FrozenLinear | FrozenEmbedding))
    adapted = AdaptedModel(model, device, roles(model), {}, AdapterStackState(device))
    adapted.add(adapters, seeds)
    return adapted


def _drawn(adapter: Adapter, base: FrozenLinear | FrozenEmbedding, generator: torch.Generator) -> Parameters:
    if isinstance(base, FrozenEmbedding):
        return adapter.draw_embedding(base, generator)
    return adapter.draw_linear(base, generator)


def _shared_key(
    adapter: Adapter, bases: Iterable[FrozenLinear | FrozenEmbedding]
) -> tuple[type[Adapter], tuple[int, ...]]:
    return type(adapter), adapter.shared_key([base.weight.shape for base in bases])


def describe(adapted: AdaptedModel, slot: int) -> str:
    """What a slot's trial adapts, for a person: counts by layer kind, trainable parameters, share of the base."""
    parameters = adapted.parameters_of(slot)
    names = dict.fromkeys(name.rpartition(".")[0] for name in parameters)
    kinds = Counter(name.rpartition(".")[2] for name in names)
    adapter = adapted.stack.adapters[slot]
    left = [role for role in adapter.targets if role not in adapter.adaptable()]
    told = f"; {type(adapter).__name__} is not defined for the {' and the '.join(left)}" if left else ""
    trainable = sum(parameter.numel() for parameter in parameters.values())
    frozen = frozen_parameters(adapted.model.module)
    listed = ", ".join(f"{count} {kind}" if count > 1 else kind for kind, count in kinds.items())
    return (
        f"adapted: {len(names)} layer{'' if len(names) == 1 else 's'} ({listed}); "
        f"{trainable:,} trainable parameters, {100 * trainable / frozen:.2f} % of the base's {frozen:,}{told}"
    )


def frozen_parameters(model: nn.Module) -> int:
    """How many numbers the base itself has."""
    weights = {
        module.weight: module.bias if isinstance(module, FrozenLinear) else None
        for module in model.modules()
        if isinstance(module, FrozenLinear | FrozenEmbedding)
    }
    matrices = sum(weight.shape[0] * weight.shape[1] for weight in weights)
    biases = sum(bias.numel() for bias in weights.values() if bias is not None)
    adapters = {
        id(p) for module in model.modules() if isinstance(module, TrialStack) for p in module.parameters()
    }
    return matrices + biases + sum(p.numel() for p in model.parameters() if id(p) not in adapters)
