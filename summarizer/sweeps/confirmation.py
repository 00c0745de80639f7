"""`confirmed.json`: what the answer of a sweep came to on rows that chose nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from summarizer.evaluation.record import Difference, Interval
from summarizer.json_files import Part, read_part, write_part

FILE = "confirmed.json"


class ConfirmedSetting(Part):
    """A setting on the confirming rows."""

    name: str
    runs: tuple[str, ...]
    """The folders of its runs that finished, one for each seed."""
    planned: int
    """How many runs of it the sweep has."""
    is_default: bool
    chosen_by: float
    """The mean over its runs of the sweep's metric, on the rows that the settings were ranked by."""
    loss: Interval
    """Nats per summary token on the confirming rows, averaged over the seeds; 95 % over the rows."""
    seed_losses: tuple[float, ...]
    """The same of each of its runs, in the order of `runs`."""
    rouge: dict[str, Interval] | None
    """Percent; None where the sweep writes no summaries while it trains."""


class Confirmation(Part):
    """The winner of a sweep beside the settings that might be as good, on rows that chose nothing."""

    identity: str
    """A digest of what it depends on: a sweep that has other runs since is confirmed anew."""
    split: Literal["test", "validation"]
    rows: int
    settings: tuple[ConfirmedSetting, ...]
    """The winner first; then in the order in which they were ranked."""
    behind: tuple[str, ...]
    """Runners-up that were no candidates: behind the winner by more than noise on the rows that ranked them."""
    not_looked_at: int
    """Settings that ranked behind all of these, and the default is none of them."""
    left_out: tuple[str, ...]
    """Candidates whose losses are of other rows or other tokens than the winner's, so that they do not compare."""
    differences: tuple[Difference, ...]
    """The winner minus each other setting, adjusted by Holm over all of them."""
    finished: Annotated[int, Field(ge=0)]
    """Runs of the sweep that trained to their end: only those can be confirmed."""
    planned: int
    spread_of_seeds: float | None
    """Standard deviation of the losses within a setting, in nats, pooled; None where no setting has two seeds."""
    spread_of_settings: float | None
    """Standard deviation of the settings' mean losses, in nats."""
    wall_s: float

    @property
    def winner(self) -> ConfirmedSetting:
        return self.settings[0]

    @property
    def seeds(self) -> int:
        """How many the setting with most of them has."""
        return max(len(setting.runs) for setting in self.settings)


def read_confirmation(sweep: Path) -> Confirmation | None:
    """What is kept in a sweep folder; None where nothing was confirmed. Raises ConfigError where it is broken."""
    path = sweep / FILE
    return read_part(path, Confirmation, "confirmation") if path.is_file() else None


def write_confirmation(sweep: Path, confirmation: Confirmation) -> None:
    """Replace it in one step. Raises OSError, leaving the old file as it was."""
    write_part(sweep / FILE, confirmation)
