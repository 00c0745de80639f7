"""A model's modules without its weights, every linear and embedding layer replaced by a frozen one."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoModelForCausalLM, Conv1D, PretrainedConfig

from summarizer import models
from summarizer.models import probe
from summarizer.models.causal_lm import CausalLM
from summarizer.models.transformers_model import TransformersModel
from summarizer.ops.activations import TanhGELU
from summarizer.quantization.frozen import FrozenEmbedding, FrozenLinear, FrozenWeight

log = logging.getLogger(__name__)


@dataclass
class MetaModel:
    """What loading fills in. Names are those of the original model's `state_dict`."""

    model: CausalLM
    weights: dict[str, FrozenWeight] = field(default_factory=dict)
    """Stored weights by the name that the checkpoint gives them; a tied head is not among them."""
    unconverted: dict[str, str] = field(default_factory=dict)
    """Linear or embedding layers left as they are, and why."""
    copies: dict[str, str] = field(default_factory=dict)
    """A stored weight that checkpoints leave out because it equals another tensor: that tensor's name."""
    tied_head: str | None = None
    """A head's weight that is the embedding's; some checkpoints hold it all the same."""

    @property
    def plain(self) -> dict[str, torch.Tensor]:
        """Parameters and biases that keep their precision, by the checkpoint's name."""
        named: dict[str, torch.Tensor] = dict(self.model.module.named_parameters())
        for name, module in self.model.module.named_modules():
            if isinstance(module, FrozenLinear) and module.bias is not None:
                named[f"{name}.bias"] = module.bias
        return named

    @property
    def buffers(self) -> dict[str, torch.Tensor]:
        """Buffers that a checkpoint may hold; where it does not, the model's own values stay."""
        module, plain = self.model.module, self.plain
        saved = module.state_dict(keep_vars=True)
        return {
            name: buffer for name, buffer in module.named_buffers() if name in saved and name not in plain
        }


def build_meta_model(config: PretrainedConfig, format_name: str) -> MetaModel:
    """Parameters on the meta device, buffers (rotary frequencies) real: the latter are computed, not loaded."""
    _turn_off_dropout(config)
    with init_empty_weights(include_buffers=False):
        model = _own_model(config) or _transformers_model(config)
    model.module.requires_grad_(False)
    meta = MetaModel(model)
    for name, module in list(model.module.named_modules()):
        if (layer := _frozen(name, module, format_name, meta)) is not None:
            model.module.set_submodule(name, layer)
    _tie_head(meta)
    if isinstance(model, TransformersModel):
        _fuse_elementwise(model.module)
    return meta


@cache
def families() -> tuple[Any, ...]:
    """The models of our own: each a file of this folder that has MODEL_TYPES, `unsupported` and `Model`."""
    files = [import_module(f"{models.__name__}.{file.name}") for file in iter_modules(models.__path__)]
    return tuple(file for file in files if hasattr(file, "MODEL_TYPES"))


def _own_model(config: PretrainedConfig) -> CausalLM | None:
    """Our model of a config's family, where that computes all that the config asks for."""
    for family in families():
        if config.model_type in family.MODEL_TYPES:
            if (reason := family.unsupported(config)) is None:
                return family.Model(config)  # type: ignore[no-any-return]
            log.info("base: %s is taken from transformers, which is slower: %s", config.model_type, reason)
    return None


def _transformers_model(config: PretrainedConfig) -> CausalLM:
    return TransformersModel(AutoModelForCausalLM.from_config(config, dtype=torch.float32))


def _frozen(name: str, module: nn.Module, format_name: str, meta: MetaModel) -> nn.Module | None:
    layer: nn.Module
    if isinstance(module, nn.Linear | Conv1D):
        transposed = isinstance(module, Conv1D)
        if not probe.is_product(module, transposed=transposed):
            meta.unconverted[name] = f"{type(module).__name__} computes more than a product"
            return None
        rows, columns = module.weight.shape
        weight = FrozenWeight(format_name, (columns, rows) if transposed else (rows, columns))
        weight.transposed_in_checkpoint = transposed
        layer = FrozenLinear(weight, bias=module.bias is not None)
    elif isinstance(module, nn.Embedding):
        if not probe.is_lookup(module):
            meta.unconverted[name] = f"{type(module).__name__} computes more than a lookup"
            return None
        rows, columns = module.weight.shape
        layer = FrozenEmbedding(FrozenWeight(format_name, (rows, columns)))
    else:
        return None
    meta.weights[f"{name}.weight"] = layer.weight
    return layer


def _tie_head(meta: MetaModel) -> None:
    model = meta.model
    head, embedding = model.head, model.embedding
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    if not tied or not isinstance(head, FrozenLinear):
        return
    (name,) = [name for name, weight in meta.weights.items() if weight is head.weight]
    meta.tied_head = name
    if isinstance(embedding, FrozenEmbedding):
        del meta.weights[name]
        head.weight = embedding.weight
    else:  # the embedding keeps its own code and precision; the head is quantized from the same tensor
        (of,) = [path for path, module in model.module.named_modules() if module is embedding]
        meta.copies[name] = f"{of}.weight"


def _fuse_elementwise(model: nn.Module) -> None:
    # The same function in one kernel, which keeps its input for backward; written out GELU keeps five tensors as
    # wide, 5 GiB in GPT-J-6B at 2 x 1024 tokens.
    for name, module in list(model.named_modules()):
        if probe.is_function(module, partial(F.gelu, approximate="tanh")):
            model.set_submodule(name, TanhGELU())
        elif (norm := probe.as_rms_norm(module)) is not None:
            model.set_submodule(name, norm)


def _turn_off_dropout(config: PretrainedConfig) -> None:
    # The base is frozen: noise in it would only blur the adapter's gradients, and every trial of a group
    # would have to draw it alike.
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        for name, value in vars(part).items():
            if "drop" in name and isinstance(value, float):
                setattr(part, name, 0.0)
