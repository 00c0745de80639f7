"""Scores as files hold them, typed: intervals, differences, and everything that `evaluate` finds out in one call.

Nothing here computes, so that records are read without numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, ConfigDict, Field

from summarizer.json_files import FiniteOrNull, GitState, Part, read_part, write_part

VARIANTS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
MEANING: Mapping[str, str] = {
    "rouge1": "ROUGE-1: single words",
    "rouge2": "ROUGE-2: pairs of words",
    "rougeL": "ROUGE-L over the whole text as one line: MLPerf's ROUGE-L, not a paper's",
    "rougeLsum": "ROUGE-L sentence by sentence (summary level): what papers on CNN/DailyMail call ROUGE-L",
}
"""What each of VARIANTS is, for a person: F1 in percent."""
RougeTokenizer = Literal["rouge-score", "words", "characters"]
ROUGE_SCORE: RougeTokenizer = "rouge-score"
WORDS: RougeTokenizer = "words"
CHARACTERS: RougeTokenizer = "characters"
TOKENIZERS: Mapping[RougeTokenizer, str] = {
    ROUGE_SCORE: "words of a-z and 0-9 with the Porter stemmer, as the package rouge-score cuts English",
    WORDS: "words of letters and digits of any script, without a stemmer",
    CHARACTERS: "single characters of scripts that set no spaces (Chinese, Japanese, Thai, ...), words of all "
    "others, without a stemmer",
}
"""What ROUGE's tokens are, by the tokenizer's name. Scores by different ones do not compare."""
Kind = Literal["names", "numbers", "quotes"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""What of a summary is looked up in its article, each a score of its own: the share that the article has."""
GAIN, HARIM, ENTAILMENT, BERTSCORE = "article gain", "HaRiM+", "entailment", "BERTScore"
FAITHFULNESS: Mapping[str, tuple[str, str]] = {
    "names": ("percent", "of the summary's names, those that its article has"),
    "numbers": ("percent", "of the summary's numbers, those that its article has"),
    "quotes": ("percent", "of the summary's quotes, those that its article has word for word"),
    GAIN: ("nats per token", "how much the article raises the summary's log likelihood by the base model"),
    HARIM: ("", "by the base model, as Son et al. 2022 define it (arXiv:2211.12118)"),
    ENTAILMENT: (
        "percent",
        "of the summary's sentences by the likeliest sentence of the article, on average",
    ),
    BERTSCORE: ("percent", "F1 against the reference, raw, without idf and baseline rescaling"),
}
"""Unit and meaning of each score beside loss and ROUGE; higher is better. All but the last need no reference."""
LOSS = "loss"
"""The cross-entropy's name beside VARIANTS: nats per token of the reference summaries, lower is better."""
SIGNIFICANCE_LEVEL = 0.05
"""A difference is significant where its p value, adjusted by Holm, is below it: the only threshold there is."""


# ---- one figure --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds of its 95 % interval, in the unit of the rows: percent for ROUGE."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    value: float
    low: float
    high: float


def _every_variant(intervals: dict[str, Interval]) -> dict[str, Interval]:
    if set(intervals) != set(VARIANTS):
        raise ValueError(f"ROUGE is {', '.join(VARIANTS)}, not {', '.join(intervals)}")
    return {variant: intervals[variant] for variant in VARIANTS}


Rouge = Annotated[dict[str, Interval], AfterValidator(_every_variant)]
"""ROUGE as JSON files have it: an interval by each of VARIANTS, in percent."""


def _known_scores(intervals: dict[str, Interval]) -> dict[str, Interval]:
    if unknown := sorted(intervals.keys() - FAITHFULNESS.keys()):
        raise ValueError(f"no scores: {', '.join(unknown)}")
    return intervals


Faithfulness = Annotated[dict[str, Interval], AfterValidator(_known_scores)]
"""Scores of FAITHFULNESS as JSON files have them; one that no row has, or that was not asked for, is missing."""


@dataclass(frozen=True)
class Statistic:
    """The mean of one statistic of the summaries' texts, over the rows that have it."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    mean: Interval | None
    """In `unit`; None where no row has it."""
    unit: str
    rows: int
    """How many rows have it: a summary of two words has no trigram."""


Verdict = Literal["better", "worse", "not significant"]


@dataclass(frozen=True)
class Difference:
    """How the mean of one system differs from another's by one metric, paired over the same rows."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    first: str
    second: str
    metric: str
    """LOSS, one of ROUGE's variants or one of FAITHFULNESS."""
    mean: Interval
    """First minus second, in the metric's unit, with the 95 % paired bootstrap interval."""
    p_value: float
    """Two-sided, for both being equally good; in (0, 1]."""
    p_holm: float
    """The p value adjusted by Holm over all the differences that it stands among."""
    rows: int
    better_rows: Annotated[int | None, Field(exclude=True)] = None
    """On how many rows the first system is better; None for a difference that was read from a file."""
    equal_rows: Annotated[int | None, Field(exclude=True)] = None

    @property
    def significant(self) -> bool:
        """Whether it is more than luck in the choice of rows explains."""
        return self.p_holm < SIGNIFICANCE_LEVEL

    @property
    def verdict(self) -> Verdict:
        """Whether the first system is better or worse than the second, if that is significant."""
        if not self.significant:
            return "not significant"
        return "better" if (self.mean.value < 0) == (self.metric == LOSS) else "worse"


@dataclass(frozen=True)
class MlperfFigure:
    """One of the figures of MLPerf's task beside the reference's."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    value: float
    reference: float
    passes: Mapping[str, bool]
    """By level: whether the value is within the bounds, which are shares of the reference."""


@dataclass(frozen=True)
class MlperfVerdict:
    """The figures of MLPerf's task, and pass or fail if they are over its rows."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    figures: tuple[MlperfFigure, ...]
    passed: Mapping[str, bool | None]
    """By level: whether every figure passes; None where there is no verdict."""
    refusal: str | None
    """Why there is no verdict; None where there is one."""
    sentences_by: str
    gen_num: int


# ---- `scores.json` -----------------------------------------------------------------------------------------------


Protocol = Literal["own", "mlperf", "mlperf-gptj"]


class RowsPart(Part):
    """Which rows the scores are over."""

    data: str
    """The data set with its version, such as "cnn_dailymail 3.0.0"."""
    split: str
    count: int
    ids_sha256: str
    """The digest of the rows' ids in their order."""
    texts_sha256: str
    """The digest of the rows' ids, articles and references."""

    def __str__(self) -> str:
        return f"{self.data}, {self.split}, {self.count:,} row{'' if self.count == 1 else 's'}"


class SystemPart(Part):
    """One system's scores. Null is what the system does not have, or what was not asked for."""

    name: str
    folder: str | None
    """The run's folder."""
    predictions: str | None
    """The path of its summaries."""
    settings: dict[str, Any] | None
    cut_articles: int | None
    """How many articles did not fit into the prompt as a whole."""
    loss: FiniteOrNull
    """Cross-entropy in nats per summary token."""
    rouge: Rouge
    faithfulness: Faithfulness = Field(default_factory=dict)
    bertscore: dict[str, Interval] | None
    statistics: dict[str, Statistic]
    mlperf: MlperfVerdict | None
    """MLPerf's own computation of its figures, and its verdict."""


class Evaluation(Part):
    """Everything that `python -m summarizer.evaluate` found out in one call."""

    protocol: Protocol
    rows: RowsPart
    rouge_tokenizer: RougeTokenizer = ROUGE_SCORE
    """What ROUGE's tokens are, one of TOKENIZERS; before it could be chosen, it was always the first."""
    systems: list[SystemPart]
    references: dict[str, Statistic]
    """The text statistics of the reference summaries."""
    differences: list[Difference]
    """The best run minus each other system by ROUGE, in percent."""
    faithfulness_differences: list[Difference] = Field(default_factory=list)
    """The same by the scores of FAITHFULNESS."""
    bertscore_by: str | None
    """The encoder and the layer that BERTScore is by."""
    entailment_by: str | None = None
    """The folder of the model that entailment is by."""
    bootstrap_samples: int
    notes: list[str]
    """What a reader has to know before comparing these scores with others."""
    versions: dict[str, str | None]
    git: GitState | None


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Replace `path` in one step. Raises OSError, leaving the old file as it was."""
    write_part(path, evaluation)


def read_evaluation(path: Path) -> Evaluation:
    """Read a file of scores. Raises ConfigError where there is none, naming each field that is wrong."""
    return read_part(path, Evaluation, "scores")
