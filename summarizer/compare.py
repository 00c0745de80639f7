"""`python -m summarizer.compare`: runs beside each other, at the terminal and on a page.

    python -m summarizer.compare outputs/2026-11-22/10-15-30-123456-sweep
    python -m summarizer.compare outputs/*/* --by rougeLsum --html comparison.html
    python -m summarizer.compare RUN SWEEP wandb/

Exit code 0 on success, 2 for a user's mistake, 1 for a failure or where some of the runs could not be read,
128 + the signal's number when it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from summarizer.summaries.flags import parsed, program

if TYPE_CHECKING:
    from summarizer.reports.compare_command import Request

EPILOG = """\
A PATH is a run's folder, a sweep's, any folder above such, or what wandb keeps offline (offline-run-*, or the
wandb/ folder around it). A run that is found twice is listed once.

Only scores of the same rows stand in one table. Each run is paired with the best of its table, row by row: p says
how likely so large a difference in ROUGE would be if both were equally good, adjusted by Holm for comparing many.
Nothing is trained, generated or fetched.
"""


def main() -> None:
    """The command. Heavy imports wait until its arguments are read, so that --help answers at once."""
    sys.exit(command(sys.argv[1:]))


def command(arguments: Sequence[str]) -> int:
    """Run the command with these arguments and return its exit code. Raises SystemExit for --help and misuse."""
    typed = parsed(_parser(), arguments)

    from summarizer.reports.compare_command import compare
    from summarizer.runs.mistakes import report_mistakes

    return report_mistakes(lambda: compare(_request(typed)), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("compare"),
        usage="%(prog)s [options] PATH [PATH ...]",
        description="Compare runs: settings that differ, loss, ROUGE with intervals, time, memory, significance.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("paths", metavar="PATH", type=Path, nargs="+", help="runs, sweeps or wandb folders")
    parser.add_argument(
        "--by",
        metavar="SCORE",
        default="val/loss",
        help="what the runs are ranked by: val/loss (default), rouge1, rouge2, rougeL or rougeLsum",
    )
    parser.add_argument(
        "--html", metavar="FILE", type=Path, help="write a page of tables, pictures and summaries"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all of it for other programs")
    return parser


def _request(typed: argparse.Namespace) -> Request:
    from summarizer.reports.compare_command import Request

    return Request(paths=tuple(typed.paths), by=typed.by, html=typed.html, json=typed.json)


if __name__ == "__main__":
    main()
