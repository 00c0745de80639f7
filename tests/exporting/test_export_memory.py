"""Exporting needs memory for the quantized base and a shard, not for the dense model that it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from private_memory import needs_proc, report_of
from trained_runs import EMBEDDED
from transformers import AutoTokenizer, LlamaConfig

from summarizer.models.meta_model import build_meta_model

MEASURE = """
import gc, json, sys
from pathlib import Path
from private_memory import Peak
from trained_runs import fill_randomly, load, lora
from summarizer.adapters.attach import attach
from summarizer.config.schema import GenerationConfig
from summarizer.exporting.ctranslate2 import convert
from summarizer.exporting.merge import Merge
from summarizer.exporting.folders import MergedModel
from summarizer.models.load import load_config
from summarizer.models.tokenizer import load_tokenizer
from summarizer.data.prompt import build_prompt
from summarizer.config.schema import PromptConfig

folder, output = Path(sys.argv[1]), Path(sys.argv[2])
model = attach(load(folder, "int8").model, [lora(2)], [0])
fill_randomly(model, 0)
tokenizer = load_tokenizer(folder)
spec = PromptConfig(
    template="{article} TL;DR:", completion_token=None, end_token=None, max_tokens=64
)
generation = GenerationConfig(
    max_new_tokens=8, min_new_tokens=0, num_beams=1, length_penalty=1.0, early_stopping=False,
    no_repeat_ngram_size=0, do_sample=False, temperature=1.0, top_p=1.0, top_k=50, seed=0,
)
merged = MergedModel(
    Merge(model, 0), load_config(folder), tokenizer, build_prompt(spec, tokenizer), generation
)
output.mkdir()
with Peak() as writing:
    merged.write(output, "bf16", shard_bytes=50_000_000)
report = {"writing": writing.bytes, "dense": merged.nbytes("bf16")}
del model, merged
gc.collect()
with Peak() as converting:
    convert(output, output / "converted", "int8", "<|endoftext|>")
report["converting"] = converting.bytes
report["converted"] = (output / "converted" / "model.bin").stat().st_size
print(json.dumps(report))
"""


@pytest.mark.slow
@needs_proc
def test_peak_memory(tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed: pip install '.[ctranslate2]'")
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=1536,
        intermediate_size=4096,
        num_hidden_layers=6,
        num_attention_heads=12,
        tie_word_embeddings=False,
    )
    config.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(EMBEDDED).save_pretrained(tmp_path / "base")
    meta = build_meta_model(config, "none")
    shapes = {name: weight.shape for name, weight in meta.weights.items()}
    shapes |= {name: tuple(tensor.shape) for name, tensor in meta.plain.items()}
    torch.save(
        {name: torch.rand(shape) for name, shape in shapes.items()}, tmp_path / "base" / "pytorch_model.bin"
    )
    report = report_of(MEASURE, tmp_path / "base", tmp_path / "out")
    assert report["dense"] > 3.8e8
    largest = 4 * 8192 * 1536  # in fp32, as it is merged
    assert report["writing"] < 2 * 50e6 + largest  # a shard, which safetensors copies
    # Half the dense size is the int8 model; the rest is layers that the converter joins, still in bf16.
    assert report["converting"] < 0.7 * report["dense"]
