"""GPT-J and Llama as OpenVINO graphs, and which configs they are written for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from merged_checkpoint import sliced_rotary
from openvino_graph import Graph, Weights
from openvino_runtime import ops, ov
from openvino_weights import Bits, Node, Shelf

GRAPH = "openvino_model.xml"
"""Beside its weights, openvino_model.bin: the names that OpenVINO's own exporters give them."""
ACTIVATIONS: Mapping[str, tuple[str, str]] = {
    "gptj": ("activation_function", "gelu_new"),
    "llama": ("hidden_act", "silu"),
}
"""By model type: the config's key, and the one function that is written."""


def refusal(config: Mapping[str, Any]) -> str | None:
    """Why no graph can be written of a model with this config.json; None where one can."""
    kind = config["model_type"]
    if kind not in ACTIVATIONS:
        return f"no graph is written for {kind} models, only for {' and '.join(ACTIVATIONS)}"
    key, activation = ACTIVATIONS[kind]
    if config[key] != activation:
        return f"no graph is written for {key}={config[key]}, only for {activation}"
    if kind == "llama" and (rope := rope_of(config).get("rope_type", "default")) != "default":
        return f"no graph is written for rotary embeddings of type {rope}"
    return None


def rope_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A Llama's rotary embeddings, also as config files had them before transformers 5."""
    rope: Mapping[str, Any] = config.get("rope_parameters") or {
        "rope_type": (config.get("rope_scaling") or {}).get("rope_type", "default"),
        "rope_theta": config["rope_theta"],
    }
    return rope


def write_graph(config: Mapping[str, Any], read: Weights, folder: Path, bits: Bits) -> Path:
    """Write a model that `refusal` has nothing against into `folder`, an existing one, and return its graph.

    Memory stays near the largest matrix in fp32; the disk holds the weights twice until the graph is saved.
    Not atomic by itself. Raises OSError where the disk refuses.
    """
    graph = folder / GRAPH
    with tempfile.TemporaryDirectory(prefix="constants-", dir=folder) as constants:
        own = Graph(config, read, Shelf(Path(constants)), bits)
        ov.save_model(own.model(BUILDERS[config["model_type"]](own)), graph, compress_to_fp16=False)
    return graph


def _gptj(graph: Graph) -> Node:
    config, read = graph.config, graph.read
    heads, dims = config["n_head"], config["rotary_dim"]
    d_head = config["n_embd"] // heads
    angles = graph.angles(dims, 10_000.0)
    x = graph.embedding("transformer.wte")
    for layer in range(config["n_layer"]):
        name = f"transformer.h.{layer}"
        normed = graph.layer_norm(x, f"{name}.ln_1", config["layer_norm_epsilon"])
        q, k = (
            graph.rotated(
                graph.heads(
                    graph.product(
                        normed, sliced_rotary(read(f"{name}.attn.{which}_proj.weight"), heads, dims)
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
    return graph.head(x, "lm_head", "transformer.wte")


def _llama(graph: Graph) -> Node:
    config = graph.config
    heads, kept_heads = config["num_attention_heads"], config["num_key_value_heads"]
    d_head = config.get("head_dim") or config["hidden_size"] // heads
    angles, epsilon = graph.angles(d_head, rope_of(config)["rope_theta"]), config["rms_norm_eps"]
    x = graph.embedding("model.embed_tokens")
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
    return graph.head(x, "lm_head", "model.embed_tokens")


BUILDERS: Mapping[str, Callable[[Graph], Node]] = {"gptj": _gptj, "llama": _llama}
