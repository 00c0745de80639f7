"""How summaries are written: the run's own generation settings, changed by flags; and what made a file of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from summarizer.config.messages import issues_of, shown
from summarizer.config.rules import RULES, SoundValues, broken_rules
from summarizer.config.schema import GenerationConfig, RunConfig
from summarizer.errors import ConfigError, Issue
from summarizer.runs.trained_run import TrainedRun

if TYPE_CHECKING:
    from summarizer.data.prompt import Prompt

FLAGS: Mapping[str, str] = {
    "max_new_tokens": "--max-new-tokens",
    "min_new_tokens": "--min-new-tokens",
    "num_beams": "--beams",
    "length_penalty": "--length-penalty",
    "early_stopping": "--early-stopping",
    "no_repeat_ngram_size": "--no-repeat-ngram-size",
    "do_sample": "--sample",
    "temperature": "--temperature",
    "top_p": "--top-p",
    "top_k": "--top-k",
    "seed": "--seed",
}
"""By the key of the config group `generation` that each stands for."""


def chosen_generation(spec: RunConfig, typed: Mapping[str, str | bool]) -> GenerationConfig:
    """The run's generation settings with what was typed, by key, in their place.

    Raises ConfigError with every mistake, under the names of the flags.
    """
    raw = spec.generation.model_dump() | {key: _value(value) for key, value in typed.items()}
    issues: list[Issue] = []
    generation: GenerationConfig | SoundValues
    try:
        generation = GenerationConfig.model_validate(raw)
    except ValidationError as error:
        issues += issues_of(error, GenerationConfig, "generation")
        mistaken = {detail["loc"][0] for detail in error.errors(include_url=False)}
        generation = SoundValues({key: value for key, value in raw.items() if key not in mistaken})
    issues += broken_rules({"prompt": spec.prompt, "generation": generation}, RULES)
    if isinstance(generation, GenerationConfig):
        issues += _without_effect(generation, typed)
    if issues or isinstance(generation, SoundValues):
        raise ConfigError(as_typed(issues))
    return generation


def as_typed(issues: Iterable[Issue]) -> list[Issue]:
    """Issues of generation settings under the names that this command's person knows."""
    return [Issue(_flag(issue.key), _flags_in(issue.message)) for issue in issues]


def require_room(prompt: Prompt, generation: GenerationConfig) -> None:
    """Raises ConfigError, under the flags' names, where the longest summary leaves no room for an article."""
    try:
        prompt.generation_ids([], generation.max_new_tokens)
    except ConfigError as error:
        raise ConfigError(as_typed(error.issues)) from error


def whole_number(flag: str, text: str) -> int:
    """Raises ConfigError for anything but a whole number of at least 1."""
    value = _value(text)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError.single(flag, f"{shown(value)} is not a whole number of at least 1")
    return value


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
        **{FLAGS[key]: value for key, value in generation.model_dump().items()},
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


def _without_effect(generation: GenerationConfig, typed: Mapping[str, str | bool]) -> Iterable[Issue]:
    for key in ("temperature", "top_p", "top_k"):
        if key in typed and not generation.do_sample:
            yield Issue(FLAGS[key], "has no effect without --sample")
    for key in ("length_penalty", "early_stopping"):
        if typed.get(key) and generation.num_beams == 1:
            yield Issue(FLAGS[key], "has no effect without --beams above 1")


def _value(text: str | bool) -> int | float | str | bool:
    """What was typed as a number; text that is none stays, to be complained of."""
    if isinstance(text, bool):
        return text
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _flag(key: str) -> str:
    return FLAGS.get(key.removeprefix("generation."), key)


def _flags_in(message: str) -> str:
    for key, flag in FLAGS.items():
        message = message.replace(f"generation.{key}", flag)
    return message
