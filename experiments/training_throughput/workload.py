"""What is measured: contenders, points of the grid, and the tokens that every contender of a point trains on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from hydra import compose, initialize_config_dir
from transformers import GPTJConfig, PretrainedConfig

from summarizer.config.paths import conf_folder
from summarizer.config.schema import RunConfig
from summarizer.data.order import EncodedRow, TrainingRows
from summarizer.data.prompt import Prompt, build_prompt
from summarizer.data.splits import build_split
from summarizer.models.load import load_config
from summarizer.models.source import model_folder
from summarizer.models.tokenizer import check_context, load_tokenizer
from summarizer.runs.preflight import preflight

GPTJ_6B = "gptj_6b"
"""GPT-J-6B's true shapes with random weights."""
RANDOM = "random:"
"""Ahead of a folder: only its config is read, its weights are random."""
EMBEDDED = "embedded:tiny_gptj"
RANDOM_TOKENS = 10_000
SAMPLE_TOKENS = 1024
"""More than any row of the package's sample has."""
DRAWS = 4
"""Different batches of made rows; steps take them in turn."""


@dataclass(frozen=True)
class Setting:
    """What all contenders of one command share."""

    model: str
    layers: int | None
    """Fewer blocks than the config says, for random weights."""
    rows: str | None
    """A file of articles and highlights; None makes rows, all of the full length: of the sample's words, or of
    random tokens for random weights."""
    summary_tokens: int
    """Of each made row: what the loss is over."""
    device: str
    seed: int = 0

    @property
    def random_weights(self) -> bool:
        return self.model == GPTJ_6B or self.model.startswith(RANDOM)


@dataclass(frozen=True)
class Point:
    batch: int
    length: int
    """Tokens of each row: prompt and summary; of real rows the most."""
    dim: int

    def __str__(self) -> str:
        return f"{self.batch} x {self.length}, dim {self.dim}"


FORMATS = ("int8", "fp8", "nf4", "blockwise8", "none")
OUR_OPTIONS = {
    "low": "trainer.memory=low",
    "eager": "trainer.compile=false",
    "compiled": "trainer.compile=true",
    "graphs": "trainer.compile=graphs",
    "bf16": "trainer.precision=bf16",
    "fp32": "trainer.precision=fp32",
}
"""What each adds to the config."""
PEERS = ("int8", "nf4", "bf16", "autocast", "fp32")
PEER_OPTIONS = {"checkpointing": ""}


@dataclass(frozen=True)
class Contender:
    """`ours NAME` or `peer NAME`. A name is a base, then options after plus signs.

    Ours: a weight format, and OUR_OPTIONS.
    Peer: LLM.int8, nf4 or dense bf16 under bf16 autocast, autocast (dense fp32 under bf16 autocast), fp32;
    checkpointing.
    """

    side: str
    name: str

    def __str__(self) -> str:
        return f"{self.side} {self.name}"

    @property
    def base(self) -> str:
        return self.name.split("+")[0]

    @property
    def options(self) -> list[str]:
        return self.name.split("+")[1:]

    def problem(self) -> str | None:
        """What is wrong with the name."""
        bases, options = (FORMATS, OUR_OPTIONS) if self.side == "ours" else (PEERS, PEER_OPTIONS)
        if self.base not in bases:
            return f"{self.name!r}: {self.base!r} is none of {', '.join(bases)}"
        if unknown := [option for option in self.options if option not in options]:
            return f"{self.name!r}: {unknown[0]!r} is none of {', '.join(options)}"
        return None

    def overrides(self) -> list[str]:
        """Ours: what it adds to the config."""
        return [f"quantization={self.base}", *(OUR_OPTIONS[option] for option in self.options)]

    def error(self, precision: str) -> float:
        """How far its loss may be from the exact one, relative: what its format and products cost.

        About twice what experiments/quantization_error measured on a real model.
        """
        formats = {"int8": 0.01, "blockwise8": 0.02, "fp8": 0.07, "nf4": 0.3}
        return 1e-4 + formats.get(self.base, 0.0) + (0.0 if precision == "fp32" else 0.005)


def compose_spec(setting: Setting, point: Point, more: Sequence[str] = ()) -> RunConfig:
    """The project's own config, checked as a run checks it."""
    if setting.random_weights:
        model = ["model=gptj_6b"]
    elif setting.model == EMBEDDED:
        model = ["model=tiny_gptj"]
    else:
        model = ["model=hf", f"model.name_or_path={setting.model}", "prompt=tldr"]
    data = ["data=sample"]
    if setting.rows:
        data = [
            "data=files",
            f"data.train={setting.rows}",
            f"data.validation={setting.rows}",
            "data.rows.train=500",
        ]
    overrides = [
        *model,
        *data,
        "tracking=none",
        "generation.max_new_tokens=1",  # nothing is generated; the check wants room for it
        f"trainer.device={setting.device}",
        f"seed={setting.seed}",
        f"prompt.max_tokens={point.length}",
        f"trainer.batch_size={point.batch}",
        f"adapter.dim={point.dim}",
        *more,
    ]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return preflight(compose("config", overrides), imported=True)


def model_config(setting: Setting, spec: RunConfig) -> PretrainedConfig:
    if setting.model == GPTJ_6B:
        config: PretrainedConfig = GPTJConfig(use_cache=False)
    elif setting.random_weights:
        folder = model_folder(
            spec.model.model_copy(update={"name_or_path": setting.model.removeprefix(RANDOM)})
        )
        config = load_config(folder)
    else:
        config = load_config(model_folder(spec.model))
    if setting.layers is not None:
        config.num_hidden_layers = setting.layers
    return config


@dataclass(frozen=True)
class MadeRows:
    """Rows of random tokens, all of one length."""

    made: Sequence[list[EncodedRow]]

    def batches(
        self, seed: int, batch_size: int, start_step: int, *, shuffle: bool, group_by_length: bool
    ) -> Iterator[list[EncodedRow]]:
        step = start_step
        while True:
            yield self.made[step % len(self.made)]
            step += 1

    def steps_per_epoch(self, batch_size: int) -> int | None:
        return None


@dataclass(frozen=True)
class Workload:
    """One point, ready to be trained on by either side."""

    spec: RunConfig
    prompt: Prompt
    rows: TrainingRows

    def stream(self) -> Iterator[list[EncodedRow]]:
        """The batches in the order of the training loop."""
        trainer = self.spec.trainer
        return self.rows.batches(
            self.spec.seed,
            trainer.batch_size,
            0,
            shuffle=trainer.shuffle,
            group_by_length=trainer.group_by_length,
        )

    def lengths(self, batch: Sequence[EncodedRow]) -> list[int]:
        return [len(self.prompt.training_ids(row.article_ids, row.target_ids)[0]) for row in batch]


def build_workload(setting: Setting, point: Point, more: Sequence[str] = ()) -> Workload:
    """Raises ConfigError where a length does not fit the model, or leaves no room for an article."""
    spec = compose_spec(setting, point, more)
    config = model_config(setting, spec)
    check_context(config, spec.prompt)
    # Random weights have no tokenizer of their own; any whose entries are in the vocabulary does.
    named = spec.model.model_copy(update={"name_or_path": EMBEDDED}) if setting.random_weights else spec.model
    prompt = build_prompt(spec.prompt, load_tokenizer(model_folder(named, weights=False)))
    if setting.rows:
        return Workload(spec, prompt, build_split(spec.data, "train", prompt))
    random = np.random.default_rng(setting.seed)
    if setting.random_weights:
        text = random.integers(0, int(config.get_text_config().vocab_size), RANDOM_TOKENS).tolist()
    else:
        # Whole articles, whatever the length of the made rows.
        sample = build_split(spec.data, "train", replace(prompt, max_tokens=SAMPLE_TOKENS))
        text = [token for row in sample.encoded(range(len(sample))) for token in row.article_ids]
    return Workload(spec, prompt, made_rows(prompt, point, setting.summary_tokens, text, random))


def made_rows(
    prompt: Prompt, point: Point, summary_tokens: int, text: Sequence[int], random: np.random.Generator
) -> MadeRows:
    """Stretches of `text`, begun anywhere. Raises ValueError where a row has no room for an article."""
    room = prompt.room(summary_tokens)
    if room < 1:
        raise ValueError(f"{summary_tokens} summary tokens leave no room in rows of {point.length}")

    def row(name: str) -> EncodedRow:
        start = int(random.integers(len(text)))
        tokens = [text[(start + i) % len(text)] for i in range(room + summary_tokens)]
        return EncodedRow(name, tokens[:room], tokens[room:])

    return MadeRows([[row(f"{draw}.{i}") for i in range(point.batch)] for draw in range(DRAWS)])
