"""Which models an OpenVINO graph is written for. Needs no OpenVINO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
