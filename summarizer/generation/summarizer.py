"""Summaries of articles by loaded adapters: one as its words are written, or many, each as soon as it is done."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from summarizer.config.schema import GenerationConfig
from summarizer.config.shared_flags import GenerationFlags
from summarizer.console.progress import Bar
from summarizer.data.articles import Item
from summarizer.data.prompt import Prompt
from summarizer.errors import ConfigError, RunsFailed
from summarizer.generation.summary_file import Summary

if TYPE_CHECKING:  # a server hears of its mistakes before torch is imported
    from summarizer.generation.decoder import Decoder

PREPARED_ARTICLES = 2048
"""How many articles are held as tokens; the decoder sorts them by length, and only at their end do its slots run
empty."""
BATCHES_AHEAD = 4
"""Where summaries wait for earlier ones, so many batches are sorted by length together."""

log = logging.getLogger(__name__)


@runtime_checkable
class LoadedModel(Protocol):
    """A base model with its adapters, ready to write, as `runs.loaded_run.LoadedRun` is."""

    @property
    def prompt(self) -> Prompt:
        """The prompt that the adapters were trained with."""
        ...

    def decoding(
        self,
        trials: Sequence[int] | None,
        generation: GenerationConfig,
        *,
        batch_size: int,
        on_step: Callable[[int, int], None] | None = None,
    ) -> AbstractContextManager[Decoder]:
        """For a block, a decoder of these adapters, or of the base model where `trials` is None."""
        ...


@dataclass(frozen=True)
class Prepared:
    """An article as the model will read it."""

    prompt_ids: tuple[int, ...]
    article_tokens: int
    cut_tokens: int
    """How many tokens at the article's end did not fit into prompt.max_tokens beside the summary."""


class Summarizer:
    """Writes summaries as `generation` says, by every loaded adapter or by the base model."""

    def __init__(self, loaded: LoadedModel, generation: GenerationConfig, *, batch_size: int) -> None:
        """batch_size: how many articles are summarized at the same time."""
        self.loaded = loaded
        self.generation = generation
        self.batch_size = batch_size

    def prepare(self, article: str) -> Prepared:
        """Raises ConfigError where generation.max_new_tokens leaves no room, ValueError for an empty article."""
        prompt = self.loaded.prompt
        if not article.strip():
            raise ValueError("the article is empty")
        ids = prompt.encode_article(article)
        read = prompt.generation_ids(ids, self.generation.max_new_tokens)
        kept = len(read) - len(prompt.before) - len(prompt.after)
        return Prepared(tuple(read), len(ids), len(ids) - kept)

    def stream(self, article: Prepared, *, trial: int | None = 0) -> Iterator[str]:
        """One summary in pieces, as its words are written; joined they are what `summaries` gives.

        trial: which loaded adapter writes; None is the base model. With beams, whose best is known only at the
        end, the summary comes in one piece.
        """
        for _, piece in self.streams(article, trials=None if trial is None else [trial]):
            yield piece

    def streams(
        self,
        article: Prepared,
        *,
        trials: Sequence[int] | None,
        on_token: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[int, str]]:
        """Several adapters' summaries, written side by side: each piece with its adapter's place in `trials`.

        on_token: is called for each token with that place; end tokens are none.
        """
        pieces: dict[int, _Pieces] = {}
        with self._decoding(trials) as decoder:
            for trial, token in decoder.stream(article.prompt_ids):
                if on_token is not None:
                    on_token(trial)
                own = pieces.setdefault(trial, _Pieces(self.loaded.prompt))
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
        on_step: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[int, list[str]]]:
        """Each article's number and its summary by each of these adapters, in the order in which they are done.

        trials: None gives one summary, of the base model.
        on_step: is called as `Decoder.on_step` is.
        """
        decode = self.loaded.prompt.decode
        for index, answers in self.answers(articles, trials=trials, on_step=on_step):
            yield index, [decode(answer) for answer in answers]

    def answers(
        self,
        articles: Sequence[Prepared],
        *,
        trials: Sequence[int] | None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[int, list[list[int]]]]:
        """As `summaries`, in tokens; end tokens are left out."""
        with self._decoding(trials, on_step) as decoder:
            yield from decoder.answers([one.prompt_ids for one in articles])

    def _decoding(
        self, trials: Sequence[int] | None, on_step: Callable[[int, int], None] | None = None
    ) -> AbstractContextManager[Decoder]:
        return self.loaded.decoding(trials, self.generation, batch_size=self.batch_size, on_step=on_step)


@dataclass
class _Pieces:
    """Turns tokens into text, piece by piece."""

    prompt: Prompt
    tokens: list[int] = field(default_factory=list)
    given: str = ""

    def add(self, token: int) -> str:
        """The text that can be shown now and could not before: half of a character's bytes wait for the rest."""
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


def require_room(prompt: Prompt, generation: GenerationConfig) -> None:
    """Raises ConfigError, under the flag's name, where the longest summary leaves no room for an article."""
    if reason := prompt.generation_refusal(generation.max_new_tokens):
        raise ConfigError.single(GenerationFlags.flag("max_new_tokens"), reason)


def cut_text(cut: int, articles: int, max_tokens: int) -> str:
    """What a person is told where articles were read in part."""
    return f"{cut} of {articles} articles were cut at their end to fit prompt.max_tokens={max_tokens}"


# ---- many articles -----------------------------------------------------------------------------------------------


class Rate:
    """Shows beside a bar how fast summaries are written."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._start_s = time.monotonic()
        self._summaries = self._tokens = self._read = 0

    def step(self, read: int, written: int) -> None:
        """Count the tokens of prompts that are about to be read, and those that a step wrote."""
        self._read += read
        self._tokens += written
        self._note()
        self._bar.advance(0)  # so that lines come before the first summary is done

    def summary(self) -> None:
        """Count a summary that is done."""
        self._summaries += 1
        self._note()
        self._bar.advance()

    def _note(self) -> None:
        elapsed_s = max(time.monotonic() - self._start_s, 1e-3)
        if not self._tokens:
            self._bar.note(f"reading {self._read:,} tokens")
            return
        each = self._summaries / elapsed_s
        pace = (
            "" if not each else f"{each:.1f} articles/s, " if each >= 1 else f"{1 / each:.1f} s an article, "
        )
        self._bar.note(f"{pace}{self._tokens / elapsed_s:.0f} tokens/s")


def texts_as_done(
    summarizer: Summarizer, items: Sequence[Item], trials: Sequence[int] | None, rate: Rate
) -> Iterator[tuple[int, Prepared, list[str]]]:
    """Each item's number, the article as it was read, and its summary by each of these adapters.

    trials: None gives one summary, of the base model.
    Where a GPU's memory does not hold the batch, the rest is written in batches of half the size.
    Raises RunsFailed where it does not hold one article.
    """
    import torch

    for start in range(0, len(items), PREPARED_ARTICLES):
        part = items[start : start + PREPARED_ARTICLES]
        left = {start + place: summarizer.prepare(item.article) for place, item in enumerate(part)}
        while left:
            batch = list(left.items())
            try:
                articles = [article for _, article in batch]
                for place, texts in summarizer.summaries(articles, trials=trials, on_step=rate.step):
                    index, article = batch[place]
                    del left[index]
                    yield index, article, texts
                    rate.summary()
            except torch.OutOfMemoryError:
                _halve_batch(summarizer)
                torch.cuda.empty_cache()


def summaries_as_done(
    summarizer: Summarizer, items: Sequence[Item], trials: Sequence[int] | None, rate: Rate
) -> Iterator[tuple[int, Summary]]:
    """Each item's number and its summary by one adapter, or by the base model where `trials` is None."""
    for index, article, texts in texts_as_done(summarizer, items, trials, rate):
        yield index, Summary(items[index], texts[0], article.article_tokens, article.cut_tokens)


def summaries_in_order(
    summarizer: Summarizer, items: Sequence[Item], trials: Sequence[int] | None, rate: Rate
) -> Iterator[Summary]:
    """The items' summaries in the items' order, each as soon as all before it are out."""
    ahead = BATCHES_AHEAD * summarizer.batch_size
    for start in range(0, len(items), ahead):
        done: dict[int, Summary] = {}
        following = 0
        for index, summary in summaries_as_done(summarizer, items[start : start + ahead], trials, rate):
            done[index] = summary
            while following in done:
                yield done.pop(following)
                following += 1


def _halve_batch(summarizer: Summarizer) -> None:
    """Answer an out-of-memory error. Raises RunsFailed where the batch was a single article."""
    before = summarizer.batch_size
    if before == 1:
        raise RunsFailed(
            "The device's memory does not hold one article beside the model; of several runs, take one at a time.",
            1,
        )
    summarizer.batch_size = before // 2
    log.warning("out of memory with %d articles at once; going on with %d", before, before // 2)
