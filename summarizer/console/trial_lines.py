"""The lines of a group's display: one per trial, fitted to a terminal's width and height."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from rich.cells import cell_len, set_cell_size
from rich.text import Text

State = Literal["training", "evaluating", "waiting", "paused", "done", "stopped", "failed"]
"""What a trial is at.

waiting: it will have a slot. paused: it gave up its slot and may never get one again. stopped: before its end.
"""

STYLES: dict[State, str] = {
    "training": "green",
    "evaluating": "cyan",
    "waiting": "dim",
    "paused": "magenta",
    "done": "blue",
    "stopped": "yellow",
    "failed": "bold red",
}
LEAST_LABEL = 14
"""Characters that a label keeps: on a narrow terminal columns go first. `dim=16 lr=3e-4` has as many."""
GAP = "  "
CURVE = "train/loss"
"""The title of the column of curves."""


@dataclass(slots=True)
class TrialLine:
    """What is shown of one trial."""

    label: str
    total: int
    step: int = 0
    state: State = "waiting"
    loss: float | None = None
    value: float | None = None
    """The metric's value at the last evaluation."""
    best: float | None = None
    best_step: int | None = None
    curve: str = ""
    """Its loss so far, drawn in characters; nothing of a trial that is at work in this process."""

    @property
    def active(self) -> bool:
        return self.state in ("training", "evaluating")

    @property
    def goes_on(self) -> bool:
        """Whether it will take more steps, as far as can be told: what a paused trial would do is not known."""
        return self.active or self.state == "waiting"

    @property
    def steps_ahead(self) -> int:
        return self.total - self.step if self.goes_on else 0


def rank(line: TrialLine, metric: str) -> float:
    """Lower is better, whichever way the metric counts; infinite for a trial that has no value or failed."""
    if line.best is None or line.state == "failed":
        return float("inf")
    return line.best if metric.endswith("loss") else -line.best


def leader(lines: Sequence[TrialLine], metric: str) -> TrialLine | None:
    """The trial with the best value of all."""
    found = min(lines, key=lambda line: rank(line, metric))
    return found if rank(found, metric) < float("inf") else None


def table(lines: Sequence[TrialLine], metric: str, width: int, rows: int | None) -> list[Text]:
    """A header and below it at most `rows` lines (None: as many as trials), none wider than `width` cells.

    Where there are more trials than rows, those at work come first, then the best of the others, and the last
    line counts the rest. What is shown stands in the trials' own order.
    """
    shown, hidden = _chosen(lines, metric, rows)
    columns = _columns(lines, metric)
    labels = [line.label for line in lines]
    if _room(columns, width) < _longest(labels):
        labels = _fitted(short_labels(labels), columns, width)
    label_width = _longest(labels)
    drawn = [_text(GAP.join([" " * label_width, *(c.pad(c.title) for c in columns.values())]), "bold")]
    for index in shown:
        line, text = lines[index], _text(set_cell_size(labels[index], label_width))
        for column in columns.values():
            text.append(GAP)
            text.append(column.pad(column.cell(line)), column.style(line))
        drawn.append(text)
    if hidden:
        drawn.append(_text(set_cell_size(f"… {counted(hidden)}", width).rstrip(), "dim"))
    return drawn


def counted(lines: Sequence[TrialLine]) -> str:
    """`9 waiting, 3 done, 1 failed`."""
    counts = Counter(line.state for line in lines)
    return ", ".join(f"{counts[state]} {state}" for state in get_args(State) if counts[state])


def short_labels(labels: Sequence[str]) -> list[str]:
    """`dim=2 lr=1e-4` for `adapter.dim=2 optimizer.lr=1e-4`: each key's last words, as many as tell it apart."""
    pattern = re.compile(r"(?<!\S)([+~]*)([^\s=]+)(?==)")
    keys = {match[2] for label in labels for match in pattern.finditer(label)}

    return [pattern.sub(lambda match: match[1] + short_key(match[2], keys), label) for label in labels]


def short_key(key: str, keys: Iterable[str]) -> str:
    """The shortest ending of a dotted key that no other key shares. A group's path (`a/b`) stays whole."""
    parts = key.split(".")
    others = [other.split(".") for other in keys if other != key]
    endings = (parts[-count:] for count in range(1, len(parts)))
    return ".".join(next((e for e in endings if all(other[-len(e) :] != e for other in others)), parts))


def cut_middle(text: str, width: int) -> str:
    """`text` in at most `width` terminal cells, its middle left out."""
    if cell_len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{set_cell_size(text, head)}…{set_cell_size(text[::-1], width - 1 - head)[::-1]}"


def number(value: float | None) -> str:
    """A value in at most nine characters; empty where there is none."""
    if value is None:
        return ""
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.2e}"


class _Column(NamedTuple):
    title: str
    width: int
    cell: Callable[[TrialLine], str]
    style: Callable[[TrialLine], str]

    def pad(self, content: str) -> str:
        return content.ljust(self.width) if self.title in ("state", CURVE) else content.rjust(self.width)


def _columns(lines: Sequence[TrialLine], metric: str) -> dict[str, _Column]:
    """The columns in the order shown; a dictionary, so that a narrow terminal can leave some out."""
    first = leader(lines, metric)

    def plain(line: TrialLine) -> str:
        return "dim" if line.state == "waiting" else ""

    def best_style(line: TrialLine) -> str:
        return "bold green" if line is first else ""

    cells: dict[str, tuple[str, Callable[[TrialLine], str], Callable[[TrialLine], str]]] = {
        "state": ("state", lambda line: line.state, lambda line: STYLES[line.state]),
        "step": ("step", lambda line: f"{line.step}/{line.total}", plain),
        "loss": ("loss", lambda line: number(line.loss), plain),
        "value": (metric, lambda line: number(line.value), plain),
        "best": ("best ", lambda line: number(line.best) + ("*" if line is first else " "), best_style),
        "at": ("at", lambda line: "" if line.best_step is None else str(line.best_step), best_style),
    }
    if longest := max(len(line.curve) for line in lines):
        cells["curve"] = (CURVE, lambda line: line.curve, plain)
    fixed = {"state": len("evaluating"), "loss": 7, "value": 7, "best": 8, "curve": longest}
    # Widths depend on no value that changes as the trials go: nothing jumps from one redraw to the next.
    digits = max(len(str(line.total)) for line in lines)
    widths = {**fixed, "step": 2 * digits + 1, "at": digits}
    return {
        name: _Column(title, max(widths[name], len(title)), cell, style)
        for name, (title, cell, style) in cells.items()
    }


def _fitted(labels: Sequence[str], columns: dict[str, _Column], width: int) -> list[str]:
    """The labels cut to the room there is; `columns` loses what leaves them too little to be told apart."""
    for dropped in ("curve", "at", "loss", "best", "step", "value", "state"):
        room = _room(columns, width)
        cut = {cut_middle(label, max(room, 1)) for label in labels}
        alike = len(cut) < len(set(labels)) and dropped in ("curve", "at", "loss")
        if room >= min(_longest(labels), LEAST_LABEL) and not alike:
            break
        columns.pop(dropped, None)
    return [cut_middle(label, max(_room(columns, width), 1)) for label in labels]


def _room(columns: dict[str, _Column], width: int) -> int:
    """Cells that the columns leave to the labels."""
    return width - sum(len(GAP) + column.width for column in columns.values())


def _longest(labels: Sequence[str]) -> int:
    return max(map(cell_len, labels))


def _chosen(lines: Sequence[TrialLine], metric: str, rows: int | None) -> tuple[list[int], list[TrialLine]]:
    """Indices of the trials shown, in order, and the trials that are not."""
    if rows is None or len(lines) <= rows:
        return list(range(len(lines))), []
    urgent = sorted(range(len(lines)), key=lambda i: (not lines[i].active, rank(lines[i], metric), i))
    kept = set(urgent[: max(rows - 1, 0)])
    return sorted(kept), [line for index, line in enumerate(lines) if index not in kept]


def _text(content: str, style: str = "") -> Text:
    return Text(content, style, no_wrap=True, overflow="crop")
