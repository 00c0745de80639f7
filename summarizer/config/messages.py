"""pydantic's errors in this project's words: key, value, what it must be, nearest valid name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from summarizer.config.synonyms import did_you_mean
from summarizer.errors import Issue, nearest, suggestion

LONGEST_VALUE = 60
"""Characters of a mistaken value that a message repeats."""

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
    """One issue per mistaken key of a config group."""
    for name, message in messages_of(error, spec, group):
        yield Issue(f"{group}.{name}", message)


def messages_of(
    error: ValidationError, spec: type[BaseModel], group: str = "", *, typed: bool = False
) -> Iterator[tuple[str, str]]:
    """What is wrong with each mistaken field; a value that fits no member of a union is one mistake, not several.

    group: the config group that the fields are of.
    typed: the values are text of a command line, so that a number is shown without quotes.
    """
    details: dict[str, Any] = {}
    for detail in error.errors(include_url=False):
        name = ".".join(_without_union_members(detail["loc"], spec))
        if name not in details or _precision(detail) > _precision(details[name]):
            details[name] = detail
    for name, detail in details.items():
        if detail["type"] == "extra_forbidden":
            yield name, _unknown_key(spec, group, name.split("."), detail["input"])
            continue
        value = _number_of(detail["input"]) if typed else detail["input"]
        yield name, _message({**detail, "input": value}, spec, name.split("."), typed=typed)


def _number_of(text: Any) -> Any:
    """What text says as a number; text that says none stays as it is."""
    for kind in (int, float):
        with suppress(ValueError, TypeError):
            return kind(text)
    return text


def _precision(detail: Any) -> tuple[bool, bool]:
    """Orders what is said of one key: a mistaken item, or a bound, says more than that the type is wrong."""
    return isinstance(detail["loc"][-1], int), not detail["type"].endswith("_type")


def shown(value: object) -> str:
    """A value as YAML writes it, in one short line."""
    text = {"None": "null", "True": "true", "False": "false"}.get(repr(value), repr(value))
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 2] + " …"


def _message(detail: Any, spec: type[BaseModel], names: list[str], *, typed: bool) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    field = _model_at(spec, names[:-1]).model_fields.get(names[-1]) if names else None
    if kind == "missing":
        return "is required"
    if mixed := _alternatives(spec, names, null=not typed):
        return f"{shown(value)} is not {mixed}"
    if kind == "literal_error":
        options = [option.strip(" '") for option in context["expected"].replace(" or ", ", ").split(",")]
        near = nearest(str(value), options)
        return f"{shown(value)} is not one of {', '.join(options)}" + (
            f"; did you mean {near!r}?" if near else ""
        )
    wanted = _TYPES.get(kind) or _bound(kind, context)
    if wanted is None:
        return f"{shown(value)}: {detail['msg']}"
    limits = _limits(field) if field is not None and kind in _TYPES else ""
    return f"{shown(value)} is not {wanted}{limits}"


def _unknown_key(spec: type[BaseModel], group: str, names: list[str], value: object) -> str:
    other_tools = did_you_mean(names[-1], value, ".".join([group, *names[:-1]]))
    return f"unknown key{other_tools or suggestion(names[-1], _model_at(spec, names[:-1]).model_fields)}"


def _alternatives(spec: type[BaseModel], names: list[str], *, null: bool) -> str | None:
    """What a key takes that wants words or something else, such as "a whole number of at least 1 or auto"."""
    field = _model_at(spec, names[:-1]).model_fields.get(names[-1]) if names else None
    members = get_args(field.annotation) if field is not None else ()
    words = [word for member in members if get_origin(member) is Literal for word in get_args(member)]
    others = {get_origin(member) or member: member for member in members}
    types = {bool: "true, false", Annotated: f"a whole number{_limits(field)}"}
    if not words or not any(kind in others for kind in types):
        return None
    offered = [text for kind, text in types.items() if kind in others] + words
    if null and NoneType in others:
        offered.append("null")
    return f"{', '.join(offered[:-1])} or {offered[-1]}"


def _bound(kind: str, context: dict[str, Any]) -> str | None:
    words = {
        "greater_than": ("gt", "a number above"),
        "greater_than_equal": ("ge", "a number of at least"),
        "less_than": ("lt", "a number below"),
        "less_than_equal": ("le", "a number of at most"),
    }
    if kind in words:
        bound, word = words[kind]
        return f"{word} {_number(context[bound])}"
    if kind == "hold_out":
        return "a share above 0 and below 1, a whole number of rows, or where rows are"
    if kind == "string_too_short":
        return "text of at least one letter"
    if kind in ("too_short", "too_long"):
        wanted = context.get("min_length", context.get("max_length"))
        return "a list of at least one value" if wanted == 1 else f"a list of {wanted} values"
    return None


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def least(spec: type[BaseModel], name: str) -> int:
    """The smallest whole number that a field takes, as its annotation says."""
    bounds = [item.ge for item in _bounds(spec.model_fields[name]) if getattr(item, "ge", None) is not None]
    return int(max(bounds))


def _limits(field: Any) -> str:
    """The lower bound that a field's annotation carries, such as " of at least 1"."""
    for item in _bounds(field):
        for name, word in (("ge", "of at least"), ("gt", "above")):
            if (limit := getattr(item, name, None)) is not None:
                return f" {word} {_number(limit)}"
    return ""


def _bounds(field: Any) -> list[Any]:
    """What bounds a field, or a member of its union, in the forms that pydantic keeps them in."""
    found = list(field.metadata)
    for member in getattr(field.annotation, "__args__", ()):
        found += getattr(member, "__metadata__", ())
    return [item for outer in found for item in [outer, *getattr(outer, "metadata", ())]]


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
        if isinstance(part, int) or (names and names[-1] in model.model_fields):
            continue
        if names and model is _model_at(spec, names[:-1]):
            break
        names.append(str(part))
    return names
