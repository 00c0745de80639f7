"""One group of a sweep trained to its end, whatever ends it: an `Ended` for each run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from summarizer.config.paths import shown
from summarizer.runs import launch
from summarizer.runs.ended import Ended
from summarizer.runs.job import Job

log = logging.getLogger(__name__)


def train_group(jobs: Sequence[Job]) -> list[Ended]:
    """Run the jobs of a group together, and say which failed; what stops the group as a whole fails each of them.

    Raises StopRequested, the runs being saved.
    """
    try:
        ended = {run.folder: run for run in launch.start(jobs)}
    except Exception as error:
        _say(error, [job.folder for job in jobs])
        return [Ended(job.folder, None, error) for job in jobs]
    for run in ended.values():
        if run.error is not None:
            _say(run.error, [run.folder])
    return [ended[job.folder] for job in jobs]


def _say(error: Exception, folders: Sequence[str]) -> None:
    unexpected = None if isinstance(error, launch.EXPECTED) else error
    one = {"run": folders[0]} if len(folders) == 1 else {}
    names = ", ".join(shown(Path(folder)) for folder in folders)
    log.error("%s %s failed: %s", "run" if one else "runs", names, error, exc_info=unexpected, extra=one)
