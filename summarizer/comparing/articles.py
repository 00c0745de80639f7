"""The beginnings of the articles that a page shows, where they are at hand and certainly the right ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from pydantic import ValidationError

from summarizer.config.schema import DataConfig
from summarizer.data.files import find_files, read_files
from summarizer.data.rows import BadRow, check_row
from summarizer.errors import ConfigError

MOST_ROWS_READ = 5_000
"""Of a file: the rows that are shown are mostly its first, and reading on would cost more than they tell."""
LONGEST_BEGINNING = 1_500
"""Characters."""


def from_files(config: Mapping[str, Any], split: str, references: Mapping[str, str]) -> dict[str, str]:
    """Articles by row id, read from the local files that a run's config names, as far as those are still there.

    references: by row id, of the articles wanted. An article counts only where id and reference are the run's
    own, so that a config from elsewhere brings no other text of this machine into a page. Nothing is fetched.
    """
    try:
        spec = DataConfig.model_validate(config.get("data"))
    except ValidationError:
        return {}
    named = getattr(spec, split)
    if spec.source != "files" or named is None:
        return {}
    found: dict[str, str] = {}
    try:
        rows = islice(read_files(find_files(f"data.{split}", named), spec.columns), MOST_ROWS_READ)
        for index, raw in enumerate(rows):
            if isinstance(raw, BadRow):
                continue
            row = check_row(raw[1], spec.columns, raw[0], index, frozenset())
            if not isinstance(row, BadRow) and references.get(row.id) == row.summary:
                found[row.id] = row.article
                if len(found) == len(references):
                    break
    except (ConfigError, OSError):
        return found  # files that are gone or changed since: an article is a help in reading, no result
    return found


def beginning(article: str) -> str:
    text = article.strip()
    return text if len(text) <= LONGEST_BEGINNING else text[:LONGEST_BEGINNING].rstrip() + " …"


def first_known(known: Iterable[Mapping[str, str]], row_id: str) -> str | None:
    article = next((articles[row_id] for articles in known if row_id in articles), None)
    return None if article is None else beginning(article)
