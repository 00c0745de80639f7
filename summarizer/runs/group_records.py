"""The records of the runs that train as a group: opened when a run begins, complete and written when it ends."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

from summarizer.config.schema import RunConfig
from summarizer.console.secrets import masked_text, redact
from summarizer.errors import disk_refusal
from summarizer.evaluation.metrics import Scores
from summarizer.evaluation.pipeline import ADAPTER, BASE, LEAD
from summarizer.processes import Processes
from summarizer.runs.extend import limits_of
from summarizer.runs.folder import write_limits
from summarizer.runs.heldout import HeldOut
from summarizer.runs.mistakes import say_failed
from summarizer.runs.record import (
    SUMMARY,
    BaseScores,
    Best,
    RunRecord,
    TrainLoss,
    is_finished,
    read_record,
    write_summary,
)
from summarizer.tracking.environment import git_state, peak_memory_bytes, versions
from summarizer.tracking.metrics import METRICS, EndStatus, MetricsFile, Recorder, Tracker, Trackers
from summarizer.tracking.names import run_name
from summarizer.tracking.startup import Stopwatch
from summarizer.tracking.utilization import devices_rate, utilization
from summarizer.training.schedule import EndedBy
from summarizer.training.trial import Trial


class GroupRecords:
    """Each run's trial and record. Only the main process writes; the others know how their trials ended."""

    def __init__(
        self,
        records: Sequence[RunRecord],
        specs: Sequence[RunConfig],
        processes: Processes,
        startup: Stopwatch,
    ) -> None:
        """records: waiting runs. startup: the seconds that the summaries name."""
        self.trials = [
            Trial(spec, record.path, number=number, resumed=record.resumed)
            for number, (record, spec) in enumerate(zip(records, specs, strict=True))
        ]
        self.data_fingerprint: str | None = None
        self.held_out_rows: int | None = None
        self.scores: dict[Trial, Mapping[str, Scores]] = {}
        """The scores by system of the runs that completed."""
        self._records = dict(zip(self.trials, records, strict=True))
        self._processes, self._startup = processes, startup
        self._open: set[Trial] = set()
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="tracking")
        """Writes to trackers that the training does not wait for."""
        self._tracking = threading.Event()
        for trial, record in self._records.items():
            if record.resumed and not record.resumed_with and is_finished(record.path):
                kept = self._records[trial] = read_record(record.path, record)
                trial.status = "completed" if kept.status == "completed" else "stopped"

    def __getitem__(self, trial: Trial) -> RunRecord:
        return self._records[trial]

    @property
    def all(self) -> list[RunRecord]:
        return list(self._records.values())

    def add(self, record: RunRecord, spec: RunConfig) -> Trial:
        """One more run of the group, which began as another."""
        trial = Trial(spec, record.path, number=len(self.trials), resumed=record.resumed)
        self.trials.append(trial)
        self._records[trial] = record
        return trial

    @property
    def pending(self) -> list[Trial]:
        """The trials that have not ended."""
        return [trial for trial in self.trials if trial.status is None]

    @property
    def nothing_opened(self) -> bool:
        """Whether no run of the group has begun in this process."""
        return not self._open

    @property
    def alone(self) -> bool:
        """Whether it is one run, and of no sweep, whose folder and end are its own affair."""
        return len(self._records) == 1 and all(record.sweep is None for record in self._records.values())

    @property
    def writes(self) -> bool:
        return self._processes.is_main

    def open(self, trial: Trial) -> None:
        """Begin metrics.jsonl and the wandb run, unless they are. Raises ConfigError where wandb cannot."""
        if not self._open:
            self._beside.submit(self._tracking.wait)
        if self.writes and trial not in self._open:
            record = self._records[trial]
            (record.path / SUMMARY).unlink(missing_ok=True)  # of an earlier process: the run is resumed
            if record.resumed_with:  # killed before this line, the run is what it was
                write_limits(record.path, limits_of(record.resumed_with), record.overrides)
            trial.recorder = Recorder(
                MetricsFile(record.path / METRICS), _tracker(trial.spec, record, self._beside)
            )
        self._open.add(trial)

    def begin_tracking(self) -> None:
        """Let trackers beside the training begin: not earlier, for the import of wandb takes seconds."""
        self._tracking.set()

    def settle(self) -> None:
        """Wait until all trackers have what they were told."""
        self.begin_tracking()
        self._beside.shutdown()

    def complete(self, trial: Trial, by: EndedBy, scores: Mapping[str, Scores], rows: HeldOut) -> None:
        """The run trained to its end, was scored on these rows and saved."""
        adapter, base = scores[ADAPTER], scores.get(BASE)
        self._records[trial] = self._records[trial].model_copy(
            update={
                "val_loss": adapter.loss,
                "rouge": dict(adapter.rouge),
                "rouge_tokenizer": rows.tokenizer,
                "faithfulness": dict(adapter.faithfulness),
                "baseline": dict(scores[LEAD].rouge),
                "baseline_faithfulness": dict(scores[LEAD].faithfulness),
                "base": base
                and BaseScores(
                    val_loss=base.loss, rouge=dict(base.rouge), faithfulness=dict(base.faithfulness)
                ),
                "systems": _systems(trial.spec, base is not None),
                "split": rows.split,
                "rows": len(rows.rows),
                "adapter": "adapter",
            }
        )
        self.close(trial, "completed", by)
        self.scores[trial] = scores

    def close(
        self,
        trial: Trial,
        status: EndStatus,
        by: EndedBy,
        error: BaseException | None = None,
        *,
        say: bool = False,
    ) -> None:
        """Write summary.json with all that is known by now, and end the wandb run. say: log the error first."""
        trial.status = status
        logged = say and isinstance(error, Exception) and self.writes
        if logged:
            assert isinstance(error, Exception)
            say_failed(error, [str(trial.folder)])
        if trial.optimizer is not None:
            trial.count_time()
        record = self._ended(trial, status, by, error).model_copy(update={"logged": logged})
        self._records[trial] = record
        if not self.writes:
            return
        trial.recorder.finish(status, record.summary())
        try:
            write_summary(trial.folder, record)
        except OSError:
            # The disk that ended the run; what it refused first is what its user must hear of.
            if not isinstance(error, OSError):
                raise

    def end_unfinished(self, status: EndStatus, by: EndedBy, error: BaseException) -> None:
        """End runs that were cut short as the group was. Those that only waited, of a stopped one, wait on."""
        for trial in self.pending:
            if trial in self._open or by == "error":
                self.close(trial, status, by, error)

    def _ended(self, trial: Trial, status: EndStatus, by: EndedBy, error: BaseException | None) -> RunRecord:
        record, spec = self._records[trial], trial.spec
        values = record.model_dump() | self._progress(trial)
        values |= {
            "status": status,
            "ended_by": by,
            "error": None
            if error is None or status == "stopped"
            else masked_text(disk_refusal(error) or f"{type(error).__name__}: {error}"),
            "overrides": [redact(override) for override in record.overrides],
            "seed": spec.seed,
            "model": spec.model.name_or_path,
            "quantization": spec.quantization.name,
            "versions": versions(),
            "git": git_state(),
            "data_fingerprint": self.data_fingerprint,
            "held_out_rows": self.held_out_rows,
            "peak_memory_bytes": peak_memory_bytes(self._processes.device),
            "startup_s": dict(self._startup.parts) or None,
            "cause": error if isinstance(error, Exception) else None,
        }
        return RunRecord.model_validate(values)

    def _progress(self, trial: Trial) -> dict[str, object]:
        """How far the trial came; nothing of one that never had a slot."""
        if trial.shape is None:
            return {}
        state, per_epoch = trial.state, trial.schedule.steps_per_epoch
        return {
            "steps": state.step,
            "best_step": state.best_step,
            "best": None
            if state.best_value is None or state.best_step is None
            else Best(value=state.best_value, step=state.best_step),
            "epochs": state.step / per_epoch if per_epoch else None,
            "tokens": state.tokens,
            "wall_s": state.wall_s,
            "tokens_per_s": state.tokens / state.train_s if state.train_s else None,
            "mfu": utilization(state.flops, state.train_s, devices_rate(self._processes))
            if state.train_s
            else None,
            "trainable_parameters": trial.trainable_parameters,
            "train_loss": TrainLoss(first=state.first_loss, last=state.last_loss),
        }


def _systems(spec: RunConfig, has_base: bool) -> dict[str, str]:
    """What `rouge`, `baseline` and `base` of a summary are the scores of."""
    model = masked_text(f"{spec.model.name_or_path} in {spec.quantization.name}")
    return {
        "rouge": f"the adapter of this run on {model}",
        "baseline": f"{LEAD}: the first three sentences of each article, without any model",
    } | ({"base": f"the untrained base model: {model}, without an adapter"} if has_base else {})


def _tracker(spec: RunConfig, record: RunRecord, beside: Executor) -> Tracker:
    name, found = run_name(record.overrides), []
    if spec.tracking.mode != "disabled":
        from summarizer.tracking.wandb_run import open_tracker

        found.append(
            open_tracker(
                spec.tracking,
                record.path,
                name=name,
                group=record.sweep,
                config=record.config,
                resumed=record.resumed,
                beside=beside,
            )
        )
    if spec.tracking.tensorboard:
        from summarizer.tracking.event_files import EventFiles

        found.append(
            EventFiles(
                record.path,
                name=spec.tracking.name or name,
                config=record.config,
                alone=record.sweep is None,
                resumed=record.resumed,
            )
        )
    return Trackers(*found)
