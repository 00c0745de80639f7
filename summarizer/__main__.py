"""`summarizer NAME ...` and `python -m summarizer NAME ...`: the commands under one name.

    summarizer run adapter.dim=2
    summarizer summarize outputs/2026-11-22/10-15-30-123456 article.txt

Each is the command of its own that `python -m summarizer.NAME` starts, with that command's exit codes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from summarizer import __version__

COMMANDS = {
    "run": "train adapters and score them; -m for a sweep",
    "summarize": "summaries of articles by a trained run",
    "evaluate": "trained runs scored on a split",
    "export": "a trained run for peft, transformers, CTranslate2 or llama.cpp",
    "sweep": "stop or clone a run of a sweep while it trains",
    "compare": "runs beside each other, at the terminal and on a page",
    "serve": "a page in the browser where adapters summarize side by side",
}
HELP = "\n".join(
    [
        "usage: summarizer COMMAND ...",
        "",
        *(f"  {name:<11}{meaning}" for name, meaning in COMMANDS.items()),
        "",
        "`summarizer COMMAND --help` says more of each; `summarizer --version` says which this is.",
    ]
)
MISTAKE = 2


def main() -> None:
    """The command. Nothing heavy is imported before it is known which one is meant."""
    sys.exit(command(sys.argv[1:]))


def command(arguments: Sequence[str]) -> int:
    """Hand over to the command that is named. Returns an exit code, or raises SystemExit as that command does."""
    name, *others = arguments or [""]
    if name in ("-h", "--help"):
        print(HELP)
        return 0
    if name == "--version":
        print(f"lora-summarizer {__version__}")
        return 0
    if name not in COMMANDS:
        from summarizer.console.safe_text import say

        say(_no_command(name))
        return MISTAKE
    program = f"summarizer {name}"
    if name == "run" and {"-h", "--help"} & set(others):
        others.append(f"hydra.help.app_name='{program}'")
    # What usage texts call the command, and what Hydra reads.
    sys.argv = [program, *others]
    import_module(f"summarizer.{name}").main()
    return 0


def _no_command(name: str) -> str:
    from summarizer.errors import suggestion

    if not name:
        return HELP
    return f"summarizer: {name!r} is no command{suggestion(name, COMMANDS)}"


if __name__ == "__main__":
    main()
