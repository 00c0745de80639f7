"""pydantic's errors in this project's words: key, value, what it must be, nearest valid name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from summarizer.config.nearest import nearest, suggestion
from summarizer.errors import Issue

_TYPES = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a group of keys",
    "model_type": "a group of keys",
    "none_required": "null",
    "finite_number": "a finite number",
}


def issues_of(error: ValidationError, spec: type[BaseModel], group: str) -> Iterator[Issue]:
    """One issue per mistaken key; a value that fits no member of a union is one mistake, not several."""
    seen: set[str] = set()
    for detail in error.errors(include_url=False):
        names = _without_union_members(detail["loc"], spec)
        key = ".".join([group, *names])
        message = _message(detail, spec, names)
        if detail["type"] == "value_error" and ": " in message:
            name, message = message.split(": ", 1)
            key = f"{key}.{name}"
        if key not in seen:
            seen.add(key)
            yield Issue(key, message)


def _message(detail: Any, spec: type[BaseModel], names: list[str]) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key{suggestion(names[-1], _model_at(spec, names[:-1]).model_fields)}"
    if kind == "missing":
        return "is required"
    if kind == "literal_error":
        options = [option.strip(" '") for option in context["expected"].replace(" or ", ", ").split(",")]
        near = nearest(str(value), options)
        return f"{value!r} is not one of {', '.join(options)}" + (f"; did you mean {near!r}?" if near else "")
    if kind == "value_error":
        return str(context["error"])
    wanted = _TYPES.get(kind) or _bound(kind, context)
    if wanted is None:
        return f"{value!r}: {detail['msg']}"
    field = _model_at(spec, names[:-1]).model_fields.get(names[-1]) if names else None
    limits = _limits(field) if field is not None and kind in _TYPES else ""
    return f"{value!r} is not {wanted}{limits}"


def _bound(kind: str, context: dict[str, Any]) -> str | None:
    words = {
        "greater_than": ("gt", "above"),
        "greater_than_equal": ("ge", "at least"),
        "less_than": ("lt", "below"),
        "less_than_equal": ("le", "at most"),
    }
    if kind in words:
        bound, word = words[kind]
        return f"{word} {context[bound]}"
    if kind == "string_too_short":
        return "text of at least one letter"
    if kind in ("too_short", "too_long"):
        return f"a list of {context.get('min_length', context.get('max_length'))} values"
    return None


def _limits(field: Any) -> str:
    """The bounds that a field's annotation carries, such as " of at least 1"."""
    found = list(field.metadata)
    for member in getattr(field.annotation, "__args__", ()):
        found += getattr(member, "__metadata__", ())
    flat = [item for outer in found for item in [outer, *getattr(outer, "metadata", ())]]
    for item in flat:
        for name, word in (("ge", "of at least"), ("gt", "above")):
            if (limit := getattr(item, name, None)) is not None:
                return f" {word} {limit}"
    return ""


def _model_at(spec: type[BaseModel], names: list[str]) -> type[BaseModel]:
    for name in names:
        inner = spec.model_fields[name].annotation if name in spec.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        spec = inner
    return spec


def _without_union_members(location: tuple[int | str, ...], spec: type[BaseModel]) -> list[str]:
    """Drop what pydantic appends for the members of a union, such as `str` or `list[...]`."""
    names: list[str] = []
    for part in location:
        model = _model_at(spec, names)
        if names and len(names) > 0 and names[-1] in model.model_fields or isinstance(part, int):
            continue
        if names and model is _model_at(spec, names[:-1]):
            break
        names.append(str(part))
    return names
