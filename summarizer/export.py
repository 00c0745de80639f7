"""`python -m summarizer.export`: a trained run in a folder for peft, transformers, CTranslate2, llama.cpp or vLLM.

    python -m summarizer.export outputs/2026-11-22/10-15-30-123456 --format peft
    python -m summarizer.export outputs/2026-11-22/10-15-30-123456 --format merged --dtype fp16
    python -m summarizer.export outputs/2026-11-22/10-15-30-123456 --format ctranslate2 --output summarizer-int8
    python -m summarizer.export outputs/2026-11-22/11-40-02-654321-sweep --format gguf-lora --with-base

Exit code 0 on success, 2 for a user's mistake, 1 for a failure, 128 + the signal's number when it was stopped.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from summarizer.console.safe_text import say
from summarizer.exporting.request import ExportFlags
from summarizer.runs.mistakes import report_mistakes


def main() -> None:
    """The command. Heavy imports wait until its arguments are checked, so that --help answers at once."""
    sys.exit(command(sys.argv[1:]))


def command(arguments: Sequence[str]) -> int:
    """Run the command with these arguments and return its exit code. Raises SystemExit for --help."""
    return report_mistakes(lambda: _export(arguments), arguments)


def _export(arguments: Sequence[str]) -> None:
    flags = ExportFlags.read(arguments, command="export", usage="RUN --format FORMAT")

    from summarizer.exporting.request import requested
    from summarizer.runs.launch import prepare_process

    prepare_process()
    request = requested(flags)

    from summarizer.console.progress import ConsoleHandler

    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[ConsoleHandler()])

    from summarizer.exporting.export import export
    from summarizer.runs.mistakes import ended_by_sigterm

    with ended_by_sigterm():  # an exception, on whose way out what is half written is deleted
        for line in export(request):
            say(line, sys.stdout)


if __name__ == "__main__":
    main()
