"""Flags that several commands share: which model, in what precision, on which rows, and how it generates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, create_model

from summarizer.config.flags import Flags, InPlaceOf, Metavar
from summarizer.config.rules import RULES, SoundValues, broken_rules
from summarizer.config.schema import BatchSize, Count, GenerationConfig, PositiveCount, RunConfig
from summarizer.errors import ConfigError, Issue

SHORT = {"num_beams": "beams", "do_sample": "sample"}
"""Settings whose flag is not called as the setting is."""
GENERATION_KEYS = tuple(GenerationConfig.model_fields)


class BaseModelFlags(Flags):
    """Which base model, and where it computes."""

    HEADING: ClassVar[str] = "model"

    model: Annotated[str, Metavar("PATH")] | None = None
    """where the base model lies now, if that is not where it lay"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto is the GPU where there is one"""


class PrecisionFlags(BaseModelFlags):
    """Which base model, where it computes, and in what precision."""

    HEADING: ClassVar[str] = "model"

    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    """precision of matrix products; auto is the fastest that the device has, int8 reads articles in whole numbers,
    faster on a CPU and a little less exactly"""


class BatchFlags(PrecisionFlags):
    """Which base model, where and in what precision it computes, and how many articles it reads at once."""

    HEADING: ClassVar[str] = "model"

    batch_size: BatchSize | None = None
    """articles at once; default: the run's evaluation.batch_size"""


class RowFlags(Flags):
    """Which rows are scored, in place of those that the run's config names."""

    HEADING: ClassVar[str] = "rows"

    data: tuple[Annotated[str, Metavar("FILE")], ...] = ()
    """rows of one's own (JSONL, JSON, CSV, Parquet, a glob of them); may be repeated"""
    column: Annotated[str | None, InPlaceOf("data.columns.article")] = None
    """of the article in FILE; default: the run's own"""
    summary_column: Annotated[str | None, InPlaceOf("data.columns.summary")] = None
    """of the reference summary, likewise"""
    id_column: Annotated[str | None, InPlaceOf("data.columns.id")] = None
    """of the id; default: the run's own, or row numbers"""
    rows: Annotated[PositiveCount | Literal["all"] | None, InPlaceOf("data.streaming")] = None
    """score on so many rows, or on all; default: the run's own limit"""
    max_bad_rows: Annotated[Count | None, InPlaceOf("data.max_bad_rows")] = None
    """leave out up to so many unusable rows; default: the run's own"""


def _optional(key: str) -> Any:
    """A setting's type and bounds as those of a flag that may be left out."""
    info = GenerationConfig.model_fields[key]
    kind: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
    sentence = info.description or ""
    meaning = sentence[:1].lower() + sentence[1:].removesuffix(".")
    return kind | None, Field(None, validation_alias=SHORT.get(key), description=meaning)


if TYPE_CHECKING:

    class GenerationFlags(Flags):
        """A flag for each setting of GenerationConfig."""

else:
    GenerationFlags = create_model(
        "GenerationFlags", __base__=Flags, **{key: _optional(key) for key in GENERATION_KEYS}
    )
    GenerationFlags.HEADING = "generation, by default as the run's config says"


class TypedGeneration(GenerationConfig):
    """Generation settings that messages call as the flags are called."""

    @classmethod
    def key(cls, name: str) -> str:
        return GenerationFlags.flag(name)


def generation_by_flag(generation: GenerationConfig) -> dict[str, Any]:
    """Generation settings by the flags that stand for them."""
    return {GenerationFlags.flag(key): value for key, value in generation.model_dump().items()}


def typed_generation(flags: GenerationFlags) -> dict[str, Any]:
    """What was typed of the generation settings, by key."""
    return {key: value for key in GENERATION_KEYS if (value := getattr(flags, key)) is not None}


def chosen_generation(config: RunConfig, flags: GenerationFlags) -> GenerationConfig:
    """The run's generation settings with what was typed in their place.

    Raises ConfigError with what the flags break together; what is wrong with one of them is in `flags.mistakes`.
    """
    typed = typed_generation(flags)
    values = config.generation.model_dump() | typed
    sound = {key: value for key, value in values.items() if key not in flags.mistaken}
    parts = {"prompt": config.prompt, "generation": SoundValues(sound, TypedGeneration)}
    issues = [*broken_rules(parts, RULES), *_without_effect(SoundValues(sound), typed)]
    if issues:
        raise ConfigError(issues)
    return GenerationConfig.model_validate(values)


def _without_effect(generation: SoundValues, typed: Mapping[str, Any]) -> Iterator[Issue]:
    """Flags that another one would have to be given for; one whose own value is mistaken says nothing."""
    for key in ("temperature", "top_p", "top_k"):
        if key in typed and generation.values.get("do_sample") is False:
            yield Issue(GenerationFlags.flag(key), "has no effect without --sample")
    for key in ("length_penalty", "early_stopping"):
        if typed.get(key) and generation.values.get("num_beams") == 1:
            yield Issue(GenerationFlags.flag(key), "has no effect without --beams above 1")
