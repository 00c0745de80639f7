"""What a request may choose among and ask for: runs, texts and settings, and every mistake in one message."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

from summarizer.config.messages import least
from summarizer.config.paths import EMBEDDED_SCHEME, resolve_path
from summarizer.config.rules import RULES, SoundValues, broken_rules
from summarizer.config.schema import GenerationConfig, ModelConfig
from summarizer.data.prompt import Prompt
from summarizer.errors import ConfigError, Issue, suggestion
from summarizer.runs.trained_run import TrainedRun

BASE_ID = "base"
BASE_NAME = "base model"


MOST_ARTICLE_CHARACTERS = 100_000
"""An article of CNN/DailyMail has 4,000 on average; what is beyond a few thousand tokens is cut anyway."""
MOST_REFERENCE_CHARACTERS = 20_000
MOST_BODY_BYTES = 12 * (MOST_ARTICLE_CHARACTERS + MOST_REFERENCE_CHARACTERS) + (1 << 16)
"""Room for both texts at their longest, all emoji, each in JSON's two escapes of six bytes; and for the rest."""
MOST_NEW_TOKENS = 512
MOST_BEAMS = 8
MOST_NGRAM = 20

KEYS = ("article", "reference", "runs", "settings")
MOST_NAMED = 8
"""Unknown keys in one message; a body has room for a hundred thousand."""
LONGEST_NAMED = 40
"""Characters of what a message repeats."""


@dataclass(frozen=True)
class Variant:
    """One way to write a summary."""

    id: str
    """What a request names it by: the run's number on the command line, or BASE_ID."""
    name: str
    detail: str
    """The overrides that tell it apart; empty where there are none to tell."""
    trial: int | None
    """The place of its adapter among the loaded runs; None is the base model."""


def variants_of(runs: Sequence[TrainedRun]) -> dict[str, Variant]:
    """The runs in their order, then the base model, by id."""
    names = short_names([run.folder.resolve() for run in runs])
    details = telling_overrides([run.overrides for run in runs])
    variants = [
        Variant(str(trial), name, detail, trial)
        for trial, (name, detail) in enumerate(zip(names, details, strict=True))
    ]
    variants.append(Variant(BASE_ID, BASE_NAME, "without an adapter", None))
    return {variant.id: variant for variant in variants}


def short_names(folders: Sequence[Path]) -> list[str]:
    """The end of each path, as long as it takes to tell all apart.

    The folders differ. Two parts at least, since `2026-11-23/07-02-50` and `sweep/0` say more than their ends.
    """
    for parts in range(2, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(folders):
            return names
    raise ValueError(f"the same folder twice among {len(folders)}")


def telling_overrides(overrides: Sequence[Sequence[str]]) -> list[str]:
    """Each run's overrides that not all runs have, or all of a run alone; none that holds a path."""
    shared = Counter(override for of_run in overrides for override in set(of_run))
    return [
        " ".join(
            override
            for override in of_run
            if (len(overrides) == 1 or shared[override] < len(overrides))
            and not any(separator in override for separator in "/\\")
        )
        for of_run in overrides
    ]


def base_name(model: ModelConfig) -> str:
    """The base as a page may name it: a folder by its last part, anything else in full."""
    name = model.name_or_path
    if name.startswith(EMBEDDED_SCHEME) or not resolve_path(name, "").is_dir():
        return name
    return PurePath(name).name


# ---- a request ---------------------------------------------------------------------------------------------------


class BadRequestError(Exception):
    """A body that is no JSON object; what is in it was not looked at."""


@dataclass(frozen=True)
class Setting:
    """A generation setting that a request may change, a whole number, and how far."""

    default: int
    low: int
    high: int

    def takes(self, value: Any) -> bool:
        """Whether a value from JSON is a whole number within the bounds."""
        return type(value) is int and self.low <= value <= self.high


class RequestedGeneration(GenerationConfig):
    """Generation settings that messages call as a request calls them."""

    @classmethod
    def key(cls, name: str) -> str:
        return name


@dataclass(frozen=True)
class SummaryRequest:
    """A request within its bounds."""

    article: str
    reference: str | None
    variants: tuple[Variant, ...]
    """What is to write the summaries: at least one, none twice."""
    generation: GenerationConfig


def settings_of(generation: GenerationConfig, prompt: Prompt) -> dict[str, Setting]:
    """What a request may set and how far, by the key of `generation`.

    The lowest values are the config's own. The highest are this server's, whose time others share: a run's own
    setting is always within them, and none leaves the article without room in the prompt.
    """
    longest = prompt.room(0) - 1
    most = {
        "max_new_tokens": min(max(MOST_NEW_TOKENS, generation.max_new_tokens), longest),
        "num_beams": max(MOST_BEAMS, generation.num_beams),
        "no_repeat_ngram_size": max(MOST_NGRAM, generation.no_repeat_ngram_size),
    }
    most["min_new_tokens"] = most["max_new_tokens"]
    return {
        key: Setting(min(getattr(generation, key), most[key]), least(GenerationConfig, key), most[key])
        for key in ("max_new_tokens", "min_new_tokens", "num_beams", "no_repeat_ngram_size")
    }


def read_request(
    body: bytes,
    variants: Mapping[str, Variant],
    settings: Mapping[str, Setting],
    generation: GenerationConfig,
) -> SummaryRequest:
    """A request from its JSON. `generation` holds what it leaves as it is.

    Raises BadRequestError where the body is no JSON object, ConfigError with every key that is out of its bounds.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the body is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise BadRequestError(f"the body is no JSON object, but {json_kind(fields)}")
    issues = [
        Issue("request", f"{key!r} is no key of one{suggestion(key, KEYS)}") for key in _unknown(fields, KEYS)
    ]
    article: Any
    article, reference = fields.get("article"), fields.get("reference")
    issues += _text_issues("article", article, MOST_ARTICLE_CHARACTERS, required=True)
    issues += _text_issues("reference", reference, MOST_REFERENCE_CHARACTERS, required=False)
    runs = fields.get("runs", list(variants))
    issues += _run_issues(runs, variants)
    chosen = fields.get("settings", {})
    issues += _setting_issues(chosen, settings)
    if issues:
        raise ConfigError(issues)
    return SummaryRequest(
        article=article,
        reference=reference if reference and reference.strip() else None,
        variants=tuple(variants[run] for run in runs),
        generation=generation.model_copy(
            update={key: setting.default for key, setting in settings.items()} | chosen
        ),
    )


def json_kind(value: Any) -> str:
    """What JSON calls it, for a message that should not repeat a person's whole text."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    kinds = {dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number"}
    return kinds[type(value)]


def _unknown(keys: Iterable[str], known: Container[str]) -> list[str]:
    """The first unknown keys, each as far as a message repeats it."""
    unknown = (key[:LONGEST_NAMED] for key in keys if key not in known)
    return list(islice(unknown, MOST_NAMED))


def _text_issues(key: str, text: Any, most: int, *, required: bool) -> Iterator[Issue]:
    if text is None and not required:
        return
    if not isinstance(text, str):
        yield Issue(key, "missing; give a text" if text is None else f"{json_kind(text)}; give a text")
    elif len(text) > most:
        yield Issue(key, f"{len(text):,} characters; at most {most:,}")
    elif required and not text.strip():
        yield Issue(key, "empty; paste the text of an article")
    elif any("\ud800" <= character <= "\udfff" for character in text):
        yield Issue(key, "holds half of a character (a lone surrogate), which no text has")


def _run_issues(runs: Any, variants: Mapping[str, Variant]) -> Iterator[Issue]:
    known = ", ".join(variants)
    if not isinstance(runs, list) or not runs:
        yield Issue("runs", f"{'none chosen' if runs == [] else json_kind(runs)}; give a list of {known}")
        return
    if len(runs) > len(variants):
        yield Issue("runs", f"{len(runs):,} of them; give a list of {known}")
        return
    for index, run in enumerate(runs):
        if not isinstance(run, str) or run not in variants:
            value = repr(run[:LONGEST_NAMED]) if isinstance(run, str) else json_kind(run)
            yield Issue("runs", f"{value} is not loaded here; choose among {known}")
        elif run in runs[:index]:
            yield Issue("runs", f"{run!r} twice; once is enough")


def _setting_issues(chosen: Any, settings: Mapping[str, Setting]) -> Iterator[Issue]:
    if not isinstance(chosen, dict):
        yield Issue("settings", f"{json_kind(chosen)}; give an object with any of {', '.join(settings)}")
        return
    for key in _unknown(chosen, settings):
        yield Issue("settings", f"{key!r} cannot be set{suggestion(key, settings)}")
    for key, setting in settings.items():
        if key not in chosen:
            continue
        value, low, high = chosen[key], setting.low, setting.high
        if setting.takes(value):
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            shown = value if isinstance(value, float) else json_kind(value)
            yield Issue(key, f"{shown}; give a whole number from {low} to {high}")
        else:
            # A number of thousands of digits is JSON too, and Python refuses to write it out.
            shown = str(value) if abs(value) < 10**12 else "a number of over twelve digits"
            yield Issue(key, f"{shown}; at least {low}, at most {high}")
    values = {key: chosen.get(key, setting.default) for key, setting in settings.items()}
    sound = {key: value for key, value in values.items() if settings[key].takes(value)}
    yield from broken_rules({"generation": SoundValues(sound, RequestedGeneration)}, RULES)
