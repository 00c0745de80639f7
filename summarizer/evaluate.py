"""`python -m summarizer.evaluate`: trained runs scored on a split, beside what they have to beat.

    python -m summarizer.evaluate outputs/2026-11-22/10-15-30-123456 --split test
    python -m summarizer.evaluate RUN RUN --data news.jsonl --column body --summary-column abstract
    python -m summarizer.evaluate RUN --protocol mlperf

Exit code 0 on success, 2 for a user's mistake, 1 for a failure, 128 + the signal's number when it was stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from summarizer.evaluation.flags import EvaluateFlags
from summarizer.runs.mistakes import report_mistakes

EPILOG = """\
Scores, on the same rows: each RUN's adapter, the base model, Lead-3 (the article's first three sentences) and
Random-3. Summaries are kept as they are written, in RUN/evaluations/SPLIT/ (predictions.jsonl and
predictions.base.jsonl): the same command goes on where it was stopped, and only scores once all are there. Scores
are printed, and kept there in scores.json and scores.md; of several runs, in the first's comparison.json.

--protocol mlperf is MLPerf Inference's task for GPT-J: its rows, its prompt, beam 4, 30 to 128 new tokens.
"""


def main() -> None:
    """The command. Heavy imports wait until its arguments are read, so that --help answers at once."""
    sys.exit(command(sys.argv[1:]))


def command(arguments: Sequence[str]) -> int:
    """Run the command with these arguments and return its exit code. Raises SystemExit for --help."""
    return report_mistakes(lambda: _evaluate(arguments), arguments)


def _evaluate(arguments: Sequence[str]) -> None:
    flags = EvaluateFlags.read(arguments, command="evaluate", usage="RUN [RUN ...]", epilog=EPILOG)

    from summarizer.runs.launch import prepare_process

    prepare_process()

    from summarizer.scoring.command import evaluate

    evaluate(flags)


if __name__ == "__main__":
    main()
