"""The folders that contenders open: a dense base, an adapter, both merged, and what other engines make of that.

Each is made once, whole or not at all, and kept: a second command begins to measure at once. No dense model is ever
in memory; tensors go by one at a time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from answering import status_bytes_of
from safetensors.torch import load_file
from speed_contenders import GPTJ_6B, RANDOM, Contender
from torch import Tensor
from transformers import AutoConfig, GPTJConfig, PretrainedConfig

from summarizer import atomic
from summarizer.adapters.attach import attach
from summarizer.adapters.lora import LoRA
from summarizer.adapters.peft_config import WEIGHTS_FILE
from summarizer.adapters.peft_format import save_adapter
from summarizer.config.schema import ModelConfig
from summarizer.errors import ConfigError
from summarizer.models.load import load_config
from summarizer.models.meta_model import build_meta_model
from summarizer.models.random_base import random_tensors
from summarizer.models.source import model_folder
from summarizer.models.stored_base import is_stored_base, read_manifest
from summarizer.models.streaming import source_tensors

SHARD_BYTES = 1 << 30
"""In memory while it is written."""
SPREAD = {"linear": 0.01, "embedding": 0.001}
"""Standard deviation of an adapter's B, which would be 0 untrained: moves a weight of GPT-J's size by about 1 %."""
SMALL_BYTES = 2 << 30
"""A base up to this size is merged in fp32, so that merging rounds nothing; a larger one in bf16."""
POLL_S = 0.05
STUDY = Path(__file__).resolve().parent
PROJECT = STUDY.parent.parent


@dataclass(frozen=True)
class Materials:
    """What was made of one model."""

    folder: Path
    base: Path
    """Dense, in transformers' format; a plain model's own folder."""
    adapter: Path
    merged: Path

    def converted(self, contender: Contender) -> Path:
        """What a contender opens."""
        if contender.engine == "ours":
            return self.base
        if contender.engine == "transformers":
            return self.merged
        return self.folder / f"{contender.engine}-{contender.variant}"


@dataclass(frozen=True)
class Conversion:
    """What it took to convert; bytes are the converter's most at once."""

    seconds: float
    resident_bytes: int
    """Mapped files included."""
    anonymous_bytes: int
    """Its own memory alone; what it maps from files can be given back at any time."""


def prepare(model: str, layers: int | None, dim: int, seed: int, folder: Path) -> Materials:
    """Base, adapter and merged weights of a model below `folder`.

    Raises ConfigError where the folder holds those of another model, or the model cannot be had.
    """
    asked = {"model": model, "layers": layers, "dim": dim, "seed": seed}
    record = folder / "materials.json"
    if record.is_file() and (made := json.loads(record.read_text(encoding="utf-8"))) != asked:
        raise ConfigError.single("--work", f"{folder} holds what was made of {made}, not of {asked}")
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_text(record, json.dumps(asked, indent=2) + "\n")
    base = dense_base(model, layers, seed, folder / "base")
    materials = Materials(folder, base, folder / "adapter", folder / "merged")
    if not materials.adapter.is_dir():
        write_adapter(load_config(base), dim, seed, materials.adapter)
    if not materials.merged.is_dir():
        size = sum(file.stat().st_size for file in base.glob("*.safetensors"))
        dtype = torch.float32 if size <= SMALL_BYTES else torch.bfloat16
        config = AutoConfig.from_pretrained(base)
        config.tie_word_embeddings = False  # head and embedding have adapters of their own
        write_checkpoint(materials.merged, config, merged(base, materials.adapter), dtype)
    return materials


def dense_base(model: str, layers: int | None, seed: int, out: Path) -> Path:
    """A model's folder in transformers' format: its own, or `out`, for random weights and for stored bases."""
    if model == GPTJ_6B or model.startswith(RANDOM):
        config = GPTJConfig() if model == GPTJ_6B else load_config(Path(model.removeprefix(RANDOM)))
        if layers is not None:
            config.num_hidden_layers = layers
        if not out.is_dir():
            tensors = random_tensors(build_meta_model(config, "none"), torch.device("cpu"), seed)
            write_checkpoint(out, config, tensors)
        return out
    if layers is not None:
        raise ConfigError.single("--layers", f"wants random weights: {GPTJ_6B} or {RANDOM}FOLDER")
    folder = model_folder(ModelConfig(name_or_path=model, revision=None, completion_token=None))
    if not is_stored_base(folder):
        return folder
    if not out.is_dir():
        config = load_config(folder)
        stored = build_meta_model(config, read_manifest(folder).format)
        write_checkpoint(out, config, source_tensors(folder, stored), torch.bfloat16)
    return out


def write_checkpoint(
    out: Path,
    config: PretrainedConfig,
    tensors: Iterable[tuple[str, Tensor]],
    dtype: torch.dtype | None = None,
) -> None:
    """A transformers folder, whole or not at all, in shards. dtype: of all tensors; None keeps each one's own."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic.new_folder(out) as scratch:
        shard: dict[str, Tensor] = {}
        placed: dict[str, str] = {}

        def flush() -> None:
            name = f"model-{len(set(placed.values())) + 1:05d}.safetensors"
            atomic.write_tensors(scratch / name, shard, {"format": "pt"})
            placed.update(dict.fromkeys(shard, name))
            shard.clear()

        total = 0
        for name, tensor in tensors:
            if shard and sum(each.nbytes for each in shard.values()) + tensor.nbytes > SHARD_BYTES:
                flush()
            shard[name] = tensor.detach().to(dtype or tensor.dtype).contiguous()
            total += shard[name].nbytes
            config.dtype = shard[name].dtype
        flush()
        index = {"metadata": {"total_size": total}, "weight_map": placed}
        (scratch / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        config.save_pretrained(scratch)


def write_adapter(config: PretrainedConfig, dim: int, seed: int, out: Path) -> None:
    """A PEFT adapter on every linear layer, head and embedding, as if it had been trained a little."""
    meta = build_meta_model(config, "none")
    for weight in meta.weights.values():
        weight.load({"weight": torch.empty(0)})  # says on which device adapters go, and no more
    lora = LoRA(
        dim=dim,
        alpha=None,
        dropout=0.0,
        targets=["linear", "head", "embedding"],
        exclude=[],
        start_from=None,
    )
    adapted = attach(meta.model, [lora], [seed])
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.parameters_of(0).items():
            layer, _, tensor = name.rpartition(".")
            if tensor == "b":
                role = adapted.layers[layer].role
                parameter.normal_(
                    0, SPREAD["embedding" if role == "embedding" else "linear"], generator=generator
                )
    save_adapter(adapted, 0, out, "base")


def merged(base: Path, adapter: Path) -> Iterator[tuple[str, Tensor]]:
    """The base's dense tensors with the adapter's products added, in fp32, under the checkpoint's names.

    Raises ValueError where a part of the adapter has no place.
    """
    saved = load_file(adapter / WEIGHTS_FILE)
    scale = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    factor = scale["lora_alpha"] / scale["r"]
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in saved.items():
        layer, _, part = name.removeprefix("base_model.model.").partition(".lora_")
        pairs.setdefault(f"{layer}.weight", {})[part.removesuffix(".weight")] = tensor
    head, embedding = "lm_head.weight", None
    for name, tensor in source_tensors(base):
        if name.endswith(("wte.weight", "embed_tokens.weight")):
            embedding = tensor
        yield name, with_pair(tensor, pairs.pop(name, None), factor)
    if head in pairs and embedding is not None:  # tied in the base: the checkpoint leaves it out
        yield head, with_pair(embedding, pairs.pop(head), factor)
    if pairs:
        raise ValueError(f"the adapter's {min(pairs)} has no place in {base}")


def with_pair(weight: Tensor, pair: dict[str, Tensor] | None, factor: float) -> Tensor:
    """W + factor B A, in fp32; W itself where there is no pair."""
    if pair is None:
        return weight
    is_embedding = "embedding_A" in pair
    delta = (pair["embedding_B"] @ pair["embedding_A"]).t() if is_embedding else pair["B"] @ pair["A"]
    return weight.float() + factor * delta


def convert(contender: Contender, materials: Materials, python: str, log: Path) -> Conversion | None:
    """Let an engine's own process make what it opens, and watch its memory.

    This project quantizes the base into its cache, others convert the merged weights; None for transformers, which
    opens those. Raises RuntimeError with what the converter said last.
    """
    if contender.engine == "transformers":
        return None
    source = materials.base if contender.engine == "ours" else materials.merged
    out = materials.folder / f"{contender.engine}-{contender.variant}"
    record = out / "conversion.json"
    if record.is_file():
        return Conversion(**json.loads(record.read_text(encoding="utf-8")))
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)
    script = STUDY / f"answer_{contender.engine}.py"
    begun_s = time.perf_counter()
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [python, script, source, partial, contender.variant],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment(materials.folder),
        )
        resident = anonymous = 0
        while process.poll() is None:
            resident = max(resident, status_bytes_of(process.pid, "VmHWM"))
            anonymous = max(anonymous, status_bytes_of(process.pid, "RssAnon"))
            time.sleep(POLL_S)
    if process.returncode == -9:
        raise RuntimeError("killed, probably for memory")
    if process.returncode != 0:
        raise RuntimeError(last_line(log) or f"the converter ended with code {process.returncode}")
    conversion = Conversion(time.perf_counter() - begun_s, resident, anonymous)
    (partial / record.name).write_text(json.dumps(asdict(conversion), indent=2) + "\n", encoding="utf-8")
    partial.rename(out)
    return conversion


def environment(folder: Path) -> dict[str, str]:
    """Of every engine's process: the project on its path, the cache of bases beside the other materials, no hub."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]),
        "SUMMARIZER_CACHE": str(folder.resolve() / "cache"),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def last_line(log: Path) -> str:
    """Of what a process wrote; empty where it wrote nothing."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else ""


def embedding_weights(folder: Path) -> int:
    config: Any = AutoConfig.from_pretrained(folder).get_text_config()
    return int(config.vocab_size * config.hidden_size)
