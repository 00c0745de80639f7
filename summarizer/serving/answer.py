"""The answer to one request, as events: each summary in pieces, then what there is to say about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from summarizer.evaluation.faithfulness import claims
from summarizer.evaluation.metrics import score_pairs
from summarizer.evaluation.record import RougeTokenizer
from summarizer.evaluation.text_statistics import WORD, fragments
from summarizer.evaluation.words import choose_tokenizer
from summarizer.generation.summarizer import Prepared, Summarizer
from summarizer.serving.request import SummaryRequest, Variant

Event = dict[str, Any]
"""One line of the answer: `event` says which, the rest is plain JSON."""


class Unwanted(Exception):  # noqa: N818 - no error: what became of a request
    """Nobody waits for the answer any more."""


def answer(summarizer: Summarizer, request: SummaryRequest, wanted: Callable[[], bool]) -> Iterator[Event]:
    """The events of a request: all adapters write side by side over the base, then the base model does.

    wanted: called between tokens. Raises Unwanted once it says no, leaving the model as it was.
    """

    def require_wanted() -> None:
        if not wanted():
            raise Unwanted

    article = summarizer.prepare(request.article)
    yield {
        "event": "article",
        "article_tokens": article.article_tokens,
        "cut_tokens": article.cut_tokens,
    }
    adapters = [variant for variant in request.variants if variant.trial is not None]
    alone = [variant for variant in request.variants if variant.trial is None]
    for together in filter(None, (adapters, alone)):
        yield from _side_by_side(summarizer, article, together, request, require_wanted)
    yield {"event": "done"}


@dataclass
class _Writing:
    """What one variant wrote so far, and when."""

    summary: str = ""
    tokens: int = 0
    """That were written, the end token left out."""
    first_s: float | None = None
    last_s: float = 0.0


def _side_by_side(
    summarizer: Summarizer,
    article: Prepared,
    variants: Sequence[Variant],
    request: SummaryRequest,
    require_wanted: Callable[[], None],
) -> Iterator[Event]:
    """The events of variants that are written in one pass: all adapters, or the base model."""
    require_wanted()
    for variant in variants:
        yield {"event": "started", "run": variant.id}
    tokenizer = choose_tokenizer([request.reference or ""])
    start_s = time.perf_counter()
    written = [_Writing() for _ in variants]
    with closing(_pieces(summarizer, article, variants, written, require_wanted)) as pieces:
        for place, piece in pieces:
            require_wanted()
            own = written[place]
            own.last_s = time.perf_counter() - start_s
            own.first_s = own.last_s if own.first_s is None else own.first_s
            own.summary += piece
            yield {"event": "text", "run": variants[place].id, "text": piece}
    total_s = time.perf_counter() - start_s
    for variant, own in zip(variants, written, strict=True):
        yield {
            "event": "summary",
            "run": variant.id,
            "summary": own.summary,
            "cut": own.tokens >= summarizer.generation.max_new_tokens,  # it did not come to its end token
            **_speed(own, own.last_s or total_s),
            "rouge": None if request.reference is None else _rouge(own.summary, request.reference, tokenizer),
            "rouge_tokenizer": None if request.reference is None else tokenizer,
            "copied": asdict(copied(request.article, own.summary)),
            "claims": [asdict(claim) for claim in claims(request.article, own.summary)],
        }


def _pieces(
    summarizer: Summarizer,
    article: Prepared,
    variants: Sequence[Variant],
    written: Sequence[_Writing],
    require_wanted: Callable[[], None],
) -> Generator[tuple[int, str], None, None]:
    """Pieces of text, each with the place of its variant, whose tokens are counted in `written`."""
    named = [variant.trial for variant in variants if variant.trial is not None]
    trials = named or None
    if summarizer.generation.num_beams == 1:

        def count(place: int) -> None:
            written[place].tokens += 1

        yield from summarizer.streams(article, trials=trials, on_token=count)
        return
    # The best beam is known only at the end; until then each step is where the work can be left.
    for _, answers in summarizer.answers([article], trials=trials, on_step=lambda *_: require_wanted()):
        for place, tokens in enumerate(answers):
            written[place].tokens = len(tokens)
            yield place, summarizer.loaded.prompt.decode(tokens)


def _speed(written: _Writing, total_s: float) -> Event:
    return {
        "summary_tokens": written.tokens,
        "first_text_s": written.first_s,  # None: it is empty
        "total_s": total_s,  # the reading of the article included
        "tokens_per_s": written.tokens / total_s,
    }


def _rouge(summary: str, reference: str, tokenizer: RougeTokenizer) -> dict[str, float]:
    scores = score_pairs([summary], [reference], tokenizer=tokenizer, show=False, processes=1)
    return {variant: float(rows[0]) for variant, rows in scores.items()}


# ---- what a summary copies from its article ----------------------------------------------------------------------

SHORTEST_WORDS = 3
"""Shorter runs of words are shared by any two texts on one subject: marked, they would hide what was copied."""


@dataclass(frozen=True)
class Passage:
    """Characters [start, end) of the summary and [article_start, article_end) of the article say the same.

    Counted in code points.
    """

    start: int
    end: int
    article_start: int
    article_end: int


@dataclass(frozen=True)
class Copied:
    """What a summary shares with its article."""

    coverage: float | None
    """Share of the summary's words inside any extractive fragment; None where it has no word."""
    density: float | None
    """Mean length, in words, of the fragment that a word of the summary belongs to."""
    passages: tuple[Passage, ...]
    """The fragments of SHORTEST_WORDS and more, in the summary's order."""


def copied(article: str, summary: str) -> Copied:
    """What a summary shares with its article.

    Source: extractive fragments, coverage and density, Grusky et al. 2018 (arXiv:1804.11283).
    """
    of_article, of_summary = word_places(article), word_places(summary)
    found = fragments([word for word, _, _ in of_article], [word for word, _, _ in of_summary])
    passages = tuple(
        Passage(
            start=of_summary[one.summary_start][1],
            end=of_summary[one.summary_start + one.length - 1][2],
            article_start=of_article[one.article_start][1],
            article_end=of_article[one.article_start + one.length - 1][2],
        )
        for one in found
        if one.length >= SHORTEST_WORDS
    )
    if not of_summary:
        return Copied(None, None, passages)
    count = len(of_summary)
    return Copied(
        sum(one.length for one in found) / count, sum(one.length**2 for one in found) / count, passages
    )


def word_places(text: str) -> list[tuple[str, int, int]]:
    """Each word as it is compared, with its first character and the one behind its last."""
    return [
        (match.group().lower().replace("’", "'"), match.start(), match.end()) for match in WORD.finditer(text)
    ]
