"""One trial as people run it with transformers + peft + bitsandbytes: a process of its own, from import to scores.

    python peer_trial.py WORK --base autocast --dim 2 --lr 1e-4 --seed 0 --begun SECONDS --out FOLDER

WORK is a folder that `sweep_workload.py` wrote. Plain peft over plain transformers: nothing of this project's
but the functions that score summaries, which are the same for everyone.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from bitsandbytes.optim import Adam8bit
from peer_work import BASES, RESULT, Example, HeldOutRow, PeerWork, read_work
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GenerationConfig
from transformers.utils import logging as transformers_logging

from summarizer.evaluation.metrics import bootstrap, score_pairs
from summarizer.evaluation.pipeline import lead
from summarizer.evaluation.record import VARIANTS
from summarizer.tracking.environment import peak_memory_bytes
from summarizer.tracking.startup import Stopwatch

IGNORED_LABEL = -100
Item = TypeVar("Item")


class PeerTrial:
    """The model with its adapters, and what is done with it."""

    def __init__(self, work: PeerWork, base: str, dim: int, lr: float, seed: int) -> None:
        torch.manual_seed(seed)
        self.work = work
        self.device = torch.device(work.device)
        # Without autocast a dense fp32 base multiplies in fp32; every other base has what this project's runs have.
        self._autocasts = base != "fp32" and work.precision == "bf16"
        self.tokenizer = AutoTokenizer.from_pretrained(work.model)
        self.model = self._load(base, dim)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = Adam8bit(self.parameters, lr=lr, **work.optimizer)
        settings = {**work.generation, "eos_token_id": work.end_id, "pad_token_id": work.pad_id}
        self._generation = GenerationConfig(**settings)

    def step(self, rows: Sequence[int]) -> tuple[float, float]:
        """One optimizer step: its loss and gradient norm."""
        with self._autocast():
            loss = self.model(**self._padded([self.work.train[row] for row in rows]), use_cache=False).loss
        loss.backward()
        limit = self.work.max_grad_norm
        norm = nn.utils.clip_grad_norm_(self.parameters, float("inf") if limit is None else limit)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach()), float(norm)

    def evaluate_on_the_way(self) -> dict[str, float]:
        """Loss of the validation rows, ROUGE of the first few."""
        work = self.work
        metrics = {"val/loss": self.loss(work.validation[: work.loss_rows])}
        if rows := work.validation[: work.rows_during_training]:
            scores = score_pairs(self.summaries(rows), [row.reference for row in rows], show=False)
            metrics |= {f"val/{variant}": float(scores[variant].mean()) for variant in VARIANTS}
        return metrics

    def scores(self, rows: Sequence[HeldOutRow]) -> tuple[float, dict[str, Any]]:
        """Loss, and ROUGE with its intervals."""
        return self.loss(rows), self.rouge(self.summaries(rows), rows)

    def rouge(self, summaries: Sequence[str], rows: Sequence[HeldOutRow]) -> dict[str, Any]:
        per_row = score_pairs(summaries, [row.reference for row in rows], show=False)
        intervals = bootstrap(per_row, self.work.bootstrap_samples, self.work.bootstrap_seed)
        return {name: vars(interval) for name, interval in intervals.items()}

    def loss(self, rows: Sequence[HeldOutRow]) -> float:
        """Mean over summary tokens."""
        total, tokens = 0.0, 0
        self.model.eval()
        for batch in self._batches([row.example for row in rows]):
            own = sum(len(example.ids) - example.prompt_tokens for example in batch)
            with torch.no_grad(), self._autocast():
                total += float(self.model(**self._padded(batch), use_cache=False).loss) * own
            tokens += own
        self.model.train()
        return total / tokens

    def summaries(self, rows: Sequence[HeldOutRow]) -> list[str]:
        """By transformers.generate, padded on the left, rows of like length together."""
        order = sorted(range(len(rows)), key=lambda row: -len(rows[row].prompt_ids))
        texts: dict[int, str] = {}
        self.model.eval()
        for batch in self._batches(order):
            prompts = [rows[row].prompt_ids for row in batch]
            width = max(map(len, prompts))
            ids = torch.tensor([[self.work.pad_id] * (width - len(own)) + own for own in prompts])
            mask = torch.tensor([[0] * (width - len(own)) + [1] * len(own) for own in prompts])
            torch.manual_seed(self.work.generation_seed)
            with torch.no_grad(), self._autocast():
                out = self.model.generate(
                    input_ids=ids.to(self.device),
                    attention_mask=mask.to(self.device),
                    generation_config=self._generation,
                )
            written = self.tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
            texts.update(zip(batch, (text.strip() for text in written), strict=True))
        self.model.train()
        return [texts[row] for row in range(len(rows))]

    def state(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.parameters]

    def restore(self, state: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, state, strict=True):
                parameter.copy_(value)

    def _load(self, base: str, dim: int) -> Any:
        settings: dict[str, Any] = {
            "dtype": torch.float32 if base in ("autocast", "fp32") else torch.bfloat16,
            "device_map": {"": self.device},
        }
        if base == "int8":
            settings["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
        elif base == "nf4":
            settings["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
            )
        model = AutoModelForCausalLM.from_pretrained(self.work.model, **settings)
        model.requires_grad_(False)
        adapted = {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | nn.Embedding)
        }
        config = LoraConfig(
            r=dim, lora_alpha=dim, target_modules=sorted(adapted), lora_dropout=0.0, task_type="CAUSAL_LM"
        )
        model = get_peft_model(model, config)
        model.train()
        return model

    def _padded(self, batch: Sequence[Example]) -> dict[str, Tensor]:
        longest = max(len(example.ids) for example in batch)
        ids = torch.full((len(batch), longest), self.work.pad_id)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED_LABEL)
        for index, example in enumerate(batch):
            tokens = torch.tensor(example.ids)
            ids[index, : len(tokens)] = tokens
            mask[index, : len(tokens)] = 1
            labels[index, example.prompt_tokens : len(tokens)] = tokens[example.prompt_tokens :]
        return {
            "input_ids": ids.to(self.device),
            "attention_mask": mask.to(self.device),
            "labels": labels.to(self.device),
        }

    def _batches(self, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
        size = self.work.evaluation_batch
        return (items[start : start + size] for start in range(0, len(items), size))

    def _autocast(self) -> AbstractContextManager[Any]:
        if not self._autocasts:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def run(work: PeerWork, trial: PeerTrial, clock: Stopwatch, log: Any, out: Path) -> dict[str, Any]:
    """Evaluate the base, train, evaluate at the ends of epochs, score the best: what a run of this project does."""
    if work.score_base:
        with trial.model.disable_adapter():
            log(0, trial.evaluate_on_the_way())
    clock.lap("evaluation")

    sign = 1.0 if work.best_metric == "val/loss" else -1.0
    best, best_state, tokens = float("inf"), trial.state(), 0
    for step, rows in enumerate(work.batches, start=1):
        loss, norm = trial.step(rows)
        tokens += sum(len(work.train[row].ids) for row in rows)
        log(step, {"train/loss": loss, "train/grad_norm": norm})
        if step % work.evaluate_every == 0 or step == len(work.batches):
            clock.lap("training")
            metrics = trial.evaluate_on_the_way()
            log(step, metrics)
            if sign * metrics[work.best_metric] < best:
                best, best_state = sign * metrics[work.best_metric], trial.state()
            clock.lap("evaluation")

    trial.restore(best_state)
    val_loss, rouge = trial.scores(work.final)
    result = {
        "tokens": tokens,
        "val_loss": val_loss,
        "rouge": rouge,
        "trainable_parameters": sum(parameter.numel() for parameter in trial.parameters),
        "base_loss": None,
        "base_rouge1": None,
    }
    if work.score_base:
        with trial.model.disable_adapter():
            result["base_loss"], base_rouge = trial.scores(work.final)
            result["base_rouge1"] = base_rouge["rouge1"]["value"]
    result["lead"] = trial.rouge([lead(row.article) for row in work.final], work.final)
    trial.model.save_pretrained(out / "adapter", save_embedding_layers=False)
    clock.lap("evaluation")
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--base", choices=BASES, required=True)
    parser.add_argument("--dim", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--begun", type=float, required=True, help="seconds since the epoch, of the command")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    clock = Stopwatch(arguments.begun, time.time)
    arguments.out.mkdir(parents=True)
    work = read_work(arguments.work)
    trial = PeerTrial(work, arguments.base, arguments.dim, arguments.lr, arguments.seed)
    tracker = _open_wandb(work, arguments)
    with (arguments.out / "metrics.jsonl").open("w", encoding="utf-8") as file:

        def log(step: int, values: dict[str, float]) -> None:
            file.write(json.dumps({"step": step, **values}) + "\n")
            if tracker is not None:
                tracker.log(values, step=step)

        clock.lap("startup")
        result = run(work, trial, clock, log, arguments.out)
    if tracker is not None:
        tracker.finish()
    result |= {"parts_s": clock.parts, "peak_bytes": peak_memory_bytes(trial.device)}
    (arguments.out / RESULT).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _open_wandb(work: PeerWork, arguments: argparse.Namespace) -> Any:
    if work.wandb_mode == "disabled":
        return None
    import wandb

    config = {"dim": arguments.dim, "lr": arguments.lr, "base": arguments.base}
    mode: Any = work.wandb_mode
    return wandb.init(project="peer", mode=mode, dir=str(arguments.out), config=config)


if __name__ == "__main__":
    main()
