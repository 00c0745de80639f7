"""`python -m summarizer.export`: a trained run in a folder that plain peft, transformers or CTranslate2 loads.

    python -m summarizer.export outputs/2026-11-22/10-15-30-123456 --format peft
    python -m summarizer.export outputs/2026-11-22/10-15-30-123456 --format merged --dtype fp16
    python -m summarizer.export outputs/2026-11-22/10-15-30-123456 --format ctranslate2 --output summarizer-int8

Exit code 0 on success, 2 for a user's mistake, 1 for a failure, 128 + the signal's number when it was stopped.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from summarizer.summaries.flags import DEVICE, parsed, program


def main() -> None:
    """The command. Heavy imports wait until its arguments are checked, so that --help answers at once."""
    sys.exit(command(sys.argv[1:]))


def command(arguments: Sequence[str]) -> int:
    """Run the command with these arguments and return its exit code. Raises SystemExit for --help and misuse."""
    options = parsed(parser(), arguments)

    from summarizer.runs.launch import prepare_process
    from summarizer.runs.mistakes import report_mistakes

    prepare_process()

    return report_mistakes(lambda: _export(options), arguments)


def parser() -> argparse.ArgumentParser:
    """Names are checked by `build_request`, which says the nearest valid one."""
    made = argparse.ArgumentParser(
        prog=program("export"),
        description="Write a trained run into a folder that other programs load, with a model card.",
        allow_abbrev=False,
    )
    made.add_argument("run", metavar="RUN", help="the run's folder")
    made.add_argument(
        "--format",
        metavar="FORMAT",
        help="required: peft (the adapter alone), merged (a model for transformers) or ctranslate2",
    )
    made.add_argument(
        "--dtype",
        metavar="TYPE",
        help="of the weights: bf16 (default), fp16 or fp32; for ctranslate2 also int8 (its default), "
        "int8_float16, int8_bfloat16, int8_float32",
    )
    made.add_argument(
        "--output",
        metavar="FOLDER",
        help="new or empty (default: RUN/export/FORMAT); made whole or not at all",
    )
    made.add_argument(
        "--weights",
        metavar="WEIGHTS",
        help="merge into the weights as the run had them, quantized (trained), or into the checkpoint's own "
        "(original); by default into those whose answers are nearer to the unmerged model's",
    )
    made.add_argument("--model", metavar="PATH", help="where the base lies now, if it has moved")
    made.add_argument("--device", default="auto", metavar="DEVICE", help=f"auto, cpu or cuda; {DEVICE}")
    made.add_argument(
        "--with-base", action="store_true", help="for peft: a dense copy of the base beside the adapter"
    )
    return made


def _export(asked: argparse.Namespace) -> None:
    from summarizer.exporting.request import build_request

    request = build_request(
        asked.run,
        format_name=asked.format,
        dtype=asked.dtype,
        output=asked.output,
        weights=asked.weights,
        model=asked.model,
        device=asked.device,
        with_base=asked.with_base,
    )

    from summarizer.console.progress import ConsoleHandler

    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[ConsoleHandler()])

    from summarizer.exporting.export import export
    from summarizer.runs.mistakes import ended_by_sigterm

    with ended_by_sigterm():  # an exception, on whose way out what is half written is deleted
        for line in export(request):
            print(line, flush=True)


if __name__ == "__main__":
    main()
