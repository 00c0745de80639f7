"""The model inside the package."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from model_folders import load, logits, token_ids
from transformers import AutoModelForCausalLM

from summarizer.config.paths import PACKAGE
from summarizer.models.load import load_config
from summarizer.models.meta_model import build_meta_model
from summarizer.models.stored_base import read_base
from summarizer.models.streaming import quantized, source_tensors
from summarizer.models.tokenizer import load_tokenizer
from summarizer.quantization import NAMES

EMBEDDED = PACKAGE / "models/embedded/tiny_gptj"
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "tiny_gptj"
TEXT = "The President said on Tuesday that the government would not"


def test_size_and_files() -> None:
    names = {path.name for path in EMBEDDED.iterdir()}
    assert {"README.md", "base.json", "config.json", "tokenizer.json"} <= names
    weights = sum(path.stat().st_size for path in EMBEDDED.glob("*.safetensors"))
    assert 12e6 < weights < 13.5e6


def test_it_loads_and_writes_english() -> None:
    base = load("embedded:tiny_gptj", "int8")
    assert base.stored_bytes == pytest.approx(12.7e6, rel=0.01)
    tokenizer = load_tokenizer(EMBEDDED)
    ids = torch.tensor([tokenizer(TEXT).input_ids])
    scores = logits(base.model, ids)
    loss = torch.nn.functional.cross_entropy(scores[0, :-1], ids[0, 1:])
    assert loss < 0.7 * math.log(len(tokenizer))  # random weights give log(v)
    assert tokenizer.convert_tokens_to_ids("<|extratoken_1|>") == 8176


@pytest.mark.parametrize("name", NAMES)
def test_it_converts_to_every_format(name: str) -> None:
    """From int8 to another format by way of dense weights, one at a time."""
    ids = token_ids(2, 12, 8176)
    expected = logits(load("embedded:tiny_gptj", "int8").model, ids)
    got = logits(load("embedded:tiny_gptj", name).model, ids)
    tolerance = {"int8": 0, "none": 1e-6, "blockwise8": 0.05, "nf4": 0.3, "fp8": 0.1}[name]
    assert torch.dist(got, expected) <= tolerance * expected.norm()


@pytest.mark.skipif(
    not SHARED.is_dir(), reason="needs ../shared/tiny_gptj, the checkpoint that it was made from"
)
def test_it_is_the_shared_checkpoint_in_int8() -> None:
    meta = build_meta_model(load_config(SHARED), "int8")
    made = dict(quantized(meta, source_tensors(SHARED), SHARED, "int8", torch.device("cpu")))
    stored = dict(read_base(EMBEDDED))
    assert stored.keys() == made.keys()
    assert all(
        torch.equal(stored[name], made[name]) and stored[name].dtype == made[name].dtype for name in made
    )


@pytest.mark.skipif(
    not SHARED.is_dir(), reason="needs ../shared/tiny_gptj, the checkpoint that it was made from"
)
def test_quantizing_costs_little() -> None:
    ids = torch.tensor([load_tokenizer(EMBEDDED)(TEXT).input_ids])
    exact = logits(AutoModelForCausalLM.from_pretrained(SHARED, dtype=torch.float32).eval(), ids)
    stored = logits(load("embedded:tiny_gptj", "int8").model, ids)
    assert torch.dist(stored, exact) <= 0.02 * exact.norm()
    torch.testing.assert_close(logits(load(SHARED).model, ids), exact, rtol=1e-4, atol=1e-4)
