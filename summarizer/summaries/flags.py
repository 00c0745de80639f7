"""Flags that several commands share: which model, in what precision, and how it generates. Light to import."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")
PRECISION = (
    "of products; auto (default) is the fastest that the device has, int8 reads articles in whole numbers, faster "
    "on a CPU and a little less exactly"
)
DEVICE = "auto (default) is the card where there is one"
NUMBERS = (
    ("max_new_tokens", "--max-new-tokens", "longest summary, in tokens"),
    ("min_new_tokens", "--min-new-tokens", "shortest summary, in tokens"),
    ("num_beams", "--beams", "1 is greedy search"),
    ("length_penalty", "--length-penalty", "above 0 favors longer summaries among beams"),
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
GENERATION_KEYS = tuple(key for key, _, _ in (*NUMBERS, *SWITCHES))
"""Of the config group `generation`, in the order of --help."""


def program(name: str) -> str:
    """What usage texts call a command: `summarizer NAME` where it was started so, or its module."""
    own = f"summarizer {name}"
    return own if sys.argv[0] == own else f"python -m summarizer.{name}"


class TakesFlags(Protocol):
    """A parser, or a group of its flags."""

    def add_argument(self, *names: str, **options: Any) -> object: ...


def add_model_flags(models: TakesFlags) -> None:
    models.add_argument(
        "--model", metavar="PATH", help="where the base lies now, if that is not where it lay"
    )
    models.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help=DEVICE)
    models.add_argument("--precision", choices=PRECISIONS, default="auto", help=PRECISION)
    models.add_argument(
        "--batch-size", metavar="N", help="articles at once; default: the run's evaluation.batch_size"
    )


def add_generation_flags(parser: argparse.ArgumentParser) -> None:
    generation = parser.add_argument_group("generation", "by default as the run's config says")
    for key, flag, meaning in NUMBERS:
        generation.add_argument(flag, metavar="N", dest=key, help=meaning)
    for key, flag, meaning in SWITCHES:
        generation.add_argument(flag, dest=key, action=argparse.BooleanOptionalAction, help=meaning)


def parsed(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """The typed command line. Ends the process with code 2 for a flag that is none, naming the nearest one."""
    known, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        from summarizer.config.nearest import nearest

        flag = unknown[0].split("=", 1)[0]
        near = nearest(flag, flags_of(parser))
        parser.error(f"unknown flag {flag}" + (f"; did you mean {near}?" if near else ""))
    return known


def flags_of(parser: argparse.ArgumentParser) -> list[str]:
    """Each flag once. argparse tells them in its help alone, each action's at the beginning of a line."""
    flags: list[str] = []
    for line in re.sub(r"\x1b\[[\d;]*m", "", parser.format_help()).splitlines():  # Python 3.14 colors it
        if line.lstrip().startswith("-"):
            flags += re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", line.strip().split("  ")[0])
    return list(dict.fromkeys(flags))


def typed_generation(typed: Mapping[str, Any]) -> dict[str, str | bool]:
    """What was typed of the generation settings, by key."""
    return {key: typed[key] for key in GENERATION_KEYS if typed[key] is not None}
