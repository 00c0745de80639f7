"""Adapters on disk in PEFT's format: they load in plain `peft`, and PEFT's load here.

Source: https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from summarizer import atomic
from summarizer.adapters.attach import AdaptedModel
from summarizer.adapters.layer import AdaptedLayer
from summarizer.adapters.peft_config import (
    CONFIG_FILE,
    KEY,
    KINDS,
    WEIGHTS_FILE,
    PeftKind,
    read_adapter_config,
)
from summarizer.adapters.protocol import Adapter, Role, Shape
from summarizer.config.targets import import_target
from summarizer.digests import write_digests
from summarizer.errors import ConfigError

PREFIX = "base_model.model."
MOST_BASE_DIFFERENCE = 0.25
"""Relative norm between a base tensor inside an adapter and ours. nf4 differs by 0.1 from what it was made
of, weights of another model by more than 1."""


def save_adapter(
    adapted: AdaptedModel, slot: int, folder: Path, base_name: str, tokenizer: Any = None
) -> None:
    """Write the adapter of a slot's trial, with the tokenizer if one is given, whole or not at all.

    Raises OSError (a full disk, say), leaving the folder as it was.
    """
    adapter = adapted.stack.adapters[slot]
    own = [name for name, layer in adapted.layers.items() if layer.trials[slot]]
    transposed = any(layer.base.weight.transposed_in_checkpoint for layer in adapted.layers.values())
    more = adapted.peft_patterns(slot)
    config = adapter.peft_config(own, base_model_name_or_path=base_name, fan_in_fan_out=transposed, **more)
    if _also_ends_others(own, adapted):
        config.target_modules = "|".join(map(re.escape, own))  # peft matches one expression with whole names
    with atomic.new_folder(folder, held=True) as scratch:
        config.save_pretrained(scratch)
        tensors = peft_tensors(adapted, slot)
        atomic.write_tensors(scratch / WEIGHTS_FILE, tensors, {"format": "pt"})
        write_digests(scratch, [CONFIG_FILE, WEIGHTS_FILE])
        if tokenizer is not None:
            tokenizer.save_pretrained(scratch)


def _also_ends_others(names: list[str], adapted: AdaptedModel) -> bool:
    """Whether a layer is called as another module's name ends: peft would take both, as GIT's head `output`."""
    others = [name for name, _ in adapted.model.module.named_modules() if name not in adapted.layers]
    return any(other.endswith(f".{name}") for name in names for other in others)


def peft_tensors(adapted: AdaptedModel, slot: int) -> dict[str, Tensor]:
    """The tensors of a slot's trial under PEFT's names, copied to the CPU."""
    stack = adapted.stack
    tensors = stack.adapters[slot].shared_to_peft(stack.shared[slot])
    for name, layer in adapted.layers.items():
        if layer.trials[slot]:
            own = layer.adapters[slot].to_peft(layer.role, layer.trials[slot])
            tensors.update({f"{PREFIX}{name}.{key}": tensor for key, tensor in own.items()})
    return {
        name: tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
        for name, tensor in tensors.items()
    }


def require_matching(folder: Path, adapter: Adapter, roles: dict[str, Role], key: str = KEY) -> None:
    """See, before any weight of the base is read, what speaks against a folder's values for an adapter.

    roles: of the base's layers that can be adapted, by name; loading may find that some of them cannot.
    Raises ConfigError as `load_adapter` does, for what the folder's config and the names of its tensors tell.
    """
    config = read_adapter_config(folder, key)
    _require_same(config, adapter, folder, key)
    _saved_layers(folder, KINDS[config["peft_type"]], roles, key)


def load_adapter(adapted: AdaptedModel, slot: int, folder: Path, key: str = KEY) -> None:
    """Put a PEFT adapter's values into the parameters of a slot's trial.

    key: what a message names as the source of the folder. Raises ConfigError where the folder is none, was
    trained with options that this project does not compute, or has other layers, dim or scale than the trial.
    """
    adapter = adapted.stack.adapters[slot]
    _require_same(read_adapter_config(folder, key), adapter, folder, key)
    try:
        saved = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise ConfigError.single(key, f"{folder / WEIGHTS_FILE} is missing or truncated: {error}") from error
    for name, tensor in adapter.shared_to_peft(adapted.stack.shared[slot]).items():
        if name in saved and not torch.equal(saved.pop(name).float(), tensor.cpu()):
            raise ConfigError.single(
                key, f"{name} in {folder} is not what its projection_prng_key gives here, for these layers"
            )
    for name, layer in adapted.layers.items():
        own = {
            full.removeprefix(f"{PREFIX}{name}."): saved.pop(full)
            for full in list(saved)
            if full.startswith(f"{PREFIX}{name}.") and layer.trials[slot]
        }
        if not layer.trials[slot]:
            continue
        _require_our_base(
            own.pop("base_layer.weight", None), own.pop("base_layer.bias", None), name, layer, key
        )
        try:
            values = layer.adapters[slot].from_peft(layer.role, own)
        except KeyError as error:
            raise ConfigError.single(
                key, f"{folder} has no adapter for {name}; see adapter.targets"
            ) from error
        if more := set(own) - set(layer.adapters[slot].to_peft(layer.role, layer.trials[slot])):
            raise ConfigError.single(
                key, f"{folder} has more for {name} than its kind knows: {', '.join(sorted(more))}"
            )
        _copy(layer, slot, values, name, folder, key)
    if saved:
        raise ConfigError.single(
            key, f"{folder} adapts {len(saved)} tensors that adapter.targets leaves out, such as {min(saved)}"
        )


def _require_same(config: dict[str, Any], adapter: Adapter, folder: Path, key: str) -> None:
    kind = KINDS[config["peft_type"]]
    if type(adapter) is not import_target(kind.target):
        raise ConfigError.single(
            key, f"{folder} is an adapter of the kind {config['peft_type']}, not this one"
        )
    if reason := next(adapter.differences(config), None):
        raise ConfigError.single(key, f"{folder}: {reason}")


def _require_our_base(
    weight: Tensor | None, bias: Tensor | None, name: str, layer: AdaptedLayer, key: str
) -> None:
    """peft puts the base's own head and embedding beside their adapters (`save_embedding_layers`).

    They are not needed here, but one that another vocabulary or further training made would be.
    """
    ours = layer.base.weight
    pairs = [] if weight is None else [(weight.float(), ours.dense(torch.float32).cpu())]
    base_bias = getattr(layer.base, "bias", None)
    if bias is not None and base_bias is not None:
        pairs.append((bias.float(), base_bias.cpu()))
    for theirs, here in pairs:
        if theirs.shape != here.shape or torch.dist(theirs, here) > MOST_BASE_DIFFERENCE * here.norm():
            raise ConfigError.single(
                key, f"the adapter brings its own base weights for {name}, of another model"
            )


def _copy(
    layer: AdaptedLayer, slot: int, values: dict[str, Tensor], name: str, folder: Path, key: str
) -> None:
    for tensor, value in values.items():
        parameter = layer.trials[slot][tensor]
        if value.shape != parameter.shape:
            raise ConfigError.single(
                key,
                f"{name} in {folder} is {tuple(value.shape)}, this model needs {tuple(parameter.shape)}: "
                "it was trained on another base",
            )
        if not torch.isfinite(value).all():
            raise ConfigError.single(key, f"{name} in {folder} holds NaN or infinite values")
        with torch.no_grad():
            parameter.copy_(value)


# ---- an adapter that was trained elsewhere, told from its folder alone -------------------------------------------


def adapter_of_folder(folder: Path, roles: dict[str, Role], key: str) -> Adapter:
    """The config with which `attach` makes the layers that a PEFT folder has values for.

    roles: of the base's layers that can be adapted, by name.  key: what a message names as the folder's source.
    Raises ConfigError where the folder holds no adapter that can be computed here, or adapts what this base has
    not.
    """
    config = read_adapter_config(folder, key)
    shapes = _saved_layers(folder, KINDS[config["peft_type"]], roles, key)
    kind: type[Adapter] = import_target(KINDS[config["peft_type"]].target)
    try:
        fields = kind.fields_of_peft(config, shapes)
    except ValueError as error:
        raise ConfigError.single(key, f"{folder}: {error}") from error
    return kind(
        targets=sorted({roles[name] for name in shapes}),
        exclude=[name for name in roles if name not in shapes],
        start_from=None,
        **fields,
    )


def _saved_layers(
    folder: Path, kind: PeftKind, roles: dict[str, Role], key: str
) -> dict[str, dict[str, Shape]]:
    """The layers that a folder has tensors for, and those tensors' shapes by their names behind the layer's.

    Raises ConfigError where there is none, or the base has no layer like it.
    """
    shapes: dict[str, dict[str, Shape]] = {}
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as tensors:
            for full in tensors.keys():  # noqa: SIM118 - it is no mapping
                name, found, rest = full.removeprefix(PREFIX).partition(f".{kind.marker}")
                if found:
                    shape = tuple(tensors.get_slice(full).get_shape())
                    shapes.setdefault(name, {})[kind.marker + rest] = shape
    except (OSError, SafetensorError) as error:
        raise ConfigError.single(key, f"{folder / WEIGHTS_FILE} is missing or truncated: {error}") from error
    if strange := sorted(set(shapes) - set(roles)):
        raise ConfigError.single(
            key,
            f"{folder} adapts {strange[0]}, which this base has no layer for: it was trained on another one",
        )
    if not shapes:
        raise ConfigError.single(key, f"{folder / WEIGHTS_FILE} has no tensor named {kind.marker}...")
    return shapes
