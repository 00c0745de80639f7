"""A frozen base, ready to carry adapters: from its checkpoint, quantized, or from the cache of such bases."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, PretrainedConfig

from summarizer import atomic, compat
from summarizer.config.paths import cache_folder
from summarizer.config.schema import ModelConfig, QuantizationConfig
from summarizer.console.progress import bar
from summarizer.errors import ConfigError
from summarizer.models.causal_lm import CausalLM
from summarizer.models.checkpoint_files import Checkpoint, Tensors, checkpoint_files, say_what_is_not_read
from summarizer.models.meta_model import MetaModel, build_meta_model
from summarizer.models.prequantized import WAY_ON, Recovered, prequantized
from summarizer.models.source import model_folder
from summarizer.models.stored_base import (
    is_as_written,
    is_stored_base,
    read_base,
    read_manifest,
    stored_files,
    write_base,
)
from summarizer.models.streaming import (
    fill,
    in_place,
    placement,
    quantized,
    source_tensors,
    tensors_by_transformers,
    untie_what_differs,
)
from summarizer.models.transformers_model import TransformersModel
from summarizer.quantization import formats_of, version_of

KEY = "model.name_or_path"
READING = 2
"""Raised when a checkpoint's tensors are read otherwise, so that bases in the cache are made anew. 2: codes of a
quantization are no longer taken for weights, nor shards of an old index, nor embeddings for heads that differ."""
UNUSABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)
"""What transformers raises for a config.json that is no object, nests without end or holds impossible values."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Base:
    """The frozen model and where it came from."""

    model: CausalLM
    name: str
    format: str
    stored_bytes: int
    unconverted: dict[str, str]


def load_config(folder: Path) -> PretrainedConfig:
    """A model folder's config.

    Raises ConfigError where it is broken, not a causal language model's, or says that the weights are quantized in
    a way that is not read here.
    """
    prequantized(folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (*UNUSABLE, StrictDataclassError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError.single(KEY, f"{folder}/config.json cannot be used: {reason}") from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or _names_another_task(config):
        what = ", ".join(config.architectures or []) or config.model_type
        raise ConfigError.single(KEY, f"{folder}/config.json is of {what}, not a causal language model")
    for part in (config, config.get_text_config()):  # what is loaded, and exported, is weights
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    return config


def _names_another_task(config: PretrainedConfig) -> bool:
    """Whether a checkpoint says that it was saved for something else than the next token, as BERT's do."""
    own = compat.causal_lm_class_name(config)
    named = config.architectures or []
    return bool(named) and not any(
        name == own
        or name.endswith("Model")
        or (name.endswith("ForCausalLM") and hasattr(transformers, name))
        for name in named
    )


def load_base(
    spec: ModelConfig, quantization: QuantizationConfig, device: torch.device, meta: MetaModel | None = None
) -> Base:
    """Load, quantize where that is not done yet, and place the base on `device`.

    Host memory stays near the quantized size: tensors are memory-mapped and leave one by one. With
    `quantization.cache` the quantized base is kept in the cache folder and memory-mapped from then on.
    meta: the model without its weights, where the caller has built it in that format; it becomes the base.
    Raises ConfigError on a checkpoint that is missing, truncated, or lacks tensors that the model needs.
    """
    start_s = time.monotonic()
    folder = model_folder(spec)
    meta = meta or build_meta_model(load_config(folder), quantization.name)
    if is_stored_base(folder) and _is_stored_as(folder, quantization.name):
        _require_as_written(folder)
        tensors: Iterable[tuple[str, Tensor]] = _read(folder)
    elif quantization.cache:
        tensors = _read(_cached(spec, folder, meta, quantization.name, device))
    else:
        tensors = _quantized(meta, folder, quantization.name, device)
    fill(meta, tensors, device)
    stored_bytes = sum(weight.stored_bytes for weight in meta.weights.values())
    log.info(
        "base model: %s, %s, %.1f MB in %d weights, loaded in %.1f s",
        spec.name_or_path,
        quantization.name,
        stored_bytes / 1e6,
        len(meta.weights),
        time.monotonic() - start_s,
    )
    _say_of_each_kind("stays as it is, neither quantized nor adapted", meta.unconverted)
    if isinstance(meta.model, TransformersModel):
        meta.model.check_batches(device)
    _say_of_each_kind("is not adapted", meta.model.not_adapted)
    return Base(meta.model, spec.name_or_path, quantization.name, stored_bytes, meta.unconverted)


def _say_of_each_kind(what: str, layers: Mapping[str, str]) -> None:
    """A line for each kind of layer and its reason; the same in every block are one kind."""
    kinds: dict[tuple[str, str], int] = {}
    for name, reason in layers.items():
        kind = (re.sub(r"\d+", "*", name), reason)
        kinds[kind] = kinds.get(kind, 0) + 1
    for (name, reason), count in kinds.items():
        several = f" ({count} times)" if count > 1 else ""
        log.warning("base model: %s%s %s: %s", name, several, what, reason)


def _is_stored_as(folder: Path, base_format: str) -> bool:
    manifest = read_manifest(folder)
    return (manifest.format, manifest.format_version) == (base_format, version_of(base_format))


def _require_as_written(folder: Path) -> None:
    """Raises ConfigError where a stored base that is no cache's is damaged."""
    try:
        is_as_written(folder)
    except (OSError, ValueError) as error:
        raise ConfigError.single(KEY, f"{folder}: {error}; put it there anew from where it came") from error


def _read(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a stored base, as long as they take to be put where they belong."""
    total_bytes = sum(file.stat().st_size for file in stored_files(folder))
    with bar("loading the base model", total_bytes, unit="bytes") as progress:
        for name, tensor in read_base(folder):
            yield name, tensor
            progress.advance(tensor.nbytes)
        progress.reach(total_bytes, total_bytes)  # headers and padding are no tensors


def _quantized(
    meta: MetaModel, folder: Path, base_format: str, device: torch.device
) -> Iterator[tuple[str, Tensor]]:
    if is_stored_base(folder):  # in another format: back to dense weights, one at a time
        _require_as_written(folder)
        stored_format = read_manifest(folder).format
        layers, embedding = formats_of(stored_format)
        if stored_format != base_format and layers == formats_of(base_format)[0]:
            own = "null" if embedding == layers else embedding
            log.info(
                "base model: %s is stored in %s, and %s is made of it; quantization.embedding_format=%s takes it "
                "as it is",
                *(folder, stored_format, base_format, own),
            )
        stored = build_meta_model(load_config(folder), stored_format)
        yield from quantized(meta, source_tensors(folder, stored), folder, base_format, device)
        return
    checkpoint: Tensors = Checkpoint(folder)
    method = prequantized(folder)
    say_what_is_not_read(folder)
    if method is not None:
        log.info("base model: its weights were quantized before (%s); they are recovered first", method.name)
        checkpoint = Recovered(checkpoint, method)
    placed = placement(meta, checkpoint.names)
    if isinstance(meta.model, TransformersModel) and (placed.rearranged or placed.missing):
        if (
            method is not None
            and method.in_product_order
            and any(weight.transposed_in_checkpoint for weight in meta.weights.values())
        ):
            raise ConfigError.single(
                KEY,
                f"{folder}: weights of {method.name} are not rearranged for {meta.model.architecture}; {WAY_ON}",
            )
        whole = tensors_by_transformers(meta, dict(checkpoint), folder)
        yield from quantized(meta, whole.items(), folder, base_format, device, placed=in_place(meta))
        return
    untie_what_differs(meta, checkpoint, placed, folder)
    product_order = method is not None and method.in_product_order
    yield from quantized(
        meta, checkpoint, folder, base_format, device, placed=placed, in_product_order=product_order
    )


def _cached(spec: ModelConfig, folder: Path, meta: MetaModel, base_format: str, device: torch.device) -> Path:
    """The folder of the quantized base in the cache, made now where it is not there yet or is broken."""
    name = re.split("[/:]", spec.name_or_path.rstrip("/"))[-1]
    target = (
        cache_folder() / "bases" / f"{name}-{base_format}-{base_digest(folder, base_format, meta.zeroed)}"
    )
    if target.exists():
        try:
            if is_as_written(target):
                return target
            log.info("base model: the copy at %s has no digests yet and is made anew", target)
        except (OSError, ValueError) as error:
            log.warning("base model: the copy at %s is made anew: %s", target, error)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic.new_folder(target) as scratch:
        version = version_of(base_format)
        write_base(
            scratch,
            _quantized(meta, folder, base_format, device),
            base_format,
            version,
            spec.name_or_path,
        )
    log.info("base model: quantized copy kept at %s", target)
    return target


def base_digest(folder: Path, base_format: str, zeroed: Mapping[str, int]) -> str:
    """What a quantized base was made from: each file's name, size and time; the config; the format; zeroed rows."""
    files = stored_files(folder) if is_stored_base(folder) else checkpoint_files(folder)
    made_from = {
        "files": [(file.resolve().name, file.stat().st_size, file.stat().st_mtime_ns) for file in files],
        "config": hashlib.sha256((folder / "config.json").read_bytes()).hexdigest(),
        "format": (base_format, version_of(base_format)),
        "reading": READING,
        **({"zeroed": zeroed} if zeroed else {}),
    }
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
