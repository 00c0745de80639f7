"""Runs from their configs to their results: the way of the data, top to bottom, for a group of runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from omegaconf import OmegaConf

from summarizer.adapters.attach import attach, frozen_parameters, roles, targets
from summarizer.adapters.peft_format import require_matching
from summarizer.config.paths import shown
from summarizer.config.schema import RunConfig
from summarizer.console.trial_display import trial_display, trial_labels
from summarizer.data.hold_out import SplitName, hold_out_of
from summarizer.data.prompt import Prompt, build_prompt
from summarizer.data.splits import Split, build_split
from summarizer.errors import ConfigError, StopRequested
from summarizer.evaluation.base_answers import FOLDER, BaseAnswers
from summarizer.evaluation.evaluator import Evaluator
from summarizer.models.load import base_digest, load_base, load_config
from summarizer.models.meta_model import build_meta_model
from summarizer.models.source import model_folder
from summarizer.models.tokenizer import check_context, check_tokens, load_tokenizer
from summarizer.processes import Processes, join_processes
from summarizer.runs.advice import advise, learned_tokens
from summarizer.runs.callbacks import Data, RunCallbacks
from summarizer.runs.folder import claimed
from summarizer.runs.group_records import GroupRecords
from summarizer.runs.heldout import build_judges, choosing, confirming_rows, held_out
from summarizer.runs.live import LiveRequests, live_requests
from summarizer.runs.preflight import preflight
from summarizer.runs.preview import log_example
from summarizer.runs.record import RunRecord
from summarizer.tracking.environment import git_state, versions
from summarizer.tracking.startup import Stopwatch
from summarizer.training.checkpoint import require_checkpoint
from summarizer.training.checkpoint_folders import list_checkpoints, newest_step
from summarizer.training.require_memory import require_adapter_fits, require_generation_fits
from summarizer.training.schedule import training_schedule
from summarizer.training.scheduler import TrialScheduler, halving_of
from summarizer.training.sizing import compiles, plan_slots, size_run, trained_numbers, widest
from summarizer.training.step import build_group
from summarizer.training.stopping import StopSignal, listening
from summarizer.training.trainer import fit

if TYPE_CHECKING:
    from summarizer.data.stream import StreamedSplit

log = logging.getLogger(__name__)


def run_group(waiting: Sequence[RunRecord], startup: Stopwatch | None = None) -> list[RunRecord]:
    """Train, evaluate and save runs over one base model, each in its folder.

    waiting: alike in all that a group shares. Of resumed ones those that are finished stay as they are.
    startup: what came before in this process, for the line that says where the start took its time.
    Returns what became of each, in their order. Raises StopRequested when they were saved and stopped by a signal,
    and whatever else is no Exception; in any case each begun run's summary.json and wandb say so.
    Raises ConfigError where a run alone, of no sweep, has a mistake that shows before it begins.
    """
    startup = startup or Stopwatch(time.perf_counter())
    specs = [preflight(OmegaConf.create(record.config), imported=True) for record in waiting]
    trainer = specs[0].trainer
    processes = join_processes(device=trainer.device, precision=trainer.precision, wanted=trainer.processes)
    startup.lap("device")
    with listening() as stop, ExitStack() as folders:
        if processes.is_main:
            for record in waiting:
                folders.enter_context(claimed(record.path))
        records = GroupRecords(waiting, specs, processes, startup)
        folders.callback(records.settle)
        pending = records.pending
        alone = pending[0] if len(pending) == 1 else None
        try:
            if pending:
                live = live_requests(records, folders) if processes.count == 1 else None
                _train(records, processes, stop, startup, live)
        except StopRequested as error:
            records.end_unfinished("stopped", "signal", error)
            if alone is not None and processes.is_main and (saved := list_checkpoints(alone.checkpoints)):
                log.info("saved as %s; resume with resume=%s", saved[-1].name, shown(alone.folder))
            raise
        except Exception as error:
            if isinstance(error, ConfigError) and records.nothing_opened and records.alone:
                raise  # a mistake, found before anything was written: whoever made the folder takes it back
            records.end_unfinished("failed", "error", error)
        except BaseException as error:
            records.end_unfinished("failed", "error", error)
            raise
    return records.all


def _train(
    records: GroupRecords,
    processes: Processes,
    stop: StopSignal,
    startup: Stopwatch,
    live: LiveRequests | None,
) -> None:
    trials = records.pending
    specs = [trial.spec for trial in trials]
    spec = widest(specs)  # in all else that is read of it here, the group's configs are alike

    # ---- tokenizer, data -------------------------------------------------------------------------------------
    with processes.main_first():
        folder = model_folder(spec.model, weights=False)
    config = load_config(folder)
    check_context(config, spec.prompt)
    require_adapter_fits(spec, config, processes.dtype, processes.device)
    require_generation_fits(spec.generation, spec.prompt.max_tokens, config, processes.device)
    meta = build_meta_model(config, spec.quantization.name)
    layer_roles = roles(meta.model)
    for each in specs:  # mistakes that show before rows and weights are read
        targets(each.adapter, layer_roles)
        if each.adapter.start_from:
            require_matching(Path(each.adapter.start_from), each.adapter, layer_roles)
    tokenizer = load_tokenizer(folder)
    prompt = build_prompt(spec.prompt, tokenizer)
    check_tokens(config, prompt)
    if prompt.chat is not None and prompt.chat.template is not None:
        # What is saved beside the adapter makes the run's prompt.
        tokenizer.chat_template = prompt.chat.template
    with processes.main_first():
        training, splits = _read_splits(spec, prompt)
    if processes.is_main:
        log_example(training if isinstance(training, Split) else splits["validation"], prompt, tokenizer)
    of_sweep = records[trials[0]].sweep is not None
    if of_sweep:
        confirming_rows(
            spec, prompt, of_sweep=True
        )  # now, so that a mistake in them is said before the training
    scored = spec.evaluation
    final = held_out(splits[scored.split], scored.rouge_tokenizer, scored.rows)
    judges = build_judges(scored, spec.trainer.device)
    validation = choosing(spec, held_out(splits["validation"], final.tokenizer), of_sweep=of_sweep)
    data = Data(training, validation, final, tokenizer, judges)
    records.data_fingerprint = training.fingerprint
    records.held_out_rows = 0 if hold_out_of(spec.data) is None else len(splits["validation"])
    steps_per_epoch = training.steps_per_epoch(spec.trainer.batch_size)
    for trial in records.trials:
        trial.rows, trial.schedule = training, training_schedule(trial.spec.trainer, steps_per_epoch)
    if len(trials) == 1:  # of several, each begins when it gets its slot
        if trials[0].resumed:
            require_checkpoint(trials[0])
        records.open(trials[0])
    startup.lap("tokens")

    # ---- base model ------------------------------------------------------------------------------------------
    sizing = size_run(spec, config, processes.dtype, processes.device)
    sizing = plan_slots(specs, sizing, config, processes.dtype, processes.device)
    if of_sweep and processes.is_main:
        steps = [trial.schedule.total_steps for trial in trials]
        tokens = None
        if isinstance(training, Split):
            tokens = learned_tokens(training.summary_tokens, max(steps), steps_per_epoch or 1)
        for line in advise(specs, steps, trained_numbers(specs, config, processes.dtype), tokens):
            log.info("advice: %s", line)
    with processes.main_first():
        base = load_base(spec.model, spec.quantization, processes.device, meta)
    startup.lap("base")
    sizing.prepare(base.model, compiled=compiles(spec, processes.device))

    # ---- adapters, training, evaluation, results -------------------------------------------------------------
    adapted = attach(base.model, [], [])
    group = build_group(adapted, prompt, processes, sizing.microbatches, sizing.slots)
    scheduler = TrialScheduler(trials, halving_of(records.trials))
    answer = _stop_between_batches(stop, processes)
    kept = None
    if (sweep := records[trials[0]].sweep_folder) is not None and processes.count == 1:
        made_from = _base_identity(spec, folder, meta.zeroed, prompt, sizing.evaluation_rows, processes)
        kept = BaseAnswers(sweep / FOLDER, made_from)
    evaluator = Evaluator(
        adapted,
        prompt,
        spec.generation,
        sizing.evaluation_rows,
        processes,
        answer,
        base_answers=kept,
    )
    labels = trial_labels(
        [records[trial].overrides for trial in trials], [trial.folder.name for trial in trials]
    )
    for number, (trial, label) in enumerate(zip(trials, labels, strict=True)):
        trial.number, trial.label = number, label if len(trials) > 1 else ""
    display = trial_display(
        labels,
        [trial.schedule.total_steps for trial in trials],
        metric=spec.trainer.best_metric,
        done=[newest_step(trial.checkpoints) if trial.resumed else 0 for trial in trials],
        show=processes.is_main,
    )
    with display as shown_trials:
        callbacks = RunCallbacks(records, scheduler, group, evaluator, data, shown_trials, startup, live)
        fit(group, callbacks, stop, startup)
        callbacks.end_unfinished(stopped=stop.number is not None)
    if processes.is_main:
        _report(records, data, frozen_parameters(adapted.model.module))
    if stop.number is not None and any(
        trial.status is None or records[trial].ended_by == "signal" for trial in trials
    ):
        raise StopRequested(stop.number)


def _read_splits(spec: RunConfig, prompt: Prompt) -> tuple[Split | StreamedSplit, dict[SplitName, Split]]:
    """The rows to train on, and the splits that are evaluated during training and scored at the end."""
    training: Split | StreamedSplit
    if spec.data.streaming:
        from summarizer.data.stream import StreamedSplit

        training = StreamedSplit(spec.data, prompt)
    else:
        training = build_split(spec.data, "train", prompt)
        log.info(training.report.describe())
    splits: dict[SplitName, Split] = {}
    for name in dict.fromkeys(("validation", spec.evaluation.split)):
        splits[name] = build_split(spec.data, name, prompt)
        log.info(splits[name].report.describe())
    for note in dict.fromkeys(note for rows in (training, *splits.values()) for note in rows.notes):
        log.info("%s", note)
    if (wanted := hold_out_of(spec.data)) is not None:
        log.info(
            "data.validation=%s: rows are held out of data.train, by a hash of the article; %d of them are used",
            *(wanted, len(splits["validation"])),
        )
    return training, splits


def _base_identity(
    spec: RunConfig, folder: Path, zeroed: Mapping[str, int], prompt: Prompt, rows: int, processes: Processes
) -> dict[str, object]:
    """All that the base model's answers depend on beside the rows, to the bit, as JSON has it.

    folder: the model's. zeroed: rows of its weights. rows: that are evaluated at once.
    """
    git = git_state()
    return {
        "base": base_digest(folder, spec.quantization.name, zeroed),
        "prompt": prompt.identity(),
        "generation": spec.generation.model_dump(mode="json"),
        "rows": rows,
        "device": [processes.device.type, processes.precision, torch.get_num_threads()],
        "versions": versions(),
        "git": git and git.model_dump(),
    }


def _report(records: GroupRecords, data: Data, base_parameters: int) -> None:
    """Show what each run that completed came to; a sweep ends with a report of its own."""
    from summarizer.reports.run_report import Finished, show_report

    for trial, scores in records.scores.items():
        if records[trial].sweep is None:
            show_report(
                Finished(
                    trial.spec,
                    records[trial],
                    scores,
                    data.final,
                    base_parameters,
                    training_rows=len(data.training) if isinstance(data.training, Split) else None,
                    evaluations=trial.schedule.evaluations_by(trial.state.step),
                )
            )


def _stop_between_batches(stop: StopSignal, processes: Processes) -> Callable[[], None]:
    def answer() -> None:
        # Several processes may hear of a signal at different batches; they agree on it after the evaluation.
        if stop.number is not None and processes.count == 1:
            raise StopRequested(stop.number)

    return answer
