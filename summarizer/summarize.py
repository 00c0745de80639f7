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

PRECISION = "of products; int8 reads articles in whole numbers, faster on a CPU and a little less exactly"
NUMBERS = (
    ("max_new_tokens", "--max-new-tokens", "longest summary, in tokens"),
    ("min_new_tokens", "--min-new-tokens", "shortest summary, in tokens"),
    ("num_beams", "--beams", "1 is greedy search"),
    ("length_penalty", "--length-penalty", "above 0 favours longer summaries among beams"),
    (
        "no_repeat_ngram_size",
        "--no-repeat-ngram-size",
        "no so many tokens occur twice in a row; 0 is no limit",
    ),
    ("temperature", "--temperature", "of --sample"),
    ("top_p", "--top-p", "of --sample: draw among the likeliest tokens of so much probability"),
    ("top_k", "--top-k", "of --sample: draw among so many likeliest tokens; 0 is all"),
    ("seed", "--seed", "of --sample"),
)
SWITCHES = (
    ("early_stopping", "--early-stopping", "end as soon as as many beams as there are have ended"),
    ("do_sample", "--sample", "draw tokens at random"),
)


def main() -> None:
    """The command. Heavy imports wait until its arguments are read, so that --help answers at once."""
    sys.exit(command(sys.argv[1:]))


def command(arguments: Sequence[str]) -> int:
    """Run the command with these arguments and return its exit code. Raises SystemExit for --help and misuse."""
    request = _request(_parser(), arguments)

    from summarizer.runs.launch import prepare_process

    prepare_process()

    from summarizer.runs.mistakes import report_mistakes
    from summarizer.summaries.command import summarise

    return report_mistakes(lambda: summarise(request), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m summarizer.summarize",
        usage="%(prog)s [options] RUN [FILE ...]",
        description="Summarise articles by a trained run.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the run's folder")
    parser.add_argument("files", metavar="FILE", nargs="*", help="what to summarise")
    parser.add_argument(
        "-o", "--output", metavar="FILE.jsonl", type=Path, help="write there, or go on writing there"
    )
    tables = parser.add_argument_group("tables")
    tables.add_argument("--column", metavar="NAME", help="of the article; default: the run's own")
    tables.add_argument(
        "--id-column", metavar="NAME", help="of the id; default: the run's own, or row numbers"
    )
    models = parser.add_argument_group("model")
    which = models.add_mutually_exclusive_group()
    which.add_argument("--base", action="store_true", help="summarise by the untrained base")
    which.add_argument(
        "--adapter", metavar="FOLDER", type=Path, help="a PEFT adapter in place of the run's own"
    )
    models.add_argument(
        "--model", metavar="PATH", help="where the base lies now, if that is not where it lay"
    )
    models.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    models.add_argument(
        "--precision", choices=("auto", "fp32", "bf16", "fp16", "int8"), default="auto", help=PRECISION
    )
    models.add_argument(
        "--batch-size", metavar="N", help="articles at once; default: the run's evaluation.batch_size"
    )
    generation = parser.add_argument_group("generation", "by default as the run's config says")
    for key, flag, meaning in NUMBERS:
        generation.add_argument(flag, metavar="N", dest=key, help=meaning)
    for key, flag, meaning in SWITCHES:
        generation.add_argument(flag, dest=key, action=argparse.BooleanOptionalAction, help=meaning)
    return parser


def _request(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> Request:
    known, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        from summarizer.config.nearest import nearest

        flag = unknown[0].split("=", 1)[0]
        flags = [name for action in parser._actions for name in action.option_strings]
        near = nearest(flag, flags)
        parser.error(f"unknown flag {flag}" + (f"; did you mean {near}?" if near else ""))
    typed = vars(known)

    from summarizer.summaries.command import Request

    keys = [key for key, _, _ in (*NUMBERS, *SWITCHES)]
    return Request(
        generation={key: typed[key] for key in keys if typed[key] is not None},
        files=tuple(typed["files"]),
        **{key: value for key, value in typed.items() if key not in (*keys, "files")},
    )


if __name__ == "__main__":
    main()
