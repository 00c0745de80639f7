"""The text around an article as tokens: what the model reads, and where the summary starts and ends."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Tokenizer

from summarizer.config.schema import PromptConfig
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

    def encode(self, article: str, summary: str) -> tuple[list[int], list[int]]:
        """Tokens of the article, uncut, and of the target: the summary, then the end token.

        Both texts are stripped; line breaks inside them stay.
        """
        return self.encode_article(article), self.encode_target(summary)

    def encode_article(self, article: str) -> list[int]:
        return self._ids(self.article_lead + article.strip())

    def encode_target(self, summary: str) -> list[int]:
        return [*self._ids(self.summary_lead + summary.strip()), self.end_id]

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
        prompt = [*self.before, *article_ids[: self.room(len(target_ids))], *self.after]
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
        return [*self.before, *article_ids[: self.room(max_new_tokens)], *self.after]

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
            )
        )
        return hashlib.sha256(content.encode()).hexdigest()

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.text.encode(text, add_special_tokens=False).ids
        return ids


def build_prompt(spec: PromptConfig, tokenizer: PreTrainedTokenizerFast) -> Prompt:
    """Bind a template to a model's tokenizer.

    Where the summary follows plain text such as "TL;DR:", a space before its first word is part of the
    summary's tokens: byte-pair vocabularies hold words with the space ahead of them, and a space at the end
    of a prompt is a token that running text rarely has. The same holds for "Article: {article}".

    Raises ConfigError for every token that is not one entry of the vocabulary, for a template that marks no
    start of the summary, and where max_tokens has no room for one token each of article and summary.
    """
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ConfigError.single(
            "model.name_or_path",
            "its tokenizer has no tokenizer.json (a fast tokenizer), which this project needs",
        )
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    issues: list[Issue] = []
    end_token = spec.end_token if spec.end_token is not None else tokenizer.eos_token
    if end_token is None:
        issues.append(
            Issue("prompt.end_token", "null, but the tokenizer has no end of text of its own; name an entry")
        )
    for key, token in (("completion_token", spec.completion_token), ("end_token", spec.end_token)):
        if token is not None and token not in vocabulary:
            advice = "a model of your own takes model=hf and prompt=tldr" if key == "completion_token" else ""
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
    own_space = (_tokens(text, "a") or [""])[0].startswith(
        SPACE_MARKS
    )  # such a tokenizer puts it there itself
    head, article_lead = _without_spaces(head)
    summary_lead = ""
    if spec.completion_token is None:
        tail, summary_lead = _without_spaces(tail)
        if not tail[-1:].isspace():
            summary_lead = " "
    # The template is the person's own word, so a control token spelled in it is meant: a chat model's turns.
    before = _start_ids(tokenizer, text) + tokenizer(head, add_special_tokens=False).input_ids
    after = tokenizer(tail, add_special_tokens=False).input_ids
    if spec.completion_token is not None:
        after = [*after, vocabulary[spec.completion_token]]
    end_id = vocabulary[end_token]
    smallest = len(before) + len(after) + 3
    if smallest > spec.max_tokens:
        raise ConfigError.single(
            "prompt.max_tokens",
            f"{spec.max_tokens} has no room: the template takes {smallest - 3} tokens; at least {smallest}",
        )
    named = {token for token in (spec.completion_token, end_token) if token is not None}
    control_tokens = frozenset(_control_tokens(tokenizer) | named)
    return Prompt(
        before=tuple(before),
        after=tuple(after),
        end_id=end_id,
        pad_id=end_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        max_tokens=spec.max_tokens,
        control_tokens=control_tokens,
        control_ids=frozenset(vocabulary[token] for token in control_tokens),
        text=text,
        article_lead="" if own_space else article_lead,
        summary_lead="" if own_space else summary_lead,
    )


def is_word(token: AddedToken) -> bool:
    """Whether an entry that was added to a tokenizer is text like any other, and no control token.

    It was not added as a special one, and is not written as control tokens are: GPT-J's spare `<|extratoken_1|>`
    is not special either. Some vocabularies write runs of spaces so.
    """
    text = token.content.strip()
    written_as_control = (text[:1], text[-1:]) in {("<", ">"), ("[", "]"), ("{", "}"), ("|", "|")}
    return not text or not (token.special or written_as_control)


def text_tokenizer(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A copy of a model's tokenizer that knows no control token, so that one spelled in a text is text.

    Added entries that are words (`is_word`) stay.
    Raises ConfigError where they cannot stay under their own ids.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    added = tokenizer.added_tokens_decoder
    words = [entry for entry in content["added_tokens"] if is_word(added[entry["id"]])]
    content["added_tokens"] = words
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, dict):
        # An added entry that the model does not list gets the next free id on loading: pin those that stay.
        vocabulary.update({entry["content"]: entry["id"] for entry in words})
    content["post_processor"] = content["truncation"] = content["padding"] = None
    text = Tokenizer.from_str(json.dumps(content))
    if moved := [entry["content"] for entry in words if text.token_to_id(entry["content"]) != entry["id"]]:
        raise ConfigError.single(
            "model.name_or_path",
            f"its tokenizer adds {moved!r} in a way that this project cannot keep as text",
        )
    return text


def _control_tokens(tokenizer: PreTrainedTokenizerFast) -> set[str]:
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if not is_word(token)}
    vocabulary = tokenizer.get_vocab()
    return {
        token for token in added | set(tokenizer.all_special_tokens) if token.strip() and token in vocabulary
    }


def _start_ids(tokenizer: PreTrainedTokenizerFast, text: Tokenizer) -> list[int]:
    """The token that the tokenizer itself sets ahead of any text (Llama does, GPT-2 does not)."""
    bos = tokenizer.bos_token_id
    if bos is None or tokenizer("a").input_ids[:1] != [bos]:
        return []
    return [bos] if text.encode("a", add_special_tokens=False).ids[:1] != [bos] else []


def _without_spaces(text: str) -> tuple[str, str]:
    """Text without the spaces at its end, and the space that they leave for the word after it."""
    kept = text.rstrip(" ")
    return kept, " " if len(kept) < len(text) else ""


def _tokens(text: Tokenizer, of: str) -> list[str]:
    tokens: list[str] = text.encode(of, add_special_tokens=False).tokens
    return tokens


def _not_in(token: str, vocabulary: dict[str, int]) -> str:
    near = nearest(token, vocabulary)
    return f"{token!r} is not one entry of the model's vocabulary" + (
        f"; did you mean {near!r}?" if near else ""
    )
