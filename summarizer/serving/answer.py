"""The answer to one request, as events: each summary in pieces, then what there is to say about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict
from typing import Any

from summarizer.evaluation.rouge import score_pairs
from summarizer.serving.copied import copied
from summarizer.serving.request import SummaryRequest
from summarizer.trained.summariser import Prepared, Summariser

Event = dict[str, Any]
"""One line of the answer: `event` says which, the rest is plain JSON."""


class Unwanted(Exception):  # noqa: N818 - no error: what became of a request
    """Nobody waits for the answer any more."""


def answer(summariser: Summariser, request: SummaryRequest, wanted: Callable[[], bool]) -> Iterator[Event]:
    """The events of a request, one variant after the other: they share the base, which writes one at a time.

    wanted: asked between tokens. Raises Unwanted once it says no, leaving the model as it was.
    """

    def require_wanted() -> None:
        if not wanted():
            raise Unwanted

    article = summariser.prepare(request.article)
    yield {
        "event": "article",
        "article_tokens": article.article_tokens,
        "cut_tokens": article.cut_tokens,
    }
    for variant in request.variants:
        require_wanted()
        yield {"event": "started", "run": variant.id}
        start_s = time.perf_counter()
        first_s: float | None = None
        summary = ""
        with closing(_pieces(summariser, article, variant.trial, require_wanted)) as pieces:
            for piece in pieces:
                require_wanted()
                if first_s is None:
                    first_s = time.perf_counter() - start_s
                summary += piece
                yield {"event": "text", "run": variant.id, "text": piece}
        total_s = time.perf_counter() - start_s
        yield {
            "event": "summary",
            "run": variant.id,
            "summary": summary,
            **_speed(summariser, summary, first_s, total_s),
            "rouge": None if request.reference is None else _rouge(summary, request.reference),
            "copied": asdict(copied(request.article, summary)),
        }
    yield {"event": "done"}


def _pieces(
    summariser: Summariser, article: Prepared, trial: int | None, require_wanted: Callable[[], None]
) -> Generator[str, None, None]:
    if summariser.generation.num_beams == 1:
        yield from summariser.stream(article, trial=trial)
        return
    # The best beam is known only at the end; until then each step is where the work can be left.
    trials = None if trial is None else [trial]
    for _, (text,) in summariser.summaries([article], trials=trials, on_step=lambda _: require_wanted()):
        yield text


def _speed(summariser: Summariser, summary: str, first_s: float | None, total_s: float) -> Event:
    tokens = len(summariser.opened.prompt.encode_target(summary)) - 1 if summary else 0
    return {
        "summary_tokens": tokens,  # of the text as the tokenizer writes it, without the end token
        "first_text_s": first_s,  # None: it is empty
        "total_s": total_s,  # the reading of the article included
        "tokens_per_s": tokens / total_s,
    }


def _rouge(summary: str, reference: str) -> dict[str, float]:
    scores = score_pairs([summary], [reference], show=False, processes=1)
    return {variant: float(rows[0]) for variant, rows in scores.items()}
