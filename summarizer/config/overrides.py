"""Overrides in Hydra's grammar: texts quoted for it, and what looks secret taken out of them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from itertools import count

from summarizer.console.secrets import VARIABLE, is_secret, replaced


def quoted(text: str) -> str:
    """As a value of Hydra's grammar, in which a quote and the backslashes before one are escaped."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    ending = len(text) - len(text.rstrip("\\"))
    return "'" + escaped + "\\" * ending + "'"


def unquoted(value: str) -> str:
    """As Hydra reads it: `'my run'` names the folder `my run`."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    with suppress(HydraException):  # which Hydra says itself
        return str(OverridesParser.create().parse_override(f"key={value}").value())
    return value


def without_quoted_keys(word: str) -> str:
    """An override with keys of a mapping in quotes, as YAML has them around a `*`, as Hydra's grammar wants it."""
    if not re.match(r"[^=]+=\s*[^'\"\s]", word):  # a text, which is nobody's to change
        return word
    return re.sub(r"""([{,]\s*)(['"])([^'"{},:]*)\2\s*:""", r"\1\3:", word)


def without_secrets(word: str) -> str:
    """An override that looks secret, referring to environment variables that hold what does.

    What Hydra, launchers and wandb write of a command then holds no secret at any moment. The composed config has
    it wherever it is read, in the processes that launchers start too, since those inherit the environment.
    """
    if not _looks_secret(word):
        return word
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(word)
        value = override.value()
    except HydraException:  # which Hydra says itself, nothing being written
        return word
    key = override.get_key_element()
    if isinstance(value, ChoiceSweep):
        safe = hidden(key, choices := _texts(value.list))
        return word if safe == choices else f"{key}={_rendered(safe)[1:-1]}"
    safe = hidden(key, value)
    return word if safe == value else f"{key}={_rendered(safe)}"


def hidden(key: str, value: object) -> object:
    """A plain value of this key, nested or not, referring to environment variables that hold what looks secret."""
    if isinstance(value, Mapping):
        return {name: hidden(f"{key}.{name}", inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [hidden(key, inner) for inner in value]
    return replaced(key, value, _reference) if isinstance(value, str) else value


def _looks_secret(word: str) -> bool:
    """Whether an override may hold a secret: by its key, or by one that is within its value."""
    key, equals, value = word.partition("=")
    if not equals or key.startswith("-"):
        return False
    return is_secret(key, value) or any(is_secret(name, "") for name in re.findall(r"([\w.-]+)\s*:", value))


def _texts(value: object) -> object:
    """A choice's values, where Hydra keeps the quotes around a text, without them."""
    if isinstance(value, Mapping):
        return {name: _texts(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_texts(inner) for inner in value]
    return getattr(value, "text", value)


def _reference(secret: str) -> str:
    name = next(name for n in count(1) if (name := f"{VARIABLE}{n}") not in os.environ)
    os.environ[name] = secret
    return f"${{oc.env:{name}}}"


def _rendered(value: object) -> str:
    """A parsed value in Hydra's grammar again."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_rendered(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_rendered, value)) + "]"
    if value is None:
        return "null"
    return quoted(value) if isinstance(value, str) else str(value)
