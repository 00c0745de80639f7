"""Which columns of a source hold its articles and summaries: as the config says, or recognized by their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from summarizer.config.schema import Columns
from summarizer.errors import ConfigError, Issue

ARTICLES = ("article", "document", "text", "dialogue", "input")
SUMMARIES = ("highlights", "summary", "output")
"""Names of columns in the data sets of this task: CNN/DailyMail, XSum, SAMSum, Alpaca's form and their like. Where
the first of each is there, it is the one that is meant."""
INSTRUCTION, MESSAGES = "instruction", "messages"
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
"""Whose turn it is in `messages`, as chat templates have it."""

Field = Literal["article", "summary"]


def are_named(columns: Columns) -> bool:
    """Whether the config says where article and summary are, so that nothing is left to be recognized."""
    return columns.messages is not None or None not in (columns.article, columns.summary)


def names_of(columns: Columns) -> frozenset[str]:
    """The columns that a row's fields are read from."""
    return frozenset(name for _, name in named_columns(columns))


def named_columns(columns: Columns) -> Iterator[tuple[str, str]]:
    """Each config key below `data.columns`, and a column that it names."""
    for key, named in columns.model_dump().items():
        for name in [named] if isinstance(named, str) else named or ():
            yield key, name


# ---- recognized by their names -----------------------------------------------------------------------------------


def recognized(
    columns: Columns, names: Sequence[str], place: str, wanted: Sequence[Field] = ("article", "summary")
) -> Columns:
    """The columns with those of the `wanted` fields that the config leaves open found among a source's `names`.

    place: what a message calls the source.
    Raises ConfigError where no column has a known name, or several could be meant.
    """
    wanted = [field for field in wanted if getattr(columns, field) is None]
    if columns.messages is not None or not wanted:
        return columns
    taken = names_of(columns)
    free = [name for name in names if name not in taken]
    found: dict[Field, list[str]] = {"article": _known(free, ARTICLES), "summary": _known(free, SUMMARIES)}
    turns = _known(free, (MESSAGES,)) if columns.article is None and columns.summary is None else []
    instruction = _known(free, (INSTRUCTION,))
    if not found["article"] and not turns:
        found["article"], instruction = instruction, []
    if turns and not all(found[field] for field in wanted):
        return columns.model_copy(update={"messages": turns[0]})
    usual = {"article": ARTICLES, "summary": SUMMARIES}
    issues = [
        _unclear(field, found[field], names, place, _known(sorted(taken), usual[field]))
        for field in wanted
        if len(found[field]) != 1
    ]
    if turns and not issues and [found[field][0] for field in wanted] != [ARTICLES[0], SUMMARIES[0]]:
        issues.append(_unclear("article", [*found["article"], *turns], names, place))
    if issues:
        raise ConfigError(issues)
    chosen: dict[str, object] = {field: found[field][0] for field in wanted}
    if instruction and str(chosen.get("article", "")).strip().casefold() == "input":
        chosen["article"] = [instruction[0], chosen["article"]]
    return columns.model_copy(update=chosen)


def recognized_article(columns: Columns, names: Sequence[str], place: str) -> Columns:
    """The same of a source whose summaries may be missing, since they are still to be written."""
    found = recognized(columns, names, place, ("article",))
    summaries = _known([name for name in names if name not in names_of(found)], SUMMARIES)
    if found.messages is None and found.summary is None and len(summaries) == 1:
        return found.model_copy(update={"summary": summaries[0]})
    return found


def said(found: Columns, given: Columns) -> str | None:
    """One line about what was recognized; None where the config names all, or each field has its usual name."""
    if are_named(given) or (found.article, found.summary) == (ARTICLES[0], SUMMARIES[0]):
        return None
    if found.messages is not None:
        return (
            f"columns: {found.messages!r} holds chat turns: the user's are the article, the assistant's last is "
            "the summary, system turns are left out"
        )
    article = [found.article] if isinstance(found.article, str) else found.article or []
    return (
        f"columns: the article is {' and '.join(map(repr, article))}, the summary is {found.summary!r}; others are "
        "named by data.columns.article and data.columns.summary"
    )


def _known(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Those of the names that are known ones; the first known one alone where it is there."""
    found = [name for name in names if name.strip().casefold() in known]
    return [known[0]] if known[0] in found else found


def _unclear(
    field: str, found: Sequence[str], names: Sequence[str], place: str, taken: Sequence[str] = ()
) -> Issue:
    """taken: columns that another field has, and that would have been recognized."""
    what = "articles" if field == "article" else "summaries"
    listed = f"its columns are {', '.join(names) or 'none'}"
    elsewhere = f", and {' and '.join(map(repr, taken))} is taken by another field" if taken else ""
    fact = f"which column of {place} holds the {what}? {listed}{elsewhere}"
    if found:
        fact = f"{' and '.join(map(repr, found))} of {place} could both be the {what}; {listed}"
    return Issue(
        f"data.columns.{field}", fact, f"say which: data.columns.{field}={found[0] if found else 'NAME'}"
    )


# ---- a row's fields ----------------------------------------------------------------------------------------------


class NoFieldError(ValueError):
    """Why a row has no such field, in words that follow the field's name."""


def described(columns: Columns, field: Field) -> str:
    """What a message calls a field: by its column where that has another name."""
    column = columns.messages if columns.messages is not None else getattr(columns, field)
    if column == field:
        return field
    several = isinstance(column, list)
    return f"{field} ({'columns' if several else 'column'} {', '.join(map(repr, column if several else [column]))})"


def field_value(raw: Mapping[str, object], columns: Columns, field: Field) -> object:
    """What a row has for a field, which may be anything. Raises NoFieldError where it has nothing."""
    if columns.messages is not None:
        if columns.messages not in raw:
            raise NoFieldError("is missing")
        return _of_turns(raw[columns.messages], field)
    column: str | list[str] | None = getattr(columns, field)
    names = [column] if isinstance(column, str) else column or []
    present = [raw[name] for name in names if name in raw]
    if not present:
        raise NoFieldError("is missing")
    if len(names) == 1:
        return present[0]
    wrong = [value for value in present if value is not None and not isinstance(value, str)]
    texts = [value.strip() for value in present if isinstance(value, str) and value.strip()]
    return wrong[0] if wrong else "\n\n".join(texts)


def _of_turns(turns: object, field: Field) -> str:
    """The article or the summary of chat turns, each a mapping with `role` and `content`."""
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise NoFieldError("is not a list of chat turns")
    spoken = [(turn.get("role"), _content(turn.get("content"))) for turn in turns]
    if strange := [role for role, _ in spoken if role not in (SYSTEM, USER, ASSISTANT)]:
        raise NoFieldError(f"has a turn of {strange[0]!r}, which is none of {SYSTEM}, {USER}, {ASSISTANT}")
    answers = [place for place, (role, _) in enumerate(spoken) if role == ASSISTANT]
    if field == "summary":
        if not answers:
            raise NoFieldError(f"has no turn of the {ASSISTANT}")
        return spoken[answers[-1]][1]
    asked = [text for role, text in spoken[: answers[-1] if answers else None] if role == USER]
    if not asked:
        raise NoFieldError(f"has no turn of the {USER}")
    return "\n\n".join(text.strip() for text in asked)


def _content(content: object) -> str:
    """The text of a turn: itself, or parts of type `text`. Raises NoFieldError for anything else."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    if len(texts) < len(parts) or not all(isinstance(text, str) for text in texts):
        raise NoFieldError("has a turn whose content is not text")
    return "\n".join(map(str, texts))
