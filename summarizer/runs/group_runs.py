"""The runs of a group as the training loop deals with them: who trains, who waits, what becomes of each."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from summarizer.adapters.attach import describe
from summarizer.adapters.peft_format import load_adapter, save_adapter
from summarizer.console.trial_display import TrialDisplay
from summarizer.console.trial_lines import State
from summarizer.data.order import TrainingRows
from summarizer.errors import StopRequested
from summarizer.evaluation.evaluator import Evaluator
from summarizer.evaluation.metrics import Scores
from summarizer.evaluation.pipeline import ADAPTER, BASE
from summarizer.evaluation.predictions import Prediction, write_predictions
from summarizer.runs.ended import say_failed
from summarizer.runs.heldout import (
    HeldOut,
    OnTheWay,
    evaluate_on_the_way,
    final_scores,
    rows_on_the_way,
    score_baselines,
)
from summarizer.runs.outcome import Outcome
from summarizer.runs.turns import Turns
from summarizer.tracking.startup import startup
from summarizer.tracking.tracker import EndStatus
from summarizer.tracking.utilization import shape_of
from summarizer.training.checkpoint import load_latest
from summarizer.training.course import Course, EndedBy
from summarizer.training.flat_optimizer import build_optimizer
from summarizer.training.group import Group
from summarizer.training.loop import Leaving
from summarizer.training.trial import Trial

log = logging.getLogger(__name__)


@dataclass(eq=False)
class GroupRuns:
    """The training loop's `Owner`."""

    outcomes: Sequence[Outcome]
    labels: Sequence[str]
    """What tells each run from the others; empty for a run alone."""
    courses: Sequence[Course]
    turns: Turns
    group: Group
    evaluator: Evaluator
    training: TrainingRows
    validation: HeldOut
    final: HeldOut
    tokenizer: Any
    display: TrialDisplay

    scores: dict[Outcome, dict[str, Scores]] = field(default_factory=dict)
    """By system, of the runs that completed."""

    def __post_init__(self) -> None:
        self._of: dict[Trial, Outcome] = {}
        self._shared = self.outcomes[0].spec
        """What all specs of the group say of data, evaluation and generation."""

    # ---- coming --------------------------------------------------------------------------------------------------

    def admit(self, free: int | None) -> list[Trial]:
        taken = self.turns.take(free, training=len(self.group.trials))
        if not taken:
            return []
        adapted, first_place = self.group.adapted, self.group.adapted.group.size
        adapted.add([one.spec.adapter for one in taken], [one.spec.seed for one in taken])
        admitted: dict[int, Trial] = {}
        for place, outcome in enumerate(taken, first_place):
            try:
                admitted[place] = self._trial(outcome, place)
            except Exception as error:
                self._close(outcome, "failed", "error", error)
        if len(admitted) < len(taken):
            adapted.keep([*range(first_place), *admitted])
        if not admitted:
            return self.admit(free)
        trials = list(admitted.values())
        first = not any(one.trained for one in self.outcomes)
        if first:
            startup().lap("attach")
        if first and self._adapters_alike:
            log.info(describe(adapted, first_place))
        for place, trial in enumerate(trials, first_place):
            if not (self._adapters_alike or self._of[trial].trained):
                trial.say(logging.INFO, describe(adapted, place))
        new = [trial for trial in trials if trial.reached.step == 0 and not self._of[trial].trained]
        if new and self._shared.evaluation.base:
            for trial in new:
                trial.record(self._untrained.metrics, 0)
                trial.recorder.log_samples(0, self._untrained.samples)
        for trial in trials:
            self._of[trial].trained = True
            self.display.state(trial.number, "training")
        return trials

    @property
    def _adapters_alike(self) -> bool:
        """One line says what all of them adapt."""
        return all(one.spec.adapter == self._shared.adapter for one in self.outcomes)

    def _trial(self, outcome: Outcome, place: int) -> Trial:
        spec, adapted = outcome.spec, self.group.adapted
        outcome.open_records()
        outcome.flops_per_s = self.group.flops_per_s
        if spec.adapter.start_from:
            load_adapter(adapted, place, Path(spec.adapter.start_from))
        parameters = adapted.parameters_of(place)
        number = self.outcomes.index(outcome)
        trial = Trial(
            spec,
            outcome.job.path,
            parameters,
            build_optimizer(spec, parameters),
            outcome.recorder,
            self.courses[number],
            self.training,
            shape_of(adapted, place),
            self.labels[number],
            number,
        )
        if outcome.job.resumed or outcome.trained:
            load_latest(trial)
        if outcome.job.resumed and not outcome.trained:
            # Step 0 is the base's evaluation, which is done anew.
            outcome.recorder.keep_through(trial.reached.step or -1)
        if (value := trial.reached.last_value) is not None:
            self.display.evaluated(number, value, trial.reached.best_value, trial.reached.best_step)
        self._of[trial] = outcome
        return trial

    @cached_property
    def _untrained(self) -> OnTheWay:
        with self.group.adapted.evaluating():
            (found,) = evaluate_on_the_way(self.evaluator, self._shared, self.validation, None)
        log.info(
            "validation during training: loss of %d, ROUGE of %d of the %d %s rows",
            *rows_on_the_way(self._shared, self.validation),
            len(self.validation.rows),
            self.validation.split,
        )
        log.info("step 0, the base model: %s", _shown(found.metrics))
        startup().lap("evaluation of the base")
        return found

    # ---- training ------------------------------------------------------------------------------------------------

    def stepped(self, losses: Mapping[Trial, float], tokens_per_s: float) -> None:
        for trial, loss in losses.items():
            self.display.step(trial.number, trial.reached.step, loss)
        self.display.group(tokens_per_s, self._evaluations_ahead_s())

    def _evaluations_ahead_s(self) -> float:
        """What the evaluations of those that train or wait will take: on the way, and at their ends."""
        evaluated = {trial.number: trial.reached.evaluated_step for trial in self._of}
        on_the_way = ends = 0
        for number, (line, course) in enumerate(zip(self.display.lines, self.courses, strict=True)):
            if line.goes_on:
                ends += 1
                behind = course.evaluations_by(evaluated.get(number, line.step))
                on_the_way += course.evaluations_by(course.total_steps) - behind
        pace, final_rows = self.evaluator.pace, len(self.final.rows)
        loss_rows, summary_rows = rows_on_the_way(self._shared, self.validation)
        seconds = on_the_way * pace.expected_s(loss_rows=loss_rows, summary_rows=summary_rows)
        seconds += ends * pace.expected_s(loss_rows=final_rows, summary_rows=final_rows)
        if ends and self._shared.evaluation.base and "_baselines" not in vars(self):
            seconds += pace.expected_s(loss_rows=final_rows, summary_rows=final_rows, base=True)
        return seconds

    def evaluate(self, trials: Sequence[Trial]) -> list[dict[str, float]]:
        with self.display.evaluating([trial.number for trial in trials]):
            found = evaluate_on_the_way(self.evaluator, self._shared, self.validation, self._places(trials))
        for trial, evaluation in zip(trials, found, strict=True):
            trial.recorder.log_samples(trial.reached.step, evaluation.samples)
        return [evaluation.metrics for evaluation in found]

    def evaluated(self, trials: Sequence[Trial], going_on: Sequence[Trial]) -> list[Trial]:
        values: dict[Outcome, tuple[int, float]] = {}
        for trial in trials:
            reached = trial.reached
            assert reached.last_value is not None
            self.display.evaluated(trial.number, reached.last_value, reached.best_value, reached.best_step)
            number = trial.course.evaluations_by(reached.step)
            values[self._of[trial]] = (number, reached.last_value)
        self.turns.evaluated(values)
        return [trial for trial in going_on if self.turns.must_wait(self._of[trial])]

    # ---- leaving -------------------------------------------------------------------------------------------------

    def left(self, trials: Mapping[Trial, Leaving]) -> None:
        self.note_progress(trials)
        at_end: dict[Trial, EndedBy] = {
            trial: why.by
            for trial, why in trials.items()
            if why.by != "pause" and why.by not in ("signal", "error")
        }
        for trial, why in trials.items():
            outcome = self._of[trial]
            if why.by == "pause":
                # It may never train again; its checkpoint is what it goes on from if it does.
                trial.restore_best()
                self._save_adapter(trial)
                self.turns.put_back(outcome)
                held = self.turns.must_wait(outcome)
                self.display.state(trial.number, "paused" if held else "waiting")
            elif why.by == "signal":
                self._close(outcome, "stopped", "signal")
            elif why.by == "error":
                self._close(outcome, "failed", "error", why.error)
        if at_end:
            try:
                self._finish(at_end)
            except StopRequested as error:
                for trial in at_end:
                    if self._of[trial].status is None:
                        self._close(self._of[trial], "stopped", "signal", error)
        for trial in trials:
            del self._of[trial]  # and with it the stacks that its parameters lie in

    def note_progress(self, trials: Iterable[Trial]) -> None:
        """How far they came, for their summaries."""
        for trial in trials:
            self._of[trial].note_progress(trial)

    def close_rest(self, *, stopped: bool) -> None:
        """Of the runs that are nobody's turn any more: what a stop or their rung means for them."""
        for outcome in self.outcomes:
            if outcome.status is None and not outcome.trained and not stopped:
                self._take_up(outcome)
            if outcome.status is None and outcome.trained:
                self._close(outcome, "stopped", "signal" if stopped else "successive_halving")

    def _take_up(self, outcome: Outcome) -> None:
        """Read how far a run came that an earlier process left at its rung, where it stays."""
        adapted = self.group.adapted
        adapted.add([outcome.spec.adapter], [outcome.spec.seed])
        self.group.enter([trial := self._trial(outcome, 0)])
        outcome.trained = True
        self.left({trial: Leaving("pause")})
        self.group.leave([trial])

    def _close(
        self, outcome: Outcome, status: EndStatus, by: EndedBy, error: BaseException | None = None
    ) -> None:
        states: dict[EndStatus, State] = {"completed": "done", "stopped": "stopped", "failed": "failed"}
        self.display.state(self.outcomes.index(outcome), states[status])
        if status != "stopped":
            self.turns.ended(outcome, failed=status == "failed")
        if isinstance(error, Exception) and outcome.writes and self.labels != [""]:
            say_failed(error, [outcome.job.folder])
            outcome.said = True
        outcome.close(status, by, error)

    def _finish(self, trials: Mapping[Trial, EndedBy]) -> None:
        """Score, save and close runs that trained to their end."""
        for trial in trials:
            trial.restore_best()
            if trial.reached.skipped_steps:
                trial.say(
                    logging.WARNING,
                    "%d of %d steps were skipped, since their gradients overflowed fp16",
                    *(trial.reached.skipped_steps, trial.reached.step),
                )
        with self.display.evaluating([trial.number for trial in trials]):
            beside = self._baselines
            scores = final_scores(
                self.evaluator, self._shared, self.final, self._places(list(trials)), beside
            )
        for (trial, by), of_trial in zip(trials.items(), scores, strict=True):
            outcome = self._of[trial]
            try:
                self._save_results(trial, of_trial)
            except OSError as error:
                self._close(outcome, "failed", "error", error)
                continue
            outcome.learn(split=self.final.split, rows=len(self.final.rows), adapter="adapter")
            outcome.add_scores(of_trial)
            trial.count_time()
            outcome.learn(wall_s=trial.reached.wall_s)
            self._close(outcome, "completed", by)
            self.scores[outcome] = of_trial
            if outcome.job.sweep is not None or len(self.outcomes) > 1:
                adapter = of_trial[ADAPTER]
                found = {"loss": adapter.loss or 0.0} | {name: i.value for name, i in adapter.rouge.items()}
                trial.say(logging.INFO, "done, scores on %s: %s", self.final.split, _shown(found))

    @cached_property
    def _baselines(self) -> dict[str, Scores]:
        return score_baselines(self.evaluator, self._shared, self.final)

    def _save_results(self, trial: Trial, scores: Mapping[str, Scores]) -> None:
        if not self._of[trial].writes:
            return
        self._save_adapter(trial)
        _save_predictions(trial.folder, self.final, scores)
        base_summaries = scores[BASE].summaries if BASE in scores else None
        count = self._shared.evaluation.sample_summaries
        samples = self.final.samples(count, scores[ADAPTER].summaries, base_summaries)
        trial.recorder.log_samples(trial.reached.step, samples)
        trial.recorder.log_adapter(trial.folder / "adapter")

    def _save_adapter(self, trial: Trial) -> None:
        outcome = self._of[trial]
        if outcome.writes:
            (place,) = self._places([trial])
            name = outcome.spec.model.name_or_path
            save_adapter(self.group.adapted, place, trial.folder / "adapter", name, self.tokenizer)

    def _places(self, trials: Sequence[Trial]) -> list[int]:
        return [self.group.trials.index(trial) for trial in trials]


def _save_predictions(folder: Path, rows: HeldOut, scores: Mapping[str, Scores]) -> None:
    """`predictions/SPLIT.jsonl`, and `SPLIT.base.jsonl` where the base was scored too."""
    for suffix, system in (("", scores[ADAPTER]), (".base", scores.get(BASE))):
        if system is not None:
            predictions = [
                Prediction(id=row.id, prediction=summary, reference=reference)
                for row, summary, reference in zip(rows.rows, system.summaries, rows.references, strict=True)
            ]
            write_predictions(folder / "predictions" / f"{rows.split}{suffix}.jsonl", predictions)


def _shown(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
