"""MLPerf Inference's GPT-J task on CNN/DailyMail: its prompt, its settings, its scores, pass or fail.

Source: github.com/mlcommons/inference: language/gpt-j (download_cnndm.py, dataset.py, backend.py, evaluation.py)
and tools/submission/submission_checker.py, where the task stood from v3.1 to v5.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from summarizer.config.plain import read_option
from summarizer.config.schema import DataConfig, GenerationConfig
from summarizer.config.shared_flags import RowFlags
from summarizer.console.progress import bar
from summarizer.data.hold_out import SplitName
from summarizer.data.rows import BadRow, Row, check_row, first_bad_rows
from summarizer.data.sources import open_source
from summarizer.errors import ConfigError
from summarizer.evaluation.metrics import score_pairs
from summarizer.evaluation.record import MlperfFigure, MlperfVerdict
from summarizer.evaluation.rows import FILES, ScoredRows, by_flags, data_of, described, limit_notes
from summarizer.evaluation.sentences import split_sentences
from summarizer.generation.summarizer import Prepared, Summarizer

DATA = "cnn_dailymail"
DATA_VERSION = "3.0.0"
SPLIT: SplitName = "validation"
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


# ---- what the task reads and how it writes -----------------------------------------------------------------------


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


class TaskSummarizer(Summarizer):
    """Reads articles in the task's prompt rather than in the run's own."""

    def prepare(self, article: str) -> Prepared:
        tokenizer = self.loaded.prompt.text
        whole: list[int] = tokenizer.encode(prompt(article), add_special_tokens=False).ids
        ids = prompt_ids(whole)
        return Prepared(tuple(ids), len(whole), len(whole) - len(ids))


def require_positions(positions: int | None, generation: GenerationConfig, model: str) -> None:
    """Raises ConfigError where a base model has too few positions for the task's prompts and summaries.

    positions: None where the model's config names no bound.  model: what a message calls it.
    """
    needed = MAX_PROMPT_TOKENS + generation.max_new_tokens
    if positions is not None and positions < needed:
        raise ConfigError.single(
            "--protocol", f"mlperf takes {needed:,} tokens; {model} has {positions:,} positions"
        )


def task_rows(flags: RowFlags, model: str) -> ScoredRows:
    """The task's rows, from the hub, or from files that are said to hold them. model: the base model's name.

    Raises ConfigError, under the names of the flags, where they cannot be had.
    """
    task = DataConfig.model_validate(read_option("data", "cnn_dailymail"))
    spec = data_of(task, SPLIT, flags)
    limit = flags.rows if isinstance(flags.rows, int) else None
    rows: list[Row] = []
    bad: list[BadRow] = []
    try:
        source = open_source(spec, SPLIT)
        with bar("reading", limit or source.total) as shown:
            for index, raw in enumerate(source.read()):
                row = (
                    raw
                    if isinstance(raw, BadRow)
                    else check_row(raw[1], source.columns, raw[0], index, frozenset())
                )
                shown.advance()
                if isinstance(row, BadRow):
                    bad.append(row)
                else:
                    rows.append(row)
                if len(rows) == limit:
                    break
    except ConfigError as error:
        raise by_flags(error, flags, "files that hold the same rows") from error
    if len(bad) > spec.max_bad_rows or not rows:
        raise ConfigError.single(
            "--max-bad-rows" if rows else FILES,
            f"{len(bad)} unusable rows and {len(rows)} usable ones, {spec.max_bad_rows} unusable ones accepted"
            + (f": {first_bad_rows(tuple(bad))}" if bad else ""),
        )
    name = f"{DATA} {DATA_VERSION}"
    notes = []
    if flags.data:
        notes.append(
            f"the rows come from {', '.join(flags.data)}; that they are {name}'s {SPLIT} split is taken on trust"
        )
    notes += limit_notes(spec, SPLIT, flags, len(rows))
    notes.append(
        "the adapter was trained with the run's own prompt; the protocol reads articles with another one"
    )
    if model.lower() != MODEL.lower():
        notes.append(f"the task's reference figures are of a fine-tuned {MODEL}; this base is {model}")
    return ScoredRows(
        data=described(spec, SPLIT) if flags.data else name,
        split=SPLIT,
        ids=[row.id for row in rows],
        articles=[row.article for row in rows],
        references=[row.summary for row in rows],
        notes=tuple(notes),
    )


# ---- how its summaries are judged --------------------------------------------------------------------------------


@dataclass(frozen=True)
class MlperfScores:
    """What the reference's evaluation.py prints."""

    rouge: Mapping[str, float]
    """Mean F1 in percent by each of `record.VARIANTS`, rounded to DECIMALS."""
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


def verdict(scores: MlperfScores) -> MlperfVerdict:
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
    return MlperfVerdict(
        figures=tuple(figures),
        passed={
            level: None if refusal else all(figure.passes[level] for figure in figures) for level in LEVELS
        },
        refusal=refusal,
        sentences_by=scores.sentences_by,
        gen_num=rows,
    )


def judge(predictions: Sequence[str], references: Sequence[str]) -> MlperfVerdict:
    """Score and judge the summaries of all rows."""
    return verdict(mlperf_scores(predictions, references))


def _figure(name: str, value: float, reference: float, shares: Mapping[Level, float]) -> MlperfFigure:
    """shares: by level, the least share of the reference that passes."""
    return MlperfFigure(
        name, value, reference, {level: value >= reference * share for level, share in shares.items()}
    )
