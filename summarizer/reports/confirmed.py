"""What is sure of a sweep's answer: its confirmation as sentences and as a table."""

from __future__ import annotations

from collections.abc import Sequence

from summarizer.console.safe_text import one_line
from summarizer.evaluation.record import LOSS, Difference
from summarizer.reports.sentences import about_the_differences, counted, p_text, score_name
from summarizer.reports.tables import EMPTY, Cell, Column, Table, informative, scored
from summarizer.sweeps.confirmation import Confirmation, ConfirmedSetting


def confirmed_answer(found: Confirmation) -> str:
    """What is sure, in one sentence: what the winner beats, what beats it, and what it is not told apart from."""
    rows = f"{counted(found.rows, f'{found.split} row')} that chose nothing"
    return f"Confirmed on {rows}: {_verdicts(found, LOSS)}."


def confirmed_notes(found: Confirmation) -> list[str]:
    """The same by ROUGE where that was measured, how the settings were paired, and who had no part."""
    notes = []
    others = dict.fromkeys(one.metric for one in found.differences if one.metric != LOSS)
    notes += [f"By {score_name(metric)}: {_verdicts(found, metric)}." for metric in others]
    notes += about_the_differences(found.differences)
    if found.seeds > 1:
        spread = _nats(found.spread_of_seeds)
        notes.append(
            f"Scores are means over up to {counted(found.seeds, 'seed')}. Luck in the seed is no part of the "
            f"intervals: seeds of one setting lie {spread} nats apart (standard deviation), the settings' means "
            f"{_nats(found.spread_of_settings)}."
        )
    elif len(found.settings) > 1:
        notes.append("Each setting has one seed: how much luck in the seed matters cannot be told from this.")
    if found.finished < found.planned:
        notes.append(
            f"{found.finished} of {counted(found.planned, 'run')} trained to their end; only those are compared."
        )
    if found.behind:
        notes.append(
            f"Behind by more than the noise of the rows that ranked them, and so not scored here: "
            f"{'; '.join(map(one_line, found.behind))}."
        )
    if found.not_looked_at:
        more = f"{counted(found.not_looked_at, 'setting')} that ranked behind these"
        notes.append(f"{more} {'was' if found.not_looked_at == 1 else 'were'} not looked at.")
    if found.left_out:
        names = "; ".join(map(one_line, found.left_out))
        notes.append(f"Left out, since their losses are of other rows or other tokens: {names}.")
    return notes


def confirmed_table(found: Confirmation, title: str = "") -> Table:
    """The settings that were scored, the winner first."""
    settings = found.settings
    by_loss = {one.second: one for one in found.differences if one.metric == LOSS}
    variant = next((one.metric for one in found.differences if one.metric != LOSS), None)
    where = f"{found.split},\n{found.rows:,} rows"

    def gap(setting: ConfirmedSetting) -> Cell:
        one = by_loss.get(setting.name)
        if one is None:
            return EMPTY
        low, high = sorted((-one.mean.low, -one.mean.high))
        return Cell(f"{-one.mean.value:+.3f}", f"{low:+.3f} to {high:+.3f}")

    def p(setting: ConfirmedSetting) -> Cell:
        one = by_loss.get(setting.name)
        return EMPTY if one is None else Cell(p_text(one.p_holm).removeprefix("= "))

    columns = [
        Column("setting", [Cell(_name(one)) for one in settings], numeric=False, folds=True),
        Column("chosen by", [Cell(f"{one.chosen_by:.3f}") for one in settings]),
        Column(f"loss\n{where}", [scored(one.loss, 3) for one in settings]),
        Column("above the\nwinner's", [gap(one) for one in settings]),
        Column("p after\nHolm", [p(one) for one in settings]),
        Column("of each seed", [_seeds(one) for one in settings], numeric=False),
        Column(
            f"{variant}\n{where}",
            [scored(one.rouge[variant]) if one.rouge and variant else EMPTY for one in settings],
        ),
    ]
    return Table(informative(columns), title, ["bold", *[""] * (len(settings) - 1)])


def _verdicts(found: Confirmation, metric: str) -> str:
    """`A beats B by 0.031 nats (0.012 to 0.050) and ...; C beats it by ...; it is not told apart from D`."""
    ours = [one for one in found.differences if one.metric == metric]
    if not ours:
        return f"{found.winner.name} stands alone, since all others are behind it by more than noise"
    names = {one.name: _name(one) for one in found.settings}
    unit = "nats" if metric == LOSS else "points"
    winner, it = names[found.winner.name], "it"
    parts = []
    if better := [one for one in ours if one.verdict == "better"]:
        beaten = " and ".join(f"{names[one.second]} by {_by(one, unit)}" for one in better)
        parts.append(f"{winner} beats {beaten}")
    if worse := [one for one in ours if one.verdict == "worse"]:
        beating = " and ".join(f"{names[one.second]} by {_by(one, unit)}" for one in worse)
        parts.append(f"{it if parts else winner} is beaten by {beating}")
    if unclear := [names[one.second] for one in ours if one.verdict == "not significant"]:
        parts.append(f"{it if parts else winner} is not told apart from {_listed(unclear)}")
    return "; ".join(parts)


def _name(setting: ConfirmedSetting) -> str:
    return one_line(setting.name) + (" (the default)" if setting.is_default else "")


def _by(one: Difference, unit: str) -> str:
    digits = 3 if unit == "nats" else 1
    low, high = sorted((abs(one.mean.low), abs(one.mean.high)))
    if one.mean.low * one.mean.high < 0:  # the test and the interval need not agree to the last row
        low, high = -low, high
    return f"{abs(one.mean.value):.{digits}f} {unit} ({low:.{digits}f} to {high:.{digits}f})"


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _seeds(setting: ConfirmedSetting) -> Cell:
    missing = setting.planned - len(setting.runs)
    if setting.planned == 1:
        return EMPTY
    text = " ".join(f"{loss:.3f}" for loss in setting.seed_losses)
    return Cell(f"{text} ({missing} not finished)" if missing else text)


def _nats(spread: float | None) -> str:
    return "an unknown number of" if spread is None else f"{spread:.3f}"
