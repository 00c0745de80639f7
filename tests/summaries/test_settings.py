"""Flags over a run's own generation settings, and what makes two runs of the command the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from summarizer.config.schema import GenerationConfig, PromptConfig
from summarizer.errors import ConfigError
from summarizer.summaries.flags import GENERATION_KEYS
from summarizer.summaries.settings import FLAGS, chosen_generation, differences, whole_number

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


def mistakes(**typed: str | bool) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        chosen_generation(SPEC, typed)
    return [str(issue) for issue in refused.value.issues]


def test_every_setting_has_a_flag() -> None:
    assert FLAGS.keys() == GenerationConfig.model_fields.keys() == set(GENERATION_KEYS)


def test_the_runs_own_settings_stand_where_nothing_is_typed() -> None:
    assert chosen_generation(SPEC, {}) == GenerationConfig(**OWN)
    typed: dict[str, str | bool] = {
        "num_beams": "4",
        "length_penalty": "2",
        "early_stopping": True,
        "seed": "7",
    }
    assert chosen_generation(SPEC, typed) == GenerationConfig(
        **OWN | {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "seed": 7}
    )


def test_all_mistakes_are_said_at_once_under_the_flags_names() -> None:
    assert mistakes(max_new_tokens="0", num_beams="two", top_p="1.5", do_sample=True, temperature="nan") == [
        "--max-new-tokens: 0 is not a number of at least 1",
        "--beams: 'two' is not a whole number of at least 1",
        "--temperature: nan is not a finite number above 0",
        "--top-p: 1.5 is not a number of at most 1",
    ]
    assert mistakes(num_beams="1.5") == ["--beams: 1.5 is not a whole number of at least 1"]


def test_flags_must_agree_with_each_other_and_with_the_prompt() -> None:
    assert mistakes(max_new_tokens="5") == ["--min-new-tokens: 10 is above --max-new-tokens=5"]
    assert mistakes(max_new_tokens="100") == [
        "--max-new-tokens: 100 leaves no room for an article in prompt.max_tokens=100"
    ]


def test_a_flag_without_effect_is_a_mistake() -> None:
    assert mistakes(temperature="0.7", length_penalty="2") == [
        "--temperature: has no effect without --sample",
        "--length-penalty: has no effect without --beams above 1",
    ]
    assert chosen_generation(SPEC, {"temperature": "0.7", "do_sample": True}).temperature == 0.7


@pytest.mark.parametrize("text", ["0", "-3", "2.5", "many", ""])
def test_a_batch_size_is_a_whole_number(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--batch-size: .* is not a whole number of at least 1"):
        whole_number("--batch-size", text)
    assert whole_number("--batch-size", "12") == 12


def test_differences_name_the_base_and_what_was_added() -> None:
    assert differences({"adapter": "x", "a": 1}, {"adapter": None, "a": 1, "b": 2}) == [
        "adapter was 'x', now it is null",
        "b was null, now it is 2",
    ]
