"""How a sweep's metric, keys and question are put into words."""

from __future__ import annotations

from collections.abc import Sequence

from summarizer.console.safe_text import one_line
from summarizer.runs.record import RunRecord
from summarizer.runs.settings import SweepAxes
from summarizer.sweeps.record import Metric, SweepRecord

UNITS = {
    "adapter.dim": "dimension of the low-rank pair",
    "trainer.batch_size": "examples",
    "trainer.epochs": "passes over the data",
    "trainer.max_steps": "optimizer steps",
    "trainer.schedule.warmup_steps": "optimizer steps",
    "trainer.max_grad_norm": "L2 norm",
    "prompt.max_tokens": "tokens",
    "data.rows.train": "rows",
}
"""Of the keys that are swept most; others go without."""

STOPPED_NOTE = (
    "A stopped run did not train to its end, so it is listed after every run that did, "
    "however good its best value."
)
HALVING_NOTE = (
    "Whether a run that was stopped would have won in the end cannot be told from this sweep; "
    "only the full grid can tell."
)
REFERENCES = {
    "base model": "the model without an adapter",
    "Lead-3": "the first three sentences of each article",
}


def metric_name(metric: Metric) -> str:
    """`validation loss`, `validation ROUGE-1`."""
    split, _, variant = metric.name.rpartition("/")
    words = variant.replace("rouge", "ROUGE-")
    return one_line(f"{split.replace('val', 'validation')} {words}")


def metric_unit(metric: Metric) -> str:
    return "cross-entropy, nats per token" if metric.best == "min" else "F1, percent"


def shown(metric: Metric, value: float) -> str:
    """A value of the metric with as many digits as mean something."""
    return f"{value:.3f}" if metric.best == "min" else f"{value:.2f}"


def label(key: str) -> str:
    """A key with its unit."""
    return f"{key} ({UNITS[key]})" if key in UNITS else one_line(key)


def question(metric: Metric, keys: Sequence[str]) -> str:
    """What the sweep asks: `Which adapter.dim and optimizer.lr give the lowest validation loss?`"""
    verb = "give" if len(keys) > 1 else "gives"
    best = "lowest" if metric.best == "min" else "highest"
    return f"Which {_listed(keys)} {verb} the {best} {metric_name(metric)}?"


def course_question(keys: Sequence[str]) -> str:
    """What the loss curves answer: `How does the loss fall with each adapter.dim and optimizer.lr?`"""
    return f"How does the loss fall with each {_listed(keys)}?"


def _listed(keys: Sequence[str]) -> str:
    names = [one_line(key) for key in keys] or ["run"]
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def references_note(record: SweepRecord) -> str:
    """What the rows without a rank are."""
    systems = dict.fromkeys(one.system for one in record.references)
    listed = "; ".join(f"{system}: {REFERENCES[system]}" for system in systems)
    return f"To compare with, without a rank: {listed}."


def answer(record: SweepRecord, swept: SweepAxes) -> str:
    """The winner in one line."""
    winner = record.winner
    if winner is None or winner.best is None:
        measured = any(run.best for run in record.runs)
        return "No run that was evaluated came to an end" if measured else "No run has been evaluated"
    line = f"{name(winner, swept)}: {shown(record.metric, winner.best.value)} at step {winner.best.step}"
    return f"Best: {line}" if winner.status == "completed" else f"Best so far (no run has completed): {line}"


def name(run: RunRecord, swept: SweepAxes) -> str:
    """A run by what tells it from the others, or by its folder where nothing does."""
    return swept.describe(run) or f"run {run.folder}"


def state(run: RunRecord) -> str:
    """How a run stands: `completed`, `stopped, step 20`."""
    if run.status in ("stopped", "running", "failed") and run.steps:
        return f"{run.status}, step {run.steps}"
    return run.status


def saving(record: SweepRecord) -> str:
    """What was trained of the full grid, and what early stopping saved of it."""
    trained, full, saved = record.samples, record.full_grid_samples, record.saved_samples
    if trained is None:
        return "How many samples were trained on is not known."
    if trained == full:
        failed = any(run.status == "failed" for run in record.runs)
        return f"Trained on {trained:,} samples{'' if failed else ', the full grid'}."
    line = f"Trained on {trained:,} samples"
    if full is not None:
        line = f"Trained on {trained:,} of the full grid's {full:,} samples ({trained / full:.0%})"
    if not saved:
        return f"{line}."
    return f"{line}; successive halving saved {saved:,}{f' ({saved / full:.0%})' if full else ''}."
