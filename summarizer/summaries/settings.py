"""What made a file of summaries, and what it differs in from what a command would make now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from summarizer.config.messages import shown
from summarizer.config.schema import GenerationConfig
from summarizer.config.shared_flags import GenerationFlags
from summarizer.errors import ConfigError
from summarizer.runs.trained_run import TrainedRun

if TYPE_CHECKING:
    from summarizer.data.prompt import Prompt


def require_room(prompt: Prompt, generation: GenerationConfig) -> None:
    """Raises ConfigError where the longest summary leaves no room for an article."""
    if reason := prompt.generation_refusal(generation.max_new_tokens):
        raise ConfigError.single(GenerationFlags.flag("max_new_tokens"), reason)


def by_flag(generation: GenerationConfig) -> dict[str, Any]:
    """Generation settings by the flags that stand for them."""
    return {GenerationFlags.flag(key): value for key, value in generation.model_dump().items()}


def made_with(run: TrainedRun, generation: GenerationConfig, *, base: bool, precision: str) -> dict[str, Any]:
    """Everything but the article that decides on a summary's words, as flat JSON.

    The adapter is named by its content, so that a run that moved is still the same.
    """
    spec = run.spec
    return {
        "adapter": None if base else run.adapter_digest(),
        "model": spec.model.name_or_path,
        "revision": spec.model.revision,
        "quantization": spec.quantization.format,
        **{f"prompt.{key}": value for key, value in spec.prompt.model_dump().items()},
        **by_flag(generation),
        "--precision": precision,
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What the settings differ in, as words for each."""
    return [
        "the adapter was another one"
        if key == "adapter" and None not in (before.get(key), now.get(key))
        else f"{key} was {shown(before.get(key))}, now it is {shown(now.get(key))}"
        for key in dict.fromkeys([*now, *before])
        if before.get(key) != now.get(key)
    ]
