"""Control tokens and text: which entries of a tokenizer are which, and a tokenizer that knows text alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer

from summarizer.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def is_word(token: AddedToken) -> bool:
    """Whether an entry that was added to a tokenizer is text like any other, and no control token.

    It was not added as a special one, and is not written as control tokens are: GPT-J's spare `<|extratoken_1|>`
    is not special either. Some vocabularies write runs of spaces so.
    """
    text = token.content.strip()
    written_as_control = (text[:1], text[-1:]) in {("<", ">"), ("[", "]"), ("{", "}"), ("|", "|")}
    return not text or not (token.special or written_as_control)


def text_tokenizer(tokenizer: PreTrainedTokenizerFast, *, inside: bool = False) -> Tokenizer:
    """A copy of a model's tokenizer that knows no control token, so that one spelled in a text is text.

    Added entries that are words (`is_word`) stay.
    inside: for texts in the middle of another, so that none gets the space that some tokenizers set ahead of each.
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
    if inside:
        _without_first_space(content)
    text = Tokenizer.from_str(json.dumps(content))
    if moved := [entry["content"] for entry in words if text.token_to_id(entry["content"]) != entry["id"]]:
        raise ConfigError.single(
            "model.name_or_path",
            f"its tokenizer adds {moved!r} in a way that this project cannot keep as text",
        )
    return text


def _without_first_space(content: dict[str, Any]) -> None:
    """Take out of a tokenizer's JSON what sets a space ahead of a text."""
    normalizer = content["normalizer"] or {}
    for part in normalizer.get("normalizers", [normalizer]):
        if part.get("type") == "Prepend":
            part["prepend"] = ""
    pre_tokenizer = content["pre_tokenizer"] or {}
    for part in pre_tokenizer.get("pretokenizers", [pre_tokenizer]):
        part |= {"prepend_scheme": "never"} if "prepend_scheme" in part else {}
        part |= {"add_prefix_space": False} if "add_prefix_space" in part else {}


def control_tokens(tokenizer: PreTrainedTokenizerFast) -> set[str]:
    """The entries of a vocabulary that command a model rather than say something."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if not is_word(token)}
    vocabulary = tokenizer.get_vocab()
    return {
        token for token in added | set(tokenizer.all_special_tokens) if token.strip() and token in vocabulary
    }


def sets_start(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether a tokenizer itself sets its start token ahead of any text (Llama does, GPT-2 does not)."""
    return bool(tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id])


def start_ids(tokenizer: PreTrainedTokenizerFast, text: Tokenizer) -> list[int]:
    """The token that a tokenizer itself sets ahead of any text."""
    if not sets_start(tokenizer):
        return []
    bos = tokenizer.bos_token_id
    return [bos] if text.encode("a", add_special_tokens=False).ids[:1] != [bos] else []
