"""`python -m summarizer.serve`: a page on this machine where adapters summarize pasted articles side by side.

    python -m summarizer.serve outputs/2026-11-22/10-15-30-123456
    python -m summarizer.serve outputs/2026-11-23/07-02-50-473744-sweep/0 outputs/2026-11-23/07-02-50-473744-sweep/3

The runs share one loaded base. Ctrl-C ends it, with exit code 130; 2 is a user's mistake, 1 a failure.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from summarizer.errors import ConfigError
from summarizer.summaries.flags import DEVICE, PRECISION, PRECISIONS, parsed, program

WAITING = 8
"""How many requests may wait by default, besides the one that is being answered."""

NEEDED = {"starlette": "starlette>=1.0", "uvicorn": "uvicorn>=0.40"}
"""Packages of the extra `serve`, as pyproject.toml has them."""


def main() -> None:
    """The command. Heavy imports wait until its arguments are read, so that --help answers at once."""
    sys.exit(command(sys.argv[1:]))


def command(arguments: Sequence[str]) -> int:
    """Run the command with these arguments and return its exit code. Raises SystemExit as argparse does."""
    options = parsed(parser(), arguments)

    from summarizer.runs.launch import prepare_process
    from summarizer.runs.mistakes import report_mistakes

    prepare_process()
    return report_mistakes(lambda: _serve(options), arguments)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=program("serve"),
        description="Open trained runs over one base, and summarize pasted articles on a web page.",
        allow_abbrev=False,
    )
    made.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a run's folder; several: one base")
    made.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    made.add_argument(
        "--port", type=int, default=8000, help="port to listen on, 0: any free one (default: %(default)s)"
    )
    made.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="a further name by which browsers may ask for this server, as behind a proxy; may be repeated",
    )
    made.add_argument(
        "--queue",
        metavar="N",
        type=int,
        default=WAITING,
        help="requests that may wait while one is answered (default: %(default)s)",
    )
    made.add_argument("--model", metavar="PATH", help="where the base lies now, if it has moved")
    made.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help=DEVICE)
    made.add_argument("--precision", choices=PRECISIONS, default="auto", help=PRECISION)
    return made


def _serve(options: argparse.Namespace) -> None:
    _require_packages()
    folders: list[Path] = options.runs
    if options.queue < 0:
        raise ConfigError.single("--queue", f"{options.queue}; at least 0")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError.single("RUN", "the same folder is named twice; once is enough")

    from summarizer.console.progress import ConsoleHandler
    from summarizer.runs.trained_run import read_run
    from summarizer.serving.listening import allowed_hosts, bind, is_loopback

    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[ConsoleHandler()])
    logging.getLogger("absl").setLevel(logging.WARNING)  # rouge-score says a line at each scoring
    runs = [read_run(folder, model=options.model) for folder in folders]
    with bind(options.host, options.port) as bound:
        if not is_loopback(bound):
            logging.warning(
                "--host %s: there is no password; whoever reaches this machine's port %d can use this server",
                options.host,
                bound.getsockname()[1],
            )

        from summarizer.runs.opened import open_runs
        from summarizer.runs.summarizer import Summarizer
        from summarizer.serving.application import build_application
        from summarizer.serving.listening import serve
        from summarizer.serving.writer import Writer

        opened = open_runs(runs, device=options.device, precision=options.precision)
        writer = Writer(lambda spec: Summarizer(opened, spec, articles_at_once=1), options.queue)
        hosts = allowed_hosts(bound, options.allow_host)
        serve(build_application(opened, writer, hosts), writer, bound)


def _require_packages() -> None:
    if missing := [pinned for name, pinned in NEEDED.items() if find_spec(name) is None]:
        wanted = " ".join(f"'{pinned}'" for pinned in missing)
        raise ConfigError.single(
            "summarizer.serve", f"needs packages that are not installed: pip install {wanted}"
        )


if __name__ == "__main__":
    main()
