"""MLPerf Inference's GPT-J task on CNN/DailyMail: its prompt, its settings, its scores, pass or fail.

Source: github.com/mlcommons/inference: language/gpt-j (download_cnndm.py, dataset.py, backend.py, evaluation.py)
and tools/submission/submission_checker.py, where the task stood from v3.1 to v5.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict

from summarizer.config.schema import GenerationConfig
from summarizer.evaluation.metrics import score_pairs
from summarizer.evaluation.sentences import split_sentences

DATA = "cnn_dailymail"
DATA_VERSION = "3.0.0"
SPLIT = "validation"
ROWS = 13_368

MODEL = "EleutherAI/gpt-j-6b"
"""Its tokenizer. The reference's weights are this model fine-tuned by MLCommons, not the one on the hub."""

TEMPLATE = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nSummarize the following news article:\n\n### Input:\n{article}\n\n### Response:"
)
MAX_PROMPT_TOKENS = 1919

REFERENCE: Mapping[str, float] = {"rouge1": 42.9865, "rouge2": 20.1235, "rougeL": 29.9881}
"""Of the fp32 model over the whole split, in percent; their "ROUGE-L" is rougeL, not rougeLsum."""
REFERENCE_GEN_LEN = 4_016_878
"""In characters, over the whole split."""

Level = Literal["99 %", "99.9 %"]
LEVELS: Mapping[Level, float] = {"99 %": 0.99, "99.9 %": 0.999}
"""gptj-99 and gptj-99.9: what share of the reference each ROUGE has to reach."""
GEN_LEN_SHARE = 0.9
"""Of the generated length, at both levels. There is no upper bound, unlike in MLPerf's later tasks."""

DECIMALS = 4
"""Scores are rounded before they are judged."""


def prompt(article: str) -> str:
    """What the model reads, uncut. The article goes in as the data has it, not stripped."""
    return TEMPLATE.replace("{article}", article)


def prompt_ids(whole: Sequence[int]) -> list[int]:
    """What is read of a prompt's tokens, at most MAX_PROMPT_TOKENS.

    A longer one is cut at its end as the reference cuts it, so that it loses "### Response:" too.
    whole: by GPT-J's tokenizer, without control tokens.
    """
    return list(whole)[:MAX_PROMPT_TOKENS]


def generation(spec: GenerationConfig) -> GenerationConfig:
    """`spec` with what the task fixes: beams, lengths, early stopping, and the defaults of transformers else."""
    fixed = {
        "max_new_tokens": 128,
        "min_new_tokens": 30,
        "num_beams": 4,
        "early_stopping": True,
        "length_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "do_sample": False,
    }
    return spec.model_copy(update=fixed)


@dataclass(frozen=True)
class MlperfScores:
    """What the reference's evaluation.py prints."""

    rouge: Mapping[str, float]
    """Mean F1 in percent by each of `rouge.VARIANTS`, rounded to DECIMALS."""
    gen_len: int
    """Characters of all summaries, one sentence per line."""
    gen_num: int
    """Summaries."""
    sentences_by: str
    """What cut them into sentences. rouge1, rouge2 and rougeL do not depend on it; rougeLsum does, and gen_len
    by a character wherever sentences are not one space apart."""


def mlperf_scores(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    show: bool = True,
    processes: int | None = None,
) -> MlperfScores:
    """ROUGE and length as evaluation.py computes them: texts stripped, one sentence per line, stemmer.

    The reference cuts sentences by nltk's punkt model. It is used where its data is installed
    (`python -m nltk.downloader punkt_tab`); elsewhere this project's own splitter is, and `sentences_by` says so.
    Raises ValueError if the two differ in length, or without a row.
    """
    if not predictions:
        raise ValueError("no summaries to score")
    split = punkt_sentences if punkt_is_installed() else split_sentences
    per_row = score_pairs(predictions, references, show=show, processes=processes, split=split)
    return MlperfScores(
        rouge={variant: round(float(values.mean()), DECIMALS) for variant, values in per_row.items()},
        gen_len=sum(len("\n".join(split(prediction))) for prediction in predictions),
        gen_num=len(predictions),
        sentences_by="nltk punkt" if split is punkt_sentences else "this project's rules (punkt is not here)",
    )


def punkt_is_installed() -> bool:
    try:
        punkt_sentences("One. Two.")
    except LookupError:
        return False
    return True


def punkt_sentences(text: str) -> list[str]:
    """By nltk's punkt model of English. Raises LookupError where its data is not installed."""
    from nltk.tokenize import sent_tokenize

    return list(sent_tokenize(text.strip()))


@dataclass(frozen=True)
class Figure:
    """One of the task's figures beside the reference's."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    value: float
    reference: float
    passes: Mapping[str, bool]
    """By level: whether the value reaches that share of the reference."""


@dataclass(frozen=True)
class Verdict:
    """The task's figures, and pass or fail if they are over its rows."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    figures: tuple[Figure, ...]
    passed: Mapping[str, bool | None]
    """By level: whether every figure reaches its bound; None where there is no verdict."""
    refusal: str | None
    """Why there is no verdict; None where there is one."""
    sentences_by: str
    gen_num: int


def verdict(scores: MlperfScores) -> Verdict:
    """Judge scores in percent. Raises ValueError where one of REFERENCE's variants is missing."""
    if missing := REFERENCE.keys() - scores.rouge.keys():
        raise ValueError(f"MLPerf judges {', '.join(REFERENCE)}; missing: {', '.join(sorted(missing))}")
    figures = [
        _figure(variant, round(scores.rouge[variant], DECIMALS), reference, LEVELS)
        for variant, reference in REFERENCE.items()
    ]
    figures.append(
        _figure("gen_len", scores.gen_len, REFERENCE_GEN_LEN, dict.fromkeys(LEVELS, GEN_LEN_SHARE))
    )
    rows = scores.gen_num
    refusal = None if rows == ROWS else f"not the whole split ({rows:,} of {ROWS:,} rows): no verdict"
    return Verdict(
        figures=tuple(figures),
        passed={
            level: None if refusal else all(figure.passes[level] for figure in figures) for level in LEVELS
        },
        refusal=refusal,
        sentences_by=scores.sentences_by,
        gen_num=rows,
    )


def judge(predictions: Sequence[str], references: Sequence[str]) -> Verdict:
    """Score and judge the summaries of all rows."""
    return verdict(mlperf_scores(predictions, references))


def _figure(name: str, value: float, reference: float, shares: Mapping[Level, float]) -> Figure:
    """shares: by level, the least share of the reference that passes."""
    return Figure(
        name, value, reference, {level: value >= reference * share for level, share in shares.items()}
    )
