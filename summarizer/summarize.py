"""`python -m summarizer.summarize`: summaries of articles by a trained run.

    python -m summarizer.summarize outputs/2026-11-22/10-15-30-123456 article.txt
    python -m summarizer.summarize RUN news.jsonl --column body --output summaries.jsonl
    curl ... | python -m summarizer.summarize RUN

Exit code 0 on success, 2 for a user's mistake (an item that cannot be read too, once the others are done), 1 for a
failure, 128 + the signal's number when it was stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from summarizer.runs.mistakes import report_mistakes
from summarizer.summaries.flags import SummarizeFlags

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
    """Run the command with these arguments and return its exit code. Raises SystemExit for --help."""
    return report_mistakes(lambda: _summarize(arguments), arguments)


def _summarize(arguments: Sequence[str]) -> None:
    flags = SummarizeFlags.read(arguments, command="summarize", usage="RUN [FILE ...]", epilog=EPILOG)

    from summarizer.runs.launch import prepare_process

    prepare_process()

    from summarizer.summaries.command import summarize

    summarize(flags)


if __name__ == "__main__":
    main()
