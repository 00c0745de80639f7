"""What the study leaves: the model in two formats, samples, the curve and the figures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pretraining import TrainingSchedule
from transformers import AutoModelForCausalLM, GPTJForCausalLM

from summarizer.atomic import new_folder, write_text
from summarizer.models.load import load_config
from summarizer.models.meta_model import build_meta_model
from summarizer.models.stored_base import write_base
from summarizer.models.streaming import quantized, source_tensors
from summarizer.quantization import weight_format

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FORMAT = "int8"
NOT_WEIGHTS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
PROMPTS = ("The President said on Tuesday", "Police said a man", "Chapter one\n\n")
SAMPLE_TOKENS = 40


def write_model(model: GPTJForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """`folder` in transformers' format, in bf16 and without the dropout of pre-training."""
    saved = GPTJForCausalLM(model.config).to(torch.bfloat16)
    saved.load_state_dict(model.state_dict())
    saved.config.embd_pdrop = saved.config.resid_pdrop = 0.0
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as scratch:
        saved.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)


def write_embedded(model_folder: Path, folder: Path) -> None:
    """`folder` as the package holds its model: quantized row by row from the one in transformers' format."""
    meta = build_meta_model(load_config(model_folder), FORMAT)
    tensors = quantized(meta, source_tensors(model_folder), model_folder, FORMAT, torch.device("cpu"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as scratch:
        write_base(scratch, tensors, FORMAT, weight_format(FORMAT).version, "tiny_gptj")
        for name in NOT_WEIGHTS:
            shutil.copyfile(model_folder / name, scratch / name)


def samples(model_folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int) -> list[str]:
    """What the written model makes of each prompt, drawn at temperature 0.8 among the 40 likeliest tokens."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    torch.manual_seed(seed)
    texts = []
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer(prompt).input_ids])
        drawn = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=min(SAMPLE_TOKENS, model.config.n_positions - ids.shape[1]),
            do_sample=True,
            temperature=0.8,
            top_k=40,
            pad_token_id=0,
        )
        texts.append(tokenizer.decode(drawn[0], skip_special_tokens=True))
    return texts


def write_results(folder: Path, results: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")


def draw_curve(course: TrainingSchedule, unigram: float, picture: Path) -> None:
    """Training and held-out loss against the step."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    losses = course.train_losses
    width = max(len(losses) // 200, 1)
    steps, smooth = _smoothed(losses, width)
    axes.plot(steps, smooth, color="C0", label="training" + (f", mean of {width} steps" if width > 1 else ""))
    if course.held_out_losses:
        axes.plot(*zip(*course.held_out_losses, strict=True), "o-", color="C1", ms=4, label="held out")
    axes.axhline(unigram, color="0.5", ls="--", lw=1, label="held out, by the tokens' frequencies alone")
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, dpi=150)
    plt.close(figure)


def _smoothed(losses: Sequence[float], width: int) -> tuple[list[float], list[float]]:
    """The mean of each `width` losses, at the middle of its steps."""
    starts = range(0, len(losses) - width + 1, width)
    return (
        [start + (width + 1) / 2 for start in starts],
        [sum(losses[start : start + width]) / width for start in starts],
    )
