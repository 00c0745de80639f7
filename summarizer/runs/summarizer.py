"""Summaries of articles by opened adapters: one as it is written, or many at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from summarizer.config.schema import GenerationConfig
from summarizer.data.prompt import Prompt

if TYPE_CHECKING:  # a server hears of its mistakes before torch is imported
    from summarizer.generation.decoder import Decoder
    from summarizer.runs.loaded_run import LoadedRun


@dataclass(frozen=True)
class Prepared:
    """An article as the model will read it."""

    prompt_ids: tuple[int, ...]
    article_tokens: int
    cut_tokens: int
    """Of the article, at its end: what did not fit into prompt.max_tokens beside the summary, as in training."""


class Summarizer:
    """Writes summaries as `generation` says: of every opened adapter, or of the base model."""

    def __init__(self, opened: LoadedRun, generation: GenerationConfig, *, articles_at_once: int) -> None:
        self.opened = opened
        self.generation = generation
        self.articles_at_once = articles_at_once

    def prepare(self, article: str) -> Prepared:
        """Raises ConfigError where generation.max_new_tokens leaves no room, ValueError for an empty article."""
        prompt = self.opened.prompt
        if not article.strip():
            raise ValueError("the article is empty")
        ids = prompt.encode_article(article)
        read = prompt.generation_ids(ids, self.generation.max_new_tokens)
        kept = len(read) - len(prompt.before) - len(prompt.after)
        return Prepared(tuple(read), len(ids), len(ids) - kept)

    def stream(self, article: Prepared, *, trial: int | None = 0) -> Iterator[str]:
        """One summary in pieces, as its words are written; together they are what `summaries` gives.

        trial: which opened adapter; None: the base model. With beams, whose best is known only at the end, it
        comes in one piece.
        """
        for _, piece in self.streams(article, trials=None if trial is None else [trial]):
            yield piece

    def streams(self, article: Prepared, *, trials: Sequence[int] | None) -> Iterator[tuple[int, str]]:
        """The summaries of several adapters, written side by side: whose (its place in `trials`), and the piece."""
        pieces: dict[int, _Pieces] = {}
        with self._decoding(trials) as decoder:
            for trial, token in decoder.stream(article.prompt_ids):
                own = pieces.setdefault(trial, _Pieces(self.opened.prompt))
                if piece := own.add(token):
                    yield trial, piece
        for trial, own in pieces.items():
            if piece := own.rest():
                yield trial, piece

    def summaries(
        self,
        articles: Sequence[Prepared],
        *,
        trials: Sequence[int] | None = (0,),
        on_step: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[int, list[str]]]:
        """Each article's number and its summary by each of these adapters, in the order in which they are done.

        trials: None gives one summary, of the base model.  on_step: hears of each step how many tokens it wrote.
        """
        decode = self.opened.prompt.decode
        with self._decoding(trials, on_step) as decoder:
            for index, answers in decoder.answers([one.prompt_ids for one in articles]):
                yield index, [decode(answer) for answer in answers]

    def _decoding(
        self, trials: Sequence[int] | None, on_step: Callable[[int], None] | None = None
    ) -> AbstractContextManager[Decoder]:
        return self.opened.decoding(trials, self.generation, at_once=self.articles_at_once, on_step=on_step)


@dataclass
class _Pieces:
    """Tokens to text, piece by piece."""

    prompt: Prompt
    tokens: list[int] = field(default_factory=list)
    given: str = ""

    def add(self, token: int) -> str:
        """What may be shown now that was not before: half of a character of several bytes waits for the rest."""
        self.tokens.append(token)
        text = self.prompt.decode(self.tokens)
        return "" if text.endswith("\ufffd") else self._give(text)

    def rest(self) -> str:
        return self._give(self.prompt.decode(self.tokens))

    def _give(self, text: str) -> str:
        if not text.startswith(self.given):
            return ""
        piece, self.given = text[len(self.given) :], text
        return piece
