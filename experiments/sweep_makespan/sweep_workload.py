"""What is swept: the grids of trials, the config that all systems share, and what of it the peer is given."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from accelerate import init_empty_weights
from hydra import compose, initialize_config_dir
from peer_work import Example, HeldOutRow, PeerWork
from transformers import AutoModelForCausalLM, GPTJConfig, PretrainedConfig

from summarizer.adapters.lora import LoRA
from summarizer.config.paths import conf_folder
from summarizer.config.schema import RunConfig
from summarizer.data.prompt import Prompt, build_prompt
from summarizer.data.splits import Split, build_split
from summarizer.errors import ConfigError, Issue
from summarizer.generation.transformers_generate import generation_config
from summarizer.models.load import load_config
from summarizer.models.meta_model import build_meta_model
from summarizer.models.random_base import random_tensors
from summarizer.models.source import model_folder
from summarizer.models.stored_base import is_stored_base, read_manifest
from summarizer.models.streaming import source_tensors
from summarizer.models.tokenizer import check_context, load_tokenizer
from summarizer.processes import join_processes
from summarizer.runs.preflight import preflight
from summarizer.training.schedule import training_schedule

EMBEDDED = "embedded:tiny_gptj"
GPTJ_6B = "gptj_6b"
"""GPT-J-6B's true shapes with random weights."""
Trial = tuple[int, str]
"""Dim and rate."""
DIMS = (2, 4, 8, 16)
LEARNING_RATES = ("1e-4", "3e-4", "1e-3", "3e-3", "1e-2")
"""Every sweep is the beginning of the longer ones: dims first, then the next rate."""
MOST_TRIALS = len(DIMS) * len(LEARNING_RATES)
SUMMARY_TOKENS = 72
"""About so many in each made summary, as CNN/DailyMail's have on average (with GPT-2's vocabulary)."""


@dataclass(frozen=True)
class Setting:
    """What all systems of one command share."""

    model: str
    """EMBEDDED, GPTJ_6B, or a model's folder."""
    rows: tuple[str, str] | None
    """Files of training and validation rows; None for the package's sample."""
    device: str
    overrides: tuple[str, ...]
    """Of the project's config, on top."""


@dataclass(frozen=True)
class Grid:
    """The trials of a sweep: every dim with every rate."""

    dims: tuple[int, ...]
    rates: tuple[str, ...]

    @property
    def trials(self) -> list[Trial]:
        """In Hydra's order of `overrides`."""
        return [(dim, rate) for rate in self.rates for dim in self.dims]

    @property
    def overrides(self) -> list[str]:
        return [f"optimizer.lr={','.join(self.rates)}", f"adapter.dim={','.join(map(str, self.dims))}"]


def grid_of(trials: int) -> Grid:
    """The sweep of so many trials. Raises ValueError for a number that is no whole grid here."""
    rates = LEARNING_RATES[: max(1, trials // len(DIMS))]
    grid = Grid(DIMS[: min(trials, len(DIMS))], rates)
    if trials < 1 or len(grid.trials) != trials:
        some = ", ".join(map(str, (1, 2, 3, *range(4, MOST_TRIALS + 1, len(DIMS)))))
        raise ValueError(f"no sweep of {trials} trials; there are those of {some}")
    return grid


def shared_overrides(setting: Setting, tokens: int | None, work: Path) -> list[str]:
    """Of the project's config, for every run. tokens: the longest example; None for the prompt's own."""
    overrides = [f"trainer.device={setting.device}"]
    if setting.model == GPTJ_6B:
        overrides += ["model=gptj_6b", f"model.name_or_path={work / 'model'}"]
    elif setting.model == EMBEDDED:
        overrides += ["model=tiny_gptj"]
    else:
        overrides += ["model=hf", f"model.name_or_path={Path(setting.model).resolve()}", "prompt=tldr"]
    if setting.rows is not None:
        overrides += [
            "data=files",
            *(
                f"data.{split}={Path(file).resolve()}"
                for split, file in zip(("train", "validation"), setting.rows, strict=True)
            ),
        ]
    elif setting.model == GPTJ_6B:
        overrides += [
            "data=files",
            *(f"data.{split}={work / f'{split}.jsonl'}" for split in ("train", "validation")),
        ]
    if tokens is not None:
        overrides += [f"prompt.max_tokens={tokens}"]
    return [*overrides, *setting.overrides]


def compose_spec(overrides: Sequence[str]) -> RunConfig:
    """The project's config, checked as a run checks it. Raises ConfigError where the peer cannot do the same."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        spec = preflight(compose("config", list(overrides)), imported=True)
    trainer = spec.trainer
    wanted = {
        "optimizer._target_": (spec.optimizer.target, "bitsandbytes.optim.Adam8bit"),
        "adapter._target_": (type(spec.adapter), LoRA),
        "adapter.dropout": (spec.adapter.dropout, 0.0),
        "trainer.schedule.name": (trainer.schedule.name, "constant"),
        "trainer.schedule.warmup_steps": (trainer.schedule.warmup_steps, 0),
        "trainer.microbatch_size": (trainer.microbatch_size, None),
        "trainer.early_stopping.patience": (trainer.early_stopping.patience, None),
        "data.streaming": (spec.data.streaming, False),
    }
    if issues := [
        Issue(key, f"{value!r}: the peer of this benchmark does {can!r} alone")
        for key, (value, can) in wanted.items()
        if value != can
    ]:
        raise ConfigError(issues)
    return spec


def prepare(setting: Setting, tokens: int | None, work: Path) -> tuple[list[str], RunConfig]:
    """Write the peer's work, and the model and rows where they are made. What is done here nobody is timed for.

    Returns the overrides that every run of this project has, and what they compose to.
    Raises ConfigError on a mistake.
    """
    work.mkdir(parents=True, exist_ok=True)
    if setting.model == GPTJ_6B:
        if not (work / "model").exists():
            _write_random_model(GPTJConfig(), work / "model", setting.device)
        if setting.rows is None:
            assert tokens is not None
            _write_long_rows(work, tokens)
    overrides = shared_overrides(setting, tokens, work)
    spec = compose_spec(overrides)
    folder = model_folder(spec.model)
    config = load_config(folder)
    check_context(config, spec.prompt)
    prompt = build_prompt(spec.prompt, load_tokenizer(folder))
    train, validation, final = (
        build_split(spec.data, split, prompt) for split in ("train", "validation", spec.evaluation.split)
    )
    processes = join_processes(device=spec.trainer.device, precision=spec.trainer.precision, wanted=None)
    if processes.precision == "fp16":
        raise ConfigError.single("trainer.precision", "fp16: the peer of this benchmark has no loss scale")
    if is_stored_base(folder):
        stored = build_meta_model(config, read_manifest(folder).format)
        dense = work / "dense"
        if not dense.exists():
            _write_model(load_config(folder), dict(source_tensors(folder, stored)), dense, folder)
        folder = dense
    trainer, evaluation = spec.trainer, spec.evaluation
    course = training_schedule(trainer, train.steps_per_epoch(trainer.batch_size))
    PeerWork(
        model=str(folder.resolve()),
        device=str(processes.device),
        precision=processes.precision,
        train=[_example(prompt, row.article_ids, row.target_ids) for row in train.encoded(range(len(train)))],
        batches=_batches(train, spec, course.total_steps),
        validation=_held_out(validation, None, prompt, spec),
        final=_held_out(final, evaluation.rows, prompt, spec),
        evaluate_every=course.evaluate_every_steps,
        loss_rows=evaluation.loss_rows,
        rows_during_training=evaluation.rows_during_training,
        score_base=evaluation.base,
        evaluation_batch=evaluation.batch_size,
        bootstrap_samples=evaluation.bootstrap_samples,
        bootstrap_seed=evaluation.bootstrap_seed,
        best_metric=trainer.best_metric,
        optimizer={name: value for name, value in spec.optimizer.arguments.items() if name != "lr"},
        max_grad_norm=trainer.max_grad_norm,
        generation=generation_config(
            spec.generation, end_id=prompt.end_id, pad_id=prompt.pad_id
        ).to_diff_dict(),
        generation_seed=spec.generation.seed,
        end_id=prompt.end_id,
        pad_id=prompt.pad_id,
        wandb_mode=spec.tracking.mode,
    ).write(work)
    return overrides, spec


def _batches(train: Split, spec: RunConfig, steps: int) -> list[list[int]]:
    """Row numbers of each step, as this project's runs draw them."""
    trainer = spec.trainer
    numbers = {row.id: number for number, row in enumerate(train.encoded(range(len(train))))}
    stream = train.batches(
        spec.seed, trainer.batch_size, 0, shuffle=trainer.shuffle, group_by_length=trainer.group_by_length
    )
    return [[numbers[row.id] for row in batch] for batch in islice(stream, steps)]


def _example(prompt: Prompt, article_ids: Sequence[int], target_ids: Sequence[int]) -> Example:
    return Example(*prompt.training_ids(article_ids, target_ids))


def _held_out(split: Split, count: int | None, prompt: Prompt, spec: RunConfig) -> list[HeldOutRow]:
    numbers = list(range(len(split))[:count])
    texts = split.rows.columns(["article", "summary"], numbers)
    return [
        HeldOutRow(
            _example(prompt, row.article_ids, row.target_ids),
            prompt.generation_ids(row.article_ids, spec.generation.max_new_tokens),
            article,
            reference,
        )
        for row, article, reference in zip(
            split.encoded(numbers), texts["article"], texts["summary"], strict=True
        )
    ]


def _write_random_model(config: PretrainedConfig, folder: Path, device: str) -> None:
    """Shards and config of random weights, with the embedded model's tokenizer, whose entries it has too."""
    where = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    tensors = {
        name: tensor.cpu() for name, tensor in random_tensors(build_meta_model(config, "none"), where, 0)
    }
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        embedded = preflight(compose("config", ["tracking=none"])).model
    _write_model(config, tensors, folder, model_folder(embedded))


def _write_model(
    config: PretrainedConfig, tensors: dict[str, torch.Tensor], folder: Path, tokenizer: Path
) -> None:
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(tensors, assign=True, strict=False)
    if left := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
        raise RuntimeError(f"no weights for {left[0]}")
    model.save_pretrained(folder)
    load_tokenizer(tokenizer).save_pretrained(folder)


def _write_long_rows(work: Path, tokens: int) -> None:
    """The package's sample, its articles joined until each fills an example of so many tokens."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        spec = preflight(compose("config", ["tracking=none"]))
    prompt = build_prompt(spec.prompt, load_tokenizer(model_folder(spec.model)))
    for name in ("train", "validation"):
        split = build_split(spec.data, name, prompt)
        encoded = split.encoded(range(len(split)))
        texts = split.rows.columns(["article", "summary"], range(len(split)))
        copies = math.ceil(tokens / min(len(row.article_ids) for row in encoded))
        with (work / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for start, row in enumerate(encoded):
                articles = [texts["article"][(start + i) % len(encoded)] for i in range(copies)]
                words = " ".join(texts["summary"][(start + i) % len(encoded)] for i in range(4)).split()
                share = SUMMARY_TOKENS / len(row.target_ids)
                summary = " ".join(words[: round(share * len(texts["summary"][start].split()))])
                record = {"id": row.id, "article": " ".join(articles), "highlights": summary}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
