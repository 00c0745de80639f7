"""From a composed config to a `RunSpec`, or one `ConfigError` with a line for each mistake in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from summarizer.config import specs
from summarizer.config.messages import issues_of
from summarizer.config.nearest import suggestion
from summarizer.config.rules import RULES, Rule, broken_rules
from summarizer.config.targets import Target, arguments_model, resolve_target
from summarizer.errors import ConfigError, Issue

TARGET_GROUPS = ("adapter", "optimizer")

SPEC_GROUPS: Mapping[str, type[specs.Spec]] = {
    "model": specs.ModelSpec,
    "quantization": specs.QuantizationSpec,
    "data": specs.DataSpec,
    "prompt": specs.PromptSpec,
    "trainer": specs.TrainerSpec,
    "evaluation": specs.EvaluationSpec,
    "generation": specs.GenerationSpec,
    "tracking": specs.TrackingSpec,
}


def check(config: DictConfig, input_rules: Iterable[Rule] = ()) -> specs.RunSpec:
    """Type and bound every value of a composed config, and hold the parts against each other.

    input_rules: what upper layers have to say of the input that the config names (files, folders, accounts).
    Raises ConfigError with every mistake.
    """
    node = to_plain(config)
    issues: list[Issue] = []
    parts: dict[str, Any] = {}

    known = [*specs.RunSpec.model_fields, "experiment"]
    issues += [
        Issue(key, f"unknown key{suggestion(key, known)}") for key in node if key not in known
    ]
    for group in known[:-1]:
        if group in SPEC_GROUPS:
            part = _validated(SPEC_GROUPS[group], group, node.get(group), issues)
        elif group in TARGET_GROUPS:
            part = _checked_target(group, node.get(group), issues)
        else:
            continue
        if part is not None:
            parts[group] = part
    issues += _scalars(node)
    issues += broken_rules(parts, (*RULES, *input_rules))
    if issues:
        raise ConfigError(issues)
    return specs.RunSpec(seed=node["seed"], resume=None, **parts)


def to_plain(config: DictConfig) -> dict[str, Any]:
    """A composed config as plain containers. Raises ConfigError on an interpolation that leads nowhere."""
    _raise_missing(config)
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError.single(str(error.full_key or ""), str(error).splitlines()[0]) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _raise_missing(config: DictConfig) -> None:
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigError(Issue(key, f"is required; give it as {key}=...") for key in missing)


def _validated(
    spec: type[specs.Spec] | type[BaseModel], group: str, node: object, issues: list[Issue]
) -> Any | None:
    if not isinstance(node, dict):
        issues.append(Issue(group, f"{node!r} is not a config group; choose one, such as {group}=..."))
        return None
    try:
        return spec.model_validate(node)
    except ValidationError as error:
        issues.extend(issues_of(error, spec, group))
        return None


def _checked_target(group: str, node: object, issues: list[Issue]) -> Target | None:
    if not isinstance(node, dict):
        issues.append(Issue(group, f"{node!r} is not a config group; choose one, such as {group}=..."))
        return None
    try:
        target = resolve_target(group, node.get("_target_"))
    except ConfigError as error:
        issues.extend(error.issues)
        return None
    arguments = {key: value for key, value in node.items() if key != "_target_"}
    if _validated(arguments_model(target), group, arguments, issues) is None:
        return None
    return Target(node["_target_"], arguments)


def _scalars(node: Mapping[str, Any]) -> Iterator[Issue]:
    seed = node.get("seed")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        yield Issue("seed", f"{seed!r} is not a whole number of at least 0")
    if node.get("resume") is not None:
        yield Issue("resume", "stands alone, as `python -m summarizer.run resume=RUN_FOLDER`")
