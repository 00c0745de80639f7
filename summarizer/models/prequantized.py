"""Checkpoints whose weights were quantized before they were saved: codes, and what recovers weights from them.

Three kinds are simple and exact to recover: bitsandbytes' 8 and 4 bits, and 8-bit floats with scales of blocks. The
others are refused before anything loads. Codes are never taken for weights: a tensor of whole numbers or of
8-bit floats that nothing here recovers is refused too, wherever the folder says nothing (`require_weights`).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from summarizer import compat
from summarizer.errors import ConfigError
from summarizer.models.checkpoint_files import KEY, Tensors

STATED_IN_CONFIG = ("quantization_config", "compression_config")
"""What config.json, or a part of it such as text_config, calls it."""
STATED_BESIDE = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "hf_quant_config.json": "modelopt",
    "quanto_qmap.json": "quanto",
    "quantization_config.json": None,
}
"""Files that some tools write beside config.json, and whose they are, where the file does not say it itself."""
WAY_ON = (
    "give the checkpoint that it was made from, which quantization= stores in few bits too; or dequantize it with "
    "transformers where its library runs (model.dequantize(), then save_pretrained) and give that folder"
)


class Prequantized(ABC):
    """How the weights of one kind of checkpoint are recovered."""

    name: str
    """For a person."""
    in_product_order = False
    """Matrices come as (d_out, d_in) even where the model keeps them transposed, as GPT-2 does."""

    @abstractmethod
    def beside(self, name: str) -> str | None:
        """The weight that a tensor of that name helps to recover; None for a weight, or any other tensor."""

    @abstractmethod
    def weight(self, name: str, codes: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
        """The weight in fp32.

        parts: the tensors beside it, by what their names have beyond its own. Raises ValueError where they do not
        fit.
        """


class Recovered(Tensors):
    """The tensors of a checkpoint with its weights recovered. Raises ConfigError where one cannot be."""

    def __init__(self, checkpoint: Tensors, method: Prequantized) -> None:
        self.checkpoint, self.method = checkpoint, method
        self.folder = checkpoint.folder
        self._parts: dict[str, list[str]] = {}
        """Of each weight, the names of the tensors beside it."""
        for name in checkpoint.names:
            if (weight := method.beside(name)) is not None:
                self._parts.setdefault(weight, []).append(name)

    @property
    def names(self) -> list[str]:
        return [name for name in self.checkpoint.names if self.method.beside(name) is None]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self.checkpoint:
            if self.method.beside(name) is None:
                yield name, self._recovered(name, tensor)

    def read(self, name: str) -> Tensor:
        return self._recovered(name, self.checkpoint.read(name))

    def _recovered(self, name: str, tensor: Tensor) -> Tensor:
        if name not in self._parts:
            return tensor
        layer = name.rpartition(".")[0]
        parts = {part.removeprefix(f"{layer}."): self.checkpoint.read(part) for part in self._parts[name]}
        try:
            return self.method.weight(name, tensor, parts)
        except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            where = f"{name} in {self.folder}"
            raise ConfigError.single(
                KEY, f"{where} cannot be recovered ({self.method.name}): {error}"
            ) from error


class BitsAndBytes8(Prequantized):
    """LLM.int8(): whole numbers, and each row's largest weight. Source: Dettmers et al. 2022 (arXiv:2208.07339)."""

    name = "bitsandbytes, 8 bits"
    in_product_order = True

    def beside(self, name: str) -> str | None:
        layer, _, leaf = name.rpartition(".")
        return f"{layer}.weight" if leaf in ("SCB", "weight_format") else None

    def weight(self, name: str, codes: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
        if codes.dtype != torch.int8:
            raise ValueError(f"its codes are {codes.dtype}, not int8")
        if int(parts.get("weight_format", torch.tensor(0))) != 0:
            raise ValueError("its rows are laid out for one kind of GPU, as bitsandbytes did before 0.45")
        return codes.float() * (parts["SCB"].float() / 127)[:, None]


class BitsAndBytes4(Prequantized):
    """NF4 and FP4, two codes a byte, perhaps with scales that are quantized themselves (arXiv:2305.14314)."""

    name = "bitsandbytes, 4 bits"
    in_product_order = True
    PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", "quant_state")

    def beside(self, name: str) -> str | None:
        weight, found, rest = name.rpartition(".weight.")
        return f"{weight}.weight" if found and rest.partition(".")[0] in self.PARTS else None

    def weight(self, name: str, codes: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
        bnb = compat.import_without_compiling("bitsandbytes.functional")
        state = bnb.QuantState.from_dict(dict(parts), device=torch.device("cpu"))
        packed = codes.contiguous().view(torch.uint8).reshape(-1, 1)
        if 2 * packed.numel() != state.shape.numel():
            raise ValueError(f"{packed.numel()} bytes are not {tuple(state.shape)} weights of 4 bits")
        recovered: Tensor = bnb.dequantize_4bit(packed, state)
        return recovered.float()


class BlockFP8(Prequantized):
    """8-bit floats times a scale for each block of a matrix, as DeepSeek-V3 has them (arXiv:2412.19437)."""

    name = "8-bit floats with scales of blocks"

    def __init__(self, block: tuple[int, int] | None) -> None:
        """block: rows and columns that share a scale; None for one scale in all."""
        self.block = block

    def beside(self, name: str) -> str | None:
        layer, _, leaf = name.rpartition(".")
        return f"{layer}.weight" if leaf in ("weight_scale_inv", "activation_scale") else None

    def weight(self, name: str, codes: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
        scale = parts.get("weight_scale_inv")
        if codes.dtype not in (torch.float8_e4m3fn, torch.float8_e5m2) or scale is None:
            raise ValueError(
                f"it is {codes.dtype}, and its scales are {None if scale is None else scale.dtype}"
            )
        if scale.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(f"its scales are {scale.dtype}")
        if scale.numel() == 1:
            return codes.float() * scale.float().reshape(1, 1)
        if self.block is None:
            raise ValueError(f"it has {tuple(scale.shape)} scales, and the config names no weight_block_size")
        needed = tuple(-(-side // block) for side, block in zip(codes.shape, self.block, strict=True))
        if tuple(scale.shape) != needed:
            raise ValueError(f"it has {tuple(scale.shape)} scales, blocks of {self.block} need {needed}")
        rows, columns = self.block
        spread = scale.float().repeat_interleave(rows, 0).repeat_interleave(columns, 1)
        return codes.float() * spread[: codes.shape[0], : codes.shape[1]]


def prequantized(folder: Path) -> Prequantized | None:
    """How a folder's weights are recovered; None where they are weights as they are.

    Reads small files alone. Raises ConfigError for a quantization that is not recovered here.
    """
    stated = _stated(folder)
    if stated is None:
        return None
    where, method, options = stated
    if method == "bitsandbytes" and options.get("load_in_8bit", options.get("_load_in_8bit")):
        return BitsAndBytes8()
    if method == "bitsandbytes" and options.get("load_in_4bit", options.get("_load_in_4bit")):
        return BitsAndBytes4()
    block = options.get("weight_block_size")
    if method == "fp8" and (block is None or _is_block(block)):
        return BlockFP8(None if block is None else (block[0], block[1]))
    raise ConfigError.single(
        KEY, f"{folder}: its weights are quantized by {method} ({where}), which is not read here; {WAY_ON}"
    )


def require_weights(tensor: Tensor) -> None:
    """Raises ValueError for a tensor of codes, where weights belong."""
    if not tensor.is_floating_point() or tensor.element_size() < 2:
        raise ValueError(
            f"it holds {str(tensor.dtype).removeprefix('torch.')}: codes of a quantization that the folder does "
            f"not name; {WAY_ON}"
        )


def _stated(folder: Path) -> tuple[str, str, dict[str, Any]] | None:
    """Where a folder says that it is quantized, by what, and how."""
    config = _json(folder / "config.json")
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key in STATED_IN_CONFIG:
            if options := part.get(key):
                options = options if isinstance(options, dict) else {}
                return f"{key} in config.json", _method(options), options
    for name, whose in STATED_BESIDE.items():
        if (folder / name).is_file():
            options = _json(folder / name)
            return name, str(options.get("quant_method") or whose or "an unnamed method"), options
    return None


def _method(options: dict[str, Any]) -> str:
    if method := options.get("quant_method"):
        return str(method).partition("_4bit")[0].partition("_8bit")[0]
    if any(options.get(f"load_in_{bits}bit") for bits in (4, 8)):
        return "bitsandbytes"
    return "an unnamed method"


def _is_block(block: object) -> bool:
    return (
        isinstance(block, list) and len(block) == 2 and all(type(side) is int and side > 0 for side in block)
    )


def _json(path: Path) -> dict[str, Any]:
    """An object of a file; {} where it holds none, which is said where it is needed."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
