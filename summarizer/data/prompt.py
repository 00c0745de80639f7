"""The text around an article as tokens: what the model reads, and where the summary starts and ends."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product, takewhile
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from summarizer.config.schema import PromptConfig
from summarizer.data.chat import Chat, chat_of, resolved_prompt
from summarizer.data.control_tokens import control_tokens, start_ids, text_tokenizer
from summarizer.errors import ConfigError, Issue, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPACE_MARKS = ("Ġ", "▁")
"""How byte-level and SentencePiece vocabularies write the space before a word."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """Turns texts to tokens and back. Picklable, so that other processes can tokenize.

    The whole of a training example is before + article + after + target, where target = summary + [end_id].
    Control tokens come from the template alone: one that an article spells out is tokenized as text.
    """

    before: tuple[int, ...]
    """Tokens ahead of the article: the start token if the tokenizer adds one, then the template's text."""
    after: tuple[int, ...]
    """Tokens between article and summary: the template's text, then the completion token if there is one."""
    end_id: int
    pad_id: int
    max_tokens: int
    control_tokens: frozenset[str]
    control_ids: frozenset[int]
    text: Tokenizer = field(repr=False)
    """The model's tokenizer without its control tokens."""
    article_lead: str
    """Space that joins the first word of an article to the text before it, as it would in running text."""
    summary_lead: str
    """The same for the summary."""
    article_tail: str = ""
    """What follows an article and may share a token with its last word; empty where nothing can."""
    tail_ids: tuple[int, ...] = ()
    """The tokens of `article_tail` behind an article that was cut."""
    summary_tail: str = ""
    """Space between a summary and the end token, where a chat template sets one."""
    chat: Chat | None = None
    """The conversation that the prompt is; None for text."""

    def encode(self, article: str, summary: str) -> tuple[list[int], list[int]]:
        """Tokens of the article, uncut, and of the target: the summary, then the end token.

        Both texts are stripped; line breaks inside them stay.
        """
        return self.encode_article(article), self.encode_target(summary)

    def encode_article(self, article: str) -> list[int]:
        return self._ids(self.article_lead + article.strip() + self.article_tail)

    def encode_target(self, summary: str) -> list[int]:
        return [*self._ids(self.summary_lead + summary.strip() + self.summary_tail), self.end_id]

    def room(self, target_tokens: int) -> int:
        """How many tokens of article fit beside so many of summary and end token; below 1 none does."""
        return self.max_tokens - len(self.before) - len(self.after) - target_tokens

    def refusal(self, target_ids: Sequence[int]) -> str | None:
        """Why a row with this target cannot be trained on, or None where at least one article token fits."""
        if self.room(len(target_ids)) >= 1:
            return None
        return f"summary of {len(target_ids)} tokens leaves no room in prompt.max_tokens={self.max_tokens}"

    def training_ids(self, article_ids: Sequence[int], target_ids: Sequence[int]) -> tuple[list[int], int]:
        """The example's tokens, at most max_tokens, and how many of them come ahead of the target.

        The article is cut at its end to fit; the target and the template never are.
        Raises ValueError where the target leaves no room (`refusal`).
        """
        if reason := self.refusal(target_ids):
            raise ValueError(reason)
        prompt = [*self.before, *self._cut(article_ids, self.room(len(target_ids))), *self.after]
        return [*prompt, *target_ids], len(prompt)

    def generation_refusal(self, max_new_tokens: int) -> str | None:
        """Why no summary of up to so many tokens can be written, or None where an article token fits beside it."""
        room = self.room(max_new_tokens)
        if room >= 1:
            return None
        return (
            f"{max_new_tokens} leaves no room for an article in prompt.max_tokens={self.max_tokens}; "
            f"at most {max_new_tokens + room - 1}"
        )

    def generation_ids(self, article_ids: Sequence[int], max_new_tokens: int) -> list[int]:
        """The prompt alone, its article cut so that max_new_tokens more stay within max_tokens.

        Raises ConfigError where they leave no room for an article.
        """
        if reason := self.generation_refusal(max_new_tokens):
            raise ConfigError.single("generation.max_new_tokens", reason)
        return [*self.before, *self._cut(article_ids, self.room(max_new_tokens)), *self.after]

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the first end token, stripped; control tokens in it are dropped."""
        kept: list[int] = []
        for token in ids:
            if token == self.end_id:
                break
            if token not in self.control_ids:
                kept.append(token)
        decoded: str = self.text.decode(kept, skip_special_tokens=False)
        return decoded.strip()

    def identity(self) -> str:
        """Changes with anything that changes the tokens of a text or how many of them fit."""
        content = repr(
            (
                self.before,
                self.after,
                self.end_id,
                self.max_tokens,
                sorted(self.control_tokens),
                self.article_lead,
                self.summary_lead,
                self.text.to_str(),
                *((self.article_tail, self.summary_tail) if self.article_tail or self.summary_tail else ()),
            )
        )
        return hashlib.sha256(content.encode()).hexdigest()

    def _cut(self, article_ids: Sequence[int], room: int) -> Sequence[int]:
        """An article's tokens, at most so many; one that is cut keeps `article_tail` behind it."""
        if len(article_ids) <= room or not self.tail_ids:
            return article_ids[:room]
        return [*article_ids[: max(room - len(self.tail_ids), 0)], *self.tail_ids][:room]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.text.encode(text, add_special_tokens=False).ids
        return ids


def build_prompt(spec: PromptConfig, tokenizer: PreTrainedTokenizerFast) -> Prompt:
    """Bind a prompt to a model's tokenizer: a text, or the conversation that the model's chat template makes.

    Raises ConfigError for every token that is not one entry of the vocabulary, for a template that marks no
    start of the summary, for a chat without a usable chat template, and where max_tokens has no room for one token
    each of article and summary.
    """
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ConfigError.single(
            "model.name_or_path",
            "its tokenizer has no tokenizer.json (a fast tokenizer), which this project needs",
        )
    spec = resolved_prompt(spec, tokenizer)
    prompt = _of_chat(spec, tokenizer) if spec.rendered is not None else _of_text(spec, tokenizer)
    smallest = len(prompt.before) + len(prompt.after) + 3
    if smallest > spec.max_tokens:
        raise ConfigError.single(
            "prompt.max_tokens",
            f"{spec.max_tokens} has no room: the template takes {smallest - 3} tokens; at least {smallest}",
        )
    return prompt


# ---- text --------------------------------------------------------------------------------------------------------


def _of_text(spec: PromptConfig, tokenizer: PreTrainedTokenizerFast) -> Prompt:
    """A template of plain text.

    Where the summary follows plain text such as "TL;DR:", a space before its first word is part of the
    summary's tokens: byte-pair vocabularies hold words with the space ahead of them, and a space at the end
    of a prompt is a token that running text rarely has. The same holds for "Article: {article}".
    """
    assert spec.template is not None
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    issues: list[Issue] = []
    end_token = spec.end_token if spec.end_token is not None else tokenizer.eos_token
    if end_token is None:
        issues.append(_endless())
    for key, token in (("completion_token", spec.completion_token), ("end_token", spec.end_token)):
        if token is not None and token not in vocabulary:
            advice = "a model of your own takes model=hf" if key == "completion_token" else ""
            issues.append(Issue(f"prompt.{key}", _not_in(token, vocabulary), advice))
    if spec.completion_token is not None and spec.completion_token == end_token:
        issues.append(Issue("prompt.completion_token", f"{end_token!r} is the end token too"))
    if spec.completion_token is not None and "{completion}" not in spec.template:
        issues.append(
            Issue(
                "prompt.completion_token",
                f"{spec.completion_token!r} is not used: the template has no {{completion}}",
            )
        )
    head, tail = spec.template.replace("{completion}", "").split("{article}")
    if not tail.rstrip(" ") and spec.completion_token is None:
        issues.append(
            Issue(
                "prompt.completion_token",
                "null, so that nothing in the template marks where the summary starts",
            )
        )
    if issues or end_token is None:
        raise ConfigError(issues)

    text = text_tokenizer(tokenizer)
    # Whether the tokenizer puts a space there by itself.
    own_space = (_tokens(text, "a") or [""])[0].startswith(SPACE_MARKS)
    head, article_lead = _without_spaces(head)
    summary_lead = ""
    if spec.completion_token is None:
        tail, summary_lead = _without_spaces(tail)
        if not tail[-1:].isspace():
            summary_lead = " "
    # The template is the person's own word, so a control token spelled in it is meant: a chat model's turns.
    before = start_ids(tokenizer, text) + tokenizer(head, add_special_tokens=False).input_ids
    after = tokenizer(tail, add_special_tokens=False).input_ids
    if spec.completion_token is not None:
        after = [*after, vocabulary[spec.completion_token]]
    end_id = vocabulary[end_token]
    named = {token for token in (spec.completion_token, end_token) if token is not None}
    controls = frozenset(control_tokens(tokenizer) | named)
    return Prompt(
        before=tuple(before),
        after=tuple(after),
        end_id=end_id,
        pad_id=end_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        max_tokens=spec.max_tokens,
        control_tokens=controls,
        control_ids=frozenset(vocabulary[token] for token in controls),
        text=text,
        article_lead="" if own_space else article_lead,
        summary_lead="" if own_space else summary_lead,
    )


def _without_spaces(text: str) -> tuple[str, str]:
    """Text without the spaces at its end, and the space that they leave for the word after it."""
    kept = text.rstrip(" ")
    return kept, " " if len(kept) < len(text) else ""


def _tokens(text: Tokenizer, of: str) -> list[str]:
    tokens: list[str] = text.encode(of, add_special_tokens=False).tokens
    return tokens


# ---- a conversation ----------------------------------------------------------------------------------------------

PROBES = ("a", "The", "an end.", "1 of 2", '"Quoted"', "(so)", "é", "東京", "-", "'s", "…", "*")
"""Articles of which each begins and ends in another way, to see what tokens their neighbors share with them."""
SEAM_TOKENS = 4
"""How many tokens beside an article may hang on its first or its last word."""


@dataclass(frozen=True)
class _Seams:
    """Where an article's own tokens begin and end in a conversation that is tokenized in one piece."""

    before: tuple[int, ...]
    lead: str
    tail: str
    after: tuple[int, ...]


def _of_chat(spec: PromptConfig, tokenizer: PreTrainedTokenizerFast) -> Prompt:
    """A conversation, tokenized in one piece as `apply_chat_template` does; but an article has no control tokens.

    The end token is the first control token behind the summary, or else the tokenizer's own.
    """
    assert spec.rendered is not None
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    controls = control_tokens(tokenizer)
    control_ids = {vocabulary[token] for token in controls}
    text = text_tokenizer(tokenizer, inside=True)
    head, _, tail = spec.rendered.prompt.partition("{article}")
    seams = _seams(head, tail, tokenizer, text)
    lead, rest = spec.rendered.answer.split("{summary}")
    ends = tokenizer(rest, add_special_tokens=False, return_offsets_mapping=True)
    found = next(
        (
            (id, start)
            for id, (start, _) in zip(ends.input_ids, ends.offset_mapping, strict=True)
            if id in control_ids
        ),
        None,
    )
    summary_tail = "" if found is None else rest[: found[1]]
    end_id = tokenizer.eos_token_id if found is None else found[0]
    if spec.end_token is not None:
        if spec.end_token not in vocabulary:
            raise ConfigError.single("prompt.end_token", _not_in(spec.end_token, vocabulary))
        end_id, summary_tail = vocabulary[spec.end_token], ""
    if end_id is None:
        raise ConfigError([_endless()])
    prompt = Prompt(
        before=seams.before,
        after=seams.after,
        end_id=end_id,
        pad_id=end_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        max_tokens=spec.max_tokens,
        control_tokens=frozenset({*controls, str(tokenizer.convert_ids_to_tokens(end_id))}),
        control_ids=frozenset({*control_ids, end_id}),
        text=text,
        article_lead=seams.lead,
        summary_lead=lead,
        article_tail=seams.tail,
        summary_tail=summary_tail,
        chat=chat_of(spec, tokenizer),
    )
    tail_tokens = len(prompt.encode_article("a")) - len(replace(prompt, article_tail="").encode_article("a"))
    if tail_tokens > 0:
        prompt = replace(prompt, tail_ids=tuple(prompt.encode_article("a")[-tail_tokens:]))
    # A tokenizer that sets a space behind control tokens sets the summary's by itself.
    conversation = spec.rendered.prompt.replace("{article}", "a") + lead
    leads = [
        replace(prompt, summary_lead=own) for own in dict.fromkeys((lead, lead.removeprefix(" "), f" {lead}"))
    ]
    for tried in leads:
        own = [*tried.before, *tried.encode_article("a"), *tried.after]
        made = [[*own, *tried.encode_target(probe)] for probe in PROBES]
        whole = [
            tokenizer(conversation + probe + rest, add_special_tokens=False).input_ids for probe in PROBES
        ]
        if all(ids[: len(target)] == target for ids, target in zip(whole, made, strict=True)):
            return tried
    return prompt  # where a summary's first word would share a token with the prompt, the model writes it by itself


def _seams(head: str, tail: str, tokenizer: PreTrainedTokenizerFast, text: Tokenizer) -> _Seams:
    """Where articles begin and end among the tokens of a conversation.

    The text beside an article that shares a token with some articles, but not with all, is tokenized with each.
    """
    encoded = [
        tokenizer(head + probe + tail, add_special_tokens=False, return_offsets_mapping=True)
        for probe in PROBES
    ]
    whole: list[list[int]] = [one.input_ids for one in encoded]
    shared, ending = _alike(whole), _alike([ids[::-1] for ids in whole])
    offsets = encoded[0].offset_mapping
    for n, m in product(range(shared, shared - SEAM_TOKENS, -1), range(ending, ending - SEAM_TOKENS, -1)):
        if n < 0 or m < 0 or n + m >= len(offsets):
            continue
        # Offsets leave a space out, or have it, as the tokenizer likes.
        start, end = offsets[n][0], offsets[len(offsets) - m - 1][1] - len(head) - len(PROBES[0])
        leads = [head[start:], head[max(start - 1, 0) :], head[start + 1 :], f" {head[start:]}"]
        for lead, more in product(dict.fromkeys(leads), (0, 1, -1)):
            follows = tail[: max(end + more, 0)]
            if all(
                ids[n : len(ids) - m] == text.encode(lead + probe + follows, add_special_tokens=False).ids
                for ids, probe in zip(whole, PROBES, strict=True)
            ):
                return _Seams(tuple(whole[0][:n]), lead, follows, tuple(whole[0][len(whole[0]) - m :]))
    raise ConfigError.single(
        "prompt.kind",
        "chat, but the tokenizer makes other tokens of an article in the chat template than of the article alone; "
        "prompt=tldr takes plain words",
    )


def _alike(lists: Sequence[Sequence[int]]) -> int:
    """How many first numbers all lists share."""
    return sum(1 for _ in takewhile(lambda numbers: len(set(numbers)) == 1, zip(*lists, strict=False)))


# ---- words for both ----------------------------------------------------------------------------------------------


def _endless() -> Issue:
    return Issue("prompt.end_token", "null, but the tokenizer has no end of text of its own; name an entry")


def _not_in(token: str, vocabulary: dict[str, int]) -> str:
    near = nearest(token, vocabulary)
    return f"{token!r} is not one entry of the model's vocabulary" + (
        f"; did you mean {near!r}?" if near else ""
    )
