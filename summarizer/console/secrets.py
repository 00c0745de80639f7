"""Keys, tokens and passwords never reach a log, a run folder, a report or wandb: *** stands in their place.

What looks secret is decided here alone, by the name of a key (`hub.token`) or by the value itself (`hf_...`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

MASK = "***"

_SECRET_KEY = re.compile(
    r"(?i)(^|[._-])(api_?key|(access|private|secret)_?key|passw(or)?d|passphrase|secret|credentials?"
    r"|(?<!completion_)(?<!end_)(?<!pad_)(?<!bos_)(?<!eos_)(?<!unk_)token)$"
)
"""Of a dotted key. Tokens of a vocabulary are none."""
_SECRET_TEXT = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-[\w-]{20,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{15,}"
    r"|\bwandb_v1_\w{10,}|\bxox[abprs]-[\w-]{10,}|\bAKIA[0-9A-Z]{16}\b|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
    r"|(?i:(?<=[?&]token=)|(?<=[?&]api_key=)|(?<=[?&]password=)|(?<=[?&]access_token=)|(?<=[?&]key=))[^&\s'\"]+"
)
"""Keys of Hugging Face, OpenAI, GitHub, GitLab, wandb, Slack, Amazon; signed tokens; and what
stands in a URL as user and password, or as such a parameter."""
_WANDB_KEY = re.compile(r"(?<![\w/@])[0-9a-f]{40}(?!\w)")
"""wandb's older keys, which look as the names of commits do: those stand behind a slash, an @ or in a revision."""
_REVISION_KEY = re.compile(r"(?i)(revision|commit|fingerprint|sha\d*|digest)$")
_PAIR = re.compile(r"(?P<key>[\w.-]+)(?P<is>=|: )(?P<value>'[^']*'|\"[^\"]*\"|[^\s,;]+)")
_OVERRIDE = re.compile(r"[+~]*[\w./@:-]+=")
VARIABLE = "SUMMARIZER_SECRET_"
"""Before a number: an environment variable that holds what was taken out of a command line."""
_REFERENCE = re.compile(rf"\$\\?\{{oc\.env\\?:{VARIABLE}\d+\\?\}}")
"""To such a variable, as OmegaConf has it, and as Hydra's sweepers escape it in an override."""


def is_secret(key: str, value: str) -> bool:
    """Whether a value of this dotted key looks like a key, token or password."""
    if any((_SECRET_KEY.search(key), _SECRET_TEXT.search(value), _REFERENCE.search(value))):
        return True
    return bool(_WANDB_KEY.search(value)) and not _REVISION_KEY.search(key)


def masked_text(text: str) -> str:
    """A text, such as a line of a log, with *** for what looks secret in it."""

    def pair(found: re.Match[str]) -> str:
        if _SECRET_KEY.search(found["key"]) and found["is"] == "=":
            return f"{found['key']}={MASK}"
        return found[0]

    def key_of_wandb(found: re.Match[str]) -> str:
        before = text[: found.start()].rstrip(" =:'\"")
        return found[0] if _REVISION_KEY.search(before) else MASK

    text = _PAIR.sub(pair, _SECRET_TEXT.sub(MASK, _REFERENCE.sub(MASK, text)))
    return _WANDB_KEY.sub(key_of_wandb, text)


def without_references(node: Any) -> Any:
    """A plain value, nested or not, with *** for each text that refers to what was taken out of a command line."""
    if isinstance(node, Mapping):
        return {name: without_references(inner) for name, inner in node.items()}
    if isinstance(node, list):
        return [without_references(inner) for inner in node]
    return MASK if isinstance(node, str) and _REFERENCE.search(node) else node


def replaced(key: str, value: str, by: Callable[[str], str]) -> str:
    """A value with another text for what looks secret in it, but for what is looked up by an interpolation."""

    def other(found: re.Match[str]) -> str:
        return found[0] if "${" in found[0] else by(found[0])

    if _SECRET_KEY.search(key):
        return value if "${" in value or not value else by(value)
    value = _SECRET_TEXT.sub(other, value)
    return value if _REVISION_KEY.search(key) else _WANDB_KEY.sub(other, value)


def redact(override: str) -> str:
    """The override with *** for its value if that looks like a key, token or password."""
    key, equals, value = override.partition("=")
    return f"{key}={MASK}" if equals and is_secret(key.lstrip("+").strip(), value.strip()) else override


def masked(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config of plain containers, nested as it is, with *** for each text that looks secret."""
    return {key: _masked(str(key), value) for key, value in config.items()}


def _masked(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _masked(f"{key}.{name}", inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked(key, inner) for inner in value]
    if not isinstance(value, str) or not is_secret(key, value):
        # An override among others, as Hydra keeps them, is secret by its own key.
        return redact(value) if isinstance(value, str) and _OVERRIDE.match(value) else value
    return redact(value) if _OVERRIDE.match(value) and not _SECRET_KEY.search(key) else MASK
