"""A model's tokenizer, and how much text the model can hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from summarizer.config.schema import PromptConfig
from summarizer.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a model folder. Raises ConfigError where it is missing or broken."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exception on a broken file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError.single(
            "model.name_or_path", f"{folder} has no usable tokenizer: {reason}"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ConfigError.single("model.name_or_path", f"{folder} has no fast tokenizer (tokenizer.json)")
    return tokenizer


def check_context(config: PretrainedConfig, prompt: PromptConfig) -> None:
    """Raises ConfigError where prompt.max_tokens is more than the model has positions for."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and prompt.max_tokens > positions:
        raise ConfigError.single(
            "prompt.max_tokens", f"{prompt.max_tokens} is more than the model's {positions} positions"
        )
