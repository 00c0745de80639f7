"""The runs of a group as the training loop deals with them: their slots, evaluations, results and ends."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from summarizer.adapters.attach import describe
from summarizer.adapters.peft_format import load_adapter, save_adapter
from summarizer.console.trial_display import TrialDisplay
from summarizer.console.trial_lines import State
from summarizer.errors import ConfigError, StopRequested
from summarizer.evaluation.evaluator import Evaluator
from summarizer.evaluation.metrics import RowLosses, Scores
from summarizer.evaluation.pipeline import ADAPTER, BASE, faithfulness_rows
from summarizer.evaluation.predictions import (
    Prediction,
    faithfulness_path,
    write_faithfulness,
    write_predictions,
)
from summarizer.runs.group_records import GroupRecords
from summarizer.runs.heldout import (
    HeldOut,
    Judges,
    Validation,
    final_scores,
    score_untrained,
    validate,
    validation_rows,
)
from summarizer.runs.live import LiveRequests
from summarizer.runs.requests import Request
from summarizer.tracking.metrics import EndStatus
from summarizer.tracking.startup import Stopwatch
from summarizer.tracking.utilization import shape_of
from summarizer.training.checkpoint import load_latest
from summarizer.training.checkpoint_folders import newest_step
from summarizer.training.optimizer import build_optimizer
from summarizer.training.schedule import EndedBy
from summarizer.training.scheduler import TrialScheduler
from summarizer.training.step import Group
from summarizer.training.trainer import Exit
from summarizer.training.trial import Trial

if TYPE_CHECKING:
    from summarizer.data.splits import Split
    from summarizer.data.stream import StreamedSplit

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """What a group trains on and is measured by, with the tokenizer that it was read with."""

    training: Split | StreamedSplit
    validation: HeldOut
    """Rows of the evaluations during training."""
    final: HeldOut
    """Rows of the scores at the end."""
    tokenizer: Any
    judges: Judges
    """What judges the summaries at the end."""


class RunCallbacks:
    """The training loop's `Callbacks`: slots, evaluations, results, and each run's end in its record."""

    def __init__(
        self,
        records: GroupRecords,
        scheduler: TrialScheduler,
        group: Group,
        evaluator: Evaluator,
        data: Data,
        display: TrialDisplay,
        startup: Stopwatch,
        live: LiveRequests | None = None,
    ) -> None:
        self.records, self.scheduler, self.group, self.data = records, scheduler, group, data
        self.evaluator, self.display, self.startup = evaluator, display, startup
        self.live = live
        self._owed: list[Trial] = []
        """New trials whose record of step 0, the base model's evaluation, is not written yet."""
        self._stepped = False
        """The first step is done, and with it what was put off until then."""
        self._cloning: list[tuple[Request, Trial]] = []
        self._latest_losses: dict[Trial, RowLosses] = {}
        """Of the evaluation that is not told to be a trial's best yet."""
        self._best_losses: dict[Trial, RowLosses] = {}
        """Of the parameters that are a trial's best, on the final rows, where validation has measured them."""
        self._trials = records.pending
        self._shared = self._trials[0].spec
        """What all configs of the group say of data, evaluation and generation."""

    # ---- slots ---------------------------------------------------------------------------------------------------

    def admit(self, free: int | None) -> list[Trial]:
        self._clone()
        taken = self.scheduler.take(free, training=len(self.group.trials))
        if not taken:
            return []
        adapted, first_slot = self.group.adapted, self.group.adapted.stack.size
        adapted.add([trial.spec.adapter for trial in taken], [trial.spec.seed for trial in taken])
        entered: dict[int, Trial] = {}
        for slot, trial in enumerate(taken, first_slot):
            try:
                self.place_in_slot(trial, slot)
                entered[slot] = trial
            except Exception as error:
                self._close(trial, "failed", "error", error)
                trial.leave_slot()
        if len(entered) < len(taken):
            adapted.keep([*range(first_slot), *entered])
        if not entered:
            return self.admit(free)
        trials = list(entered.values())
        self._say_what_is_adapted(trials, first_slot)
        new = [trial for trial in trials if trial.state.step == 0 and not trial.begun]
        self._owed += new
        if self._stepped and self._shared.evaluation.base:
            self._record_base()
        for trial in trials:
            trial.begun = True
            self.display.state(trial.number, "training")
        return trials

    def place_in_slot(self, trial: Trial, slot: int) -> None:
        """Give a trial the adapter of a slot: a new one, or as its newest checkpoint has it."""
        spec, adapted = trial.spec, self.group.adapted
        self.records.open(trial)
        if spec.adapter.start_from:
            load_adapter(adapted, slot, Path(spec.adapter.start_from))
        parameters = adapted.parameters_of(slot)
        optimizer = build_optimizer(spec, parameters, self.group.scratch)
        trial.take_slot(parameters, optimizer, shape_of(adapted, slot))
        if trial.resumed or trial.begun:
            load_latest(trial)
        if trial.resumed and not trial.begun:
            trial.recorder.keep(trial.has_recorded)
        if (value := trial.state.last_value) is not None:
            self.display.evaluated(trial.number, value, trial.state.best_value, trial.state.best_step)

    def _say_what_is_adapted(self, trials: Sequence[Trial], first_slot: int) -> None:
        """In one line where it is the same for all trials."""
        adapted = self.group.adapted
        alike = all(trial.spec.adapter == self._shared.adapter for trial in self._trials)
        if not any(trial.begun for trial in self._trials):
            self.startup.lap("attach")
            if alike:
                log.info(describe(adapted, first_slot))
        for slot, trial in enumerate(trials, first_slot):
            if not (alike or trial.begun):
                trial.say(logging.INFO, describe(adapted, slot))

    # ---- what is asked for while it trains -----------------------------------------------------------------------

    def requested(self) -> list[Trial]:
        if self.live is None:
            return []
        for trial in self._trials:
            if trial.stop_at == 0 and trial.status is None and trial not in self.group.trials:
                self._stop_waiting(trial)  # an earlier process was killed before it could
        for request, trial in self.live.new():
            if trial.status is not None:
                self.live.refuse(request, trial, "it has ended")
            elif request.kind == "clone":
                self._cloning.append((request, trial))
            else:
                in_slot = trial in self.group.trials
                begun = trial.begun or trial.resumed
                step = trial.state.step if in_slot else newest_step(trial.checkpoints) if begun else 0
                self.live.done(request, step)
                trial.stop_at = step
                trial.say(logging.INFO, "stopped at step %d, as was asked for", step)
                if not in_slot and (trial.begun or step == 0):
                    self._stop_waiting(trial)
        return [source for _, source in self._cloning if source in self.group.trials]

    def _stop_waiting(self, trial: Trial) -> None:
        self.scheduler.remove(trial)
        self._close(trial, "stopped", "request")

    def _clone(self) -> None:
        """Let clones begin whose sources have been saved."""
        cloning, self._cloning = self._cloning, []
        for request, source in cloning:
            assert self.live is not None
            if source.status is not None:
                self.live.refuse(request, source, "it has ended")
                continue
            try:
                trial = self.live.clone(request, source)
            except (ConfigError, OSError, ValueError) as error:
                self.live.refuse(request, source, str(error))
                continue
            done = newest_step(trial.checkpoints)
            trial.number, trial.label = len(self._trials), f"clone {request.folder}"
            self._trials.append(trial)
            label = f"{request.folder}: {request.run} {' '.join(request.overrides)}"
            self.display.add(label, trial.schedule.total_steps, done)
            self.scheduler.add(trial)
            trial.say(
                logging.INFO,
                "begins as %s was at step %d, with %s",
                *(request.run, done, " ".join(request.overrides)),
            )

    # ---- training ------------------------------------------------------------------------------------------------

    def stepped(self, losses: Mapping[Trial, float], tokens_per_s: float) -> None:
        for trial, loss in losses.items():
            self.display.step(trial.number, trial.state.step, loss)
        self.display.group(tokens_per_s, self._evaluations_ahead_s())

    def _evaluations_ahead_s(self) -> float:
        """Seconds that evaluations of those that train or wait will take: during training, and at their ends."""
        during = ends = 0
        in_slot = set(self.group.trials)
        for trial, line in zip(self._trials, self.display.lines, strict=True):
            if line.goes_on:
                ends += 1
                evaluated = trial.state.evaluated_step if trial in in_slot else line.step
                schedule = trial.schedule
                during += schedule.evaluations_by(schedule.total_steps) - schedule.evaluations_by(evaluated)
        pace, final_rows = self.evaluator.pace, len(self.data.final.rows)
        loss_rows, summary_rows = validation_rows(self._shared, self.data.validation)
        seconds = during * pace.expected_s(loss_rows=loss_rows, summary_rows=summary_rows)
        measured_anew = 0 if self._final_is_validated else final_rows
        seconds += ends * pace.expected_s(loss_rows=measured_anew, summary_rows=final_rows)
        if ends and self._shared.evaluation.base and "_untrained_scores" not in vars(self):
            seconds += pace.expected_s(loss_rows=final_rows, summary_rows=final_rows, base=True)
        return seconds

    @cached_property
    def _base_validation(self) -> Validation:
        """The base model's evaluation, which is every new trial's at step 0."""
        (found,) = validate(self.evaluator, self._shared, self.data.validation, None)
        log.info(
            "validation during training: loss of %d, ROUGE of %d of the %d %s rows",
            *validation_rows(self._shared, self.data.validation),
            len(self.data.validation.rows),
            self.data.validation.split,
        )
        log.info("step 0, the base model: %s", self.in_words(found.metrics))
        return found

    def first_step_taken(self) -> None:
        self._stepped = True
        self.records.begin_tracking()
        if self._owed and self._shared.evaluation.base:
            self._record_base()

    def _record_base(self) -> None:
        owed, self._owed = self._owed, []
        base = self._base_validation
        for trial in owed:
            if trial.status is not None:
                continue  # it had no memory for a step
            trial.record(base.metrics, 0)
            trial.recorder.log_samples(0, base.samples)

    def evaluate(self, trials: Sequence[Trial]) -> list[dict[str, float]]:
        self.records.begin_tracking()  # a resumed run may be at its end, with no step to take
        with self.display.evaluating([trial.number for trial in trials]):
            found = validate(self.evaluator, self._shared, self.data.validation, self._slots(trials))
        for trial, evaluation in zip(trials, found, strict=True):
            trial.recorder.log_samples(trial.state.step, evaluation.samples)
            self._latest_losses[trial] = evaluation.losses
        return [evaluation.metrics for evaluation in found]

    def in_words(self, metrics: Mapping[str, float]) -> str:
        """ROUGE says of how few rows it is, lest its ups and downs be read as a trend."""
        rows = validation_rows(self._shared, self.data.validation)[1]
        few = f" ({rows} row{'' if rows == 1 else 's'})" if rows < len(self.data.validation.rows) else ""
        return _shown({f"{name}{few}" if "rouge" in name else name: of for name, of in metrics.items()})

    def evaluated(self, trials: Sequence[Trial], continuing: Sequence[Trial]) -> list[Trial]:
        values: dict[Trial, float] = {}
        for trial in trials:
            state = trial.state
            assert state.last_value is not None
            self.display.evaluated(trial.number, state.last_value, state.best_value, state.best_step)
            values[trial] = state.last_value
            if state.best_step == state.step and self._final_is_validated:
                self._best_losses[trial] = self._latest_losses[trial]
        self._latest_losses.clear()
        self.scheduler.evaluated(values)
        return [trial for trial in continuing if self.scheduler.must_wait(trial)]

    # ---- leaving -------------------------------------------------------------------------------------------------

    def on_leave(self, trials: Mapping[Trial, Exit]) -> None:
        at_end: dict[Trial, EndedBy] = {}
        for trial, exit in trials.items():
            trial.count_time()
            if exit.by == "pause":
                # It may never train again; its checkpoint is what it resumes from if it does.
                trial.restore_best()
                self._save_adapter(trial)
                self.scheduler.put_back(trial)
                self.display.state(trial.number, "paused" if self.scheduler.must_wait(trial) else "waiting")
            elif exit.by == "signal":
                self._close(trial, "stopped", "signal")
            elif exit.by == "request":
                trial.restore_best()
                self._save_adapter(trial)
                self._close(trial, "stopped", "request")
            elif exit.by == "error":
                self._close(trial, "failed", "error", exit.error)
            else:
                at_end[trial] = exit.by
        if at_end:
            try:
                self._finish(at_end)
            except StopRequested as error:
                for trial in at_end:
                    if trial.status is None:
                        self._close(trial, "stopped", "signal", error)
        for trial in trials:
            trial.leave_slot()

    def end_unfinished(self, *, stopped: bool) -> None:
        """End the runs that get no slot any more, as a stop or their rung in a halving has it."""
        for trial in self._trials:
            if trial.status is None and not trial.begun and not stopped:
                self._save_paused_run(trial)
            if trial.status is None and trial.begun:
                on_request = trial.stop_at is not None and not stopped
                by: EndedBy = "request" if on_request else "signal" if stopped else "successive_halving"
                self._close(trial, "stopped", by)

    def _save_paused_run(self, trial: Trial) -> None:
        """Save the adapter of a run that an earlier process left at its rung, where it stays: it came so far."""
        self.group.adapted.add([trial.spec.adapter], [trial.spec.seed])
        self.place_in_slot(trial, 0)
        self.group.enter([trial])
        trial.begun = True
        self.on_leave({trial: Exit("pause")})
        self.group.leave([trial])

    def _close(
        self, trial: Trial, status: EndStatus, by: EndedBy, error: BaseException | None = None
    ) -> None:
        states: dict[EndStatus, State] = {"completed": "done", "stopped": "stopped", "failed": "failed"}
        self.display.state(trial.number, states[status])
        if status != "stopped" or by == "request":
            self.scheduler.ended(trial, status)
        self.records.close(trial, status, by, error, say=len(self._trials) > 1)

    def _finish(self, trials: Mapping[Trial, EndedBy]) -> None:
        """Score, save and close runs that trained to their end."""
        for trial in trials:
            trial.restore_best()
            if trial.state.skipped_steps:
                trial.say(
                    logging.WARNING,
                    "%d of %d steps were skipped, since their gradients overflowed fp16",
                    *(trial.state.skipped_steps, trial.state.step),
                )
        with self.display.evaluating([trial.number for trial in trials]):
            beside = self._untrained_scores
            slots, data = self._slots(list(trials)), self.data
            known = [self._best_losses.pop(trial, None) for trial in trials]
            scores = final_scores(self.evaluator, data.judges, self._shared, data.final, slots, known, beside)
        for (trial, by), own in zip(trials.items(), scores, strict=True):
            try:
                self._save_results(trial, own)
            except OSError as error:
                self._close(trial, "failed", "error", error)
                continue
            self.display.state(trial.number, "done")
            self.scheduler.ended(trial, "completed")
            self.records.complete(trial, by, own, self.data.final)
            if self.records[trial].sweep is not None or len(self._trials) > 1:
                rouge = {name: i.value for name, i in own[ADAPTER].rouge.items()}
                found = _shown({"loss": own[ADAPTER].loss or 0.0} | rouge)
                trial.say(logging.INFO, "done, scores on %s: %s", self.data.final.split, found)

    @cached_property
    def _final_is_validated(self) -> bool:
        """Whether the final rows are those whose loss validation measures: then it is measured once."""
        validated = self.data.validation.first(self._shared.evaluation.loss_rows)
        return self.data.final.split == validated.split and [row.id for row in self.data.final.rows] == [
            row.id for row in validated.rows
        ]

    @cached_property
    def _untrained_scores(self) -> dict[str, Scores]:
        return score_untrained(self.evaluator, self.data.judges, self._shared, self.data.final)

    def _save_results(self, trial: Trial, scores: Mapping[str, Scores]) -> None:
        if not self.records.writes:
            return
        self._save_adapter(trial)
        _save_predictions(trial.folder, self.data.final, scores)
        base_summaries = scores[BASE].summaries if BASE in scores else None
        count = self._shared.evaluation.sample_summaries
        samples = self.data.final.samples(count, scores[ADAPTER].summaries, base_summaries)
        trial.recorder.log_samples(trial.state.step, samples)
        trial.recorder.log_adapter(trial.folder / "adapter")

    def _save_adapter(self, trial: Trial) -> None:
        if self.records.writes:
            (slot,) = self._slots([trial])
            name = trial.spec.model.name_or_path
            save_adapter(self.group.adapted, slot, trial.folder / "adapter", name, self.data.tokenizer)

    def _slots(self, trials: Sequence[Trial]) -> list[int]:
        return [self.group.trials.index(trial) for trial in trials]


def _save_predictions(folder: Path, rows: HeldOut, scores: Mapping[str, Scores]) -> None:
    """`predictions/SPLIT.jsonl`, and `SPLIT.base.jsonl` where the base was scored; `faithfulness/` likewise."""
    for suffix, system in (("", scores[ADAPTER]), (".base", scores.get(BASE))):
        if system is not None:
            predictions = [
                Prediction(id=row.id, prediction=summary, reference=reference)
                for row, summary, reference in zip(rows.rows, system.summaries, rows.references, strict=True)
            ]
            path = folder / "predictions" / f"{rows.split}{suffix}.jsonl"
            write_predictions(path, predictions)
            write_faithfulness(
                faithfulness_path(path), faithfulness_rows([row.id for row in rows.rows], system)
            )


def _shown(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
