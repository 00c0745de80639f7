"""The report of a sweep, once, when the command that launched it ends: a sweeper may launch batch after batch."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from summarizer.config.paths import shown
from summarizer.errors import ConfigError

if TYPE_CHECKING:
    from summarizer.config.schema import TrackingConfig

_due: list[dict[Path, TrackingConfig]] = []
"""The sweeps to report, for each `reported` block that is open, and where wandb is to hear of them."""

log = logging.getLogger(__name__)


@contextmanager
def reported() -> Iterator[None]:
    """At the end of the block, however it ends, each sweep that `report_later` names in it is reported."""
    _due.append({})
    try:
        yield
    except BaseException:
        for sweep, tracking in _due.pop().items():
            try:
                _report(sweep, tracking)
            except (ConfigError, OSError) as error:  # what ended the sweep is what its user must hear of
                log.error("the sweep's report could not be written: %s", error)
            log.info("resume with resume=%s", shown(sweep))
        raise
    for sweep, tracking in _due.pop().items():
        _report(sweep, tracking)


def report_later(sweep: Path, tracking: TrackingConfig) -> None:
    """Have the sweep reported at the end of the innermost `reported` block."""
    assert _due, "launch a sweep in a `reported` block"
    _due[-1][sweep] = tracking


def _report(sweep: Path, tracking: TrackingConfig) -> None:
    from summarizer.reports.sweep_report import report_sweep  # it draws, which most commands never do

    report_sweep(sweep, tracking)
