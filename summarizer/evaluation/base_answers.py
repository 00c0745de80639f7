"""What the untrained base model gives for rows, kept in a sweep's folder: it is asked once for a whole sweep.

Groups of a sweep train over one base model each and score it on the same rows, in this process, in those of another
launcher, or in one that resumes the sweep. What is kept is named by all that its numbers depend on, to the bit.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from summarizer.config.paths import shown
from summarizer.data.order import EncodedRow
from summarizer.errors import ConfigError
from summarizer.json_files import Part, read_part, write_part

FOLDER = "base_model"
"""In a sweep's folder."""

log = logging.getLogger(__name__)


class _Answers(Part):
    """The base model's answers to some rows, in their order."""

    losses: list[float] | None = None
    """Of each row's summary, in nats."""
    summaries: list[str] | None = None
    digest: str
    """Of what stands above: a file that was damaged is not believed."""


@dataclass(frozen=True)
class BaseAnswers:
    """Answers kept in a folder, which is made with the first of them."""

    folder: Path
    made_from: Mapping[str, Any]
    """All but the rows that the numbers depend on, as JSON has it."""

    def losses(self, rows: Sequence[EncodedRow], measure: Callable[[], list[float]]) -> list[float]:
        """The rows' losses in nats: those that are kept, or what `measure` returns, which is kept now."""
        return self._answers("losses", rows, measure)

    def summaries(self, rows: Sequence[EncodedRow], write: Callable[[], list[str]]) -> list[str]:
        """The same of the rows' summaries."""
        return self._answers("summaries", rows, write)

    def _answers(
        self, what: Literal["losses", "summaries"], rows: Sequence[EncodedRow], ask: Callable[[], list[Any]]
    ) -> list[Any]:
        asked = [[row.id, list(row.article_ids), list(row.target_ids)] for row in rows]
        path = self.folder / f"{what}-{_digest([self.made_from, asked])[:16]}.json"
        if path.exists():
            try:
                kept = read_part(path, _Answers, "answers of the base model")
                found: list[Any] = getattr(kept, what) or []
                if len(found) == len(rows) and kept.digest == _digest(found):
                    log.info("the base model's %s of %d rows are in %s", what, len(rows), shown(path))
                    return found
                log.warning("%s is not as it was written, and is made anew", shown(path))
            except ConfigError as error:
                log.warning("%s is made anew: %s", shown(path), error)
        found = ask()
        try:
            self.folder.mkdir(exist_ok=True)
            write_part(path, _Answers.model_validate({what: found, "digest": _digest(found)}))
        except OSError as error:  # the next group asks again
            log.warning("the base model's %s are not kept in %s: %s", what, shown(path), error)
        return found


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
