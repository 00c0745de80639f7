"""From a checkpoint to a meta: tensors go by one at a time and are quantized as they come."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from summarizer import compat
from summarizer.console.progress import bar
from summarizer.errors import ConfigError
from summarizer.models.causal_lm import CausalLM, PackedModel
from summarizer.models.checkpoint_files import Checkpoint, Tensors
from summarizer.models.meta_model import MetaModel
from summarizer.models.prequantized import Recovered, prequantized, require_weights
from summarizer.models.stored_base import is_stored_base, read_base
from summarizer.models.transformers_model import TransformersModel
from summarizer.quantization.protocol import require_finite

KEY = "model.name_or_path"
NEVER_LOADED = (
    ".attn.bias",
    ".attn.masked_bias",
    ".rotary_emb.inv_freq",
    ".attention.bias",
    ".attention.masked_bias",
)
"""Causal masks and rotary tables that old checkpoints carry; the model computes them."""

log = logging.getLogger(__name__)


def source_tensors(folder: Path, stored: MetaModel | None = None) -> Iterator[tuple[str, Tensor]]:
    """The dense tensors of a model folder under the checkpoint's names, memory-mapped where possible.

    stored: for a base stored in another format, the meta of that format; its weights are dequantized one
    at a time. Raises ConfigError on missing or broken files.
    """
    if not is_stored_base(folder):
        checkpoint, method = Checkpoint(folder), prequantized(folder)
        yield from checkpoint if method is None else Recovered(checkpoint, method)
        return
    assert stored is not None
    fill(stored, read_base(folder), torch.device("cpu"))
    yield from stored.plain.items()
    yield from stored.buffers.items()
    for name, weight in stored.weights.items():
        dense = weight.dense(torch.float32)
        yield name, dense.t() if weight.transposed_in_checkpoint else dense


@dataclass(frozen=True)
class Placement:
    """Where the tensors of a checkpoint belong, by their names alone."""

    places: dict[str, str]
    """From a checkpoint's name to the model's."""
    unplaced: list[str]
    missing: set[str]
    """Stored tensors of the model for which the checkpoint has nothing."""
    rearranged: bool
    """Some tensors become part of another on their way, which transformers alone can do."""


def placement(meta: MetaModel, names: Iterable[str]) -> Placement:
    """Of a checkpoint's tensors in a model.

    Some checkpoints hold the body without its prefix, or with one more; of some, transformers has since renamed the
    modules (GPT-NeoX's head).
    """
    place = _placer(meta)
    needed = meta.weights.keys() | meta.plain.keys()
    places: dict[str, str] = {}
    unplaced: list[str] = []
    rearranged, filled = False, set[str]()
    for name in names:
        found, more = place(name)
        rearranged |= more
        if found is None:
            unplaced.append(name)
        else:
            places[name] = found
            filled.update(meta.filled_by(found))
    return Placement(places, unplaced, set(needed) - filled, rearranged)


def in_place(meta: MetaModel) -> Placement:
    """Of tensors that have the model's own names."""
    known = meta.weights.keys() | meta.plain.keys() | meta.buffers.keys() | meta.tied.keys()
    return Placement({name: name for name in known}, [], set(), rearranged=False)


def _placer(meta: MetaModel) -> Callable[[str], tuple[str | None, bool]]:
    """From a checkpoint's name to the model's, and whether transformers does more with it than rename it."""
    prefix, renamed = _naming(meta.model)
    known = in_place(meta).places

    def place(name: str) -> tuple[str | None, bool]:
        new, more = renamed(name)
        candidates = [c for n in (new, name) for c in (n, f"{prefix}.{n}", n.removeprefix(f"{prefix}."))]
        return next((candidate for candidate in candidates if candidate in known), None), more

    return place


def untie_what_differs(meta: MetaModel, checkpoint: Tensors, placed: Placement, folder: Path) -> None:
    """Where a checkpoint holds two tensors that the config ties and that differ, use each, as transformers does."""
    held = {place: name for name, place in placed.places.items()}
    for alias, first in list(meta.tied.items()):
        if alias not in held or first not in held:
            continue
        one, other = checkpoint.read(held[alias]), checkpoint.read(held[first])
        wider = torch.promote_types(one.dtype, other.dtype)
        if one.shape == other.shape and torch.equal(one.to(wider), other.to(wider)):
            continue
        log.warning(
            "base model: the config of %s ties %s to %s, but its tensors differ: each is used, as by transformers",
            *(folder, alias, first),
        )
        meta.untie(alias)


def tensors_by_transformers(meta: MetaModel, tensors: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """A checkpoint's tensors as transformers rearranges them for its model: experts in one stack, for example.

    The whole model is in memory for it, in the checkpoint's precision. Raises ConfigError where it lacks tensors.
    """
    model = meta.model
    assert isinstance(model, TransformersModel)
    kinds = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    dtype = kinds.pop() if len(kinds) == 1 else torch.float32
    log.info(
        "base model: transformers rearranges %d tensors, with the whole model in memory (%.1f GB)",
        *(len(tensors), sum(math.prod(tensor.shape) for tensor in tensors.values()) * dtype.itemsize / 1e9),
    )
    kind = type(model.model)
    loaded, found = kind.from_pretrained(
        None,
        config=copy.deepcopy(model.config),
        state_dict=tensors,
        dtype=dtype,
        output_loading_info=True,
    )
    if missing := sorted(found["missing_keys"]):
        raise _lacking(folder, missing, len(loaded.state_dict()), model.architecture)
    _report_unplaced(sorted(found["unexpected_keys"]), {})
    state: dict[str, Tensor] = loaded.state_dict()
    for alias, first in list(meta.tied.items()):
        if not torch.equal(state[alias], state[first]):
            meta.untie(alias)
    return state


def quantized(
    meta: MetaModel,
    source: Iterable[tuple[str, Tensor]],
    folder: Path,
    base_format: str,
    device: torch.device,
    *,
    placed: Placement | None = None,
    in_product_order: bool = False,
) -> Iterator[tuple[str, Tensor]]:
    """Stored tensors of a checkpoint, one source tensor in memory at a time; quantized on `device`.

    Names are those of a stored base: `layer.weight.PART` for the parts of a weight, else the checkpoint's.
    folder: what messages name as the source. placed: where the source's tensors belong; by default each is
    looked up by its name. in_product_order: matrices of layers come as (d_out, d_in), whatever the
    checkpoint's order is. Raises ConfigError where tensors are missing, not finite, no weights or of another
    shape; tensors without a place are logged.
    """
    wanted = {name: weight.shape for name, weight in meta.weights.items()} | _shapes(meta.plain)
    shapes = wanted | _shapes(meta.buffers)
    if placed is not None and placed.missing:
        raise _lacking(folder, sorted(placed.missing), len(wanted), meta.model.architecture)
    place = _placer(meta) if placed is None else lambda name: (placed.places.get(name), False)
    missing, unplaced = set(wanted), dict[str, int]()
    parameters = {name: math.prod(shape) for name, shape in wanted.items()}
    held = set() if placed is None else set(placed.places.values())
    filled: set[str] = set()
    label = (
        "reading the base model" if base_format == "none" else f"quantizing the base model to {base_format}"
    )
    with bar(label, sum(parameters.values()), unit="parameters") as progress:
        for checkpoint_name, tensor in source:
            if (name := place(checkpoint_name)[0]) is None:
                unplaced[checkpoint_name] = tensor.ndim
                continue
            targets = [one for one in meta.filled_by(name) if one == name or one not in held]
            for target in targets:
                if target in filled:  # a tied head that the checkpoint repeats
                    continue
                filled.add(target)
                where = f"{checkpoint_name} in {folder}"
                yield from _stored(meta, target, tensor, shapes[target], where, device, in_product_order)
                if target in missing:
                    missing.remove(target)
                    progress.advance(parameters[target])
    _report_unplaced(list(unplaced), unplaced)
    if missing:
        raise _lacking(folder, sorted(missing), len(wanted), meta.model.architecture)


def _lacking(folder: Path, missing: list[str], needed: int, architecture: str) -> ConfigError:
    return ConfigError.single(
        KEY,
        f"{folder} lacks {len(missing)} of the {needed} tensors that {architecture} needs, such as {missing[0]}",
    )


def fill(meta: MetaModel, tensors: Iterable[tuple[str, Tensor]], device: torch.device) -> None:
    """Put stored tensors into the meta and the whole model on `device`.

    Raises ConfigError where a tensor of the model stays without a value.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    plain, buffers = meta.plain, meta.buffers
    for name, tensor in tensors:
        weight, _, part = name.rpartition(".")
        for tied in {weight, name} & meta.tied.keys():  # a stored base holds it only where it differs
            meta.untie(tied)
        if weight in meta.weights:
            parts.setdefault(weight, {})[part] = tensor.to(device)
        elif name in plain or name in buffers:
            _set_tensor(meta.model.module, name, tensor.to(device))
            plain.pop(name, None)
    missing = list(plain)
    for name, frozen in meta.weights.items():
        needed = frozen.format.stored_parts(frozen.shape, torch.float32)
        missing += [f"{name}.{part}" for part in needed if part not in parts.get(name, {})]
    if missing:
        raise ConfigError.single(KEY, f"the stored base lacks {len(missing)} tensors, such as {missing[0]}")
    for name, frozen in meta.weights.items():
        frozen.load(parts[name])
    meta.model.module.to(device)
    meta.model.module.eval()


def _stored(
    meta: MetaModel,
    name: str,
    tensor: Tensor,
    shape: tuple[int, ...],
    where: str,
    device: torch.device,
    in_product_order: bool,
) -> Iterator[tuple[str, Tensor]]:
    if name in meta.weights and meta.weights[name].transposed_in_checkpoint and not in_product_order:
        tensor = tensor.t()
    if tuple(tensor.shape) != shape:
        raise ConfigError.single(KEY, f"{where} is {tuple(tensor.shape)}, the model needs {shape}")
    try:
        if name in meta.weights:
            require_weights(tensor)
            if (row := meta.zeroed.get(name)) is not None and tensor[row].any():
                log.warning(
                    "base model: row %d of %s, the padding token's, is set to 0, as transformers does",
                    row,
                    name,
                )
                tensor = tensor.index_fill(0, torch.tensor(row), 0)
            parts = meta.weights[name].format.quantize(tensor.to(device))
            yield from ((f"{name}.{part}", value) for part, value in parts.items())
        elif name in meta.plain or meta.buffers[name].is_floating_point():
            require_weights(tensor)
            if name in meta.plain:  # a buffer may be a bound that is none
                require_finite(tensor)
            yield name, tensor.float()
        else:
            yield name, tensor
    except ValueError as error:
        raise ConfigError.single(KEY, f"{where}: {error}") from error


def _naming(model: CausalLM) -> tuple[str, Callable[[str], tuple[str, bool]]]:
    """What some checkpoints leave out of names or repeat, and from an old name to the one of today."""
    if isinstance(model, TransformersModel):
        return model.model.base_model_prefix, compat.checkpoint_names(model.model)
    assert isinstance(model, PackedModel)
    return model.prefix, lambda name: (name, False)


def _report_unplaced(names: list[str], axes: Mapping[str, int]) -> None:
    """axes: of each tensor, where that is known; a layer's bias has one, the mask that is called so has more."""
    unexpected = [
        name
        for name in names
        if not name.endswith(NEVER_LOADED) or (name.endswith(".bias") and axes.get(name) == 1)
    ]
    if unexpected:
        log.warning(
            "base model: %d tensors of the checkpoint have no place in the model, such as %s",
            len(unexpected),
            unexpected[0],
        )


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _set_tensor(model: nn.Module, name: str, tensor: Tensor) -> None:
    module_path, _, leaf = name.rpartition(".")
    module = model.get_submodule(module_path)
    if isinstance(getattr(module, leaf), nn.Parameter):
        setattr(module, leaf, nn.Parameter(tensor, requires_grad=False))
    else:
        setattr(module, leaf, tensor)
