"""`python -m summarizer.sweep`: act on a sweep while it trains.

    python -m summarizer.sweep SWEEP stop 3
    python -m summarizer.sweep SWEEP clone 1 optimizer.lr=5e-4

Exit code 0 once the request is in the sweep's folder, 2 for a user's mistake, 1 for a failure.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pydantic import Field
from pydantic_settings import CliPositionalArg

from summarizer.config.flags import Flags, FolderPath
from summarizer.runs.mistakes import report_mistakes

EPILOG = """\
RUN is a run's number in its sweep, which `summarizer compare SWEEP --watch` shows.

stop RUN ends a run at its next step: the best adapter that it has is kept, and its slot is free for others.
clone RUN KEY=VALUE ... begins another run as that one is at its next step (weights, optimizer, counters, best
evaluation), at other settings, such as optimizer.lr=5e-4 or seed=1.

Both are written to the sweep's folder (requests.jsonl), and hold when the sweep is killed and resumed.
"""


class SweepFlags(Flags):
    """Stop a run of a sweep that trains, or clone one at other settings."""

    sweep: CliPositionalArg[FolderPath] = Field(validation_alias="SWEEP")
    """the sweep's folder"""
    request: CliPositionalArg[list[str]] = Field(validation_alias="REQUEST")
    """stop RUN, or clone RUN KEY=VALUE ..."""


def main() -> None:
    """The command. Heavy imports wait until its arguments are read, so that --help answers at once."""
    sys.exit(command(sys.argv[1:]))


def command(arguments: Sequence[str]) -> int:
    """Run the command with these arguments and return its exit code. Raises SystemExit for --help."""
    return report_mistakes(lambda: _sweep(arguments), arguments)


def _sweep(arguments: Sequence[str]) -> None:
    usage = "SWEEP stop RUN | SWEEP clone RUN KEY=VALUE [KEY=VALUE ...]"
    flags = SweepFlags.read(arguments, command="sweep", usage=usage, epilog=EPILOG)

    from summarizer.errors import ConfigError

    if flags.mistakes:
        raise ConfigError(flags.mistakes)

    from summarizer.sweeps.control import request

    print(request(flags.sweep, flags.request))


if __name__ == "__main__":
    main()
