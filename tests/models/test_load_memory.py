"""Loading an old fp32 checkpoint needs memory for the quantized base, not for the checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from private_memory import needs_proc, report_of
from transformers import LlamaConfig

from summarizer.models.meta_model import build_meta_model

MEASURE = """
import json, sys, torch
from private_memory import Peak
from summarizer.config.schema import ModelConfig, QuantizationConfig
from summarizer.models.load import load_base
import bitsandbytes

cache = sys.argv[2] == "cache"
spec = ModelConfig(name_or_path=sys.argv[1], revision=None, completion_token=None)
with Peak() as loading:
    base = load_base(spec, QuantizationConfig(format="int8", cache=cache), torch.device("cpu"))
print(json.dumps({"peak": loading.bytes, "stored": base.stored_bytes}))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 400 MB of fp32: two blocks of large matrices, as a 6-billion-parameter model has them."""
    folder = tmp_path_factory.mktemp("large")
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=1536,
        intermediate_size=4096,
        num_hidden_layers=3,
        num_attention_heads=12,
        tie_word_embeddings=False,
    )
    config.save_pretrained(folder)
    meta = build_meta_model(config, "none")
    shapes = {name: weight.shape for name, weight in meta.weights.items()}
    shapes |= {name: tuple(tensor.shape) for name, tensor in meta.plain.items()}
    torch.save({name: torch.full(shape, 0.5) for name, shape in shapes.items()}, folder / "pytorch_model.bin")
    assert 3.8e8 < (folder / "pytorch_model.bin").stat().st_size < 5e8
    return folder


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("cache", [pytest.param("cache", marks=pytest.mark.slow), "none"])
def test_peak_memory_is_near_the_quantized_size(
    cache: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUMMARIZER_CACHE", str(tmp_path))
    checkpoint_bytes = (checkpoint / "pytorch_model.bin").stat().st_size
    reports = [report_of(MEASURE, checkpoint, cache) for _ in range(2 if cache == "cache" else 1)]
    stored = reports[0]["stored"]
    assert stored == pytest.approx(checkpoint_bytes / 4, rel=0.01)
    # The quantized base, and what one shard adds while it is written; a dense copy would be 4 times as much.
    assert 0.9 * stored < reports[0]["peak"] < 1.5 * stored, reports
    if cache == "cache":  # from the cache it is mapped: private memory holds next to nothing of it
        assert reports[1]["peak"] < 0.2 * stored, reports
