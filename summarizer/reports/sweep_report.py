"""What a person gets from a sweep: sweep.json, sweep.md, two pictures, and the table in the terminal."""

from __future__ import annotations

import logging
import os
import shlex
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

from summarizer.atomic import SCRATCH_PREFIX, write_text
from summarizer.config.paths import own_python, shown
from summarizer.config.schema import TrackingConfig
from summarizer.console.progress import console
from summarizer.console.safe_text import one_line
from summarizer.reports.budget import budget_note, expected_by_budget
from summarizer.reports.compared import command_of
from summarizer.reports.confirmed import confirmed_answer, confirmed_notes, confirmed_table
from summarizer.reports.curves import draw_budget, draw_curves
from summarizer.reports.heatmap import draw_heatmap
from summarizer.reports.pareto import draw_pareto, sized_runs
from summarizer.reports.sentences import (
    HALVING_NOTE,
    STOPPED_NOTE,
    edge_notes,
    question,
    references_note,
    run_name,
    saving,
    sweep_answer,
)
from summarizer.reports.sweep_tables import plain_rows, sweep_table
from summarizer.reports.tables import escaped, markdown_table, print_line, print_table
from summarizer.runs.settings import SweepAxes, sweep_axes
from summarizer.sweeps.record import SweepRecord, collect, write_sweep
from summarizer.tracking.wandb_run import SweepTable, log_sweep

REPORT = "sweep.md"
HEATMAP, CURVES, BUDGET, PARETO = "heatmap.png", "curves.png", "budget.png", "pareto.png"
DOTS_PER_INCH = 150


def report_sweep(sweep: Path, tracking: TrackingConfig | None = None) -> SweepRecord:
    """Read what the runs of a sweep folder have come to, write it there, and show it; at any time, any number of
    times. With `tracking` it goes to a wandb run of the sweep's group too, whose failure is only a log line.

    Raises ConfigError where the record or a run's folder is broken, and OSError where nothing can be written.
    """
    record = collect(sweep)
    keys = sweep_axes(record.runs)
    write_sweep(sweep, record)
    write_text(sweep / REPORT, markdown(sweep.resolve().name, record, keys))
    pictures = save_pictures(sweep, record, keys)
    _show(sweep, record, keys)
    if tracking is not None and tracking.tensorboard:
        print_line(console(), f"side by side as they went: tensorboard --logdir {shlex.quote(shown(sweep))}")
    if tracking is not None:
        columns, rows = plain_rows(record, keys)
        log_sweep(tracking, sweep, SweepTable(columns, rows, pictures, _totals(record)))
    return record


def markdown(title: str, record: SweepRecord, swept: SweepAxes) -> str:
    """The text of sweep.md: the question, the command, the answer, the table, the pictures, the failures."""
    lines = [f"# {escaped(question(record.metric, swept.keys))}", ""]
    lines += [f"Sweep `{title}`, {len(record.runs)} runs: {_states(record)}.", ""]
    lines += ["```bash", *_commands(record, swept), "```", ""]
    lines += [f"{escaped(sweep_answer(record, swept))}.", ""]
    if record.confirmed is not None:
        lines += [f"**{escaped(confirmed_answer(record.confirmed))}**", ""]
    lines += [*_notes(record, swept), ""]
    lines += [
        markdown_table(sweep_table(record, swept)),
        "Best values are of the validation rows measured during training; ",
    ]
    tokenizers = ", ".join(sorted({run.rouge_tokenizer for run in record.runs if run.rouge_tokenizer}))
    by = f", by the tokenizer {tokenizers}" if tokenizers else ""
    lines[-1] += (
        f"loss and ROUGE (F1, percent, with 95 % intervals{by}) are of the rows that their headings name."
    )
    if record.confirmed is not None:
        lines += ["", "## Confirmed", "", markdown_table(confirmed_table(record.confirmed))]
        lines += [escaped(note) for note in confirmed_notes(record.confirmed)]
    lines += ["", f"![Best value of each combination]({HEATMAP})", "", f"![Loss of each run]({CURVES})", ""]
    if expected_by_budget(record, swept):
        lines += [f"![Expected best of fewer trials]({BUDGET})", "", budget_note(record, swept), ""]
    if sized_runs(record):
        lines += [f"![Best value against trained parameters]({PARETO})", ""]
    if failed := [run for run in record.runs if run.status == "failed"]:
        lines += ["## Failed", ""]
        for run in failed:
            lines.append(
                f"- `{one_line(run.folder)}`, {escaped(run_name(run, swept))}: {escaped(run.error or '')}"
            )
        lines.append("")
    return "\n".join(lines)


def _show(sweep: Path, record: SweepRecord, swept: SweepAxes) -> None:
    out = console()
    out.print()
    print_table(out, sweep_table(record, swept, question(record.metric, swept.keys), at_terminal=True))
    for line in [sweep_answer(record, swept), *_notes(record, swept)]:
        print_line(out, line)
    if (found := record.confirmed) is not None:
        print_table(out, confirmed_table(found, "confirmed"))
        print_line(out, confirmed_answer(found), "bold")
        for line in confirmed_notes(found):
            print_line(out, line)
    for run in record.runs:
        if run.status == "failed":
            print_line(out, f"failed: {run_name(run, swept)}: {one_line(run.error or '')}", "red")
    pictures = [HEATMAP, CURVES]
    pictures += [BUDGET] if expected_by_budget(record, swept) else []
    pictures += [PARETO] if sized_runs(record) else []
    print_line(out, f"results: {shown(sweep)}/{REPORT}   {'   '.join(pictures)}")
    compare = f"{own_python()} -m summarizer.compare {shlex.quote(shown(sweep))} --html comparison.html"
    print_line(out, f"on one page, with the summaries side by side: {compare}")


def _notes(record: SweepRecord, swept: SweepAxes) -> list[str]:
    notes = [*record.asked, *edge_notes(record, swept), saving(record)]
    if any(run.status == "stopped" for run in record.runs):
        notes.append(STOPPED_NOTE)
    if record.saved_samples:
        notes.append(HALVING_NOTE)
    if record.references:
        notes.append(references_note(record))
    return notes


def _states(record: SweepRecord) -> str:
    states = [run.status for run in record.ranked()]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _commands(record: SweepRecord, swept: SweepAxes) -> list[str]:
    """The commands that make these runs again: one for a full grid, one for each grid that points were added as."""
    commands = []
    for grid in _grids(record, swept):
        many = ["-m"] if any(len(values) > 1 for values in grid.values()) else []
        own = [f"{key}={','.join(values)}" if values else key for key, values in grid.items()]
        commands.append(command_of([*many, *swept.common, *own]))
    return commands


Grid = dict[str, tuple[str, ...]]
"""Overrides as typed, each key with its values; none of a key that is deleted."""


def _grids(record: SweepRecord, swept: SweepAxes) -> list[Grid]:
    """Grids that between them have each run once: what differs in one key alone is put together."""
    grids: list[Grid] = []
    for run in record.runs:
        own = (override.partition("=") for override in run.overrides if override not in swept.common)
        grids.append({key: (value,) if equals else () for key, equals, value in own})
    keys = list(dict.fromkeys(key for grid in grids for key in grid))
    count = len(grids) + 1
    while len(grids) < count:
        count = len(grids)
        for key in reversed(keys):
            grids = _joined(grids, key)
    return grids


def _joined(grids: list[Grid], key: str) -> list[Grid]:
    """With one grid in the place of those that differ in the values of this key alone."""
    joined: dict[object, Grid] = {}
    for place, grid in enumerate(grids):
        rest = frozenset((name, values) for name, values in grid.items() if name != key)
        first = joined.setdefault(rest if grid.get(key) else place, dict(grid))
        if grid.get(key):
            first[key] = tuple(dict.fromkeys(first[key] + grid[key]))
    return list(joined.values())


def _totals(record: SweepRecord) -> dict[str, float | int | str | None]:
    winner = record.winner
    return {
        "metric": record.metric.name,
        "best": winner.best.value if winner and winner.best else None,
        "best_run": winner.folder if winner else None,
        "runs": len(record.runs),
        "confirmed": confirmed_answer(record.confirmed) if record.confirmed else None,
        **record.model_dump(include={"samples", "full_grid_samples", "saved_samples", "tokens"}),
    }


def save_pictures(sweep: Path, record: SweepRecord, swept: SweepAxes) -> dict[str, Path]:
    """Draw heatmap.png, curves.png, budget.png and pareto.png in the sweep folder, each replaced in one step.

    Returns their paths by what they show. Raises OSError, and ConfigError where a metrics.jsonl is broken.
    """
    # A second to import, which a config check need not wait for.
    import matplotlib

    # At its first use on a machine it says "generated new fontManager", which tells nobody anything.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)
    pictures = {"heatmap": sweep / HEATMAP, "curves": sweep / CURVES}
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # pictures of different people look the same
        matplotlib.rcParams["text.parse_math"] = False  # "$" in a value is no formula
        # A value may have letters that the font lacks; the table shows them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figures = {"heatmap": draw_heatmap(record, swept), "curves": draw_curves(sweep, record, swept)}
        if budget := expected_by_budget(record, swept):
            pictures["budget"] = sweep / BUDGET
            figures["budget"] = draw_budget(record, swept, budget)
        if sized_runs(record):
            pictures["pareto"] = sweep / PARETO
            figures["pareto"] = draw_pareto(record, swept)
        with TemporaryDirectory(prefix=SCRATCH_PREFIX, dir=sweep) as scratch:
            for name, figure in figures.items():
                figure.savefig(Path(scratch) / pictures[name].name, dpi=DOTS_PER_INCH)
                os.replace(Path(scratch) / pictures[name].name, pictures[name])
    return pictures
