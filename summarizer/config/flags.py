"""Flags of a command line, made of typed settings: their names, help, types and bounds stand once, in a class.

pydantic-settings makes an argparse parser of a class of flags, pydantic checks what was typed. Chosen over cyclopts
and tyro (November 2026) since pydantic reports every mistaken value together, in the words that the YAML's mistakes
have, and since argparse takes flags anywhere between file names; both others stop at the first mistaken value. Over
typer and jsonargparse for the classes of settings, which the config has already. Measured: 0.24 s of CPU to import
with pydantic, 0.17 of them pydantic's own. What was typed is read from argparse, never through the library's own
decoding, which takes `a,b.txt` for two files and `[1].txt` for JSON.
"""

from __future__ import annotations

import sys
from argparse import ArgumentError, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_origin

from pydantic import PrivateAttr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import (
    BaseSettings,
    CliPositionalArg,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from summarizer.config.messages import messages_of
from summarizer.errors import ConfigError, Issue, nearest


@dataclass(frozen=True)
class Metavar:
    """What the help calls a flag's value."""

    name: str


@dataclass(frozen=True)
class InPlaceOf:
    """The key of a run's config that a flag's value takes the place of."""

    key: str


FolderPath = Annotated[Path, Metavar("FOLDER")]
FilePath = Annotated[Path, Metavar("FILE")]
POSITIONAL = get_args(CliPositionalArg[str])[1]
"""What pydantic-settings marks a field with that has no flag."""


class Flags(BaseSettings):
    """What a command line says. A field is a flag, its docstring the flag's help; CliPositionalArg stands alone."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        populate_by_name=True,
        loc_by_alias=False,
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_implicit_flags="toggle",
    )

    HEADING: ClassVar[str] = "options"
    """What the help groups the flags under that a class adds itself."""

    _mistakes: tuple[Issue, ...] = PrivateAttr(())
    _mistaken: frozenset[str] = PrivateAttr(frozenset())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The command line alone: no variable of the environment, and no file, is a flag."""
        return (init_settings,)

    @property
    def mistakes(self) -> tuple[Issue, ...]:
        """What is wrong with single flags. The fields of these have their defaults."""
        return self._mistakes

    @property
    def mistaken(self) -> frozenset[str]:
        """The names of the fields that `mistakes` is about."""
        return self._mistaken

    @classmethod
    def flag(cls, field: str) -> str:
        """What a person types for a field, such as --max-new-tokens; a positional's name, such as RUN."""
        info = cls.model_fields[field]
        name = str(info.validation_alias or field)
        return name if _is_positional(info) else f"--{name.replace('_', '-')}"

    @classmethod
    def flag_for(cls, key: str) -> str | None:
        """The flag whose value takes the place of a config key; None where there is none."""
        for field, info in cls.model_fields.items():
            if InPlaceOf(key) in info.metadata:
                return cls.flag(field)
        return None

    @classmethod
    def read(cls, arguments: Sequence[str], *, command: str, usage: str, epilog: str = "") -> Self:
        """The flags of a command line, those that are sound where some are not: see `mistakes`.

        command: such as summarize.  usage: the positional arguments, such as RUN [FILE ...].
        Raises SystemExit for --help, and ConfigError where what the command cannot be without is missing.
        """
        parser, names = _parser(cls, command, usage, epilog)
        typed, issues = _typed(parser, names, arguments)
        mistaken: set[str] = set()
        try:
            return cls(**typed) if not issues else cls._partly(typed, issues, mistaken)
        except ValidationError as error:
            for name, message in messages_of(error, cls, typed=True):
                mistaken.add(name.partition(".")[0])
                issues.append(Issue(cls.flag(name.partition(".")[0]), message))
        aliases = {str(info.validation_alias or name): name for name, info in cls.model_fields.items()}
        sound = {key: value for key, value in typed.items() if aliases.get(key, key) not in mistaken}
        try:
            return cls._partly(sound, issues, mistaken)
        except ValidationError as error:
            raise ConfigError(issues) from error

    @classmethod
    def _partly(cls, typed: dict[str, Any], issues: Sequence[Issue], mistaken: set[str]) -> Self:
        made = cls(**typed)
        made._mistakes, made._mistaken = tuple(issues), frozenset(mistaken)
        return made


def program(command: str) -> str:
    """What usage texts call a command: `summarizer NAME` where it was started so, or its module."""
    own = f"summarizer {command}"
    return own if sys.argv[0] == own else f"python -m summarizer.{command}"


def _typed(
    parser: ArgumentParser, flags: Sequence[str], arguments: Sequence[str]
) -> tuple[dict[str, Any], list[Issue]]:
    """What was typed by field, and what argparse does not understand; each flag of that is left out."""
    left, issues = list(arguments), []
    while True:
        try:
            known, unknown = parser.parse_known_intermixed_args(left)
        except ArgumentError as error:
            names = (error.argument_name or "").split("/")
            issues.append(Issue(names[-1], error.message))
            shorter = [word for word in left if word.partition("=")[0] not in names]
            if len(shorter) == len(left):
                raise ConfigError(issues) from error
            left = shorter
            continue
        return _given(known), issues + list(_unknown(unknown, flags))


def _given(known: Namespace) -> dict[str, Any]:
    return {key: value for key, value in vars(known).items() if value not in (PydanticUndefined, None, [])}


def _unknown(words: Sequence[str], flags: Sequence[str]) -> Iterator[Issue]:
    before = ""
    for word in words:
        name, before, previous = word.partition("=")[0], word, before
        if not word.startswith("-"):
            if not previous.startswith("-") or "=" in previous:  # else it is an unknown flag's value
                yield Issue("", f"{word!r} is one argument too many")
            continue
        near = nearest(name, flags)
        yield Issue("", f"unknown flag {name}" + (f"; did you mean {near}?" if near else ""))


def _parser(
    kind: type[Flags], command: str, usage: str, epilog: str
) -> tuple[ArgumentParser, tuple[str, ...]]:
    """An argparse parser of a class of flags, each under its class's heading in the help; and all flags' names."""
    parser = ArgumentParser(
        prog=program(command),
        usage=f"%(prog)s [options] {usage}",
        description=kind.__doc__,
        epilog=epilog,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
    )
    groups: dict[str, Any] = {"options": parser}
    flags: list[str] = ["--help", "-h"]

    def add(_: object, *names: str, **options: Any) -> None:
        alias = options.get("dest", names[0])
        field = next(n for n, info in kind.model_fields.items() if alias in (n, info.validation_alias))
        info = kind.model_fields[field]
        if info.validation_alias is not None:  # the library offers the field's own name too
            names = tuple(name for name in names if name != f"--{field.replace('_', '-')}")
        if _is_positional(info):
            # What is missing is pydantic's to say, with all the rest.
            options["nargs"] = "*" if get_origin(info.annotation) in (list, tuple) else "?"
        elif "metavar" in options:
            named = [one.name for one in info.metadata if isinstance(one, Metavar)]
            options["metavar"] = named[0] if named else _metavar(info.annotation)
            if get_origin(info.annotation) in (list, tuple):
                options["action"] = "append"
        options["help"] = _help(info)
        heading = _heading(kind, field)
        if heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        action = groups[heading].add_argument(*sorted(names, key=len), **options)
        flags.extend(action.option_strings)

    shortcuts = {"output": "o"} if "output" in kind.model_fields else {}
    CliSettingsSource[ArgumentParser](
        kind, root_parser=parser, add_argument_method=add, cli_shortcuts=shortcuts
    )
    return parser, tuple(flags)


def _heading(kind: type[Flags], field: str) -> str:
    """The heading of the first class which has the field."""
    owners = [one for one in reversed(kind.__mro__) if field in getattr(one, "model_fields", ())]
    return str(vars(owners[0]).get("HEADING", "options"))


def _help(info: FieldInfo) -> str:
    text = " ".join((info.description or "").split()).replace("%", "%%")
    if isinstance(info.default, bool) or info.default in (PydanticUndefined, None, ()):
        return text
    return f"{text} (default: {info.default})"


def _is_positional(info: FieldInfo) -> bool:
    return POSITIONAL in info.metadata


def _metavar(annotation: Any) -> str:
    """What the help calls a value of this type, such as N, NAME or {auto,cpu,cuda}."""
    if get_origin(annotation) is Annotated:
        named = [one.name for one in get_args(annotation)[1:] if isinstance(one, Metavar)]
        return named[0] if named else _metavar(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return "{" + ",".join(map(str, get_args(annotation))) + "}"
    members = [member for member in get_args(annotation) if member not in (NoneType, Ellipsis)]
    if len(members) == 1:
        return _metavar(members[0])
    if members:
        return "|".join(dict.fromkeys(_metavar(member).strip("{}") for member in members))
    if isinstance(annotation, type) and issubclass(annotation, Path):
        return "PATH"
    return "N" if annotation in (int, float) else "NAME"
