"""A causal language model as an OpenVINO graph, from a folder of safetensors: GPT-J and Llama, int8 or int4.

It has the form that OpenVINO's own exporters give a language model, which its CPU plugin knows how to fuse: keys
and values are states that grow, attention is one operator with a mask made from positions, weights stay compressed
beside their scales, and the head sees the last token alone. optimum-intel makes such graphs too, but brings CUDA
along and holds the dense model; here tensors go by one at a time.

Inputs: input_ids and position_ids (b, t), attention_mask (b, past + t), of which only the length is read, and
beam_idx (b,). Output: logits (b, 1, v).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset15 as ops
from safetensors import safe_open
from torch import Tensor

GROUP = 128
"""Weights of a row that share an int4 scale. Source: NNCF's default for int4."""
STORED_TYPES = {"int8": ov.Type.i8, "int4": ov.Type.i4}

Node = Any  # openvino has no type hints of its own


class Checkpoint:
    """Tensors of a model folder by name, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        index = folder / "model.safetensors.index.json"
        files = {"model.safetensors"}
        if index.is_file():
            files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        self._opened = [safe_open(folder / name, framework="pt") for name in sorted(files)]
        self._of = {name: opened for opened in self._opened for name in opened.keys()}  # noqa: SIM118

    def __call__(self, name: str) -> Tensor:
        tensor: Tensor = self._of[name].get_tensor(name)
        return tensor

    def __contains__(self, name: str) -> bool:
        return name in self._of


def quantise_rows(weight: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Row-wise absmax int8, as this project and CTranslate2 store it: (d_out, d_in) and (d_out, 1)."""
    scale = weight.abs().amax(dim=1, keepdim=True).float() / 127
    scale[scale == 0] = 1
    stored = torch.empty(weight.shape, dtype=torch.int8)
    for rows, own, to in zip(weight.split(1024), scale.split(1024), stored.split(1024), strict=True):
        to.copy_((rows.float() / own).round_())
    return stored.numpy(), scale.numpy()


def quantise_groups(weight: Tensor, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int4: the number of each group that is furthest from zero becomes -8.

    (d_out, groups, group) in -8 .. 7, one to a byte, and (d_out, groups, 1). Source: NNCF's INT4_SYM, without data.
    """
    stored, scales = [], []
    for rows in weight.split(1024):
        grouped = rows.float().reshape(rows.shape[0], -1, group)
        furthest = grouped.gather(2, grouped.abs().argmax(dim=2, keepdim=True))
        scale = furthest / -8
        scale[scale == 0] = 1
        stored.append((grouped / scale).round_().clamp_(-8, 7).to(torch.int8))
        scales.append(scale)
    return torch.cat(stored).numpy(), torch.cat(scales).numpy()


def packed(nibbles: np.ndarray) -> ov.Constant:
    """Two signed 4-bit numbers to a byte, the first one low."""
    flat = nibbles.reshape(-1, 2).view(np.uint8) & 0xF
    stored = ov.Tensor(ov.Type.i4, ov.Shape(list(nibbles.shape)))  # owns its memory, which a view would not
    stored.data.view(np.uint8).reshape(-1)[:] = flat[:, 0] | flat[:, 1] << 4
    return ops.constant(stored)


def constant(values: Any, dtype: Any = np.float32) -> Node:
    return ops.constant(np.asarray(values, dtype=dtype))


class Graph:
    """The operators of one model."""

    def __init__(self, folder: Path, variant: str) -> None:
        self.read, self.variant = Checkpoint(folder), variant
        self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.ids = ops.parameter([-1, -1], np.int64, name="input_ids")
        self.mask = ops.parameter([-1, -1], np.int64, name="attention_mask")
        self.positions = ops.parameter([-1, -1], np.int64, name="position_ids")
        self.beams = ops.parameter([-1], np.int32, name="beam_idx")
        self.sinks: list[Node] = []
        self.visible = self._visible()

    def build(self) -> ov.Model:
        """Raises ValueError for another architecture than GPT-J or Llama."""
        kind = self.config["model_type"]
        if kind not in LAYERS:
            raise ValueError(f"no OpenVINO graph is written for {kind!r}, only {', '.join(LAYERS)}")
        logits = LAYERS[kind](self)
        result = ops.result(logits, name="logits")
        result.output(0).get_tensor().set_names({"logits"})
        inputs = {
            "input_ids": self.ids,
            "attention_mask": self.mask,
            "position_ids": self.positions,
            "beam_idx": self.beams,
        }
        for name, node in inputs.items():
            node.output(0).get_tensor().set_names({name})
        return ov.Model([result], self.sinks, list(inputs.values()), kind)

    def linear(self, x: Node, name: str, weight: Tensor | None = None, *, eight_bits: bool = False) -> Node:
        """weight: in place of the checkpoint's."""
        dense = self.read(f"{name}.weight") if weight is None else weight
        if self.variant == "int4" and not eight_bits:
            group = next(size for size in (GROUP, 64, 32, 16) if dense.shape[1] % size == 0)
            q, scale = quantise_groups(dense, group)
            grouped = ops.multiply(ops.convert(packed(q), "f32"), constant(scale))
            stored = ops.reshape(grouped, constant(dense.shape, np.int64), special_zero=False)
        else:
            q, scale = quantise_rows(dense)
            stored = ops.multiply(ops.convert(ops.constant(q), "f32"), constant(scale))
        y = ops.matmul(x, stored, transpose_a=False, transpose_b=True)
        if f"{name}.bias" in self.read:
            y = ops.add(y, constant(self.read(f"{name}.bias").float().numpy()))
        return y

    def embedding(self, name: str) -> Node:
        """Always in 8 bits, as NNCF leaves it."""
        q, scale = quantise_rows(self.read(name))
        axis = constant(0, np.int64)
        rows = ops.convert(ops.gather(ops.constant(q), self.ids, axis), "f32")
        return ops.multiply(rows, ops.gather(constant(scale), self.ids, axis))

    def head(self, x: Node, name: str) -> Node:
        """Of the last token, always in 8 bits, as NNCF leaves it."""
        last = ops.slice(
            x,
            constant([-1], np.int64),
            constant([2**31 - 1], np.int64),
            constant([1], np.int64),
            constant([1], np.int64),
        )
        weight = None if f"{name}.weight" in self.read else self.read("model.embed_tokens.weight")
        return self.linear(last, name, weight, eight_bits=True)

    def layer_norm(self, x: Node, name: str, epsilon: float) -> Node:
        scaled = ops.mvn(x, constant([-1], np.int64), True, epsilon, "INSIDE_SQRT")
        scaled = ops.multiply(scaled, constant(self.read(f"{name}.weight").float().numpy()))
        return ops.add(scaled, constant(self.read(f"{name}.bias").float().numpy()))

    def rms_norm(self, x: Node, name: str, epsilon: float) -> Node:
        mean = ops.reduce_mean(ops.power(x, constant(2.0)), constant([-1], np.int64), keep_dims=True)
        inverse = ops.divide(constant(1.0), ops.sqrt(ops.add(mean, constant(epsilon))))
        return ops.multiply(ops.multiply(x, inverse), constant(self.read(f"{name}.weight").float().numpy()))

    def angles(self, dims: int, theta: float) -> tuple[Node, Node]:
        """cos and sin, each (b, 1, t, dims): half the dims, twice."""
        inverse = constant(theta ** (-np.arange(0, dims, 2) / dims))
        angle = ops.multiply(
            ops.unsqueeze(ops.convert(self.positions, "f32"), constant([1, 3], np.int64)), inverse
        )
        twice = ops.concat([angle, angle], -1)
        return ops.cos(twice), ops.sin(twice)

    def rotated(self, x: Node, angles: tuple[Node, Node], dims: int, d_head: int) -> Node:
        """The first `dims` of each head, turned; x: (b, heads, t, d_head)."""
        cos, sin = angles
        turned, kept = x, None
        if dims < d_head:
            turned, kept = ops.variadic_split(
                x, constant(-1, np.int64), constant([dims, d_head - dims], np.int64)
            ).outputs()
        half = dims // 2
        low, high = ops.variadic_split(
            turned, constant(3, np.int64), constant([half, half], np.int64)
        ).outputs()
        swapped = ops.concat([ops.multiply(high, constant(-1.0)), low], -1)
        turned = ops.add(ops.multiply(turned, cos), ops.multiply(swapped, sin))
        return turned if kept is None else ops.concat([turned, kept], -1)

    def heads(self, x: Node, count: int, d_head: int) -> Node:
        """(b, t, count * d_head) to (b, count, t, d_head)."""
        split = ops.reshape(x, constant([0, 0, count, d_head], np.int64), special_zero=True)
        return ops.transpose(split, constant([0, 2, 1, 3], np.int64))

    def attention(
        self, q: Node, k: Node, v: Node, layer: int, heads: int, kept_heads: int, d_head: int
    ) -> Node:
        """(b, t, heads * d_head), over all that came before."""
        k, v = (
            self._kept(new, f"past_key_values.{layer}.{name}", kept_heads, d_head)
            for new, name in ((k, "key"), (v, "value"))
        )
        if kept_heads < heads:
            k, v = (self._shared(each, heads, kept_heads, d_head) for each in (k, v))
        mixed = ops.scaled_dot_product_attention(q, k, v, self.visible)
        joined = ops.transpose(mixed, constant([0, 2, 1, 3], np.int64))
        return ops.reshape(joined, constant([0, 0, heads * d_head], np.int64), special_zero=True)

    def _kept(self, new: Node, name: str, heads: int, d_head: int) -> Node:
        batch = ops.gather(ops.shape_of(self.ids), constant([0], np.int64), constant(0, np.int64))
        shape = ops.concat([batch, constant([heads, 0, d_head], np.int64)], 0)
        empty = ops.broadcast(constant(0.0), shape)
        past = ops.read_value(empty, name, ov.Type.f32, ov.PartialShape([-1, heads, -1, d_head]))
        past = ops.gather(past, self.beams, constant(0, np.int64))
        both = ops.concat([past, new], -2)
        self.sinks.append(ops.assign(both, name))
        return both

    def _shared(self, x: Node, heads: int, kept_heads: int, d_head: int) -> Node:
        """Each key or value for all the queries that share it."""
        shape = ops.shape_of(x)
        ends = [ops.gather(shape, constant(at, np.int64), constant(0, np.int64)) for at in ([0, 1], [2, 3])]
        five = ops.unsqueeze(x, constant(2, np.int64))
        wide = ops.broadcast(
            five,
            ops.concat([ends[0], constant([heads // kept_heads], np.int64), ends[1]], 0),
            broadcast_spec="BIDIRECTIONAL",
        )
        return ops.reshape(wide, constant([0, heads, -1, d_head], np.int64), special_zero=True)

    def _visible(self) -> Node:
        """What is added to the scores: 0, or minus infinity for what comes later; (b, 1, t, past + t)."""
        total = ops.gather(ops.shape_of(self.mask), constant(1, np.int64), constant(0, np.int64))
        keys = ops.range(constant(0, np.int64), total, constant(1, np.int64), "i64")
        reached = ops.less_equal(keys, ops.unsqueeze(self.positions, constant([1, 3], np.int64)))
        return ops.select(reached, constant(0.0), constant(np.finfo(np.float32).min))


def sliced_rotary(weight: Tensor, heads: int, dims: int) -> Tensor:
    """Rows of a projection in the order in which pairs that turn together lie half of `dims` apart.

    GPT-J turns neighbours. Scores do not change where queries' and keys' rows are moved alike.
    """
    per_head = weight.reshape(heads, -1, weight.shape[1])
    turned = per_head[:, :dims].unflatten(1, (dims // 2, 2)).transpose(1, 2).flatten(1, 2)
    return torch.cat([turned, per_head[:, dims:]], dim=1).reshape(weight.shape)


def gptj(graph: Graph) -> Node:
    config, read = graph.config, graph.read
    heads, dims = config["n_head"], config["rotary_dim"]
    d_head = config["n_embd"] // heads
    angles = graph.angles(dims, 10_000.0)
    x = graph.embedding("transformer.wte.weight")
    for layer in range(config["n_layer"]):
        name = f"transformer.h.{layer}"
        normed = graph.layer_norm(x, f"{name}.ln_1", config["layer_norm_epsilon"])
        q, k = (
            graph.rotated(
                graph.heads(
                    graph.linear(
                        normed, "", sliced_rotary(read(f"{name}.attn.{which}_proj.weight"), heads, dims)
                    ),
                    heads,
                    d_head,
                ),
                angles,
                dims,
                d_head,
            )
            for which in "qk"
        )
        v = graph.heads(graph.linear(normed, f"{name}.attn.v_proj"), heads, d_head)
        mixed = graph.attention(q, k, v, layer, heads, heads, d_head)
        wide = ops.gelu(graph.linear(normed, f"{name}.mlp.fc_in"), "TANH")
        x = ops.add(
            ops.add(graph.linear(mixed, f"{name}.attn.out_proj"), graph.linear(wide, f"{name}.mlp.fc_out")), x
        )
    x = graph.layer_norm(x, "transformer.ln_f", config["layer_norm_epsilon"])
    return graph.head(x, "lm_head")


def llama(graph: Graph) -> Node:
    config = graph.config
    heads, kept_heads = config["num_attention_heads"], config["num_key_value_heads"]
    d_head = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or {"rope_theta": config["rope_theta"]}
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"no OpenVINO graph is written for rotary embeddings of type {rope['rope_type']!r}")
    angles, epsilon = graph.angles(d_head, rope["rope_theta"]), config["rms_norm_eps"]
    x = graph.embedding("model.embed_tokens.weight")
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        normed = graph.rms_norm(x, f"{name}.input_layernorm", epsilon)
        q, k, v = (
            graph.heads(graph.linear(normed, f"{name}.self_attn.{which}_proj"), count, d_head)
            for which, count in (("q", heads), ("k", kept_heads), ("v", kept_heads))
        )
        q, k = (graph.rotated(each, angles, d_head, d_head) for each in (q, k))
        mixed = graph.attention(q, k, v, layer, heads, kept_heads, d_head)
        x = ops.add(x, graph.linear(mixed, f"{name}.self_attn.o_proj"))
        normed = graph.rms_norm(x, f"{name}.post_attention_layernorm", epsilon)
        gate = ops.swish(graph.linear(normed, f"{name}.mlp.gate_proj"))
        wide = ops.multiply(gate, graph.linear(normed, f"{name}.mlp.up_proj"))
        x = ops.add(x, graph.linear(wide, f"{name}.mlp.down_proj"))
    x = graph.rms_norm(x, "model.norm", epsilon)
    return graph.head(x, "lm_head")


LAYERS: dict[str, Callable[[Graph], Node]] = {"gptj": gptj, "llama": llama}


def convert(folder: Path, out: Path, variant: str) -> None:
    """Write `out`/openvino_model.xml and .bin. variant: int8 or int4."""
    model = Graph(folder, variant).build()
    out.mkdir(parents=True, exist_ok=True)
    ov.save_model(model, out / "openvino_model.xml", compress_to_fp16=False)
