"""A merged model in CTranslate2's form, by CTranslate2's own converter."""

from __future__ import annotations

import gc
import importlib
import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.utils import logging as transformers_logging

from summarizer.console.progress import working
from summarizer.errors import ConfigError
from summarizer.exporting.measure import Example, LogProbs

STORED = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "int8": "int8_float32"}
"""CTranslate2's names where ours differ. Of plain int8 it would keep norms and biases in the type of the merged
folder, and convert them with a warning wherever that is not what the device computes in."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")

log = logging.getLogger(__name__)


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
