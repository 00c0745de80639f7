"""Flags over a run's own generation settings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from summarizer.config.schema import GenerationConfig, PromptConfig
from summarizer.config.shared_flags import (
    GENERATION_KEYS,
    GenerationFlags,
    chosen_generation,
    typed_generation,
)
from summarizer.errors import ConfigError

OWN: dict[str, Any] = {
    "max_new_tokens": 64,
    "min_new_tokens": 10,
    "num_beams": 1,
    "length_penalty": 1.0,
    "early_stopping": False,
    "no_repeat_ngram_size": 0,
    "do_sample": False,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 50,
    "seed": 0,
}
SPEC: Any = SimpleNamespace(
    generation=GenerationConfig(**OWN),
    prompt=PromptConfig(template="{article}\nTL;DR:", completion_token=None, end_token=None, max_tokens=100),
)


def read(*words: str) -> GenerationFlags:
    return GenerationFlags.read(words, command="some", usage="")


def chosen(*words: str) -> GenerationConfig:
    flags = read(*words)
    assert flags.mistakes == ()
    return chosen_generation(SPEC, flags)


def mistakes(*words: str) -> list[str]:
    """All that is said of the flags: of each by itself, then of what they break together."""
    flags = read(*words)
    said = [str(issue) for issue in flags.mistakes]
    try:
        chosen_generation(SPEC, flags)
    except ConfigError as error:
        said += [str(issue) for issue in error.issues]
    return said


def test_every_setting_has_a_flag() -> None:
    assert GenerationFlags.model_fields.keys() == GenerationConfig.model_fields.keys() == set(GENERATION_KEYS)
    assert GenerationFlags.flag("num_beams") == "--beams"
    assert GenerationFlags.flag("do_sample") == "--sample"
    assert GenerationFlags.flag("top_k") == "--top-k"


def test_the_runs_own_settings_stand_where_nothing_is_typed() -> None:
    assert chosen() == GenerationConfig(**OWN)
    words = ("--beams", "4", "--length-penalty", "2", "--early-stopping", "--seed", "7")
    assert chosen(*words) == GenerationConfig(
        **OWN | {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "seed": 7}
    )
    assert typed_generation(read(*words)) == {
        "num_beams": 4,
        "length_penalty": 2.0,
        "early_stopping": True,
        "seed": 7,
    }


def test_all_mistakes_are_said_at_once_under_the_flags_names() -> None:
    assert mistakes(
        "--max-new-tokens", "0", "--beams", "two", "--top-p=1.5", "--sample", "--temperature", "nan"
    ) == [
        "--max-new-tokens: 0 is not a number of at least 1",
        "--beams: 'two' is not a whole number of at least 1",
        "--temperature: nan is not a finite number above 0",
        "--top-p: 1.5 is not a number of at most 1",
    ]
    assert mistakes("--beams", "1.5") == ["--beams: 1.5 is not a whole number of at least 1"]


def test_flags_must_agree_with_each_other_and_with_the_prompt() -> None:
    assert mistakes("--max-new-tokens", "5") == ["--min-new-tokens: 10 is above --max-new-tokens=5"]
    assert mistakes("--max-new-tokens", "100") == [
        "--max-new-tokens: 100 leaves no room for an article in prompt.max_tokens=100"
    ]


def test_a_mistaken_flag_breaks_nothing_together_with_others() -> None:
    assert mistakes("--max-new-tokens", "x", "--min-new-tokens", "80") == [
        "--max-new-tokens: 'x' is not a whole number of at least 1"
    ]


def test_a_flag_without_effect_is_a_mistake() -> None:
    assert mistakes("--temperature", "0.7", "--length-penalty", "2") == [
        "--temperature: has no effect without --sample",
        "--length-penalty: has no effect without --beams above 1",
    ]
    assert chosen("--temperature", "0.7", "--sample").temperature == 0.7
