"""`python -m summarizer.compare`: runs beside each other, at the terminal and on a page.

    python -m summarizer.compare outputs/2026-11-22/10-15-30-123456-sweep
    python -m summarizer.compare outputs/*/* --by rougeLsum --html comparison.html
    python -m summarizer.compare RUN SWEEP outputs/
    python -m summarizer.compare SWEEP --watch --html comparison.html

Exit code 0 on success, 2 for a user's mistake, 1 for a failure or where some of the runs could not be read,
128 + the signal's number when it was stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from summarizer.config.flags import FilePath, Flags, FolderPath
from summarizer.runs.mistakes import report_mistakes

EPILOG = """\
A PATH is a run's folder, a sweep's, or any folder above such. A run that is found twice is listed once.

Only scores of the same rows stand in one table. Each run is paired with the best of its table, row by row: p says
how likely so large a difference in ROUGE would be if both were equally good, adjusted by Holm for comparing many.
Nothing is trained, generated or fetched.
"""


class CompareFlags(Flags):
    """Compare runs: settings that differ, loss, ROUGE with intervals, time, memory, significance."""

    paths: CliPositionalArg[list[FolderPath]] = Field(validation_alias="PATH")
    """runs, sweeps, or folders that hold some"""
    by: Literal["val/loss", "rouge1", "rouge2", "rougeL", "rougeLsum"] = "val/loss"
    """what the runs are ranked by"""
    html: FilePath | None = None
    """write a page of tables, pictures and summaries"""
    json_file: FilePath | None = Field(None, validation_alias="json")
    """write all of it for other programs"""
    watch: bool = False
    """show runs that still train, terminal and page refreshing themselves, until all have ended"""


def main() -> None:
    """The command. Heavy imports wait until its arguments are read, so that --help answers at once."""
    sys.exit(command(sys.argv[1:]))


def command(arguments: Sequence[str]) -> int:
    """Run the command with these arguments and return its exit code. Raises SystemExit for --help."""
    return report_mistakes(lambda: _compare(arguments), arguments)


def _compare(arguments: Sequence[str]) -> None:
    flags = CompareFlags.read(arguments, command="compare", usage="PATH [PATH ...]", epilog=EPILOG)

    from summarizer.reports.compare_command import Request, compare

    compare(Request(tuple(flags.paths), flags.by, flags.html, flags.json_file, flags.watch, flags.mistakes))


if __name__ == "__main__":
    main()
