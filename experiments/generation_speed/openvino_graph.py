"""The operators of a causal language model as an OpenVINO graph.

It has the form that OpenVINO's own exporters give a language model, which its CPU plugin knows how to fuse: keys
and values are states that grow, attention is one operator with a mask made from positions, weights stay compressed
beside their steps, and the head sees the last token alone. optimum-intel makes such graphs too, but brings CUDA
along and holds the dense model; here tensors go by one at a time.

Inputs: input_ids and position_ids (b, t), attention_mask (b, past + t), of which only the length is read, and
beam_idx (b,), the sequence that each one goes on from. Output: logits (b, 1, v).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from openvino_runtime import ops, ov
from openvino_weights import Bits, Node, Shelf
from torch import Tensor


@runtime_checkable
class Weights(Protocol):
    """A model's tensors under the names of its checkpoint, each made when it is asked for."""

    def __call__(self, name: str) -> Tensor: ...

    def __contains__(self, name: str) -> bool: ...


def constant(values: Any, dtype: Any = np.float32) -> Node:
    return ops.constant(np.asarray(values, dtype=dtype))


class Graph:
    """One model's operators, in which its architecture (`architectures`) is written."""

    def __init__(self, config: Mapping[str, Any], read: Weights, shelf: Shelf, bits: Bits) -> None:
        """config: as the model's config.json.  bits: of all matrices but embedding and head."""
        self.config, self.read, self.shelf, self.bits = config, read, shelf, bits
        self.ids = ops.parameter([-1, -1], np.int64, name="input_ids")
        self.mask = ops.parameter([-1, -1], np.int64, name="attention_mask")
        self.positions = ops.parameter([-1, -1], np.int64, name="position_ids")
        self.beams = ops.parameter([-1], np.int32, name="beam_idx")
        self.sinks: list[Node] = []
        self.visible = self._visible()

    def model(self, logits: Node) -> Any:
        """The graph that ends in these logits."""
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
        return ov.Model([result], self.sinks, list(inputs.values()), self.config["model_type"])

    def linear(self, x: Node, name: str) -> Node:
        return self._with_bias(self._product(x, self.read(f"{name}.weight"), self.bits), name)

    def product(self, x: Node, weight: Tensor) -> Node:
        """x @ weight.T, with a weight that is not the checkpoint's own."""
        return self._product(x, weight, self.bits)

    def embedding(self, name: str) -> Node:
        """Always int8 with a step a row, as NNCF leaves it."""
        q, steps = self.shelf.rows_in_int8(self.read(f"{name}.weight"))
        axis = constant(0, np.int64)
        rows = ops.convert(ops.gather(q, self.ids, axis), "f32")
        return ops.multiply(rows, ops.gather(constant(steps), self.ids, axis))

    def head(self, x: Node, name: str, embedding: str) -> Node:
        """Of the last token, always int8 with a step a row, as NNCF leaves it.

        embedding: whose weight a tied head shares.
        """
        last = ops.slice(
            x,
            constant([-1], np.int64),
            constant([2**31 - 1], np.int64),
            constant([1], np.int64),
            constant([1], np.int64),
        )
        own = name if f"{name}.weight" in self.read else embedding
        return self._with_bias(self._product(last, self.read(f"{own}.weight"), None), name)

    def _product(self, x: Node, weight: Tensor, bits: Bits | None) -> Node:
        return ops.matmul(x, self.shelf.dense(weight, bits), transpose_a=False, transpose_b=True)

    def _with_bias(self, y: Node, name: str) -> Node:
        bias = f"{name}.bias"
        return ops.add(y, constant(self.read(bias).float().numpy())) if bias in self.read else y

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
