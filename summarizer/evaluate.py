"""`python -m summarizer.evaluate`: trained runs scored on a split, beside what they have to beat.

    python -m summarizer.evaluate outputs/2026-11-22/10-15-30-123456 --split test
    python -m summarizer.evaluate RUN RUN --data news.jsonl --column body --summary-column abstract
    python -m summarizer.evaluate RUN --protocol mlperf

Exit code 0 on success, 2 for a user's mistake, 1 for a failure, 128 + the signal's number when it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from summarizer.summaries.flags import (
    add_generation_flags,
    add_model_flags,
    parsed,
    program,
    typed_generation,
)

if TYPE_CHECKING:
    from summarizer.scoring.asked import Request

EPILOG = """\
Scores, on the same rows: each RUN's adapter, the base alone, Lead-3 (the article's first three sentences) and
Random-3. Summaries are kept as they are written, in RUN/evaluations/SPLIT/ (predictions.jsonl and
predictions.base.jsonl): the same command goes on where it was stopped, and only scores once all are there. Scores
are printed, and kept there in scores.json and scores.md; of several runs, in the first's comparison.json.

--protocol mlperf is MLPerf Inference's task for GPT-J: its rows, its prompt, beam 4, 30 to 128 new tokens.
"""


def main() -> None:
    """The command. Heavy imports wait until its arguments are read, so that --help answers at once."""
    sys.exit(command(sys.argv[1:]))


def command(arguments: Sequence[str]) -> int:
    """Run the command with these arguments and return its exit code. Raises SystemExit for --help and misuse."""
    typed = parsed(_parser(), arguments)

    from summarizer.runs.launch import prepare_process

    prepare_process()

    from summarizer.runs.mistakes import report_mistakes
    from summarizer.scoring.command import evaluate

    return report_mistakes(lambda: evaluate(_request(typed)), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("evaluate"),
        usage="%(prog)s [options] RUN [RUN ...]",
        description="Score trained runs on a split: ROUGE with intervals, loss, text statistics, significance.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", metavar="RUN", type=Path, nargs="+", help="a run's folder; several share one base"
    )
    parser.add_argument("--split", metavar="SPLIT", help="test, validation or train; default: the run's own")
    parser.add_argument(
        "--protocol",
        metavar="NAME",
        default="own",
        help="own (default: as the run was trained) or mlperf",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        type=Path,
        help="for summaries and scores, or to go on in; default: see below",
    )
    rows = parser.add_argument_group("rows")
    rows.add_argument(
        "--data",
        metavar="FILE",
        action="append",
        default=[],
        help="rows of one's own (JSONL, JSON, CSV, Parquet, a glob of them); may be repeated",
    )
    rows.add_argument("--column", metavar="NAME", help="of the article in FILE; default: the run's own")
    rows.add_argument("--summary-column", metavar="NAME", help="of the reference summary, likewise")
    rows.add_argument("--id-column", metavar="NAME", help="of the id; default: the run's own, or row numbers")
    rows.add_argument(
        "--rows", metavar="N", help="score on so many rows, or on all; default: the run's own limit"
    )
    rows.add_argument(
        "--max-bad-rows", metavar="N", help="leave out up to so many unusable rows; default: the run's own"
    )
    scores = parser.add_argument_group("scores")
    scores.add_argument("--no-base", dest="base", action="store_false", help="leave the base alone out")
    scores.add_argument("--no-loss", dest="loss", action="store_false", help="leave the loss out")
    scores.add_argument(
        "--bertscore", metavar="FOLDER", type=Path, help="BERTScore by the encoder in this folder"
    )
    scores.add_argument(
        "--bertscore-layer", metavar="N", help="of the encoder, required with it: 17 of roberta-large"
    )
    models = parser.add_argument_group("model")
    add_model_flags(models)
    add_generation_flags(parser)
    return parser


def _request(typed: argparse.Namespace) -> Request:
    from summarizer.evaluation.rows import RowChoice
    from summarizer.scoring.asked import Request

    return Request(
        runs=tuple(typed.runs),
        split=typed.split,
        protocol=typed.protocol,
        choice=RowChoice(
            files=tuple(typed.data), article=typed.column, summary=typed.summary_column, id=typed.id_column
        ),
        rows=typed.rows,
        max_bad_rows=typed.max_bad_rows,
        output=typed.output,
        base=typed.base,
        loss=typed.loss,
        bertscore=typed.bertscore,
        bertscore_layer=typed.bertscore_layer,
        model=typed.model,
        generation=typed_generation(vars(typed)),
        batch_size=typed.batch_size,
        device=typed.device,
        precision=typed.precision,
    )


if __name__ == "__main__":
    main()
