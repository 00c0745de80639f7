"""`python -m summarizer.serve`: a page on this machine where adapters summarize pasted articles side by side.

    python -m summarizer.serve outputs/2026-11-22/10-15-30-123456
    python -m summarizer.serve outputs/2026-11-23/07-02-50-473744-sweep/0 outputs/2026-11-23/07-02-50-473744-sweep/3

    python -m summarizer.serve --blind RUN RUN

The runs share one loaded base; a blind test of two runs loads none. Ctrl-C ends it, with exit code 130; 2 is a
user's mistake, 1 a failure.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from socket import socket
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from pydantic_settings import CliPositionalArg

from summarizer.config.flags import FilePath, FolderPath
from summarizer.config.schema import Count
from summarizer.config.shared_flags import PrecisionFlags
from summarizer.errors import ConfigError, Issue
from summarizer.runs.mistakes import report_mistakes

if TYPE_CHECKING:
    from summarizer.runs.trained_run import TrainedRun

NEEDED = {"starlette": "starlette>=1.0", "uvicorn": "uvicorn>=0.40"}
"""Packages of the extra `serve`, as pyproject.toml has them."""


class ServeFlags(PrecisionFlags):
    """Open trained runs over one base model, and summarize pasted articles on a web page."""

    runs: CliPositionalArg[list[FolderPath]] = Field(validation_alias="RUN")
    """a run's folder; several share one base model"""
    host: str = "127.0.0.1"
    """address to listen on"""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """port to listen on, 0: any free one"""
    allow_host: tuple[str, ...] = ()
    """a further name by which browsers may ask for this server, as behind a proxy; may be repeated"""
    queue: Count = 8
    """requests that may wait while one is answered"""
    blind: bool = False
    """have people choose between the summaries of two runs, without being told which is whose"""
    votes: FilePath | None = None
    """where the votes of --blind are kept; the same command goes on with them (default: blind-ID.jsonl here)"""


def main() -> None:
    """The command. Heavy imports wait until its arguments are read, so that --help answers at once."""
    sys.exit(command(sys.argv[1:]))


def command(arguments: Sequence[str]) -> int:
    """Run the command with these arguments and return its exit code. Raises SystemExit for --help."""
    return report_mistakes(lambda: _serve(arguments), arguments)


def _serve(arguments: Sequence[str]) -> None:
    flags = ServeFlags.read(arguments, command="serve", usage="RUN [RUN ...]")
    _require_packages()
    if flags.votes is not None and not flags.blind:
        raise ConfigError(
            [*flags.mistakes, Issue("--votes", "keeps the votes of --blind, which is not given")]
        )

    from summarizer.console.progress import ConsoleHandler
    from summarizer.runs.launch import prepare_process

    prepare_process()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[ConsoleHandler()])
    logging.getLogger("absl").setLevel(logging.WARNING)  # rouge-score says a line at each scoring
    if flags.blind:
        _ask(flags)
        return
    runs = _runs(flags)

    from summarizer.serving.listening import allowed_hosts

    with _bound(flags) as bound:
        from summarizer.generation.summarizer import Summarizer
        from summarizer.runs.loaded_run import load_runs
        from summarizer.serving.application import build_application
        from summarizer.serving.listening import serve
        from summarizer.serving.writer import Writer

        loaded = load_runs(
            runs, device=flags.device, precision=flags.precision, generation=runs[0].spec.generation
        )
        writer = Writer(lambda spec: Summarizer(loaded, spec, batch_size=1), flags.queue)
        hosts = allowed_hosts(bound, flags.allow_host)
        serve(build_application(loaded, writer, hosts), writer, bound)


def _ask(flags: ServeFlags) -> None:
    """Serve a blind test of two runs, without loading either."""
    from summarizer.config.paths import shown
    from summarizer.console.safe_text import say
    from summarizer.serving.blind import Ballot, default_file, read_pairs, sentences
    from summarizer.serving.blind_application import build_blind_application
    from summarizer.serving.listening import allowed_hosts, serve

    if flags.mistakes:
        raise ConfigError(list(flags.mistakes))
    pairs = read_pairs(flags.runs)
    ballot = Ballot(pairs, flags.votes or default_file(pairs))
    with _bound(flags) as bound:
        logging.info(
            "%d of %d pairs are voted on; the votes are kept in %s",
            *(len(ballot.answers), len(ballot.order), shown(ballot.file)),
        )
        try:
            serve(build_blind_application(ballot, allowed_hosts(bound, flags.allow_host)), None, bound)
        finally:
            if ballot.ended:
                say("\n".join(sentences(ballot)))
            else:
                say(f"{len(ballot.left)} pairs are left; the same command goes on with them.")


@contextmanager
def _bound(flags: ServeFlags) -> Iterator[socket]:
    """The port to listen on. Whoever opens it to others is told what that means."""
    from summarizer.serving.listening import bind, is_loopback

    with bind(flags.host, flags.port) as bound:
        if not is_loopback(bound):
            logging.warning(
                "--host %s: there is no password; whoever reaches this machine's port %d can use this server",
                flags.host,
                bound.getsockname()[1],
            )
        yield bound


def _runs(flags: ServeFlags) -> list[TrainedRun]:
    """The runs to serve. Raises ConfigError with what is wrong with any of them or of the flags."""
    from summarizer.runs.trained_run import read_trained_run

    issues = list(flags.mistakes)
    if len({folder.resolve() for folder in flags.runs}) < len(flags.runs):
        issues.append(Issue("RUN", "the same folder is named twice; once is enough"))
    runs = []
    for folder in dict.fromkeys(flags.runs):
        try:
            runs.append(read_trained_run(folder, model=flags.model))
        except ConfigError as error:
            issues += error.issues
    if issues:
        raise ConfigError(issues)
    return runs


def _require_packages() -> None:
    if missing := [pinned for name, pinned in NEEDED.items() if find_spec(name) is None]:
        wanted = " ".join(f"'{pinned}'" for pinned in missing)
        raise ConfigError.single(
            "summarizer.serve", f"needs packages that are not installed: pip install {wanted}"
        )


if __name__ == "__main__":
    main()
