"""A tokenizer as GGUF keeps it: vocabulary, merges, how text is split ahead of them, control tokens, chat template.

llama.cpp has its own code for each way of splitting text, chosen by name (`tokenizer.ggml.pre`). The name is found
here by what the tokenizer does, which its tokenizer.json says in full, and a way that is not in the table is
refused: under another name llama.cpp would read other tokens and say nothing.

Source: llama.cpp of October 2026, src/llama-vocab.cpp and conversion/base.py.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gguf import GGUFWriter, TokenType

from summarizer.data.control_tokens import is_word, sets_start
from summarizer.data.prompt import Prompt
from summarizer.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2_WORDS = LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Splitting:
    """What a byte-pair tokenizer does to a text before it merges."""

    steps: tuple[str, ...]
    """Its pre-tokenizers in order: `digits`, `bytes` (GPT-2's words), or the expression that words match."""
    whole_words: bool
    """A word that the vocabulary has whole is taken so, whatever the merges say."""


NAMES = {
    Splitting(("bytes",), False): "gpt-2",
    Splitting(("digits", "bytes"), False): "smollm",
    Splitting((LLAMA3_WORDS,), True): "llama-bpe",
    Splitting((QWEN2_WORDS,), False): "qwen2",
    Splitting((TEKKEN_WORDS,), True): "tekken",
}
"""llama.cpp's names of the ways that are known to be the same."""
SENTENCEPIECE = "default"
"""The name for vocabularies of SentencePiece's BPE (Llama 2, Mistral 7B), whose text is not split at all."""
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
BYTES = 256
SPACE = "▁"
WAY_ON = "--format merged makes a folder that llama.cpp's own convert_hf_to_gguf.py may know"


def pre_tokenizer_name(tokenizer: PreTrainedTokenizerFast) -> str:
    """What llama.cpp calls this tokenizer's way of splitting text. Raises ConfigError where that is not known."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model, normalizer = content["model"], content["normalizer"]
    if model["type"] != "BPE":
        raise _unknown(f"its vocabulary is {model['type']}, and only BPE is written here")
    if model.get("byte_fallback"):
        _require_sentencepiece(content)
        return SENTENCEPIECE
    if normalizer is not None and normalizer["type"] != "NFC":
        raise _unknown(f"it changes text first ({normalizer['type']})")
    if model.get("dropout") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise _unknown("its merges have options that llama.cpp has not")
    steps = _steps(content["pre_tokenizer"])
    name = NAMES.get(Splitting(steps, bool(model.get("ignore_merges"))))
    if name is None:
        raise _unknown(f"it splits text by {', '.join(steps)}")
    return name


def _steps(pre_tokenizer: dict[str, Any] | None) -> tuple[str, ...]:
    """A pre-tokenizer's steps as `Splitting` has them; an unknown one by its type or its JSON."""
    if pre_tokenizer is None:
        return ("nothing",)
    kind = pre_tokenizer["type"]
    if kind == "Sequence":
        steps = [step for part in pre_tokenizer["pretokenizers"] for step in _steps(part)]
        # After an expression has found the words, a ByteLevel without one of its own only spells out bytes.
        return tuple(step for step in steps if step != "spelled")
    if kind == "Digits" and pre_tokenizer["individual_digits"]:
        return ("digits",)
    if kind == "ByteLevel" and not pre_tokenizer["add_prefix_space"]:
        return ("bytes",) if pre_tokenizer["use_regex"] else ("spelled",)
    if kind == "Split" and pre_tokenizer["behavior"] == "Isolated" and not pre_tokenizer["invert"]:
        return (str(pre_tokenizer["pattern"].get("Regex")),)
    return (json.dumps(pre_tokenizer),)


def _require_sentencepiece(content: dict[str, Any]) -> None:
    """Raises ConfigError where llama.cpp would merge other pieces than a tokenizer with byte fallback does.

    It merges any two whose join is a piece; tokenizers, those alone that the merges list.
    """
    model = content["model"]
    vocabulary: dict[str, int] = model["vocab"]
    if _leading_space(content) is None:
        raise _unknown("it treats spaces in another way than SentencePiece does")
    if model.get("ignore_merges") or sum(map(bool, map(BYTE.fullmatch, vocabulary))) != BYTES:
        raise _unknown("it falls back to bytes in another way than SentencePiece does")
    merges = set(_merges(model))
    control = {token["content"] for token in content["added_tokens"]}
    for piece in vocabulary.keys() - control:
        for end in range(1, len(piece)):
            pair = (piece[:end], piece[end:])
            if (
                pair[0] in vocabulary
                and pair[1] in vocabulary
                and pair not in merges
                and not control & {*pair}
            ):
                raise _unknown(f"it never merges {pair[0]!r} and {pair[1]!r}, though {piece!r} is a piece")


def _leading_space(content: dict[str, Any]) -> bool | None:
    """Whether a text gets a space ahead of it; None where spaces are not marked as SentencePiece marks them."""
    normalizer, pre_tokenizer = content["normalizer"], content["pre_tokenizer"]
    if normalizer is None and pre_tokenizer is not None and pre_tokenizer["type"] == "Metaspace":
        plain = pre_tokenizer["replacement"] == SPACE and not pre_tokenizer["split"]
        return pre_tokenizer["prepend_scheme"] != "never" if plain else None
    if pre_tokenizer is not None or normalizer is None:
        return None
    steps = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    marking = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    if steps == [{"type": "Prepend", "prepend": SPACE}, marking]:
        return True
    return False if steps == [marking] else None


def _merges(model: dict[str, Any]) -> list[tuple[str, str]]:
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    return [(left, right) for left, right in pairs]


def add_vocabulary(writer: GGUFWriter, tokenizer: PreTrainedTokenizerFast, prompt: Prompt, rows: int) -> None:
    """Write a tokenizer's part of the header.

    rows: of the embedding; those beyond the vocabulary are written as unused.
    Raises ConfigError as `pre_tokenizer_name` does.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    name = pre_tokenizer_name(tokenizer)
    tokens, types = _entries(tokenizer, rows)
    writer.add_tokenizer_model("llama" if name == SENTENCEPIECE else "gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list(tokens)
    if name == SENTENCEPIECE:
        ranks = {
            left + right: rank for rank, (left, right) in reversed([*enumerate(_merges(content["model"]))])
        }
        types = [
            TokenType.BYTE if BYTE.fullmatch(token) else kind
            for token, kind in zip(tokens, types, strict=True)
        ]
        writer.add_token_scores([-float(ranks.get(token, len(ranks))) for token in tokens])
        writer.add_add_space_prefix(bool(_leading_space(content)))
        if tokenizer.unk_token_id is not None:
            writer.add_unk_token_id(tokenizer.unk_token_id)
    else:
        writer.add_token_merges([" ".join(pair) for pair in _merges(content["model"])])
    writer.add_token_types(types)
    writer.add_eos_token_id(prompt.end_id)
    writer.add_pad_token_id(prompt.pad_id)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_add_bos_token(sets_start(tokenizer))
    writer.add_add_eos_token(False)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _entries(tokenizer: PreTrainedTokenizerFast, rows: int) -> tuple[list[str], list[TokenType]]:
    """What each row of the embedding stands for, and what kind of entry that is."""
    tokens, types = [f"[PAD{row}]" for row in range(rows)], [TokenType.UNUSED] * rows
    added = tokenizer.added_tokens_decoder
    for token, row in tokenizer.get_vocab().items():
        if row >= rows:
            continue
        tokens[row], types[row] = token, TokenType.NORMAL
        if row in added:
            types[row] = TokenType.USER_DEFINED if is_word(added[row]) else TokenType.CONTROL
    return tokens, types


def _unknown(why: str) -> ConfigError:
    return ConfigError.single("--format", f"llama.cpp would not read this model's tokenizer: {why}; {WAY_ON}")
