"""Which weights an export is merged into: those whose answers are nearer to the unmerged model's.

Examples of the run's own data, how far two models' answers to them lie apart, and the choice by that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from summarizer.config.schema import Columns, DataConfig, QuantizationConfig, RowLimits, RunConfig
from summarizer.console.progress import Bar, bar
from summarizer.data.prompt import Prompt
from summarizer.data.splits import build_split
from summarizer.errors import ConfigError
from summarizer.exporting.folders import DTYPES
from summarizer.exporting.merge import Merge, merged_into
from summarizer.models.causal_lm import CausalLM
from summarizer.models.load import load_base
from summarizer.models.source import model_folder
from summarizer.models.stored_base import is_stored_base
from summarizer.runs.loaded_run import LoadedRun

LogProbs = Callable[["Example"], Float[Tensor, "m v"]]
"""A model's log-probabilities (natural logarithm) at an example's summary tokens, on the CPU."""


@dataclass(frozen=True)
class Example:
    """A row as training saw it: its tokens, and how many of them come ahead of the summary."""

    ids: tuple[int, ...]
    prompt_tokens: int

    @property
    def summary(self) -> tuple[int, ...]:
        return self.ids[self.prompt_tokens :]


@dataclass(frozen=True)
class Divergence:
    """How far a model is from the unmerged one, in nats per summary token, the mean over all of them."""

    kl: float
    """KL(unmerged || merged). Source: Kullback and Leibler 1951."""
    loss: float
    """Cross-entropy of the references' tokens by the merged model."""


@dataclass(frozen=True)
class Reference:
    """What the unmerged model answers: the measure of all others."""

    examples: Sequence[Example]
    log_probs: Sequence[Float[Tensor, "m v"]]

    @classmethod
    def of(cls, examples: Sequence[Example], answer: LogProbs, progress: Bar) -> Reference:
        answers = []
        for example in examples:
            answers.append(answer(example))
            progress.advance()
        return cls(examples, answers)

    @property
    def tokens(self) -> int:
        return sum(len(example.summary) for example in self.examples)

    @property
    def loss(self) -> float:
        """Cross-entropy of the references' tokens by the unmerged model, in nats per token."""
        pairs = zip(self.examples, self.log_probs, strict=True)
        return sum(_nll(example, answer) for example, answer in pairs) / self.tokens

    def divergence(self, answer: LogProbs, progress: Bar) -> Divergence:
        """How far the answers of another model with the same vocabulary are from the unmerged model's."""
        kl = nll = 0.0
        for example, own in zip(self.examples, self.log_probs, strict=True):
            other = answer(example)
            # Sums in fp64: where two models are the same, the terms cancel to the last digits.
            kl += float((own.double().exp() * (own.double() - other.double())).sum())
            nll += _nll(example, other)
            progress.advance()
        # Rounding can bring a divergence of nothing a hair below it.
        return Divergence(max(kl / self.tokens, 0.0), nll / self.tokens)


def log_probs_of(model: CausalLM, device: torch.device) -> LogProbs:
    """What a model answers to an example."""

    def answer(example: Example) -> Tensor:
        ids = torch.tensor([example.ids[:-1]], device=device)
        with torch.no_grad():
            logits: Tensor = model.logits(ids)[0, example.prompt_tokens - 1 :]
        return logits.float().log_softmax(dim=-1).cpu()

    return answer


def _nll(example: Example, answer: Float[Tensor, "m v"]) -> float:
    targets = torch.tensor(example.summary)
    return -float(answer.gather(1, targets[:, None]).double().sum())


MOST_ROWS = 8
MOST_TOKENS = 2048
"""The most tokens of all examples together: GPT-J-6B takes 12 GFLOP for each token and
pass, half a minute on two cores for 400."""

SAMPLE = DataConfig(
    source="files",
    path=None,
    config=None,
    revision=None,
    train="embedded:sample/train.jsonl",
    validation="embedded:sample/validation.jsonl",
    test=None,
    columns=Columns(article="article", summary="highlights", id="id"),
    rows=RowLimits(train=None, validation=MOST_ROWS, test=None),
    rows_seed=None,
    streaming=False,
    shuffle_buffer_rows=1,
    max_bad_rows=0,
    processes=1,
)
"""The articles of conf/data/sample.yaml."""

log = logging.getLogger(__name__)


def examples_of(spec: RunConfig, prompt: Prompt) -> tuple[list[Example], str]:
    """A few validation rows as the run's training would see them, and what a person calls them."""
    if reason := _not_at_hand(spec.data):
        log.warning(
            "measured on the sample inside the package: the run's validation rows are not here (%s)", reason
        )
        return _cut(SAMPLE, prompt), "the sample inside the package"
    limits = RowLimits(
        train=None, validation=min(MOST_ROWS, spec.data.rows.validation or MOST_ROWS), test=None
    )
    own = spec.data.model_copy(update={"rows": limits, "processes": 1, "streaming": False})
    try:
        return _cut(own, prompt), "the run's validation rows"
    except ConfigError as error:
        log.warning(
            "measured on the sample inside the package: the run's validation rows cannot be read: %s", error
        )
        return _cut(SAMPLE, prompt), "the sample inside the package"


def _not_at_hand(data: DataConfig) -> str | None:
    """Why a run's validation rows would have to be fetched, as far as that is seen without trying."""
    if data.validation is None:
        return "it has none"
    if data.source == "files":
        return None  # looked for when they are read
    import datasets

    kept = Path(datasets.config.HF_DATASETS_CACHE) / str(data.path).replace("/", "___")
    if Path(str(data.path)).exists() or kept.is_dir():
        return None
    return f"{data.path} was never fetched to this machine"


def _cut(data: DataConfig, prompt: Prompt) -> list[Example]:
    split = build_split(data, "validation", prompt)
    examples: list[Example] = []
    for row in split.encoded(range(len(split))):
        ids, prompt_tokens = prompt.training_ids(row.article_ids, row.target_ids)
        if examples and sum(len(example.ids) for example in examples) + len(ids) > MOST_TOKENS:
            break
        examples.append(Example(tuple(ids), prompt_tokens))
    return examples


@dataclass(frozen=True)
class Choice:
    """What was taken, and what it costs against the unmerged model."""

    merge: Merge
    weights: str
    """trained or original."""
    measured: dict[str, Divergence]
    """The distance of each candidate, rounded to the file's type."""
    unrounded: Divergence
    """The distance of the chosen one in fp32."""
    why: str
    """Why there was no other candidate, or how the choice was made."""
    reference: Reference
    where: str
    """What the measuring rows are called."""
    dtype: str

    @property
    def cost(self) -> Divergence:
        return self.measured[self.weights]

    def lines(self) -> list[str]:
        """Lines for a person: what was taken and what it cost."""
        others = [
            f"{name} {divergence.kl:.2g}"
            for name, divergence in self.measured.items()
            if name != self.weights
        ]
        rounding = (
            "" if self.dtype == "fp32" else f", {self.unrounded.kl:.2g} before rounding to {self.dtype}"
        )
        return [
            f"weights: {self.weights} ({self.why})",
            f"KL from the unmerged model: {self.cost.kl:.2g} nats per summary token{rounding}"
            + (f"; {', '.join(others)}" if others else ""),
            f"summary loss: {self.cost.loss:.4f} nats per token, unmerged {self.reference.loss:.4f}",
            f"measured on {self.reference.tokens} summary tokens of {len(self.reference.examples)} rows of "
            f"{self.where}, products in fp32",
        ]


def choose(loaded: LoadedRun, wanted: str | None, dtype: str) -> Choice:
    """Measure the candidates on a few rows and take the nearer to the unmerged model.

    wanted: trained or original, measured alone; None: whichever is nearer.
    Raises ConfigError where the base has no weights of the wanted kind.
    """
    candidates, why = _candidates(loaded, wanted)
    examples, where = examples_of(loaded.spec, loaded.prompt)
    passes = 1 + len(candidates) + (dtype != "fp32")
    answer = log_probs_of(loaded.adapted.model, loaded.adapted.device)
    with bar("measuring", passes * len(examples)) as progress:
        reference = Reference.of(examples, answer, progress)
        measured: dict[str, Divergence] = {}
        for name, merge in candidates.items():
            progress.note(f"{name} weights in {dtype}")
            with merged_into(merge, DTYPES[dtype]):
                measured[name] = reference.divergence(answer, progress)
        nearest = min(measured, key=lambda name: measured[name].kl)
        unrounded = measured[nearest]
        if dtype != "fp32":
            progress.note(f"{nearest} weights in fp32")
            with merged_into(candidates[nearest], torch.float32):
                unrounded = reference.divergence(answer, progress)
    return Choice(candidates[nearest], nearest, measured, unrounded, why, reference, where, dtype)


def _candidates(loaded: LoadedRun, wanted: str | None) -> tuple[dict[str, Merge], str]:
    """The candidates by name, and why it is these."""
    spec = loaded.spec
    own_format = spec.quantization.name
    trained = Merge(loaded.adapted, 0)
    if is_stored_base(model_folder(spec.model)):
        if wanted == "original":
            raise ConfigError.single(
                "--weights",
                f"original: {spec.model.name_or_path} is kept in a quantized form only; trained is what there is",
            )
        return {"trained": trained}, f"{own_format}, dequantized; the base has no others"
    if own_format == "none":
        return {"original": trained}, "the base was not quantized: trained and original are the same"
    if wanted == "trained":
        return {"trained": trained}, f"{own_format}, dequantized; as asked for"
    base = load_base(spec.model, QuantizationConfig(format="none", cache=False), torch.device("cpu"))
    original = Merge(loaded.adapted, 0, base.model)
    if wanted == "original":
        return {"original": original}, "the checkpoint's own; as asked for"
    return {"trained": trained, "original": original}, "the nearer to the unmerged model"
