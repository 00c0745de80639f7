"""One `summarizer.run` command: what its runs share, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from summarizer.config.paths import shown
from summarizer.errors import ConfigError, RunsFailed
from summarizer.runs.record import RunRecord, records_to_json
from summarizer.tracking.startup import Stopwatch, since_process_start

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store


@dataclass
class Session:
    """The main process's view of a command, from its first word to its exit code."""

    startup: Stopwatch = field(default_factory=since_process_start)
    workers: Store | None = None
    """Where the other processes of a launcher hear what to train; None where there are none."""
    runs: int = 0
    """Runs that were begun, handed over or not."""
    failed: list[tuple[str, Exception]] = field(default_factory=list)
    """The folders of runs that failed, and why."""
    _groups: int = 0

    def __getstate__(self) -> dict[str, object]:
        """For a launcher's other processes, each of which begins a session of its own."""
        return {}

    def __setstate__(self, state: dict[str, object]) -> None:
        Session.__init__(self)

    def begin_group(self) -> None:
        """The process's first group took it from the command to here; a sweep's later ones begin here."""
        if self.startup.parts:
            self.startup.restart()
        else:
            self.startup.lap("compose")

    def hand_over(self, records: Sequence[RunRecord]) -> None:
        """Have the workers train these runs as a group too; none lets the workers go."""
        if self.workers is not None:
            self.workers.set(f"job/{self._groups}", records_to_json(records))
            self._groups += 1

    def keep(self, ended: Sequence[RunRecord]) -> None:
        """Count a sweep's runs, and keep their failures for `raise_failures`."""
        self.runs += len(ended)
        self.failed += [(run.folder, run.cause) for run in ended if run.cause is not None]

    def raise_failures(self) -> None:
        """Raise what a single run raised; of a sweep, name the runs that failed and why. Nothing without any."""
        if not self.failed:
            return
        if len(self.failed) == 1 and self.runs == 1:
            raise self.failed[0][1]
        lines = [f"{len(self.failed)} of the sweep's {self.runs} runs failed:"]
        by_error: dict[int, list[str]] = {}
        for folder, error in self.failed:
            by_error.setdefault(id(error), []).append(shown(Path(folder)))
        errors = {id(error): error for _, error in self.failed}
        for key, folders in by_error.items():
            lines += [f"  {', '.join(folders)}:"] + [f"    {line}" for line in str(errors[key]).splitlines()]
        only_mistakes = all(isinstance(error, ConfigError) for _, error in self.failed)
        raise RunsFailed("\n".join(lines), 2 if only_mistakes else 1)


def raise_alone(ended: Sequence[RunRecord]) -> float | None:
    """The best value of a run that was started alone. Raises what ended it; of several runs nothing is raised."""
    if len(ended) > 1:
        return None
    if ended[0].cause is not None:
        raise ended[0].cause
    return None if ended[0].best is None else ended[0].best.value
