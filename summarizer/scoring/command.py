"""What `python -m summarizer.evaluate` does once its arguments are read."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from summarizer.atomic import write_text
from summarizer.config.paths import shown
from summarizer.data.articles import Item
from summarizer.errors import ConfigError, Issue
from summarizer.evaluation import mlperf
from summarizer.evaluation.flags import EvaluateFlags
from summarizer.evaluation.pipeline import BASE
from summarizer.evaluation.record import Evaluation, RowsPart, write_evaluation
from summarizer.evaluation.rows import ScoredRows
from summarizer.runs.logs import log_to_terminal
from summarizer.runs.mistakes import ended_by_sigterm, say
from summarizer.scoring.asked import EvaluationRequest, requested
from summarizer.scoring.predicting import Writer, fill, opened_files, predictions
from summarizer.scoring.rows_for import rows_for
from summarizer.summaries.output import SummaryFile
from summarizer.summaries.settings import made_with
from summarizer.tracking.environment import git_state, versions

if TYPE_CHECKING:
    from summarizer.evaluation.pipeline import EncoderScores, System
    from summarizer.runs.summarizer import Prepared, Summarizer

log = logging.getLogger(__name__)


def evaluate(flags: EvaluateFlags) -> None:
    """Write what summaries are missing, score all systems, print and save the scores.

    Raises ConfigError before the model is loaded for what is wrong with the runs, the rows or the flags.
    """
    log_to_terminal()
    logging.getLogger("absl").setLevel(logging.WARNING)  # rouge-score tells of its tokenizer, once a system
    with ended_by_sigterm():
        ask = requested(flags)
        score_by_encoder = _encoder(ask)
        rows = rows_for(ask)
        log.info("%s: %d rows of %s", ", ".join(run.name for run in ask.runs), len(rows.ids), rows.data)
        writers = _writers(ask)
        items = [
            Item(row_id, f"{rows.split} row {number}", article, reference)
            for number, (row_id, article, reference) in enumerate(
                zip(rows.ids, rows.articles, rows.references, strict=True), start=1
            )
        ]
        with opened_files(writers, items) as files, _said_how_to_go_on(ask, writers, files, len(items)):
            systems = _systems(ask, rows, writers, files)
            evaluation = _evaluation(ask, rows, systems, score_by_encoder)
            _save(ask, evaluation)


def _writers(ask: EvaluationRequest) -> list[Writer]:
    """The runs, then the base model if it is asked for."""
    extra = {"--protocol": ask.protocol} if ask.protocol == "mlperf" else {}

    def writer(name: str, number: int, *, base: bool) -> Writer:
        settings = made_with(ask.runs[number], ask.generation, base=base, precision=ask.flags.precision)
        file = ask.places[number] / ("predictions.base.jsonl" if base else "predictions.jsonl")
        return Writer(name, None if base else number, file, settings | extra)

    runs = [writer(name, number, base=False) for number, name in enumerate(ask.names)]
    return [*runs, writer(BASE, 0, base=True)] if ask.flags.base else runs


def _systems(
    ask: EvaluationRequest, rows: ScoredRows, writers: Sequence[Writer], files: dict[str, SummaryFile]
) -> list[System]:
    from summarizer.evaluation.pipeline import System, baselines
    from summarizer.scoring.losses import losses

    @cache
    def opened() -> Summarizer:
        return _opened(ask)

    fill(
        writers,
        files,
        opened,
        _prepared_for_mlperf if ask.protocol == "mlperf" else None,
    )
    loss: dict[str, float | None] = {}
    if ask.flags.loss and rows.encoded is not None:
        loss = losses(writers, rows.encoded, rows.texts_sha256, opened)
    systems = [
        System(
            name=writer.name,
            summaries=predictions(files[writer.name]),
            folder=None if writer.trial is None else str(ask.runs[writer.trial].folder),
            predictions=str(writer.file),
            settings=writer.settings,
            cut_articles=files[writer.name].cut,
            loss=loss.get(writer.name),
        )
        for writer in writers
    ]
    return systems + baselines(rows, ask.runs[0].spec.evaluation.bootstrap_seed)


def _opened(ask: EvaluationRequest) -> Summarizer:
    from summarizer.runs.loaded_run import load_runs
    from summarizer.runs.summarizer import Summarizer

    opened = load_runs(ask.runs, device=ask.flags.device, precision=ask.flags.precision)
    return Summarizer(opened, ask.generation, articles_at_once=ask.articles_at_once)


def _prepared_for_mlperf(summarizer: Summarizer, article: str) -> Prepared:
    from summarizer.runs.summarizer import Prepared

    tokenizer = summarizer.opened.prompt.text
    whole: list[int] = tokenizer.encode(mlperf.prompt(article), add_special_tokens=False).ids
    ids = mlperf.prompt_ids(whole)
    return Prepared(tuple(ids), len(whole), len(whole) - len(ids))


def _encoder(ask: EvaluationRequest) -> EncoderScores | None:
    """BERTScore, its encoder tried once before a night is spent on summaries."""
    if ask.bertscore is None:
        return None
    import torch

    from summarizer.evaluation.bertscore import bert_score

    folder, layer = ask.bertscore
    on_gpu = ask.flags.device != "cpu" and torch.cuda.is_available()
    by_encoder = partial(
        bert_score, folder=folder, layer=layer, device=torch.device("cuda" if on_gpu else "cpu")
    )
    try:
        by_encoder([], [], show=False)
    except ConfigError as error:
        raise ConfigError(Issue(f"--{issue.key}", issue.message) for issue in error.issues) from error
    return by_encoder


def _evaluation(
    ask: EvaluationRequest, rows: ScoredRows, systems: Sequence[System], by_encoder: EncoderScores | None
) -> Evaluation:
    from summarizer.evaluation.pipeline import score_systems, scorer_versions

    settings = ask.runs[0].spec.evaluation
    log.info("scoring %s", ", ".join(system.name for system in systems))
    scores, references, differences = score_systems(
        systems,
        rows,
        samples=settings.bootstrap_samples,
        seed=settings.bootstrap_seed,
        by_encoder=by_encoder,
        by_mlperf=ask.protocol == "mlperf",
    )
    return Evaluation(
        protocol=ask.protocol,
        rows=RowsPart(
            data=rows.data,
            split=rows.split,
            count=len(rows.ids),
            ids_sha256=rows.ids_sha256,
            texts_sha256=rows.texts_sha256,
        ),
        systems=scores,
        references=references,
        differences=differences,
        bertscore_by=None if ask.bertscore is None else f"layer {ask.bertscore[1]} of {ask.bertscore[0]}",
        bootstrap_samples=settings.bootstrap_samples,
        notes=[*rows.notes, *_cut_notes(ask, systems, len(rows.ids))],
        versions=versions() | scorer_versions(),
        git=git_state(),
    )


def _cut_notes(ask: EvaluationRequest, systems: Sequence[System], count: int) -> list[str]:
    cut = max((system.cut_articles or 0 for system in systems), default=0)
    if not cut:
        return []
    limit = (
        f"the protocol's {mlperf.MAX_PROMPT_TOKENS:,} tokens"
        if ask.protocol == "mlperf"
        else f"prompt.max_tokens={ask.runs[0].spec.prompt.max_tokens}, as in training; Lead-3 and Random-3 read "
        "them whole"
    )
    return [f"{cut:,} of {count:,} articles were cut at their end to fit {limit}"]


def _save(ask: EvaluationRequest, evaluation: Evaluation) -> None:
    """scores.json and scores.md; several runs beside each other are a comparison, and leave each one's scores."""
    from summarizer.reports.evaluation_report import markdown, print_evaluation

    name = "scores" if len(ask.runs) == 1 else "comparison"
    write_evaluation(ask.place / f"{name}.json", evaluation)
    write_text(ask.place / f"{name}.md", markdown(evaluation))
    print_evaluation(evaluation, Console(file=sys.stdout, highlight=False))
    log.info("saved: %s and %s", shown(ask.place / f"{name}.json"), f"{name}.md")


@contextmanager
def _said_how_to_go_on(
    ask: EvaluationRequest, writers: Sequence[Writer], files: dict[str, SummaryFile], count: int
) -> Iterator[None]:
    """For the block: whoever stops it hears what is kept."""
    try:
        yield
    except KeyboardInterrupt:
        held = sum(file.held for file in files.values())
        places = dict.fromkeys(shown(Path(writer.file).parent) for writer in writers)
        say(
            f"Stopped: {held} of {count * len(files)} summaries are in {', '.join(places)}; "
            "the same command goes on from there."
        )
        raise
