"""A frozen base, ready to carry adapters: streamed tensor by tensor from its checkpoint, quantised as it comes."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from summarizer import atomic
from summarizer.config.paths import cache_folder
from summarizer.config.specs import ModelSpec, QuantizationSpec
from summarizer.errors import ConfigError
from summarizer.model.checkpoint_files import checkpoint_files, read_tensors
from summarizer.model.formats import weight_format
from summarizer.model.skeleton import Skeleton, build_skeleton
from summarizer.model.source import model_folder
from summarizer.model.stored_base import is_stored_base, read_base, read_manifest, write_base
from summarizer.progress import bar

KEY = "model.name_or_path"
NEVER_LOADED = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias")
"""Causal masks and rotary tables that old checkpoints carry; the model computes them."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Base:
    """The frozen model and where it came from."""

    model: PreTrainedModel
    name: str
    format: str
    stored_bytes: int
    unconverted: dict[str, str]


def load_config(folder: Path) -> PretrainedConfig:
    """A model folder's config. Raises ConfigError where it is broken, or not a causal language model's."""
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError.single(KEY, f"{folder}/config.json cannot be used: {str(error).splitlines()[0]}") from error


def load_base(spec: ModelSpec, quantization: QuantizationSpec, device: torch.device) -> Base:
    """Load, quantise where that is not done yet, and place the base on `device`.

    Host memory stays near the quantised size: tensors are memory-mapped and leave one by one. With
    `quantization.cache` the quantised base is kept in the cache folder and memory-mapped from then on.
    Raises ConfigError on a checkpoint that is missing, truncated, or lacks tensors that the model needs.
    """
    start_s = time.monotonic()
    folder = model_folder(spec)
    skeleton = build_skeleton(load_config(folder), quantization.format)
    if is_stored_base(folder) and _is_stored_as(folder, quantization.format):
        tensors: Iterable[tuple[str, Tensor]] = read_base(folder)
    elif quantization.cache:
        tensors = read_base(_cached(spec, folder, skeleton, quantization.format, device))
    else:
        tensors = quantised(skeleton, folder, quantization.format, device)
    fill(skeleton, tensors, device)
    stored_bytes = sum(weight.stored_bytes for weight in skeleton.weights.values())
    log.info(
        "base: %s, %s, %.1f MB in %d weights, loaded in %.1f s",
        spec.name_or_path,
        quantization.format,
        stored_bytes / 1e6,
        len(skeleton.weights),
        time.monotonic() - start_s,
    )
    for name, reason in skeleton.unconverted.items():
        log.warning("base: %s stays as it is, neither quantised nor adapted: %s", name, reason)
    return Base(skeleton.model, spec.name_or_path, quantization.format, stored_bytes, skeleton.unconverted)


def quantised(
    skeleton: Skeleton, folder: Path, format_name: str, device: torch.device
) -> Iterator[tuple[str, Tensor]]:
    """Stored tensors of a checkpoint, one source tensor in memory at a time; quantised on `device`.

    Names are those of a stored base: `layer.weight.PART` for the parts of a weight, else the checkpoint's own.
    Raises ConfigError where tensors are missing or of another shape; tensors without a place are logged.
    """
    stored_format = weight_format(format_name)
    plain = skeleton.plain
    wanted = {**{name: weight.shape for name, weight in skeleton.weights.items()}, **_shapes(plain)}
    unplaced: list[str] = []
    with bar(f"quantising to {format_name}", len(wanted)) as progress:
        missing = set(wanted)
        for checkpoint_name, tensor in _source_tensors(folder):
            name = _placed(checkpoint_name, wanted, skeleton.model.base_model_prefix)
            if name is None:
                unplaced.append(checkpoint_name)
                continue
            if name in skeleton.weights and skeleton.weights[name].transposed_in_checkpoint:
                tensor = tensor.t()
            if tuple(tensor.shape) != tuple(wanted[name]):
                raise ConfigError.single(
                    KEY, f"{checkpoint_name} in {folder} is {tuple(tensor.shape)}, the model needs {tuple(wanted[name])}"
                )
            missing.discard(name)
            if name in plain:
                yield name, tensor.float()
            else:
                try:
                    parts = stored_format.quantise(tensor.to(device))
                except ValueError as error:
                    raise ConfigError.single(KEY, f"{checkpoint_name} in {folder}: {error}") from error
                for part, value in parts.items():
                    yield f"{name}.{part}", value
            progress.advance()
    unexpected = [name for name in unplaced if not name.endswith(NEVER_LOADED) and not _is_tied_head(name, skeleton)]
    if unexpected:
        log.warning("base: %d tensors of the checkpoint have no place in the model, such as %s", len(unexpected), unexpected[0])
    if missing:
        raise ConfigError.single(
            KEY,
            f"{folder} lacks {len(missing)} of the {len(wanted)} tensors that {type(skeleton.model).__name__} needs, "
            f"such as {min(missing)}",
        )


def fill(skeleton: Skeleton, tensors: Iterable[tuple[str, Tensor]], device: torch.device) -> None:
    """Put stored tensors into the skeleton and the whole model on `device`.

    Raises ConfigError where a tensor of the model stays without a value.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    plain = skeleton.plain
    for name, tensor in tensors:
        weight, _, part = name.rpartition(".")
        if weight in skeleton.weights:
            parts.setdefault(weight, {})[part] = tensor.to(device)
        elif name in plain:
            _set_tensor(skeleton.model, name, tensor.to(device, torch.float32))
            del plain[name]
    missing = [*plain, *(set(skeleton.weights) - set(parts))]
    if missing:
        raise ConfigError.single(KEY, f"the stored base lacks {len(missing)} tensors, such as {missing[0]}")
    for name, weight in skeleton.weights.items():
        weight.load(parts[name])
    skeleton.model.to(device)
    skeleton.model.eval()


def _is_stored_as(folder: Path, format_name: str) -> bool:
    manifest = read_manifest(folder)
    return (manifest.format, manifest.format_version) == (format_name, weight_format(format_name).version)


def _source_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    if not is_stored_base(folder):
        for file in checkpoint_files(folder):
            yield from read_tensors(file)
        return
    # A base stored in another format: back to dense weights, one at a time.
    stored = build_skeleton(load_config(folder), read_manifest(folder).format)
    fill(stored, read_base(folder), torch.device("cpu"))
    yield from stored.plain.items()
    for name, weight in stored.weights.items():
        dense = weight.dense(torch.float32)
        yield name, dense.t() if weight.transposed_in_checkpoint else dense


def _placed(name: str, wanted: dict[str, Any], prefix: str) -> str | None:
    """The model's name for a checkpoint's tensor: some checkpoints hold the body without its prefix, or with one."""
    for candidate in (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")):
        if candidate in wanted:
            return candidate
    return None


def _is_tied_head(name: str, skeleton: Skeleton) -> bool:
    head, embedding = skeleton.model.get_output_embeddings(), skeleton.model.get_input_embeddings()
    return name == "lm_head.weight" and getattr(head, "weight", None) is getattr(embedding, "weight", None)


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _set_tensor(model: nn.Module, name: str, tensor: Tensor) -> None:
    module_path, _, leaf = name.rpartition(".")
    module = model.get_submodule(module_path)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[leaf] = tensor


def _cached(spec: ModelSpec, folder: Path, skeleton: Skeleton, format_name: str, device: torch.device) -> Path:
    """The folder of the quantised base in the cache, made now where it is not there yet or is broken."""
    name = re.split("[/:]", spec.name_or_path.rstrip("/"))[-1]
    target = cache_folder() / "bases" / f"{name}-{format_name}-{_key(folder, format_name)}"
    if is_stored_base(target):
        try:
            for _ in read_base(target):
                pass
            return target
        except ConfigError as error:
            log.warning("base: the cached copy is broken and made anew: %s", error)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic.new_folder(target) as scratch:
        version = weight_format(format_name).version
        write_base(scratch, quantised(skeleton, folder, format_name, device), format_name, version, spec.name_or_path)
    log.info("base: quantised copy kept at %s", target)
    return target


def _key(folder: Path, format_name: str) -> str:
    """What a quantised base was made from: each file's resolved name, size and time, the config, the format."""
    files = [folder / read for read in read_manifest(folder).files] if is_stored_base(folder) else checkpoint_files(folder)
    made_from = {
        "files": [(file.resolve().name, file.stat().st_size, file.stat().st_mtime_ns) for file in files],
        "config": hashlib.sha256((folder / "config.json").read_bytes()).hexdigest(),
        "format": (format_name, weight_format(format_name).version),
    }
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
