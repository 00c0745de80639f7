"""GPT-J and Llama as GGUF files, which llama.cpp reads.

The project's own exporter writes runs with their tokenizers, in the main environment; this is written in the
peers', of models that may have no words. llama.cpp has no GPT-J; its Phi-2 is the same computation (attention and
MLP beside each other behind one norm, GELU in its tanh form, rotary embeddings on a part of each head, a head with
a bias), but for pairs that turn together lying half of the turned part apart, which the order of rows makes up for.

Source: the GGUF specification (ggml's docs/gguf.md); llama.cpp's src/models/llama.cpp and phi2.cpp, November 2026.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from merged_checkpoint import Checkpoint, neighboring_rotary, sliced_rotary
from torch import Tensor


@dataclass(frozen=True)
class Placed:
    """A tensor of the file: as it is called there, and made when its turn comes."""

    name: str
    make: Callable[[], Tensor]


def write_file(config: Mapping[str, Any], read: Checkpoint, out: Path) -> None:
    """Write a model, matrices as the checkpoint has them and vectors in fp32, one tensor in memory at a time.

    config: as its config.json. Raises ValueError for a model that none is written for.
    """
    kind = config["model_type"]
    if kind not in BUILDERS:
        raise ValueError(f"no file is written for {kind} models, only for {' and '.join(BUILDERS)}")
    writer = gguf.GGUFWriter(None, ARCHITECTURES[kind])
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(config["vocab_size"])
    placed = list(BUILDERS[kind](config, read, writer))
    stored = [type_of(each.make()) for each in placed]
    for each, (kept_as, size) in zip(placed, stored, strict=True):
        shape = each.make().shape
        writer.add_tensor_info(
            each.name, shape, np.dtype(np.float32), size * shape.numel(), raw_dtype=kept_as
        )
    writer.write_header_to_file(out)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for each, (kept_as, _) in zip(placed, stored, strict=True):
        values = each.make().contiguous()
        is_bf16 = kept_as == gguf.GGMLQuantizationType.BF16
        writer.write_tensor_data((values.view(torch.int16) if is_bf16 else values.float()).numpy())
    writer.close()


def type_of(tensor: Tensor) -> tuple[gguf.GGMLQuantizationType, int]:
    """How a tensor is kept, and the bytes of a number."""
    if tensor.dim() > 1 and tensor.dtype == torch.bfloat16:
        return gguf.GGMLQuantizationType.BF16, 2
    return gguf.GGMLQuantizationType.F32, 4


def _gptj(config: Mapping[str, Any], read: Checkpoint, writer: gguf.GGUFWriter) -> Iterator[Placed]:
    d, heads, dims = config["n_embd"], config["n_head"], config["rotary_dim"]
    inner = config.get("n_inner") or 4 * d
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(d)
    writer.add_block_count(config["n_layer"])
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_rope_dimension_count(dims)

    def plain(name: str, source: str) -> Placed:
        return Placed(name, lambda: read(source))

    def turned(name: str, source: str) -> Placed:
        return Placed(name, lambda: sliced_rotary(read(source), heads, dims))

    yield plain("token_embd.weight", "transformer.wte.weight")
    for layer in range(config["n_layer"]):
        own, theirs = f"blk.{layer}", f"transformer.h.{layer}"
        for part in ("weight", "bias"):
            yield plain(f"{own}.attn_norm.{part}", f"{theirs}.ln_1.{part}")
            yield plain(f"{own}.ffn_up.{part}", f"{theirs}.mlp.fc_in.{part}")
            yield plain(f"{own}.ffn_down.{part}", f"{theirs}.mlp.fc_out.{part}")
        yield turned(f"{own}.attn_q.weight", f"{theirs}.attn.q_proj.weight")
        yield turned(f"{own}.attn_k.weight", f"{theirs}.attn.k_proj.weight")
        yield plain(f"{own}.attn_v.weight", f"{theirs}.attn.v_proj.weight")
        yield plain(f"{own}.attn_output.weight", f"{theirs}.attn.out_proj.weight")
        yield Placed(f"{own}.attn_output.bias", lambda: torch.zeros(d))  # Phi-2's file must have one
    for part in ("weight", "bias"):
        yield plain(f"output_norm.{part}", f"transformer.ln_f.{part}")
        yield plain(f"output.{part}", f"lm_head.{part}")


def _llama(config: Mapping[str, Any], read: Checkpoint, writer: gguf.GGUFWriter) -> Iterator[Placed]:
    heads, kept_heads = config["num_attention_heads"], config["num_key_value_heads"]
    d_head = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or {"rope_theta": config["rope_theta"]}
    if rope.get("rope_type", "default") != "default" or config.get("rope_scaling"):
        raise ValueError("no file is written for scaled rotary embeddings")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kept_heads)
    writer.add_key_length(d_head)
    writer.add_value_length(d_head)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(d_head)
    writer.add_rope_freq_base(rope["rope_theta"])

    def plain(name: str, source: str) -> Placed:
        return Placed(f"{name}.weight", lambda: read(f"{source}.weight"))

    def turned(name: str, source: str, count: int) -> Placed:
        return Placed(f"{name}.weight", lambda: neighboring_rotary(read(f"{source}.weight"), count))

    yield plain("token_embd", "model.embed_tokens")
    for layer in range(config["num_hidden_layers"]):
        own, theirs = f"blk.{layer}", f"model.layers.{layer}"
        yield plain(f"{own}.attn_norm", f"{theirs}.input_layernorm")
        yield turned(f"{own}.attn_q", f"{theirs}.self_attn.q_proj", heads)
        yield turned(f"{own}.attn_k", f"{theirs}.self_attn.k_proj", kept_heads)
        yield plain(f"{own}.attn_v", f"{theirs}.self_attn.v_proj")
        yield plain(f"{own}.attn_output", f"{theirs}.self_attn.o_proj")
        yield plain(f"{own}.ffn_norm", f"{theirs}.post_attention_layernorm")
        for name in ("gate", "up", "down"):
            yield plain(f"{own}.ffn_{name}", f"{theirs}.mlp.{name}_proj")
    yield plain("output_norm", "model.norm")
    yield plain("output", "lm_head" if "lm_head.weight" in read else "model.embed_tokens")


Builder = Callable[[Mapping[str, Any], Checkpoint, gguf.GGUFWriter], Iterator[Placed]]
BUILDERS: Mapping[str, Builder] = {"gptj": _gptj, "llama": _llama}
ARCHITECTURES = {"gptj": "phi2", "llama": "llama"}
"""llama.cpp's names for what computes the same."""
