"""What was read into a split: how much, what was cut, what was skipped."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from summarizer.data.prompt import Prompt
from summarizer.data.rows import BadRow
from summarizer.data.tokenize import TokenisedRow
from summarizer.errors import ConfigError

BAD_ROWS_SHOWN = 5


@dataclass(frozen=True)
class SplitReport:
    """rows: usable ones.  cut_rows: those whose article is cut in training, by cut_tokens in all."""

    name: str
    rows: int
    bad: tuple[BadRow, ...]
    cut_rows: int
    cut_tokens: int

    def describe(self) -> str:
        """One line, as "train: 1,000 rows; 312 articles cut, by 210 tokens on average; 2 rows skipped …"."""
        parts = [f"{self.name}: {_count(self.rows, 'row')}"]
        if self.cut_rows:
            average = round(self.cut_tokens / self.cut_rows)
            parts.append(f"{_count(self.cut_rows, 'article')} cut, by {average:,} tokens on average")
        else:
            parts.append("no article cut")
        if self.bad:
            parts.append(f"{_count(len(self.bad), 'row')} skipped ({first_bad_rows(self.bad)})")
        return "; ".join(parts)


class Tally:
    """Counts rows as they come, towards a SplitReport."""

    def __init__(self, name: str, prompt: Prompt) -> None:
        self._name, self._prompt = name, prompt
        self._bad: dict[str, BadRow] = {}  # by place, so that a second pass over a stream counts none twice
        self.rows = self._cut_rows = self._cut_tokens = 0

    @property
    def bad_rows(self) -> int:
        return len(self._bad)

    def skip(self, row: BadRow) -> None:
        self._bad.setdefault(row.where, row)

    def add(self, row: TokenisedRow) -> None:
        cut = max(0, len(row.article_ids) - self._prompt.room(len(row.target_ids)))
        self.rows += 1
        self._cut_rows += cut > 0
        self._cut_tokens += cut

    def report(self) -> SplitReport:
        return SplitReport(
            self._name,
            self.rows,
            tuple(self._bad.values()),
            self._cut_rows,
            self._cut_tokens,
        )


def check_bad_rows(report: SplitReport, max_bad_rows: int) -> None:
    """Raises ConfigError where more rows are unusable than the config accepts, or none is usable."""
    if len(report.bad) > max_bad_rows:
        count = len(report.bad)
        raise ConfigError.single(
            "data.max_bad_rows",
            f"{_count(count, 'unusable row')} in data.{report.name}, {max_bad_rows:,} accepted: "
            f"{first_bad_rows(report.bad)}",
            f"mend them, or skip them with data.max_bad_rows={count}",
        )
    if report.rows == 0:
        skipped = f": {first_bad_rows(report.bad)}" if report.bad else ""
        raise ConfigError.single(f"data.{report.name}", f"has no usable row{skipped}")


def first_bad_rows(bad: tuple[BadRow, ...]) -> str:
    """The first few by name, the rest by number."""
    shown = "; ".join(str(row) for row in islice(bad, BAD_ROWS_SHOWN))
    left = len(bad) - BAD_ROWS_SHOWN
    return f"{shown}; and {left:,} more" if left > 0 else shown


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
