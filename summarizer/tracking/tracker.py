"""What a run tells about itself while it goes on, and to nobody where tracking is off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

EndStatus = Literal["completed", "stopped", "failed"]
"""How a run ended."""


@dataclass(frozen=True)
class SampleSummary:
    """One row as a person judges it. `base` is what the untrained base wrote, where it was asked."""

    id: str
    article: str
    reference: str
    base: str | None
    prediction: str


class Tracker(Protocol):
    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Metrics of an optimizer step; steps never go back. Several calls for one step make one row."""

    def replay(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log what a killed process logged and may not have handed on; what is there already stays as it is."""

    def log_samples(self, step: int, rows: Sequence[SampleSummary]) -> None: ...

    def log_adapter(self, folder: Path) -> None:
        """Keep the saved adapter, which must not change any more."""

    def finish(self, status: EndStatus, summary: Mapping[str, Any]) -> None: ...


class NoTracker:
    """Tracking is off."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        return

    def replay(self, rows: Sequence[Mapping[str, Any]]) -> None:
        return

    def log_samples(self, step: int, rows: Sequence[SampleSummary]) -> None:
        return

    def log_adapter(self, folder: Path) -> None:
        return

    def finish(self, status: EndStatus, summary: Mapping[str, Any]) -> None:
        return
