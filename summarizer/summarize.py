"""`python -m summarizer.summarize`: summaries of articles by a trained run.

    python -m summarizer.summarize outputs/2026-11-22/10-15-30-123456 article.txt
    python -m summarizer.summarize RUN news.jsonl --column body --output summaries.jsonl
    curl ... | python -m summarizer.summarize RUN

Exit code 0 on success, 2 for a user's mistake (an item that cannot be read too, once the others are done), 1 for a
failure, 128 + the signal's number when it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from summarizer.summaries.flags import (
    GENERATION_KEYS,
    add_generation_flags,
    add_model_flags,
    parsed,
    program,
    typed_generation,
)

if TYPE_CHECKING:
    from summarizer.summaries.command import Request

EPILOG = """\
FILE is text (UTF-8, one article), a table (.jsonl, .json, .csv, .parquet, one article a row), either also with
.gz, a folder (all files in it and below that are not hidden), or - for an article from standard input, which is
also what is read where no FILE is named.

One article's summary is printed alone, several under lines `==> SOURCE <==`. With --output, each becomes a line
of JSON (id, source, prediction, reference if the table has one, article_tokens, cut_tokens, article_digest); a
file that exists is continued.

Articles are cut as in training, at their end, to fit into the run's prompt.max_tokens, and the cut is reported.
"""


def main() -> None:
    """The command. Heavy imports wait until its arguments are read, so that --help answers at once."""
    sys.exit(command(sys.argv[1:]))


def command(arguments: Sequence[str]) -> int:
    """Run the command with these arguments and return its exit code. Raises SystemExit for --help and misuse."""
    request = _request(_parser(), arguments)

    from summarizer.runs.launch import prepare_process

    prepare_process()

    from summarizer.runs.mistakes import report_mistakes
    from summarizer.summaries.command import summarize

    return report_mistakes(lambda: summarize(request), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("summarize"),
        usage="%(prog)s [options] RUN [FILE ...]",
        description="Summarize articles by a trained run.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the run's folder")
    parser.add_argument("files", metavar="FILE", nargs="*", help="what to summarize")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE.jsonl",
        type=Path,
        help="write there, or go on writing there; default: print",
    )
    tables = parser.add_argument_group("tables")
    tables.add_argument("--column", metavar="NAME", help="of the article; default: the run's own")
    tables.add_argument(
        "--id-column", metavar="NAME", help="of the id; default: the run's own, or row numbers"
    )
    models = parser.add_argument_group("model")
    which = models.add_mutually_exclusive_group()
    which.add_argument("--base", action="store_true", help="summarize by the untrained base")
    which.add_argument(
        "--adapter", metavar="FOLDER", type=Path, help="a PEFT adapter in place of the run's own"
    )
    add_model_flags(models)
    add_generation_flags(parser)
    return parser


def _request(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> Request:
    typed = vars(parsed(parser, arguments))

    from summarizer.summaries.command import Request

    return Request(
        generation=typed_generation(typed),
        files=tuple(typed["files"]),
        **{key: value for key, value in typed.items() if key not in (*GENERATION_KEYS, "files")},
    )


if __name__ == "__main__":
    main()
