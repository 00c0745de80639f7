"""Runs from their jobs to their results: the way of the data, top to bottom, for a group that trains together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from omegaconf import OmegaConf

from summarizer.adapters.attach import AdaptedModel, attach, frozen_parameters
from summarizer.config.paths import shown
from summarizer.config.schema import RunConfig
from summarizer.console.trial_display import trial_display, trial_labels
from summarizer.data.prompt import Prompt, build_prompt
from summarizer.data.sources import SplitName
from summarizer.data.splits import Split, build_split
from summarizer.data.stream import StreamedSplit
from summarizer.errors import StopRequested
from summarizer.evaluation.evaluator import Evaluator
from summarizer.evaluation.metrics import Scores
from summarizer.models.load import load_base, load_config
from summarizer.models.source import model_folder
from summarizer.models.tokenizer import check_context, load_tokenizer
from summarizer.processes import Processes, join_processes
from summarizer.reports.run_report import Finished, show_report
from summarizer.runs.ended import Ended, best_value
from summarizer.runs.folder import claimed
from summarizer.runs.group_runs import GroupRuns
from summarizer.runs.heldout import HeldOut, held_out
from summarizer.runs.outcome import Outcome
from summarizer.runs.places import plan_places, widest
from summarizer.runs.preflight import preflight
from summarizer.runs.record import RunRecord, is_finished
from summarizer.runs.sizing import compiles, size_run
from summarizer.runs.turns import Turns, halving_of
from summarizer.tracking.startup import startup
from summarizer.tracking.tracker import EndStatus
from summarizer.training.checkpoint import list_checkpoints, step_of
from summarizer.training.course import Course, EndedBy, course_of
from summarizer.training.group import build_group
from summarizer.training.loop import fit
from summarizer.training.stopping import StopSignal, listening

log = logging.getLogger(__name__)


def run_group(jobs: Sequence[RunRecord]) -> list[Ended]:
    """Train, evaluate and save the runs of some jobs over one base, each in its folder.

    jobs: alike in all that a group shares. Of resumed ones those that are finished stay as they are.
    Returns how each ended, in their order. Raises StopRequested when they were saved and stopped by a signal, and
    whatever else is no Exception; in any case each begun run's summary.json and wandb say so.
    """
    specs = [preflight(OmegaConf.create(job.config), imported=True) for job in jobs]
    trainer = specs[0].trainer
    processes = join_processes(device=trainer.device, precision=trainer.precision, wanted=trainer.processes)
    startup().lap("device")
    with listening() as stop, ExitStack() as folders:
        if processes.is_main:
            for job in jobs:
                folders.enter_context(claimed(job.path))
        outcomes = [
            Outcome(job, spec, writes=processes.is_main, device=processes.device)
            for job, spec in zip(jobs, specs, strict=True)
        ]
        pending = [one for one in outcomes if not (one.job.resumed and is_finished(one.job.path))]
        for outcome in outcomes:
            if outcome not in pending:
                outcome.status, outcome.best_value = "completed", best_value(outcome.job)
        alone = pending[0] if len(pending) == 1 else None
        try:
            if alone is not None:
                alone.open_records()
            if pending:
                _train(outcomes, pending, processes, stop)
        except StopRequested as error:
            _close_rest(pending, "stopped", "signal", error)
            if (
                alone is not None
                and processes.is_main
                and (saved := list_checkpoints(alone.job.path / "checkpoints"))
            ):
                log.info("saved as %s; go on with resume=%s", saved[-1].name, shown(alone.job.path))
            raise
        except Exception as error:
            _close_rest(pending, "failed", "error", error)
        except BaseException as error:
            _close_rest(pending, "failed", "error", error)
            raise
    return [outcome.ended for outcome in outcomes]


def _train(
    outcomes: Sequence[Outcome], pending: Sequence[Outcome], processes: Processes, stop: StopSignal
) -> None:
    specs = [outcome.spec for outcome in pending]
    spec = widest(specs)  # in all else that is read of it here, the group's specs are alike

    # ---- tokenizer, data -------------------------------------------------------------------------------------
    with processes.main_first():
        folder = model_folder(spec.model, weights=False)
    config = load_config(folder)
    check_context(config, spec.prompt)
    tokenizer = load_tokenizer(folder)
    prompt = build_prompt(spec.prompt, tokenizer)
    with processes.main_first():
        training, validation, final = _read_splits(spec, prompt)
    for outcome in pending:
        outcome.learn(data_fingerprint=training.fingerprint)
    startup().lap("tokens")

    # ---- base ------------------------------------------------------------------------------------------------
    sizing = size_run(spec, config, processes.dtype, processes.device)
    sizing = plan_places(specs, sizing, config, processes.dtype, processes.device)
    with processes.main_first():
        base = load_base(spec.model, spec.quantization, processes.device)
    startup().lap("base")
    sizing.prepare(base.model, compiled=compiles(spec, processes.device))

    # ---- adapters, fit, evaluate, save -----------------------------------------------------------------------
    adapted = attach(base.model, [], [])
    group = build_group(adapted, prompt, processes, sizing.microbatches, sizing.places)
    evaluator = Evaluator(
        adapted, prompt, spec.generation, sizing.evaluation_rows, processes, _answering(stop, processes)
    )
    steps_per_epoch = training.steps_per_epoch(spec.trainer.batch_size)
    course = {one: course_of(one.spec.trainer, steps_per_epoch) for one in outcomes}
    courses = [course[one] for one in pending]
    labels = trial_labels(
        [outcome.job.overrides for outcome in pending], [outcome.job.path.name for outcome in pending]
    )
    display = trial_display(
        labels,
        [course.total_steps for course in courses],
        metric=spec.trainer.best_metric,
        done=[_steps_done(outcome) for outcome in pending],
        show=processes.is_main,
    )
    with display as shown_trials:
        runs = GroupRuns(
            pending,
            labels if len(pending) > 1 else [""],
            courses,
            Turns(pending, halving_of(outcomes, list(course.values()))),
            group,
            evaluator,
            training,
            validation,
            final,
            tokenizer,
            shown_trials,
        )
        try:
            fit(group, runs, stop)
        except BaseException:
            runs.note_progress(group.trials)
            raise
        runs.close_rest(stopped=stop.number is not None)
    if processes.is_main:
        for outcome, scores in runs.scores.items():
            if outcome.job.sweep is None:  # a sweep ends with a report of its own
                show_report(_finished(outcome, scores, final, training, course[outcome], adapted))
    if stop.number is not None and any(one.status in (None, "stopped") for one in pending):
        raise StopRequested(stop.number)


def _finished(
    outcome: Outcome,
    scores: Mapping[str, Scores],
    final: HeldOut,
    training: Split | StreamedSplit,
    course: Course,
    adapted: AdaptedModel,
) -> Finished:
    return Finished(
        outcome.spec,
        outcome.job,
        scores,
        final,
        base_parameters=frozen_parameters(adapted.model.module),
        training_rows=len(training) if isinstance(training, Split) else None,
        evaluations=course.evaluations_by(outcome.job.steps or 0),
    )


def _read_splits(spec: RunConfig, prompt: Prompt) -> tuple[Split | StreamedSplit, HeldOut, HeldOut]:
    """Rows to train on, to evaluate on during training, and to score at the end."""
    training: Split | StreamedSplit
    if spec.data.streaming:
        training = StreamedSplit(spec.data, prompt)
    else:
        training = build_split(spec.data, "train", prompt)
        log.info(training.report.describe())
    splits: dict[SplitName, Split] = {}
    for name in dict.fromkeys(("validation", spec.evaluation.split)):
        splits[name] = build_split(spec.data, name, prompt)
        log.info(splits[name].report.describe())
    final = held_out(splits[spec.evaluation.split], spec.evaluation.rows)
    return training, held_out(splits["validation"]), final


def _answering(stop: StopSignal, processes: Processes) -> Callable[[], None]:
    def answer() -> None:
        # Several processes may hear of a signal at different batches; they agree on it after the evaluation.
        if stop.number is not None and processes.count == 1:
            raise StopRequested(stop.number)

    return answer


def _steps_done(outcome: Outcome) -> int:
    """By the newest checkpoint that the run goes on from."""
    saved = list_checkpoints(outcome.job.path / "checkpoints") if outcome.job.resumed else []
    return step_of(saved[-1]) if saved else 0


def _close_rest(outcomes: Sequence[Outcome], status: EndStatus, by: EndedBy, error: BaseException) -> None:
    """Runs that were cut short as the group was. Those that only waited, of a stopped one, wait on."""
    for outcome in outcomes:
        if outcome.status is None and (outcome.records_open or by == "error"):
            outcome.close(status, by, error)
