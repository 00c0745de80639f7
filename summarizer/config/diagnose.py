"""All mistakes of a command line that Hydra, which stops at the first, refused to compose."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from summarizer.config.check import check
from summarizer.config.nearest import suggestion
from summarizer.config.paths import conf_folder
from summarizer.errors import ConfigError, Issue

UNKNOWN_KEY = re.compile(r"Could not override '([^']+)'")
UNKNOWN_OPTION = re.compile(r"Could not find '([^']+)/([^'/]+)'")
PRESENT_KEY = re.compile(r"An item is already at '([^']+)'")


def diagnose(arguments: Sequence[str], error: Exception) -> list[Issue]:
    """What is wrong with these command-line arguments, `error` being what Hydra said of them.

    Composes again and again, each time without the override that failed last, or with an unknown key let in for
    `check` to report; what is left at the end is checked like any config.
    """
    overrides = _single_values(get_args_parser().parse_args(list(arguments)).overrides)
    issues: list[Issue] = []
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        for _ in range(len(overrides) + 1):
            try:
                return issues + _checked(compose("config", overrides))
            except (HydraException, OmegaConfBaseException) as refusal:
                issue, overrides_left = _explained(refusal, overrides)
                if issue is not None:
                    issues.append(issue)
                if overrides_left == overrides:
                    break
                overrides = overrides_left
    return issues or [Issue("", _first_line(error))]


def _checked(config: DictConfig) -> list[Issue]:
    try:
        check(config)
    except ConfigError as error:
        return list(error.issues)
    return []


def _explained(refusal: Exception, overrides: list[str]) -> tuple[Issue | None, list[str]]:
    """What one refusal means, and the overrides to go on with."""
    text = str(refusal)
    if found := UNKNOWN_KEY.search(text):
        key = found[1]
        if any(_key(override) == key and not override.startswith("+") for override in overrides):
            return None, ["+" + o if _key(o) == key and not o.startswith("+") else o for o in overrides]
        return Issue(key, _first_line(refusal)), [o for o in overrides if _key(o) != key]
    if found := UNKNOWN_OPTION.search(text):
        group, option = found[1], found[2]
        options = [path.stem for path in (conf_folder() / group).glob("*.yaml")]
        left = [override for override in overrides if override.lstrip("+") != f"{group}={option}"]
        return Issue(group, f"{option!r} is no option of it{suggestion(option, options)}"), left
    if found := PRESENT_KEY.search(text):
        key = found[1]
        issue = Issue(key, "is there already; leave out the + to change it")
        return issue, [override for override in overrides if _key(override) != key]
    return Issue("", _first_line(refusal)), overrides


def _single_values(overrides: Sequence[str]) -> list[str]:
    """Sweeps replaced by their first value: the mistakes of a key are the same for each."""
    parser = OverridesParser.create()
    single = []
    for text in overrides:
        try:
            parsed = parser.parse_override(text)
        except HydraException:
            single.append(text)
            continue
        if parsed.is_sweep_override():
            prefix = "+" if parsed.is_add() else ""
            single.append(f"{prefix}{parsed.get_key_element()}={next(iter(parsed.sweep_string_iterator()))}")
        else:
            single.append(text)
    return single


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
