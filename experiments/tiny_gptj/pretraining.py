"""The training loop: a pure function of recipe and tokens, that goes on exactly where it was killed."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from prose import Tokens
from recipe import Recipe, TrainingPart
from torch import Tensor, nn
from transformers import GPTJConfig, GPTJForCausalLM, PreTrainedModel

from summarizer.atomic import new_folder, remove_scratch, write_tensors, write_text
from summarizer.console.progress import bar
from summarizer.errors import ConfigError

CHECKPOINT = "checkpoint"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class TrainingSchedule:
    """How far the training has come."""

    step: int = 0
    train_losses: list[float] = field(default_factory=list)
    """Nats per token, of each step."""
    held_out_losses: list[tuple[int, float]] = field(default_factory=list)
    """(step, nats per token)."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Spent on each part, over all processes that trained."""

    def spend(self, part: str, since_s: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + time.monotonic() - since_s


def build_model(recipe: Recipe) -> GPTJForCausalLM:
    """Drawn from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    model = recipe.model
    config = GPTJConfig(
        vocab_size=recipe.tokenizer.size,
        n_positions=model.positions,
        n_embd=model.width,
        n_layer=model.layers,
        n_head=model.heads,
        rotary_dim=model.rotary,
        embd_pdrop=model.dropout,
        resid_pdrop=model.dropout,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    return GPTJForCausalLM(config)


def pretrain(
    recipe: Recipe, tokens: Tokens, folder: Path, device: torch.device, identity: str
) -> tuple[GPTJForCausalLM, TrainingSchedule]:
    """Train from the newest checkpoint in `folder`, or from the start, to the recipe's last step.

    identity: of recipe and text; a checkpoint of another is refused with a ConfigError.
    """
    training = recipe.training
    model = build_model(recipe).to(device)
    optimizer = _optimizer(model, training, device)
    remove_scratch(folder)
    course = _load(folder / CHECKPOINT, model, optimizer, identity, device)
    forward = torch.compile(model) if device.type == "cuda" else model
    with bar("pre-training", training.steps, done=course.step) as progress:
        last_s = time.monotonic()
        for windows in batches(tokens.training, training, recipe.seed, course.step):
            start_s = time.monotonic()
            loss = _step(forward, optimizer, windows.to(device), recipe, course.step)
            course.train_losses.append(loss)
            course.step += 1
            course.spend("training", start_s)
            if course.step % training.evaluate_every_steps == 0 or course.step == training.steps:
                start_s = time.monotonic()
                value, _ = held_out_loss(model, tokens.held_out, training.context, training.batch, device)
                course.held_out_losses.append((course.step, value))
                course.spend("held-out loss", start_s)
            if course.step % training.checkpoint_every_steps == 0 or course.step == training.steps:
                start_s = time.monotonic()
                _save(folder / CHECKPOINT, model, optimizer, course, identity)
                course.spend("checkpoints", start_s)
            rate = training.batch * training.context / (time.monotonic() - last_s)
            last_s = time.monotonic()
            progress.note(f"loss {loss:.3f}{_held_out(course)}, {rate:,.0f} tokens/s")
            progress.advance()
    return model, course


def batches(
    tokens: NDArray[np.uint16], training: TrainingPart, seed: int, start_step: int
) -> Iterator[Tensor]:
    """From one step to the last: windows of context + 1 tokens, shape (batch, context + 1).

    Each pass over the text sees every window once, in an order of its own, from a first token of its own.
    """
    context = training.context
    count = (len(tokens) - 1) // context - 1  # one is left for the pass's first token
    order, of_pass = np.empty(0, dtype=np.int64), -1
    for step in range(start_step, training.steps):
        rows = []
        for number in range(step * training.batch, (step + 1) * training.batch):
            if number // count != of_pass:
                of_pass = number // count
                generator = np.random.default_rng([seed, of_pass])
                order = generator.permutation(count) * context + generator.integers(context)
            start = order[number % count]
            rows.append(tokens[start : start + context + 1])
        yield torch.from_numpy(np.stack(rows).astype(np.int64))


def learning_rate(training: TrainingPart, step: int) -> float:
    """Of the step after `step` steps: linear warm-up, then a cosine to `final_fraction`.

    Source: cosine annealing, Loshchilov and Hutter 2017 (arXiv:1608.03983).
    """
    if step < training.warmup_steps:
        return training.lr * (step + 1) / training.warmup_steps
    share = (step + 1 - training.warmup_steps) / max(training.steps - training.warmup_steps, 1)
    low = training.final_fraction
    return training.lr * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share)))


def held_out_loss(
    model: PreTrainedModel, tokens: NDArray[np.uint16], context: int, batch: int, device: torch.device
) -> tuple[float, int]:
    """Nats per token over windows of `context` that touch, each token predicted within its window; and how many.

    A rest shorter than a window is left out.
    """
    count = (len(tokens) - 1) // context
    starts = np.arange(count) * context
    was_training = model.training
    model.eval()
    total = 0.0
    with torch.no_grad(), bar("held-out loss", count, show=count > 1) as progress:
        for first in range(0, count, batch):
            rows = np.stack([tokens[start : start + context + 1] for start in starts[first : first + batch]])
            windows = torch.from_numpy(rows.astype(np.int64)).to(device)
            with precision(device):
                logits = model(input_ids=windows[:, :-1], use_cache=False).logits
            total += float(_cross_entropy(logits, windows[:, 1:], "sum"))
            progress.advance(len(rows))
    model.train(was_training)
    return total / (count * context), count * context


def precision(device: torch.device) -> AbstractContextManager[None]:
    """bf16 products on a GPU, fp32 on a CPU."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def _step(model: Any, optimizer: torch.optim.Optimizer, windows: Tensor, recipe: Recipe, step: int) -> float:
    # Of seed and step alone, so that a run that goes on draws the dropout that it would have drawn.
    torch.manual_seed(recipe.seed * 1_000_003 + step)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(recipe.training, step)
    model.train()
    with precision(windows.device):
        logits = model(input_ids=windows[:, :-1], use_cache=False).logits
    loss = _cross_entropy(logits, windows[:, 1:], "mean")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(
        [parameter for group in optimizer.param_groups for parameter in group["params"]],
        recipe.training.max_grad_norm,
    )
    optimizer.step()
    value = float(loss.detach())
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss is {value} at step {step + 1}: lower training.lr")
    return value


def _cross_entropy(logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction=reduction)


def _optimizer(model: nn.Module, training: TrainingPart, device: torch.device) -> torch.optim.Optimizer:
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": training.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=training.lr, betas=training.betas, fused=device.type == "cuda")


def _save(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, course: TrainingSchedule, identity: str
) -> None:
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"{name}:value"] = parameter.detach()
        for moment in MOMENTS:
            tensors[f"{name}:{moment}"] = optimizer.state[parameter][moment]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as scratch:
        write_tensors(scratch / "state.safetensors", tensors)
        write_text(scratch / "course.json", json.dumps({"identity": identity, **asdict(course)}) + "\n")


def _load(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: str, device: torch.device
) -> TrainingSchedule:
    if not folder.is_dir():
        return TrainingSchedule()
    from safetensors.torch import load_file

    raw = json.loads((folder / "course.json").read_text(encoding="utf-8"))
    if raw.pop("identity") != identity:
        raise ConfigError.single(
            "out", f"{folder} is of another recipe or text; give another folder, or delete it"
        )
    course = TrainingSchedule(**raw)
    course.held_out_losses = [(step, loss) for step, loss in course.held_out_losses]
    tensors = load_file(folder / "state.safetensors", device=str(device))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"{name}:value"])
            # Where fused, AdamW counts its steps on the GPU.
            steps = torch.tensor(float(course.step), device=device if device.type == "cuda" else None)
            optimizer.state[parameter] = {
                "step": steps,
                **{moment: tensors[f"{name}:{moment}"] for moment in MOMENTS},
            }
    return course


def _held_out(course: TrainingSchedule) -> str:
    return f", held out {course.held_out_losses[-1][1]:.3f}" if course.held_out_losses else ""
