"""A model's tokenizer, and how much text the model can hold."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from summarizer.config.schema import PromptConfig
from summarizer.data.control_tokens import is_word
from summarizer.data.prompt import Prompt
from summarizer.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

log = logging.getLogger(__name__)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a model folder. Raises ConfigError where it is missing or broken."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exception on a broken file
        first, *more = str(error).strip().splitlines() or [type(error).__name__]
        reason = " ".join([first, *map(str.strip, more)]) if first.rstrip().endswith(":") else first
        raise ConfigError.single(
            "model.name_or_path", f"{folder} has no usable tokenizer: {reason}"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ConfigError.single("model.name_or_path", f"{folder} has no fast tokenizer (tokenizer.json)")
    _keep_to_the_embedding(tokenizer, folder)
    return tokenizer


def _keep_to_the_embedding(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Let a padding token go that the model's embedding has no row for, so that padding is the end token instead.

    Such tokens were added to the tokenizer, and the model was not resized. Raises ConfigError where a word was.
    """
    rows = _embedding_rows(folder)
    if rows is None:
        return
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= rows:
        log.warning(
            "base model: the padding token %r is not used: it is number %d, and the embedding has %d rows",
            *(tokenizer.pad_token, tokenizer.pad_token_id, rows),
        )
        tokenizer.pad_token = None
    beyond = [
        str(token) for id, token in tokenizer.added_tokens_decoder.items() if id >= rows and is_word(token)
    ]
    if beyond:
        raise ConfigError.single(
            "model.name_or_path",
            f"{folder}: {len(beyond)} words were added to its tokenizer, such as {beyond[0]!r}, and its embedding "
            f"has no row for them ({rows} rows); resize the model (resize_token_embeddings) and save it again",
        )


def _embedding_rows(folder: Path) -> int | None:
    """Of a model's embedding, as its config has it; None where that is no plain number."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        rows = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return rows if type(rows) is int and rows > 0 else None


def check_tokens(config: PretrainedConfig, prompt: Prompt) -> None:
    """Raises ConfigError where the prompt needs a token that the model's embedding has no row for."""
    rows = getattr(config.get_text_config(), "vocab_size", None)
    largest = max(*prompt.before, *prompt.after, prompt.end_id, 0)
    if type(rows) is int and largest >= rows:
        raise ConfigError.single(
            "prompt",
            f"its tokens reach to number {largest}, and the model's embedding has {rows} rows; "
            "another prompt.end_token or prompt.completion_token, or a model that was resized, is needed",
        )


def check_context(config: PretrainedConfig, prompt: PromptConfig) -> None:
    """Raises ConfigError where prompt.max_tokens is more than the model has positions for."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and prompt.max_tokens > positions:
        raise ConfigError.single(
            "prompt.max_tokens", f"{prompt.max_tokens} is more than the model's {positions} positions"
        )
