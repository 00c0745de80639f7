"""The mistakes of a whole batch of combinations as one message: each once, and where it occurs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from summarizer.errors import Issue

NAMED = 3
"""Combinations that a message names one by one, at most."""


def merged(found: Sequence[Iterable[Issue]], batch: Sequence[Sequence[str]]) -> list[Issue]:
    """Every issue of every combination once, with its combinations where it is not in all of them.

    found: for each combination of `batch` (its overrides), what is wrong with it.
    """
    where: dict[Issue, list[int]] = {}
    for place, issues in enumerate(found):
        for issue in dict.fromkeys(issues):
            where.setdefault(issue, []).append(place)
    return [
        issue
        if len(places) == len(batch)
        else Issue(
            issue.key,
            f"{issue.message} (in {len(places)} of {len(batch)} combinations: {_named(places, batch)})",
        )
        for issue, places in where.items()
    ]


def _named(places: Sequence[int], batch: Sequence[Sequence[str]]) -> str:
    """Overrides that say which combinations these are: as one sweep if they are one, or else one by one."""
    everywhere = set(batch[0]).intersection(*batch)
    swept = [{_key(text): text for text in overrides if text not in everywhere} for overrides in batch]
    values = {key: {one.get(key) for one in swept} for one in swept for key in one}
    here = {key: {swept[place].get(key) for place in places} for key in values}
    inside = [place for place, one in enumerate(swept) if all(one.get(key) in here[key] for key in values)]
    if inside == list(places):
        return " ".join(_sweep(key, swept, here[key]) for key in values if here[key] != values[key])
    named = [" ".join(swept[place].values()) for place in places[:NAMED]]
    return "; ".join(named) + (f"; and {len(places) - NAMED} more" if len(places) > NAMED else "")


def _sweep(key: str, swept: Sequence[dict[str, str]], chosen: set[str | None]) -> str:
    """As `adapter.dim=2,4`: the values of a key in the order in which the sweep has them."""
    texts = dict.fromkeys(text for one in swept if (text := one.get(key)) is not None and text in chosen)
    first, *others = [text.partition("=")[2] for text in texts] or ["(not given)"]
    return f"{key}={','.join([first, *others])}"


def _key(override: str) -> str:
    return override.partition("=")[0]
