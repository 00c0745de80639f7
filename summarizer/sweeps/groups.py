"""One group of a sweep trained to its end, whatever ends it: an `Ended` for each run."""

from __future__ import annotations

from collections.abc import Sequence

from summarizer.errors import is_full_disk
from summarizer.runs import launch
from summarizer.runs.ended import Ended, say_failed
from summarizer.runs.record import RunRecord


def train_group(jobs: Sequence[RunRecord]) -> list[Ended]:
    """Run the jobs of a group together, and say which failed; what stops the group as a whole fails each of them.

    Raises StopRequested, the runs being saved, and the error of a full disk that ended every run: it would end
    those of the next group too.
    """
    try:
        ended = {run.folder: run for run in launch.start(jobs)}
    except Exception as error:
        ended = {job.folder: Ended(job.folder, None, error) for job in jobs}
    unsaid: dict[int, tuple[Exception, list[str]]] = {}
    for run in ended.values():
        if run.error is not None and not run.said:
            unsaid.setdefault(id(run.error), (run.error, []))[1].append(run.folder)
    for why, folders in unsaid.values():
        say_failed(why, folders)
    errors = [run.error for run in ended.values()]
    if errors[0] is not None and all(map(is_full_disk, errors)):
        raise errors[0]
    return [ended[job.folder] for job in jobs]
