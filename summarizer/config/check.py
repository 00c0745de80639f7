"""From a composed config to a `RunConfig`, or one `ConfigError` with a line for each mistake in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig
from pydantic import BaseModel, ValidationError

from summarizer.config import schema
from summarizer.config.messages import issues_of, shown
from summarizer.config.plain import plain_mapping
from summarizer.config.renamed import take_old_keys
from summarizer.config.rules import RULES, Rule, SoundValues, broken_rules
from summarizer.config.synonyms import did_you_mean
from summarizer.config.targets import OptimizerConfig, arguments_of, refusal, takes_any
from summarizer.errors import ConfigError, Issue, suggestion

TARGET_GROUPS = ("adapter", "optimizer")
"""Groups that name a class, by whose signature their other keys are checked."""

SECTIONS: Mapping[str, type[schema.Section]] = {
    name: field.annotation
    for name, field in schema.RunConfig.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, schema.Section)
}
"""Groups with a class of `schema`."""

SCALARS = tuple(name for name in schema.RunConfig.model_fields if name not in (*SECTIONS, *TARGET_GROUPS))
"""The keys of a config that belong to no group."""


def check(
    config: DictConfig, input_rules: Iterable[Rule] = (), *, imported: bool = False
) -> schema.RunConfig:
    """Type and bound every value of a composed config, and hold the parts against each other.

    input_rules: what upper layers have to say of the input that the config names (files, folders, accounts).
    imported: import the classes that it names, and build its optimizer, even where their source is plain enough
        to find every mistake without: what a run does once it imports them anyway. The adapter is then one that
        draws and trains, as by RunConfig.imported.
    Raises ConfigError with every mistake.
    """
    open_keys: dict[str, Issue | None] = {}
    node = plain_mapping(config, "", open_keys)
    issues = list(take_old_keys(node))
    issues += _unknown_keys(node)
    parts: dict[str, Any] = {}
    for group in schema.RunConfig.model_fields:
        part: object = None
        if group in SECTIONS:
            part = _validated(SECTIONS[group], group, node.get(group), issues)
        elif group in TARGET_GROUPS:
            part = _checked_target(group, node.get(group), issues, imported=imported)
        if part is not None:
            parts[group] = part
    issues += _scalars(node)
    issues += broken_rules(parts, (*RULES, *input_rules))
    # What else there is to say of a key without a value would only be about the text in its place.
    issues = [issue for issue in open_keys.values() if issue] + [
        issue for issue in issues if issue.key not in open_keys
    ]
    if issues:
        raise ConfigError(issues)
    return schema.RunConfig(**{name: node[name] for name in SCALARS if name in node}, **parts)


def _unknown_keys(node: Mapping[str, Any]) -> Iterator[Issue]:
    known = [*schema.RunConfig.model_fields, "experiment"]
    for key in node:
        if key in known:
            continue
        inside = [
            f"{group}.{key}" for group in known if isinstance(node.get(group), dict) and key in node[group]
        ]
        near = f"; did you mean {inside[0]!r}?" if inside else suggestion(key, known)
        hint = did_you_mean(str(key), node[key]) or near
        yield Issue(key, f"unknown key{hint}")


def _validated(
    spec: type[BaseModel], group: str, node: object, issues: list[Issue]
) -> BaseModel | SoundValues | None:
    """The group's spec, what is sound of it, or None where it is no group at all."""
    if not isinstance(node, dict):
        issues.append(_no_group(group, node))
        return None
    try:
        return spec.model_validate(node)
    except ValidationError as error:
        issues.extend(issues_of(error, spec, group))
        mistaken = {detail["loc"][0] for detail in error.errors(include_url=False)}
        sound = {name: _typed(spec, name, node[name]) for name in node if name not in mistaken}
        return SoundValues(sound, spec)


def _typed(spec: type[BaseModel], name: str, value: Any) -> Any:
    kind = spec.model_fields[name].annotation
    return kind.model_validate(value) if isinstance(kind, type) and issubclass(kind, BaseModel) else value


def _checked_target(group: str, node: object, issues: list[Issue], *, imported: bool) -> object | None:
    """The adapter or the optimizer that a group names, what is sound of it, or None where it is nothing at all."""
    if not isinstance(node, dict):
        issues.append(_no_group(group, node))
        return None
    try:
        takes = arguments_of(group, node.get("_target_"), imported=imported)
    except ConfigError as error:
        issues.extend(error.issues)
        return None
    arguments = {key: value for key, value in node.items() if key != "_target_"}
    validated = _validated(takes, group, arguments, issues)
    if group == "adapter" or isinstance(validated, SoundValues):
        return validated
    found = OptimizerConfig(target=node["_target_"], arguments=arguments)
    if (imported or not takes_any(found)) and (reason := refusal(found)):
        issues.append(Issue(group, reason))
        return None
    return found


def _no_group(group: str, node: object) -> Issue:
    return Issue(group, f"{shown(node)} is not a group of keys; choose one, such as {group}=...")


def _scalars(node: Mapping[str, Any]) -> Iterator[Issue]:
    seed = node.get("seed")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= schema.LARGEST_SEED:
        yield Issue("seed", f"{shown(seed)} is not a whole number from 0 to {schema.LARGEST_SEED}")
    if node.get("resume") is not None:
        yield Issue("resume", "stands alone, as `python -m summarizer.run resume=RUN_FOLDER`")
    if not isinstance(node.get("plan"), bool):
        yield Issue("plan", f"{shown(node.get('plan'))} is not true or false")
    rate = node.get("plan_tokens_per_s")
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 0):
        yield Issue("plan_tokens_per_s", f"{shown(rate)} is not a number above 0")
    count = node.get("preview")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        yield Issue("preview", f"{shown(count)} is not a whole number of at least 1, or null")
