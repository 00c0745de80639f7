"""The peer: transformers + peft + bitsandbytes, put together as their documentation does it.

The step is that of ../shared/bench/peer_train.py, which measured the figures to beat. It gets what helps it: its
batches are on the device before it is timed.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from accelerate import init_empty_weights
from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.utils import logging as transformers_logging
from workload import Contender, Point, Setting, Workload, build_workload, model_config

from summarizer.adapters.attach import AdaptedModel, attach
from summarizer.adapters.peft_config import WEIGHTS_FILE
from summarizer.adapters.peft_format import save_adapter
from summarizer.config.schema import RunConfig
from summarizer.data.batches import IGNORED_LABEL
from summarizer.models.load import load_config
from summarizer.models.meta_model import build_meta_model
from summarizer.models.random_base import random_tensors
from summarizer.models.source import model_folder
from summarizer.models.stored_base import is_stored_base, read_manifest
from summarizer.models.streaming import source_tensors
from summarizer.tracking.utilization import ModelShape, shape_of

BATCHES_AHEAD = 4
"""Real rows that lie on the device before a turn; made rows come round again after as many."""
PRECISION = {"fp32": "fp32"}
"""Of products, by the kind of base; the others' is bf16."""


class Peer:
    """One kind of base, loaded once; adapters of one dim, given this project's initial values for each point."""

    def __init__(self, setting: Setting, contender: Contender, point: Point) -> None:
        transformers_logging.disable_progress_bar()  # the command shows its own
        self._setting, self.kind = setting, contender.base
        workload = self.workload(point)
        self.device = torch.device("cuda" if setting.device != "cpu" and torch.cuda.is_available() else "cpu")
        self.precision = PRECISION.get(self.kind, "bf16")
        model = self._base(workload.spec)
        model.requires_grad_(False)
        if "checkpointing" in contender.options:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        with tempfile.TemporaryDirectory() as folder:
            drawn = draw_adapter(model_config(setting, workload.spec), workload.spec)
            self._shape = shape_of(drawn, 0)
            save_adapter(drawn, 0, Path(folder) / "adapter", workload.spec.model.name_or_path)
            config = PeftConfig.from_pretrained(Path(folder) / "adapter")
            self._drawn = load_file(Path(folder) / "adapter" / WEIGHTS_FILE)
        config.inference_mode = False
        self.model: Any = get_peft_model(model, config)
        self.model.train()
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        if (found := sum(p.numel() for p in self._parameters)) != sum(
            t.numel() for t in self._drawn.values()
        ):
            raise RuntimeError(f"peft trains {found} parameters, another number than this project")
        self._numbers: list[tuple[Tensor, Tensor]] = []

    def workload(self, point: Point) -> Workload:
        return build_workload(self._setting, point)

    def begin(self, workload: Workload) -> ModelShape:
        """The adapters as this project draws them, a new optimizer, the first batch next."""
        missing = set_peft_model_state_dict(self.model, self._drawn)
        if missing.unexpected_keys:
            raise RuntimeError(f"peft has no place for {missing.unexpected_keys[0]}")
        self._optimizer = workload.spec.optimizer.build(self._parameters)
        self._limit = workload.spec.trainer.max_grad_norm
        self._stream = (padded(batch, workload, self.device) for batch in workload.stream())
        self._ahead: list[dict[str, Tensor]] = []
        return self._shape

    def make_ready(self, steps: int) -> None:
        """Put the batches of the next steps on the device."""
        while len(self._ahead) < steps:
            self._ahead.append(next(self._stream))

    def step(self) -> None:
        self.make_ready(1)
        with self._autocast():
            loss = self.model(**self._ahead.pop(0)).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(
            self._parameters, float("inf") if self._limit is None else self._limit
        )
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._numbers.append((loss.detach(), norm.detach()))

    def note(self) -> str | None:
        """The peer does as it is told, or runs out of memory."""
        return None

    def numbers(self) -> list[tuple[float, float]]:
        """Loss and gradient norm of the steps since the last call."""
        numbers = [(float(loss), float(norm)) for loss, norm in self._numbers]
        self._numbers.clear()
        return numbers

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.precision == "fp32" else torch.autocast(self.device.type, torch.bfloat16)

    def _base(self, spec: RunConfig) -> Any:
        """The model with its dense or quantized weights, one dense tensor at a time where that is possible."""
        setting = self._setting
        dtype = torch.float32 if self.kind in ("autocast", "fp32") else torch.bfloat16
        config = model_config(setting, spec)
        folder = None if setting.random_weights else model_folder(spec.model)
        if folder is not None and not is_stored_base(folder):
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
            if setting.layers is not None:
                raise ValueError("--layers wants random weights")
            tensors: Iterator[tuple[str, Tensor]] = iter(list(model.named_parameters()))
        else:
            if folder is None:
                source = random_tensors(build_meta_model(config, "none"), self.device, setting.seed)
            else:
                stored = build_meta_model(load_config(folder), read_manifest(folder).format)
                source = source_tensors(folder, stored)
            with init_empty_weights(include_buffers=False):
                model = AutoModelForCausalLM.from_config(model_config(setting, spec), dtype=dtype)
            tensors = source
        self._place(model, tensors, dtype)
        model.tie_weights()
        model.config.use_cache = False
        model.is_loaded_in_8bit, model.is_loaded_in_4bit = self.kind == "int8", self.kind == "nf4"
        gc.collect()
        return model.to(self.device)

    def _place(self, model: Any, tensors: Iterator[tuple[str, Tensor]], dtype: torch.dtype) -> None:
        head = model.get_output_embeddings()
        known = dict(model.named_parameters())
        for name, tensor in tensors:
            path, _, leaf = name.rpartition(".")
            if name not in known:  # a buffer, which the model computes itself
                continue
            module = model.get_submodule(path)
            if leaf == "weight" and isinstance(module, nn.Linear) and module is not head and self._quantizes:
                model.set_submodule(path, self._quantized(module, tensor))
            else:
                module._parameters[leaf] = nn.Parameter(tensor.to(self.device, dtype), requires_grad=False)

    @property
    def _quantizes(self) -> bool:
        return self.kind in ("int8", "nf4")

    def _quantized(self, linear: nn.Linear, weight: Tensor) -> nn.Module:
        """bitsandbytes' layer, with the settings that transformers gives it by default."""
        sizes, bias = (linear.in_features, linear.out_features), linear.bias is not None
        new: Any
        if self.kind == "int8":
            new = bnb.nn.Linear8bitLt(*sizes, bias=bias, has_fp16_weights=False, threshold=6.0, device="meta")
            new.weight = bnb.nn.Int8Params(weight.half().cpu(), requires_grad=False, has_fp16_weights=False)
        else:
            settings = {"quant_type": "nf4", "compress_statistics": True}
            new = bnb.nn.Linear4bit(
                *sizes, bias=bias, compute_dtype=torch.bfloat16, device="meta", **settings
            )
            new.weight = bnb.nn.Params4bit(weight.to(torch.bfloat16).cpu(), requires_grad=False, **settings)
        new.bias = linear.bias  # filled in when its own tensor comes
        new.weight = new.weight.to(self.device)
        return new  # type: ignore[no-any-return]


def draw_adapter(config: PretrainedConfig, spec: RunConfig) -> AdaptedModel:
    """This project's adapters in their initial values, beside layers without weights."""
    meta = build_meta_model(config, "none")
    for weight in meta.weights.values():
        weight.load({"weight": torch.empty(0)})  # says on which device adapters go, and no more
    return attach(meta.model, [spec.adapter], [spec.seed])


def padded(batch: Any, workload: Workload, device: torch.device) -> dict[str, Tensor]:
    """The same tokens as this project packs, padded on the right, with the loss on the summaries."""
    examples = [workload.prompt.training_ids(row.article_ids, row.target_ids) for row in batch]
    longest = max(len(ids) for ids, _ in examples)
    shape = (len(examples), longest)
    ids = torch.full(shape, workload.prompt.pad_id)
    mask, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORED_LABEL)
    for index, (tokens, prompt_tokens) in zip(count(), examples, strict=False):
        ids[index, : len(tokens)] = torch.tensor(tokens)
        mask[index, : len(tokens)] = 1
        labels[index, prompt_tokens : len(tokens)] = torch.tensor(tokens[prompt_tokens:])
    return {
        "input_ids": ids.to(device),
        "attention_mask": mask.to(device),
        "labels": labels.to(device),
    }
