"""`python -m summarizer.evaluate`: trained runs scored on a split, beside what they have to beat.

    python -m summarizer.evaluate outputs/2026-11-22/10-15-30-123456 --split test
    python -m summarizer.evaluate RUN RUN --data news.jsonl --column body --summary-column abstract
    python -m summarizer.evaluate RUN --protocol mlperf

Exit code 0 on success, 2 for a user's mistake, 1 for a failure, 128 + the signal's number when it was stopped.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from summarizer.config.flags import Flags, FolderPath
from summarizer.config.paths import shown
from summarizer.config.schema import Count
from summarizer.config.shared_flags import BatchFlags, GenerationFlags, RowFlags
from summarizer.runs.mistakes import ended_by_sigterm, report_mistakes, say_kept

if TYPE_CHECKING:
    from summarizer.evaluation.bertscore import LoadedBertScore
    from summarizer.evaluation.entailment import Entailment
    from summarizer.evaluation.evaluator import Evaluator
    from summarizer.evaluation.metrics import RowShares
    from summarizer.evaluation.pipeline import ArticleScores, System
    from summarizer.evaluation.record import Evaluation
    from summarizer.evaluation.resumable import ScoredModel
    from summarizer.evaluation.rows import ScoredRows
    from summarizer.generation.summarizer import Summarizer
    from summarizer.generation.summary_file import SummaryFile
    from summarizer.runs.evaluation_request import EvaluationRequest
    from summarizer.runs.loaded_run import LoadedRun

EPILOG = """\
Scores, on the same rows: each RUN's adapter, the base model, Lead-3 (the article's first three sentences) and
Random-3. Summaries are kept as they are written, in RUN/evaluations/SPLIT/ (predictions.jsonl and
predictions.base.jsonl): the same command resumes where it was stopped, and only scores once all are there. Scores
are printed, and kept there in scores.json and scores.md; of several runs, in the first's comparison.json.

--protocol mlperf is MLPerf Inference's task for Llama-3.1-8B: its rows, its prompt, greedy, up to 128 new tokens.
mlperf-gptj is the one that it replaced in v5.1: the same rows, another prompt, beam 4, 30 to 128 new tokens.
"""

log = logging.getLogger(__name__)


class ScoreFlags(Flags):
    """What is scored and by what."""

    HEADING: ClassVar[str] = "scores"

    base: bool = True
    """leave the base model out"""
    loss: bool = True
    """leave the loss out"""
    rouge_tokenizer: Literal["auto", "rouge-score", "words", "characters"] | None = None
    """what ROUGE counts: rouge-score is for English, auto goes by the references' script; default: the run's own"""
    article_gain: bool = False
    """how much the article raises each summary's likelihood by the base model, and HaRiM+"""
    nli: FolderPath | None = None
    """whether the article entails the summary, by the model of natural language inference in this folder"""
    bertscore: FolderPath | None = None
    """BERTScore by the encoder in this folder"""
    bertscore_layer: Count | None = None
    """of the encoder: 17 of roberta-large; default: three quarters of its layers"""


class EvaluateFlags(GenerationFlags, BatchFlags, ScoreFlags, RowFlags):
    """Score trained runs on a split: ROUGE with intervals, loss, text statistics, significance."""

    runs: CliPositionalArg[list[FolderPath]] = Field(validation_alias="RUN")
    """a run's folder; several share one base model"""
    split: Literal["test", "validation", "train"] | None = None
    """which rows of the run's data; default: the run's own evaluation.split"""
    protocol: Literal["own", "mlperf", "mlperf-gptj"] = "own"
    """own: as the run was trained; mlperf: MLPerf Inference's task; see below"""
    output: FolderPath | None = None
    """for summaries and scores, or to go on in; default: see below"""


def main() -> None:
    """The command. Heavy imports wait until its arguments are read, so that --help answers at once."""
    sys.exit(command(sys.argv[1:]))


def command(arguments: Sequence[str]) -> int:
    """Run the command with these arguments and return its exit code. Raises SystemExit for --help."""
    return report_mistakes(lambda: _evaluate(arguments), arguments)


def _evaluate(arguments: Sequence[str]) -> None:
    flags = EvaluateFlags.read(arguments, command="evaluate", usage="RUN [RUN ...]", epilog=EPILOG)

    from summarizer.runs.launch import prepare_process

    prepare_process()

    from summarizer.data.articles import Item
    from summarizer.evaluation.resumable import open_files
    from summarizer.runs.evaluation_request import requested
    from summarizer.runs.logs import log_to_terminal

    log_to_terminal()
    logging.getLogger("absl").setLevel(logging.WARNING)  # rouge-score tells of its tokenizer, once a system
    with ended_by_sigterm():
        request = requested(flags)
        encoder, nli = _encoder(flags), _nli(flags)
        rows = _rows(request)
        log.info("%s: %d rows of %s", ", ".join(run.name for run in request.runs), len(rows.ids), rows.data)
        items = [
            Item(row_id, f"{rows.split} row {number}", article, reference)
            for number, (row_id, article, reference) in enumerate(
                zip(rows.ids, rows.articles, rows.references, strict=True), start=1
            )
        ]
        with request.held() as request:
            models = request.models()
            with open_files(models, items) as files, _resumption_said(models, files, len(items)):
                loaded = Loaded(request)
                systems = _systems(request, rows, models, files, loaded)
                _save(
                    request, _scores(request, rows, systems, encoder, _by_article(flags, rows, loaded, nli))
                )


def _encoder(flags: EvaluateFlags) -> LoadedBertScore | None:
    """BERTScore, its encoder tried once before a night is spent on summaries."""
    if flags.bertscore is None:
        return None
    from summarizer.evaluation.bertscore import loaded_bert_score

    return loaded_bert_score(flags.bertscore, flags.bertscore_layer, device=flags.device)


def _nli(flags: EvaluateFlags) -> Entailment | None:
    """The model of natural language inference, loaded before a night is spent on summaries."""
    if flags.nli is None:
        return None
    from summarizer.evaluation.entailment import loaded_entailment

    return loaded_entailment(flags.nli, device=flags.device)


def _by_article(
    flags: EvaluateFlags, rows: ScoredRows, loaded: Loaded, nli: Entailment | None
) -> ArticleScores | None:
    """The scores by a model that look at the article in place of the reference; None where none was asked for."""
    if nli is None and not flags.article_gain:
        return None

    def score(summaries: Sequence[str]) -> dict[str, RowShares]:
        from summarizer.evaluation.likelihood import likelihood_scores
        from summarizer.evaluation.metrics import RowShares
        from summarizer.evaluation.record import ENTAILMENT

        found: dict[str, RowShares] = {}
        if flags.article_gain and rows.encoded is not None:
            found |= likelihood_scores(loaded.evaluator, rows.encoded(), summaries)
        if nli is not None:
            found[ENTAILMENT] = RowShares.of_rows(nli(rows.articles, summaries))
        return found

    return score


class Loaded:
    """The runs over their base model, each part of it loaded when it is first needed."""

    def __init__(self, request: EvaluationRequest) -> None:
        self._request = request

    @cached_property
    def runs(self) -> LoadedRun:
        from summarizer.runs.loaded_run import load_runs

        return load_runs(
            self._request.runs,
            device=self._request.flags.device,
            precision=self._request.flags.precision,
            generation=self._request.generation,
        )

    @cached_property
    def summarizer(self) -> Summarizer:
        from summarizer.data.control_tokens import start_ids
        from summarizer.evaluation.mlperf import TaskSummarizer, positions_of
        from summarizer.generation.summarizer import Summarizer

        request, run = self._request, self.runs
        if request.task is None:
            return Summarizer(run, request.generation, batch_size=request.batch_size)
        return TaskSummarizer(
            run,
            request.generation,
            batch_size=request.batch_size,
            task=request.task,
            start_ids=start_ids(run.tokenizer, run.prompt.text),
            positions=positions_of(run.base.model.config),
        )

    @cached_property
    def evaluator(self) -> Evaluator:
        return self.runs.evaluator(self._request.generation, self.summarizer.batch_size)


def _rows(request: EvaluationRequest) -> ScoredRows:
    """The rows to score on. Of the base model only the tokenizer and the config are read for them."""
    from summarizer.data.prompt import build_prompt
    from summarizer.evaluation import mlperf
    from summarizer.evaluation.rows import own_rows, require_same_rows
    from summarizer.generation.summarizer import require_room
    from summarizer.models.load import load_config
    from summarizer.models.source import model_folder
    from summarizer.models.tokenizer import load_tokenizer

    spec = request.runs[0].spec
    folder = model_folder(spec.model)
    if request.task is not None:
        positions = mlperf.positions_of(load_config(folder))
        mlperf.require_positions(request.task, positions, request.flags.protocol, spec.model.name_or_path)
        return mlperf.task_rows(request.task, request.flags, spec.model.name_or_path)
    prompt = build_prompt(spec.prompt, load_tokenizer(folder))
    require_room(prompt, request.generation)
    require_same_rows({run.name: run.spec.data for run in request.runs}, request.split, request.flags)
    return own_rows(spec.data, request.split, request.label, request.flags, prompt)


def _systems(
    request: EvaluationRequest,
    rows: ScoredRows,
    models: Sequence[ScoredModel],
    files: dict[str, SummaryFile],
    loaded: Loaded,
) -> list[System]:
    """All that is scored, once its summaries are written. A model is loaded only where something is missing."""
    from summarizer.evaluation.pipeline import System, extractive_baselines
    from summarizer.evaluation.resumable import measure_losses, read_summaries, write_missing

    write_missing(models, files, lambda: loaded.summarizer)
    losses: dict[str, float | None] = {}
    if request.flags.loss and rows.encoded is not None:
        losses = measure_losses(models, rows.encoded, rows.texts_sha256, lambda: loaded.evaluator)
    systems = [
        System(
            name=model.name,
            summaries=read_summaries(files[model.name]),
            folder=None if model.trial is None else str(request.runs[model.trial].folder),
            predictions=str(model.file),
            settings=model.settings,
            cut_articles=files[model.name].cut,
            loss=losses.get(model.name),
        )
        for model in models
    ]
    return systems + extractive_baselines(rows, request.runs[0].spec.evaluation.bootstrap_seed)


def _scores(
    request: EvaluationRequest,
    rows: ScoredRows,
    systems: Sequence[System],
    encoder: LoadedBertScore | None,
    by_article: ArticleScores | None,
) -> Evaluation:
    from summarizer.evaluation.pipeline import score_systems, scorer_versions
    from summarizer.evaluation.record import Evaluation
    from summarizer.evaluation.words import tokenizer_for
    from summarizer.tracking.environment import git_state, versions

    flags, settings = request.flags, request.runs[0].spec.evaluation
    cut_articles = max((system.cut_articles or 0 for system in systems), default=0)
    log.info("scoring %s", ", ".join(system.name for system in systems))
    tokenizer = tokenizer_for(flags.rouge_tokenizer or settings.rouge_tokenizer, rows.references, rows.split)
    scores, references, differences, of_faithfulness = score_systems(
        systems,
        rows,
        samples=settings.bootstrap_samples,
        seed=settings.bootstrap_seed,
        tokenizer=tokenizer,
        by_encoder=encoder,
        by_article=by_article,
        mlperf_task=None if request.task is None else flags.protocol,
    )
    return Evaluation(
        protocol=flags.protocol,
        rows=rows.part(),
        rouge_tokenizer=tokenizer,
        systems=scores,
        references=references,
        differences=differences,
        faithfulness_differences=of_faithfulness,
        bertscore_by=None if encoder is None else f"layer {encoder.layer} of {encoder.folder}",
        entailment_by=None if flags.nli is None else str(flags.nli),
        bootstrap_samples=settings.bootstrap_samples,
        notes=[*rows.notes, *request.cut_notes(cut_articles, len(rows.ids))],
        versions=versions() | scorer_versions(),
        git=git_state(),
    )


def _save(request: EvaluationRequest, evaluation: Evaluation) -> None:
    """scores.json and scores.md; several runs beside each other are a comparison, and leave each one's scores."""
    from summarizer.atomic import write_text
    from summarizer.console.progress import SafeConsole
    from summarizer.evaluation.record import write_evaluation
    from summarizer.reports.evaluation_report import markdown, print_evaluation

    name = "scores" if len(request.runs) == 1 else "comparison"
    folder, inside = request.scores_folder, request.scores_inside
    write_evaluation(inside / f"{name}.json", evaluation)
    write_text(inside / f"{name}.md", markdown(evaluation))
    print_evaluation(evaluation, SafeConsole(sys.stdout))
    log.info("saved: %s and %s", shown(folder / f"{name}.json"), f"{name}.md")


@contextmanager
def _resumption_said(
    models: Sequence[ScoredModel], files: dict[str, SummaryFile], count: int
) -> Iterator[None]:
    """For the block: whoever stops it is told what is kept, and how to resume."""
    try:
        yield
    except KeyboardInterrupt:
        held = sum(file.held for file in files.values())
        folders = dict.fromkeys(shown(model.file.parent) for model in models)
        say_kept(held, count * len(files), ", ".join(folders))
        raise


if __name__ == "__main__":
    main()
