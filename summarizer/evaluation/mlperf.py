"""MLPerf Inference's summarization tasks on CNN/DailyMail: their prompts, settings, scores, pass or fail.

Both are over the same 13,368 rows. `mlperf` is the task since v5.1 (September 2025), of Llama-3.1-8B-Instruct as it
is; `mlperf-gptj` is the one that it replaced, from v3.1 to v5.0, of a fine-tuned GPT-J-6B.

Source: github.com/mlcommons/inference at commit b66003e (August 2026, v6.1): language/llama3.1-8b (README.md,
download_cnndm.py, SUT_VLLM.py, evaluation.py), language/gpt-j (download_cnndm.py, dataset.py, backend.py,
evaluation.py), tools/submission/submission_checker/constants.py. Why the model was replaced:
mlcommons.org/2025/09/small-llm-inference-5-1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
from summarizer.generation.summarizer import LoadedModel, Prepared, Summarizer

DATA = "cnn_dailymail"
DATA_VERSION = "3.0.0"
SPLIT: SplitName = "validation"
ROWS = 13_368

DECIMALS = 4
"""Scores are rounded before they are judged."""
LENGTH = "gen_len"
"""The figure that is the length of all summaries: characters, one sentence per line."""


# ---- the tasks ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What one of MLPerf's tasks fixes."""

    title: str
    model: str
    """Whose figures the reference's are, as a person names it."""
    names: frozenset[str]
    """What the hub calls that model, in lower case: bases that need no remark."""
    template: str
    max_prompt_tokens: int | None
    """A longer prompt is cut at its end, as the reference cuts it: it loses the words after the article too. None:
    the task cuts none."""
    start_token: bool
    """Whether the token comes first that the tokenizer itself sets ahead of any text, as Llama's does."""
    generation: Mapping[str, Any]
    """Fixed settings of GenerationConfig."""
    reference: Mapping[str, float]
    """ROUGE of the reference over the whole split, in percent; "rougeL" is over the text as one line."""
    reference_length: int
    """Of all its summaries, as LENGTH is counted."""
    levels: Mapping[str, float]
    """What share of the reference each ROUGE has to reach."""
    length_shares: tuple[float, float | None]
    """At least and at most what share of its length; None: there is no upper bound."""

    def prompt(self, article: str) -> str:
        """What the model reads, uncut. The article goes in as the data has it, not stripped."""
        return self.template.replace("{article}", article)

    def generation_of(self, spec: GenerationConfig) -> GenerationConfig:
        """`spec` with what the task fixes."""
        return spec.model_copy(update=dict(self.generation))

    @property
    def max_new_tokens(self) -> int:
        """Longest summary."""
        return int(self.generation["max_new_tokens"])


_SEARCH = {"length_penalty": 1.0, "no_repeat_ngram_size": 0, "do_sample": False, "max_new_tokens": 128}

TASKS: Mapping[str, Task] = {
    "mlperf": Task(
        title="MLPerf Inference, Llama-3.1-8B on CNN/DailyMail (v5.1 to v6.1)",
        model="meta-llama/Llama-3.1-8B-Instruct",
        names=frozenset({"meta-llama/llama-3.1-8b-instruct", "meta-llama/meta-llama-3.1-8b-instruct"}),
        template="Summarize the following news article in 128 tokens. Please output the summary only, without any "
        "other text.\n\nArticle:\n{article}\n\nSummary:",
        max_prompt_tokens=None,
        start_token=True,
        generation=_SEARCH | {"min_new_tokens": 1, "num_beams": 1, "early_stopping": False},
        reference={"rouge1": 38.7792, "rouge2": 15.9075, "rougeL": 24.4957, "rougeLsum": 35.793},
        reference_length=8_167_644,
        levels={"99 %": 0.99},
        length_shares=(0.9, 1.1),
    ),
    "mlperf-gptj": Task(
        title="MLPerf Inference, GPT-J on CNN/DailyMail (v3.1 to v5.0)",
        model="a fine-tuned EleutherAI/gpt-j-6b",
        names=frozenset({"eleutherai/gpt-j-6b"}),
        template="Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSummarize the following news article:\n\n### Input:\n{article}\n\n### Response:",
        max_prompt_tokens=1919,
        start_token=False,
        generation=_SEARCH | {"min_new_tokens": 30, "num_beams": 4, "early_stopping": True},
        reference={"rouge1": 42.9865, "rouge2": 20.1235, "rougeL": 29.9881},
        reference_length=4_016_878,
        levels={"99 %": 0.99, "99.9 %": 0.999},
        length_shares=(0.9, None),
    ),
}
"""By protocol. The second one's weights are GPT-J fine-tuned by MLCommons, not those on the hub."""


# ---- what a task reads and how it writes -------------------------------------------------------------------------


class TaskSummarizer(Summarizer):
    """Reads articles in a task's prompt rather than in the run's own."""

    def __init__(
        self,
        loaded: LoadedModel,
        generation: GenerationConfig,
        *,
        batch_size: int,
        task: Task,
        start_ids: Sequence[int],
        positions: int | None,
    ) -> None:
        """start_ids: what the base's tokenizer sets ahead of any text.  positions: as in `require_positions`."""
        super().__init__(loaded, generation, batch_size=batch_size)
        self.task = task
        self.start_ids = tuple(start_ids) if task.start_token else ()
        self.most_tokens = task.max_prompt_tokens
        if self.most_tokens is None and positions is not None:
            self.most_tokens = positions - task.max_new_tokens

    def prepare(self, article: str) -> Prepared:
        tokenizer = self.loaded.prompt.text
        own: list[int] = tokenizer.encode(self.task.prompt(article), add_special_tokens=False).ids
        whole = [*self.start_ids, *own]
        ids = whole[: self.most_tokens]
        return Prepared(tuple(ids), len(whole), len(whole) - len(ids))


def positions_of(config: Any) -> int | None:
    """How many positions a base's config says that it has; None where it names no bound."""
    found: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found


def require_positions(task: Task, positions: int | None, protocol: str, model: str) -> None:
    """Raises ConfigError where a base model has too few positions for a task's prompts and summaries.

    positions: None where the model's config names no bound.  model: what a message calls it.
    """
    needed = (task.max_prompt_tokens or task.max_new_tokens) + task.max_new_tokens
    if positions is not None and positions < needed:
        raise ConfigError.single(
            "--protocol", f"{protocol} takes {needed:,} tokens; {model} has {positions:,} positions"
        )


def task_rows(task: Task, flags: RowFlags, model: str) -> ScoredRows:
    """A task's rows, from the hub, or from files that are said to hold them. model: the base model's name.

    Raises ConfigError, under the names of the flags, where they cannot be had.
    """
    spec = data_of(DataConfig.model_validate(read_option("data", "cnn_dailymail")), SPLIT, flags)
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
    if model.lower() not in task.names:
        notes.append(f"the task's reference figures are of {task.model}; this base is {model}")
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


def verdict(task: Task, scores: MlperfScores, cut: int = 0) -> MlperfVerdict:
    """Judge scores in percent. Raises ValueError where one of the task's ROUGE variants is missing.

    cut: how many prompts did not fit into the base, in a task that cuts none.
    """
    if missing := task.reference.keys() - scores.rouge.keys():
        raise ValueError(f"MLPerf judges {', '.join(task.reference)}; missing: {', '.join(sorted(missing))}")
    figures = []
    for variant, reference in task.reference.items():
        value = round(scores.rouge[variant], DECIMALS)
        passes = {level: value >= reference * share for level, share in task.levels.items()}
        figures.append(MlperfFigure(variant, value, reference, passes))
    least, most = task.length_shares
    fits = scores.gen_len >= task.reference_length * least
    fits = fits and (most is None or scores.gen_len <= task.reference_length * most)
    figures.append(
        MlperfFigure(LENGTH, scores.gen_len, task.reference_length, dict.fromkeys(task.levels, fits))
    )
    rows, refusal = scores.gen_num, None
    if rows != ROWS:
        refusal = f"not the whole split ({rows:,} of {ROWS:,} rows): no verdict"
    elif cut and task.max_prompt_tokens is None:
        refusal = f"{cut:,} prompts were cut, of which the task cuts none: no verdict"
    return MlperfVerdict(
        figures=tuple(figures),
        passed={
            level: None if refusal else all(figure.passes[level] for figure in figures)
            for level in task.levels
        },
        refusal=refusal,
        sentences_by=scores.sentences_by,
        gen_num=rows,
    )


def judge(
    protocol: str, predictions: Sequence[str], references: Sequence[str], cut: int = 0
) -> MlperfVerdict:
    """Score and judge the summaries of all rows by the task of a protocol. cut: as `verdict` has it."""
    return verdict(TASKS[protocol], mlperf_scores(predictions, references), cut)
