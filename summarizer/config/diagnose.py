"""All mistakes of a command line that Hydra, which stops at the first, refused to compose."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from summarizer.config.messages import shown
from summarizer.config.paths import conf_folder
from summarizer.config.renamed import RENAMED
from summarizer.errors import ConfigError, Issue, nearest

Check = Callable[[DictConfig], object]
"""Raises ConfigError with what is wrong with a composed config."""

FLAGS_WITH_A_VALUE = (
    ("--cfg", "-c"),
    ("--package", "-p"),
    ("--config-path", "-cp"),
    ("--config-name", "-cn"),
    ("--config-dir", "-cd"),
    ("--experimental-rerun",),
)
MISTYPED = 0.75
"""From which likeness (Ratcliff-Obershelp) on a name is taken for a mistyped option."""
UNKNOWN_KEY = re.compile(r"Could not override '([^']+)'|Could not delete from config. '([^']+)'")
UNKNOWN_OPTION = re.compile(r"Could not (?:find|load) '([^']+/[^']+)'")
PRESENT_KEY = re.compile(r"An item is already at '([^']+)'|Multiple values for ([^ ]+)\. ")


def diagnose(arguments: Sequence[str], error: Exception, check: Check) -> list[Issue]:
    """What is wrong with these command-line arguments, `error` being what Hydra said of them.

    Composes again and again, each time without the override that failed last, or with an unknown key let in
    for `check` to report; what is left is checked like any config. Of a sweep, each value is tried once.
    """
    overrides, multirun = _command_line(arguments)
    issues: dict[Issue, None] = {}  # as an ordered set
    sound = list(_well_formed(overrides, multirun, issues))
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        for variant in _variants(sound):
            issues.update(dict.fromkeys(_mistakes(variant, check)))
    return list(issues) or [Issue("", _first_line(error))]


def _command_line(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """The overrides among arguments that Hydra took, and whether they are of a sweep.

    Source of the flags: Hydra's documentation, "Hydra's command line flags". Of those that take no value only -m
    matters here.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--multirun", "-m", action="store_true")
    for names in FLAGS_WITH_A_VALUE:
        parser.add_argument(*names)
    parser.add_argument("--info", "-i", nargs="?")
    known, _ = parser.parse_known_intermixed_args(list(arguments))
    return known.overrides, known.multirun


def _well_formed(
    overrides: Sequence[str], multirun: bool, issues: dict[Issue, None]
) -> Iterator[tuple[str, ...]]:
    """Each override that can be parsed, as the values that it sweeps over; what is wrong with the others."""
    parser = OverridesParser.create()
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            reason = next((line for line in str(error).splitlines() if not line.startswith("Error ")), "")
            hint = "; quote a value of special characters: 'KEY=\"VALUE\"'" if "=" in text else ""
            issues[Issue("", f"{text!r} is not an override such as adapter.dim=2 ({reason}){hint}")] = None
            continue
        key, value = override.key_or_group, override.value()
        if not key:
            issues[Issue("", f"{text!r} has no key; write KEY=VALUE, such as adapter.dim=2")] = None
            continue
        options = _options(key)
        if (
            options
            and not override.is_delete()
            and not isinstance(value, str | list)
            and not override.is_sweep_override()
        ):
            issues[Issue(key, f"{shown(value)} is not one of {', '.join(options)}")] = None
        elif override.is_sweep_override():
            if not multirun:
                issues[
                    Issue(key, f"{text.partition('=')[2]} is a sweep; add -m to run each of its values")
                ] = None
            yield tuple(
                f"{_sign(text)}{override.get_key_element()}={v}" for v in override.sweep_string_iterator()
            )
        else:
            yield (text,)


def _variants(swept: Sequence[tuple[str, ...]]) -> Iterator[list[str]]:
    """The first value of each override together, then each further value among the first of the others."""
    first = [values[0] for values in swept]
    yield first
    for place, values in enumerate(swept):
        for value in values[1:]:
            yield [*first[:place], value, *first[place + 1 :]]


def _mistakes(overrides: list[str], check: Check) -> Iterator[Issue]:
    while True:
        try:
            config = compose("config", overrides)
        except (HydraException, OmegaConfBaseException) as refusal:
            issue, left = _explained(refusal, overrides)
            if issue is not None:
                yield issue
            if left == overrides:
                return
            overrides = left
            continue
        try:
            check(config)
        except ConfigError as error:
            yield from error.issues
        return


def _explained(refusal: Exception, overrides: list[str]) -> tuple[Issue | None, list[str]]:
    """What one refusal means, and the overrides to go on with."""
    text = str(refusal)
    if found := UNKNOWN_KEY.search(text):
        key = found[1] or found[2]
        # Hydra's own keys are no business of `check`, and a group at another place cannot be let in.
        ours = not key.startswith("hydra") and "@" not in key
        if ours and any(_key(o) == key and _sign(o) != "++" for o in overrides):
            return None, [_let_in(o) if _key(o) == key else o for o in overrides]
        reason = f"now {RENAMED[key]}" if key in RENAMED else "unknown key"
        return Issue(key, reason), [o for o in overrides if _key(o) != key]
    if found := UNKNOWN_OPTION.search(text):
        group, option = _group_and_option(found[1], overrides)
        options = re.findall(r"^\t([^_\s]\S*)$", text, re.MULTILINE) or _options(group)
        near = nearest(option.rpartition("/")[2], options)
        hint = f"; did you mean {near!r}?" if near else ""
        if own := _of_ones_own(group, option, options):
            hint = f"; for one of your own: {own}"
        issue = Issue(group, f"{option!r} is not one of {', '.join(options)}{hint}")
        return issue, [o for o in overrides if _key(o) != group]
    if found := PRESENT_KEY.search(text):
        key = found[1] or found[2]
        issue = Issue(key, "is there already; leave out the + to change it")
        return issue, [o for o in overrides if _key(o) != key]
    return Issue("", _first_line(refusal)), overrides


def _group_and_option(text: str, overrides: Sequence[str]) -> tuple[str, str]:
    """Of `GROUP/OPTION`, in which either may have slashes: the group is one that an override names."""
    named = [_key(override) for override in overrides if text.startswith(f"{_key(override)}/")]
    group = max(named, key=len, default=text.rpartition("/")[0])
    return group, text[len(group) + 1 :]


def _of_ones_own(group: str, option: str, options: Sequence[str]) -> str | None:
    """What to type where a model or a file was given in an option's place; None where an option was mistyped."""
    if "/" not in option and difflib.get_close_matches(option, options, n=1, cutoff=MISTYPED):
        return None
    if group == "model":
        return f"model=hf model.name_or_path={option}"
    if group == "data" and ("." in option or Path(option).exists()):
        return f"data=files data.train={option} data.validation=0.1"
    return None


def _options(group: str) -> list[str]:
    return sorted(
        path.stem for path in (conf_folder() / group).glob("*.yaml") if not path.stem.startswith("_")
    )


def _let_in(override: str) -> str:
    name, equals, value = override.lstrip("+~").partition("=")
    return f"++{name}={value if equals else 'null'}"


def _sign(override: str) -> str:
    return override[: len(override) - len(override.lstrip("+~"))]


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
