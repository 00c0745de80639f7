"""A model's modules without its weights, every linear and embedding layer replaced by a frozen one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import Conv1D, PretrainedConfig

from summarizer import compat, models
from summarizer.models import probe
from summarizer.models.causal_lm import CausalLM
from summarizer.models.transformers_model import TransformersModel
from summarizer.ops.activations import TanhGELU
from summarizer.quantization import formats_of
from summarizer.quantization.frozen import FrozenEmbedding, FrozenLinear, FrozenWeight

MISREAD_BY_PEFT = (
    "plain peft takes an adapter of this name for another's, and would compute something else with it"
)
REFUSED_BY_PEFT = "peft puts no adapter there, since kernels of such models go past it"
log = logging.getLogger(__name__)


@dataclass
class MetaModel:
    """What loading fills in. Names are those of the original model's `state_dict`."""

    model: CausalLM
    weights: dict[str, FrozenWeight] = field(default_factory=dict)
    """Stored weights by the name that the checkpoint gives them; one that layers share by the first one's name."""
    unconverted: dict[str, str] = field(default_factory=dict)
    """Layers and parameters left as they are, and why."""
    zeroed: dict[str, int] = field(default_factory=dict)
    """Weights by the same name of which loading sets a row to 0, as transformers does, and which row."""
    tied: dict[str, str] = field(default_factory=dict)
    """Names of parameters that are others too, such as a tied head's: the name of the first."""

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

    def filled_by(self, name: str) -> list[str]:
        """What is stored under names of its own and gets its numbers from a checkpoint's tensor of that name.

        More than one where a weight is stored twice, as it is where an embedding keeps its precision and the head
        that it is tied to does not. `name` comes first, where it is among them.
        """
        first = self.tied.get(name, name)
        alike = [name, first, *(other for other, of in self.tied.items() if of == first)]
        known = self.weights.keys() | self.plain.keys() | self.buffers.keys()
        return [one for one in dict.fromkeys(alike) if one in known]

    def untie(self, name: str) -> None:
        """Give what is tied to another parameter numbers of its own."""
        del self.tied[name]
        path, _, leaf = name.rpartition(".")
        module = self.model.module.get_submodule(path)
        shared = getattr(module, leaf)
        if name in self.weights or name in self.plain:
            return
        if isinstance(shared, FrozenWeight):
            self.weights[name] = own = FrozenWeight(shared.format.name, shared.shape)
            own.transposed_in_checkpoint = shared.transposed_in_checkpoint
            setattr(module, leaf, own)
        else:
            setattr(module, leaf, nn.Parameter(torch.empty_like(shared, device="meta"), requires_grad=False))


def build_meta_model(config: PretrainedConfig, base_format: str) -> MetaModel:
    """Parameters on the meta device, buffers (rotary frequencies) real: the latter are computed, not loaded.

    base_format: of its weights, and after a + of its embedding and head, if that is another.
    """
    for_layers, for_embedding = formats_of(base_format)
    _turn_off_dropout(config)
    with init_empty_weights(include_buffers=False):
        with _Undrawn():
            model = _own_model(config)
        model = model or _transformers_model(config)
    _tie(model)
    model.module.requires_grad_(False)
    meta = MetaModel(model, tied=_tied(model.module))
    layers: dict[int, nn.Module | None] = {}
    weights: dict[int, FrozenWeight] = {}
    for name, module in list(model.module.named_modules(remove_duplicate=False)):
        format_name = (
            for_embedding if isinstance(module, nn.Embedding) or module is model.head else for_layers
        )
        if id(module) not in layers:
            layers[id(module)] = _frozen(name, module, format_name, meta, weights)
        if (layer := layers[id(module)]) is not None:
            model.module.set_submodule(name, layer)
    _name_the_rest(meta)
    if isinstance(model, TransformersModel):
        _fuse_elementwise(model.module)
        layers_of = [name.removesuffix(".weight") for name in (*meta.weights, *meta.tied)]
        model.not_adapted = {
            **dict.fromkeys(compat.misread_by_peft(model.model, layers_of), MISREAD_BY_PEFT),
            **dict.fromkeys(compat.refused_by_peft(model.model, layers_of), REFUSED_BY_PEFT),
        }
    return meta


def _tie(model: CausalLM) -> None:
    """Make parameters one that the config ties: accelerate gives each module one of its own on the meta device."""
    if isinstance(model, TransformersModel):
        model.model.tie_weights()
    elif getattr(model.config, "tie_word_embeddings", False):
        model.head.weight = model.embedding.weight


def _tied(module: nn.Module) -> dict[str, str]:
    first: dict[int, str] = {}
    return {
        name: first[id(parameter)]
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if first.setdefault(id(parameter), name) != name
    }


def families(first: str = "") -> Iterator[Any]:
    """The models of our own: each a file of this folder that has MODEL_TYPES, `unsupported` and `Model`.

    first: a file to begin with, where there is one of that name. The rest is imported only if more are taken.
    """
    for name in sorted((file.name for file in iter_modules(models.__path__)), key=lambda name: name != first):
        file = import_module(f"{models.__name__}.{name}")
        if hasattr(file, "MODEL_TYPES"):
            yield file


class _Undrawn(TorchFunctionMode):
    """Within it `torch.nn.init` does nothing: on the meta device it draws no numbers, but imports a compiler."""

    def __torch_function__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        if getattr(function, "__module__", None) == torch.nn.init.__name__:
            return given[0] if given else named["tensor"]
        return function(*given, **(named or {}))


def _own_model(config: PretrainedConfig) -> CausalLM | None:
    """Our model of a config's family, where that computes all that the config asks for."""
    for family in families(config.model_type):
        if config.model_type in family.MODEL_TYPES:
            if (reason := family.unsupported(config)) is None:
                return family.Model(config)  # type: ignore[no-any-return]
            log.info(
                "base model: %s is taken from transformers, which is slower: %s", config.model_type, reason
            )
    return None


def _transformers_model(config: PretrainedConfig) -> CausalLM:
    from transformers import AutoModelForCausalLM

    return TransformersModel(AutoModelForCausalLM.from_config(config, dtype=torch.float32))


def _frozen(
    name: str, module: nn.Module, format_name: str, meta: MetaModel, weights: dict[int, FrozenWeight]
) -> nn.Module | None:
    """What stands in for a layer; None for one that stays.  weights: of the parameters seen so far, by id."""
    layer: FrozenLinear | FrozenEmbedding
    if isinstance(module, nn.Linear | Conv1D):
        transposed = isinstance(module, Conv1D)
        if not probe.is_product(module, transposed=transposed):
            meta.unconverted[name] = f"{type(module).__name__} computes more than a product"
            return None
        rows, columns = module.weight.shape
        weight = weights.get(id(module.weight)) or FrozenWeight(
            format_name, (columns, rows) if transposed else (rows, columns)
        )
        weight.transposed_in_checkpoint = transposed
        layer = FrozenLinear(weight, bias=module.bias is not None)
    elif isinstance(module, nn.Embedding):
        if (scale := probe.lookup_scale(module)) is None:
            meta.unconverted[name] = f"{type(module).__name__} computes more than a lookup"
            return None
        rows, columns = module.weight.shape
        layer = FrozenEmbedding(
            weights.get(id(module.weight)) or FrozenWeight(format_name, (rows, columns)), scale
        )
    else:
        return None
    if id(module.weight) not in weights:
        weights[id(module.weight)] = meta.weights[f"{name}.weight"] = layer.weight
    if isinstance(layer, FrozenEmbedding) and isinstance(meta.model, TransformersModel):
        row = compat.row_zeroed_by_loading(meta.model.model, module)
        if row is not None:
            meta.zeroed[f"{name}.weight"] = row
    return layer


def _name_the_rest(meta: MetaModel) -> None:
    """Matrices, and stacks of them, that belong to no layer that an adapter can stand beside."""
    for name, parameter in meta.model.module.named_parameters():
        layer = name.rpartition(".")[0]
        if parameter.ndim > 1 and layer not in meta.unconverted:
            sides = " x ".join(map(str, parameter.shape))
            meta.unconverted[name] = f"it is no linear layer's ({sides})"


def _fuse_elementwise(model: nn.Module) -> None:
    # The same function in one kernel, which keeps its input for backward; written out GELU keeps five tensors as
    # wide, 5 GiB in GPT-J-6B at 2 x 1024 tokens.
    for name, module in list(model.named_modules()):
        if probe.is_function(module, partial(F.gelu, approximate="tanh")):
            model.set_submodule(name, TanhGELU())
        elif (norm := probe.as_rms_norm(module)) is not None:
            model.set_submodule(name, norm)


def _turn_off_dropout(config: PretrainedConfig) -> None:
    # For code that asks its block whether it trains; all else in a frozen base is as it is after training. What is
    # called noise stays: by its `router_jitter_noise` Phi-3.5-MoE weighs experts after training too.
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        for name, value in vars(part).items():
            if "drop" in name and isinstance(value, float):
                setattr(part, name, 0.0)
