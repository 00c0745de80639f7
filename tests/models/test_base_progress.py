"""Quantizing a base for the first time and loading it again: seen in parameters and in bytes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from summarizer.config.schema import ModelConfig, QuantizationConfig
from summarizer.console import progress
from summarizer.models.load import load_base

TINY = ModelConfig(name_or_path="embedded:tiny_gptj", revision=None, completion_token=None)


def test_quantized_once_then_loaded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("SUMMARIZER_CACHE", str(tmp_path))
    monkeypatch.setattr(progress, "PLAIN_LINE_EVERY_S", 0.0)
    spec = QuantizationConfig(format="blockwise8", cache=True)  # the embedded base is kept in int8
    said = []
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            base = load_base(TINY, spec, torch.device("cpu"))
        said.append(list(caplog.messages))
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(base.model.config)
    parameters = sum(parameter.numel() for parameter in whole.parameters()) / 1e6
    quantizing = [line for line in said[0] if line.startswith("quantizing the base model to blockwise8: ")]
    assert f"{parameters:.1f}/{parameters:.1f} M parameters, " in quantizing[-1]
    assert not any(line.startswith("quantizing") for line in said[1])
    loading = [line for line in said[1] if line.startswith("loading the base model: ")]
    amounts = loading[-1].split()[4].split("/")
    assert float(amounts[0]) == pytest.approx(float(amounts[1]), rel=0.02), "but for the headers of its files"
    assert float(amounts[1]) == pytest.approx(base.stored_bytes / 1e6, rel=0.02)
