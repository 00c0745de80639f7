"""From a checkpoint to a meta: tensors go by one at a time and are quantized as they come."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from summarizer import compat
from summarizer.console.progress import bar
from summarizer.errors import ConfigError
from summarizer.models.causal_lm import CausalLM, PackedModel
from summarizer.models.checkpoint_files import checkpoint_files, read_tensors
from summarizer.models.meta_model import MetaModel
from summarizer.models.stored_base import is_stored_base, read_base
from summarizer.models.transformers_model import TransformersModel
from summarizer.quantization import weight_format
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
        for file in checkpoint_files(folder):
            yield from read_tensors(file)
        return
    assert stored is not None
    fill(stored, read_base(folder), torch.device("cpu"))
    yield from stored.plain.items()
    yield from stored.buffers.items()
    for name, weight in stored.weights.items():
        dense = weight.dense(torch.float32)
        yield name, dense.t() if weight.transposed_in_checkpoint else dense


def quantized(
    meta: MetaModel,
    source: Iterable[tuple[str, Tensor]],
    folder: Path,
    format_name: str,
    device: torch.device,
) -> Iterator[tuple[str, Tensor]]:
    """Stored tensors of a checkpoint, one source tensor in memory at a time; quantized on `device`.

    Names are those of a stored base: `layer.weight.PART` for the parts of a weight, else the checkpoint's.
    folder: what messages name as the source. Raises ConfigError where tensors are missing, not finite or of
    another shape; tensors without a place are logged.
    """
    wanted = {name: weight.shape for name, weight in meta.weights.items()} | _shapes(meta.plain)
    optional = _shapes(meta.buffers)
    prefix, renamed = _naming(meta.model)
    missing, unplaced = set(wanted), []
    parameters = {name: math.prod(shape) for name, shape in wanted.items()}
    label = "reading the base" if format_name == "none" else f"quantizing the base to {format_name}"
    with bar(label, sum(parameters.values()), unit="parameters") as progress:
        for checkpoint_name, tensor in source:
            name = _placed(checkpoint_name, wanted | optional, prefix, renamed)
            if name is None or name in meta.copies:
                unplaced.append(checkpoint_name)
                continue
            for target in (name, *(copy for copy, of in meta.copies.items() if of == name)):
                shape = (wanted | optional)[target]
                where = f"{checkpoint_name} in {folder}"
                yield from _stored(meta, target, tensor, shape, where, format_name, device)
                if target in missing:
                    missing.remove(target)
                    progress.advance(parameters[target])
    _report_unplaced(unplaced, meta)
    if missing:
        raise ConfigError.single(
            KEY,
            f"{folder} lacks {len(missing)} of the {len(wanted)} tensors that "
            f"{meta.model.architecture} needs, such as {min(missing)}",
        )


def fill(meta: MetaModel, tensors: Iterable[tuple[str, Tensor]], device: torch.device) -> None:
    """Put stored tensors into the meta and the whole model on `device`.

    Raises ConfigError where a tensor of the model stays without a value.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    plain, buffers = meta.plain, meta.buffers
    for name, tensor in tensors:
        weight, _, part = name.rpartition(".")
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
    format_name: str,
    device: torch.device,
) -> Iterator[tuple[str, Tensor]]:
    if name in meta.weights and meta.weights[name].transposed_in_checkpoint:
        tensor = tensor.t()
    if tuple(tensor.shape) != shape:
        raise ConfigError.single(KEY, f"{where} is {tuple(tensor.shape)}, the model needs {shape}")
    try:
        if name in meta.weights:
            parts = weight_format(format_name).quantize(tensor.to(device))
            yield from ((f"{name}.{part}", value) for part, value in parts.items())
        else:
            if tensor.is_floating_point():
                require_finite(tensor)
            yield name, tensor.float() if tensor.is_floating_point() else tensor
    except ValueError as error:
        raise ConfigError.single(KEY, f"{where}: {error}") from error


def _naming(model: CausalLM) -> tuple[str, Callable[[str], str]]:
    """What some checkpoints leave out of names or repeat, and from an old name to the one of today."""
    if isinstance(model, TransformersModel):
        return model.model.base_model_prefix, compat.checkpoint_renamings(model.model)
    assert isinstance(model, PackedModel)
    return model.prefix, lambda name: name


def _placed(
    name: str, wanted: Mapping[str, object], prefix: str, renamed: Callable[[str], str]
) -> str | None:
    """The model's name for a checkpoint's tensor.

    Some checkpoints hold the body without its prefix, or with one more; of some, transformers has since
    renamed the modules (GPT-NeoX's head).
    """
    for known in (name, renamed(name)):
        for candidate in (known, f"{prefix}.{known}", known.removeprefix(f"{prefix}.")):
            if candidate in wanted:
                return candidate
    return None


def _report_unplaced(names: list[str], meta: MetaModel) -> None:
    head = meta.tied_head
    unexpected = [name for name in names if not name.endswith(NEVER_LOADED) and name != head]
    if unexpected:
        log.warning(
            "base: %d tensors of the checkpoint have no place in the model, such as %s",
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
