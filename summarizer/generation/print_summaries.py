"""Summaries on standard output, for a person to read or for the next program of a pipe."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Sequence

from summarizer.console.progress import bar
from summarizer.console.safe_text import printable
from summarizer.data.articles import Item
from summarizer.generation.summarizer import Rate, Summarizer, cut_text, summaries_in_order

log = logging.getLogger(__name__)


def print_summaries(
    summarizer: Summarizer, items: Sequence[Item], trial: int | None, *, headed: bool
) -> None:
    """Print a summary of each item by one loaded adapter, or by the base model where `trial` is None.

    headed: print a line `==> SOURCE <==` above each summary, as head and tail do above files, so that nobody has to
    count which item is missing.
    At a terminal each summary is shown as it is written; in a pipe several are written at the same time.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A locale without the summary's letters does not end the command.
        sys.stdout.reconfigure(errors="replace")
    if len(items) == 1 or sys.stdout.isatty():
        _stream(summarizer, items, trial, headed=headed)
        return
    cut = 0
    with bar("summaries", len(items)) as shown:
        for number, summary in enumerate(
            summaries_in_order(summarizer, items, None if trial is None else [trial], Rate(shown))
        ):
            cut += summary.cut_tokens > 0
            print(f"{_heading(summary.item, first=number == 0)}{_clean(summary.prediction)}", flush=True)
    if cut:
        log.warning("%s", cut_text(cut, len(items), summarizer.loaded.prompt.max_tokens))


def _stream(summarizer: Summarizer, items: Sequence[Item], trial: int | None, *, headed: bool) -> None:
    for number, item in enumerate(items):
        article = summarizer.prepare(item.article)
        if article.cut_tokens:
            log.warning(
                "%s: %s tokens, of which the last %s were cut to fit prompt.max_tokens=%d with the summary",
                item.source,
                f"{article.article_tokens:,}",
                f"{article.cut_tokens:,}",
                summarizer.loaded.prompt.max_tokens,
            )
        if headed:
            print(_heading(item, first=number == 0), end="", flush=True)
        try:
            for piece in summarizer.stream(article, trial=trial):
                print(_clean(piece), end="", flush=True)
        finally:
            print(flush=True)


def _heading(item: Item, *, first: bool) -> str:
    return f"{'' if first else chr(10)}==> {item.source} <==\n"


def _clean(text: str) -> str:
    """The text; at a terminal without what could move its cursor or color it, whatever a model writes."""
    return printable(text) if sys.stdout.isatty() else text
