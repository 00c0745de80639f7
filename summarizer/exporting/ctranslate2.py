"""`--format ctranslate2`: a merged model in CTranslate2's form, by CTranslate2's own converter."""

from __future__ import annotations

import gc
import importlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.utils import logging as transformers_logging

from summarizer import atomic
from summarizer.console.progress import bar, working
from summarizer.errors import ConfigError
from summarizer.exporting.card_code import ctranslate2_code
from summarizer.exporting.formats import CTRANSLATE2_DTYPES
from summarizer.exporting.measure import Example, LogProbs, Reference, choose
from summarizer.exporting.merge import Merge
from summarizer.exporting.request import ExportRequest, require_room
from summarizer.exporting.steps import Words, merged_model, new_folder, opened, write_card
from summarizer.models.load import load_config
from summarizer.models.source import model_folder

STORED = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "int8": "int8_float32"}
"""CTranslate2's names where ours differ. Of plain int8 it would keep norms and biases in the type of the merged
folder, and convert them with a warning wherever that is not what the device computes in."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")

SHARE_OF_FP32 = {
    "int8": 0.25,
    "int8_float16": 0.25,
    "int8_bfloat16": 0.25,
    "int8_float32": 0.25,
    "bf16": 0.5,
    "fp16": 0.5,
    "fp32": 1.0,
}
"""What a converted model takes on disk."""
MOST_CONVERSION_KL = 1.0
"""Nats per summary token. int8 cost 0.002 of the embedded model and 0.37 of SmolLM2-135M (rounding merged
weights anew with one step a row costs it 0.355 by itself); a converter that misreads a model would cost several."""


def write(request: ExportRequest) -> list[str]:
    """Write a merged model beside the output, convert it, and measure what the converted one answers."""
    spec = request.run.spec
    require_convertible(load_config(model_folder(spec.model, weights=False)))
    parent = request.output.parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=atomic.SCRATCH_PREFIX, dir=parent) as merged:
        source = _merged_to_convert(request, Path(merged))
        gc.collect()  # of the base: the converter needs the memory
        with new_folder(request.output) as scratch:
            converted = scratch / "converted"
            convert(Path(merged), converted, request.dtype, source.words.end_token)
            lines = [*source.lines, _cost_of_conversion(source.reference, converted, request)]
            for file in converted.iterdir():
                file.rename(scratch / file.name)
            converted.rmdir()
            code = ctranslate2_code(source.words, spec.generation)
            write_card(scratch, request, source.words, code, lines, limits=[])
    return lines


@dataclass(frozen=True)
class _ToConvert:
    """What is left of a merged model once it is on disk and out of memory."""

    words: Words
    reference: Reference
    lines: list[str]


def _merged_to_convert(request: ExportRequest, folder: Path) -> _ToConvert:
    loaded = opened(request)
    dtype = CTRANSLATE2_DTYPES[request.dtype]
    model = merged_model(loaded, Merge(loaded.adapted, 0))
    require_room(
        request.output, model.nbytes(dtype) + int(model.nbytes("fp32") * SHARE_OF_FP32[request.dtype])
    )
    choice = choose(loaded, request.weights, dtype)
    merged_model(loaded, choice.merge).write(folder, dtype)
    return _ToConvert(Words(loaded.tokenizer, loaded.prompt), choice.reference, choice.lines())


def _cost_of_conversion(reference: Reference, folder: Path, request: ExportRequest) -> str:
    """Raises ConfigError where the converted model answers something else altogether."""
    with bar("measuring the converted model", len(reference.examples)) as progress:
        answer = log_probs_of_converted(folder)
        cost = reference.divergence(answer, progress)
    if not cost.kl < MOST_CONVERSION_KL:
        raise ConfigError.single(
            "--format",
            f"the model that ctranslate2 made answers something else: {cost.kl:.2g} nats of KL per summary token "
            f"from the unmerged one, at most {MOST_CONVERSION_KL:g} is accepted; nothing was kept. Its converter "
            f"misreads this model, or {request.dtype} is too coarse for it, which --dtype fp32 would show",
        )
    advice = (
        "; in int8 it rounds merged weights and activations, in bf16 and fp32 neither"
        if request.dtype.startswith("int8")
        else ""
    )
    return (
        f"as CTranslate2 computes it, in {request.dtype} on a CPU: KL {cost.kl:.2g} nats per summary token, "
        f"summary loss {cost.loss:.4f}{advice}"
    )


class _ModelKnownError(Exception):
    """The converter went so far as to ask for the weights."""


def require_convertible(config: PretrainedConfig) -> None:
    """Raises ConfigError, with the converter's reason, for a model that it does not know. Reads no weight."""
    converter: Any = importlib.import_module("ctranslate2.converters").TransformersConverter

    def load_model(*_: Any, **__: Any) -> Any:
        raise _ModelKnownError

    # Made by a call, since ctranslate2 may not be installed and has no types to derive from.
    probe: Any = type("Probe", (converter,), {"load_model": load_model})
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        try:
            probe(folder).convert(str(Path(folder) / "converted"))
        except _ModelKnownError:
            return
        except (ValueError, NotImplementedError) as error:
            raise _refused(error) from error


def convert(merged: Path, folder: Path, dtype: str, end_token: str) -> None:
    """Convert a merged folder into `folder`, which must not exist.

    The weights stay in the merged folder's memory-mapped files until each is converted: what is held is what was
    converted, and the layers that the converter joins.
    dtype: as the command has it.  Raises ConfigError, with the converter's reason, where it refuses the model.
    """
    converters = importlib.import_module("ctranslate2.converters")
    files = [name for name in TOKENIZER_FILES if (merged / name).is_file()]
    try:
        with working(f"converting to CTranslate2's {dtype}"), _silent_loading(), _fast_collections():
            converters.TransformersConverter(str(merged), copy_files=files).convert(
                str(folder), quantization=STORED.get(dtype, dtype)
            )
    except (ValueError, NotImplementedError, AttributeError, KeyError) as error:
        raise _refused(error) from error
    gc.collect()  # the converter's model is a web of cycles, whose mapped files would stay open
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["eos_token"] = end_token
    for name in ("bos_token", "unk_token"):
        # Null where the tokenizer has none, which CTranslate2 then refuses to read; neither is ever used here.
        config[name] = config[name] or end_token
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def log_probs_of_converted(folder: Path) -> LogProbs:
    """Log probabilities by a CTranslate2 model, on the CPU: on a GPU it needs libraries of its own."""
    ctranslate2 = importlib.import_module("ctranslate2")
    generator = ctranslate2.Generator(
        str(folder), device="cpu", intra_threads=torch.get_num_threads(), inter_threads=1
    )

    def answer(example: Example) -> Tensor:
        logits = generator.forward_batch([list(example.ids[:-1])])
        own = torch.from_numpy(np.array(logits.to(ctranslate2.DataType.float32)))[
            0, example.prompt_tokens - 1 :
        ]
        return own.log_softmax(dim=-1)

    return answer


@contextmanager
def _fast_collections() -> Iterator[None]:
    """The converter collects garbage after every layer, half a second each with all that is imported here."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _silent_loading() -> Iterator[None]:
    """transformers draws a bar of its own, which lasts no time here: the files are only mapped."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _refused(error: Exception) -> ConfigError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ConfigError.single(
        "--format", f"ctranslate2 cannot convert this model: {type(error).__name__}: {reason}"
    )
