"""The end of a run as a person reads it: what was trained, what it gained, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from summarizer.config.paths import own_python, shown
from summarizer.config.schema import RunConfig
from summarizer.console.amounts import duration, rate_text
from summarizer.console.progress import console
from summarizer.console.secrets import redact
from summarizer.evaluation.metrics import Scores
from summarizer.evaluation.pipeline import ADAPTER, BASE, LEAD, changes, faithfulness_changes
from summarizer.evaluation.record import FAITHFULNESS, LOSS, VARIANTS, Difference
from summarizer.reports.sentences import about_the_gain, counted, p_text, score_digits
from summarizer.reports.tables import (
    Cell,
    Column,
    Table,
    print_line,
    print_table,
    print_wrapped,
    scored,
)
from summarizer.runs.heldout import HeldOut
from summarizer.runs.record import SUMMARY, RunRecord
from summarizer.tracking.metrics import METRICS

ARTICLE_CHARACTERS = 300
"""Characters that are shown of the article."""
TYPICAL_BY = "rouge1"
"""Decides which article is shown: the first would be a matter of luck, the best one a false promise."""
DEFINITIONS = "docs/evaluation.md#reading-the-report"
"""Where the figures are explained, so that no run has to."""
WIDEST_TEXT = 100
"""Columns: longer lines are hard to read."""
NAMES = {BASE: "before", ADAPTER: "after", LEAD: LEAD}
"""What the table calls each system, in its order."""
FILES = {
    SUMMARY: "these figures and more, with versions and commit",
    "adapter": "the adapter, in PEFT's format",
    "predictions": "every summary it wrote, beside its reference",
    METRICS: "losses, step by step",
    "wandb": "the run for wandb",
    "tensorboard": "the run for TensorBoard",
}


@dataclass(frozen=True)
class Finished:
    """A run by itself, trained to its end and scored."""

    spec: RunConfig
    record: RunRecord
    scores: Mapping[str, Scores]
    """The scores of each system."""
    rows: HeldOut
    """The rows that it was scored on."""
    base_parameters: int
    training_rows: int | None
    """The training split's rows; None for a split that is streamed."""
    evaluations: int
    """The number of evaluations that the saved adapter was chosen among."""


def show_report(run: Finished) -> None:
    """Print the report on standard error, as wide as the terminal; 80 columns where there is none."""
    out = console()
    width = min(out.width, WIDEST_TEXT)
    evaluation = run.spec.evaluation
    resamples = {"samples": evaluation.bootstrap_samples, "seed": evaluation.bootstrap_seed}
    scores = run.scores
    changed = changes(scores, BASE, evaluation)
    beside_lead = changes(scores, LEAD, evaluation)
    faithful = faithfulness_changes(scores, BASE, evaluation)

    _heading(out, "What was trained")
    print_wrapped(out, trained(run), width)
    _heading(out, f"What it gives, on {_scored_on(run)}")
    print_table(out, score_table(scores, **resamples), width)
    out.print()
    if any(one.faithfulness for one in scores.values()):
        print_table(
            out, faithfulness_table({NAMES[name]: scores[name] for name in NAMES if name in scores}), width
        )
        out.print()
    if changed:
        print_table(out, change_table([*changed, *faithful]), width)
        out.print()
    print_wrapped(out, about_the_gain(changed, beside_lead), width)
    print_wrapped(out, _notes(run, changed), width, style="dim")
    _heading(out, f"One article, with the median {'change of ' * (BASE in scores)}{TYPICAL_BY} of all")
    for label, text in _example(run):
        print_wrapped(out, [f"{label:<11}{text}"], width, indent=11)
    _heading(out, f"Files in {shown(run.record.path)}")
    for name, what in FILES.items():
        path = run.record.path / name
        if path.exists():
            print_wrapped(out, [f"{name + '/' * path.is_dir():<15}{what}"], width, indent=15)
    _heading(out, "Next")
    for why, command in next_commands(run.spec, run.record.overrides, run.record.path):
        print_wrapped(out, [why], width)
        print_line(out, f"    {command}", "bold")  # whole, so that it can be copied


def trained(run: Finished) -> list[str]:
    """Sentences that say which adapters were trained, on what and for how long."""
    spec, record = run.spec, run.record
    trainable, steps, epochs = record.trainable_parameters or 0, record.steps or 0, record.epochs or 0.0
    dim, rate = getattr(spec.adapter, "dim", None), spec.optimizer.arguments.get("lr")
    of_dim = f" of dimension {dim}" if dim else ""
    lines = [
        f"Adapters{of_dim} beside {spec.model.name_or_path}: {trainable:,} parameters, "
        f"{100 * trainable / run.base_parameters:.2g} % of the base's {run.base_parameters:,}, which stay as they "
        f"were{'' if spec.quantization.name == 'none' else f', in {spec.quantization.name}'}."
    ]
    batch = spec.trainer.batch_size
    on = f"{steps:,} steps of {counted(batch, 'article')}"
    if run.training_rows is not None:
        over = f", {epochs:.3g} times over" if epochs > 1 else ""
        on = f"{counted(min(run.training_rows, steps * batch), 'article')}{over} ({on})"
    at = f" at learning rate {rate_text(rate)}" if rate else ""
    saved = record.best_step
    kept = f" Saved is the adapter of step {saved:,}." if saved is not None and saved != steps else ""
    return [*lines, f"On {on}{at}, in {duration(record.wall_s or 0.0)}.{kept}"]


def score_table(scores: Mapping[str, Scores], *, samples: int, seed: int) -> Table:
    """The table of each system's loss and ROUGE, with their intervals."""
    shown_as = [title for name, title in NAMES.items() if name in scores]
    systems = [scores[name] for name in NAMES if name in scores]
    losses = [one.row_losses.interval(samples, seed) if one.row_losses else None for one in systems]
    return Table(
        [
            Column("", [Cell(title) for title in shown_as], numeric=False),
            Column(LOSS, [scored(loss, 3) for loss in losses]),
            *(Column(variant, [scored(one.rouge[variant]) for one in systems]) for variant in VARIANTS),
        ]
    )


def faithfulness_table(scores: Mapping[str, Scores]) -> Table:
    """The table of what the article has of each system's summaries. scores: by the names that it shows."""
    known = [name for name in FAITHFULNESS if any(name in one.faithfulness for one in scores.values())]
    return Table(
        [
            Column("", [Cell(title) for title in scores], numeric=False),
            *(
                Column(
                    name.replace(" ", "\n"),
                    [scored(one.faithfulness.get(name), score_digits(name)) for one in scores.values()],
                    need=place,
                )
                for place, name in enumerate(known)
            ),
        ]
    )


def change_table(changed: Sequence[Difference]) -> Table:
    """The table of what changed, after minus before, and whether that is significant."""
    styles = {"better": "green", "worse": "red", "not significant": ""}
    words = {"better": "yes, better", "worse": "yes, worse", "not significant": "no"}
    decimals = [3 if change.metric == LOSS else 2 for change in changed]
    pairs = list(zip(changed, decimals, strict=True))
    return Table(
        [
            Column("", [Cell(change.metric) for change in changed], numeric=False),
            Column("change", [Cell(f"{change.mean.value:+.{n}f}") for change, n in pairs]),
            Column(
                "95 % interval",
                [Cell(f"{change.mean.low:+.{n}f} to {change.mean.high:+.{n}f}") for change, n in pairs],
            ),
            Column("better–\nworse on", [Cell(_better_and_worse(change)) for change in changed]),
            Column("p", [Cell(p_text(change.p_value).removeprefix("= ")) for change in changed]),
            Column("p after\nHolm", [Cell(p_text(change.p_holm).removeprefix("= ")) for change in changed]),
            Column(
                "significant",
                [Cell(words[change.verdict], style=styles[change.verdict]) for change in changed],
            ),
        ]
    )


def _better_and_worse(change: Difference) -> str:
    """`23–9`: on how many articles each of the two does better; on the others they are equal, or have nothing."""
    better = change.better_rows or 0
    return f"{better}–{change.rows - better - (change.equal_rows or 0)}"


def _scored_on(run: Finished) -> str:
    split, count = run.rows.split, len(run.rows.rows)
    return counted(count, f"{split} article") + (", which it was trained on" if split == "train" else "")


def _notes(run: Finished, changed: Sequence[Difference]) -> Iterator[str]:
    if run.rows.split == "validation" and run.evaluations > 1:
        yield (
            f"The adapter was chosen among {run.evaluations} evaluations by {run.spec.trainer.best_metric} on "
            "validation articles, which flatters it a little there."
        )
    yield f"ROUGE by the tokenizer {run.rows.tokenizer}. See {DEFINITIONS}"


def typical_row(scores: Mapping[str, Scores]) -> int:
    """The row at the median of what the adapter gained over the base, or scored where there is no base."""
    gained = scores[ADAPTER].per_row[TYPICAL_BY]
    if BASE in scores:
        gained = gained - scores[BASE].per_row[TYPICAL_BY]
    return int(np.argsort(gained, kind="stable")[(len(gained) - 1) // 2])


def _example(run: Finished) -> Iterator[tuple[str, str]]:
    row = typical_row(run.scores)
    article = " ".join(run.rows.articles[row].split())
    cut = (
        article
        if len(article) <= ARTICLE_CHARACTERS
        else f"{article[:ARTICLE_CHARACTERS].rsplit(' ', 1)[0]} ..."
    )
    yield "article", cut
    for name, shown_as in NAMES.items():
        if (system := run.scores.get(name)) is not None:
            yield shown_as, " ".join(system.summaries[row].split()) or "(empty)"
    yield "reference", " ".join(run.rows.references[row].split())


def _heading(out: Console, text: str) -> None:
    out.print()
    print_line(out, text, "bold")


OWN_TO_THE_RUN = ("hydra.", "resume=", "adapter.start_from=", "tracking.name=")
"""Overrides that a sweep does not take over, beside those that it sweeps."""
SWEPT_APART = {"adapter.dim": 4.0, "optimizer.lr": 10.0}
"""How far apart the two values of a key are: near enough for both to train, far enough to differ."""
HIGH_RATE = 1e-3
"""From here on the other rate is a lower one."""


def next_commands(spec: RunConfig, overrides: Sequence[str], folder: Path) -> list[tuple[str, str]]:
    """Commands to go on with, each behind what it is for. overrides: those that the run was started with."""
    summarize = f"{own_python()} -m summarizer.summarize {shlex.quote(shown(folder))} article.txt"
    both = isinstance(getattr(spec.adapter, "dim", None), int)
    asked = "dimension and learning rate do better, in four" if both else "learning rate does better, in two"
    return [
        ("Summarize an article of your own, a text file:", summarize),
        (f"Ask which {asked} runs that train together:", _sweep(spec, overrides)),
    ]


def _sweep(spec: RunConfig, overrides: Sequence[str]) -> str:
    swept: dict[str, str] = {}
    dim, lr = getattr(spec.adapter, "dim", None), spec.optimizer.arguments.get("lr")
    if isinstance(dim, int):
        swept["adapter.dim"] = f"{dim},{round(dim * SWEPT_APART['adapter.dim'])}"
    if isinstance(lr, int | float):
        other = lr * SWEPT_APART["optimizer.lr"] ** (1 if lr < HIGH_RATE else -1)
        swept["optimizer.lr"] = ",".join(rate_text(rate) for rate in sorted((lr, other)))
    kept = [
        redact(override)
        for override in overrides
        if not override.lstrip("+~").startswith((*OWN_TO_THE_RUN, *(f"{key}=" for key in swept)))
    ]
    words = [*kept, *(f"{key}={values}" for key, values in swept.items())]
    return " ".join([f"{own_python()} -m summarizer.run -m", *map(shlex.quote, words)])
