"""What the axes are measured on: files of many rows, rows of many tokens, and runs with many predictions."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

SHARED = Path(__file__).resolve().parents[3] / "shared" / "cnn_dailymail" / "train.jsonl.gz"
SAMPLE = Path(__file__).resolve().parents[2] / "summarizer" / "data" / "sample" / "train.jsonl"
"""What is made rows of where there are no real ones."""
SHORT_CHARACTERS = 400
"""Of an article in a file of many rows: real ones are ten times as long, and 300,000 of them a gigabyte."""
SUMMARY_WORDS = 30
"""That are left of a summary: the shortest rows have to have room for it."""
STEP_CHARACTERS = 97
"""By which each copy of a row begins later in its article, so that no two rows are the same."""

Texts = dict[str, str]
"""A row as the data sets here have it: id, article, highlights."""


def real_rows(path: Path | None = None) -> list[Texts]:
    """The rows of a file; of none, those of the shared CNN/DailyMail, or else the package's sample."""
    path = path or (SHARED if SHARED.is_file() else SAMPLE)
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open() as file:
        rows = [json.loads(line) for line in file]
    return [
        {**row, "highlights": " ".join(row["highlights"].split()[:SUMMARY_WORDS])}
        for row in rows
        if row["article"].strip() and row["highlights"].strip()
    ]


def short_rows(source: Sequence[Texts], count: int) -> Iterator[Texts]:
    """`count` rows, each of them a piece of a real article with that article's summary."""
    for number, row in enumerate(islice(cycle(source), count)):
        copy, article = number // len(source), row["article"]
        begin = copy * STEP_CHARACTERS % max(len(article) - SHORT_CHARACTERS, 1)
        piece = article[begin : begin + SHORT_CHARACTERS]
        yield {"id": str(number), "article": f"{number}: {piece}", "highlights": row["highlights"]}


def long_rows(source: Sequence[Texts], count: int, words: int) -> Iterator[Texts]:
    """`count` rows of so many words at least, of real articles one behind the other."""
    articles = cycle(source)
    for number in range(count):
        row = next(articles)
        article = row["article"]
        while len(article.split()) < words:
            article += "\n" + next(articles)["article"]
        yield {"id": str(number), "article": article, "highlights": row["highlights"]}


def write_rows(path: Path, rows: Iterator[Texts]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
    return path


# ---- runs with many predictions ----------------------------------------------------------------------------------


def with_predictions(run: Path, out: Path, count: int) -> Path:
    """A copy of a trained run as if it had been scored on `count` rows: its own again and again, under new ids.

    No two rows are the same text, since marks stand at their ends that ROUGE does not see: so the run's scores stay
    what its summary.json says, and nothing is scored only once. Raises ValueError for half a copy of the rows.
    """
    shutil.copytree(run, out)
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    own = summary["rows"]
    if count % own:
        raise ValueError(f"{count} rows are no whole copies of {own}")
    for path in (*out.glob("predictions/*.jsonl"), *out.glob("faithfulness/*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        with path.open("w", encoding="utf-8") as file:
            for number, row in enumerate(islice(cycle(rows), count)):
                file.write(json.dumps(_copy(row, number, number // own), ensure_ascii=False) + "\n")
    summary["rows"] = count
    (out / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return out


def _copy(row: dict[str, Any], number: int, copy: int) -> dict[str, Any]:
    """A row of predictions or of faithfulness under a new id; its texts end in marks that say which copy it is."""
    marks = f"{copy:b}".translate({ord("0"): ",", ord("1"): ";"})
    texts = {name: f"{row[name]} {marks}" for name in ("prediction", "reference") if name in row}
    return {**row, **texts, "id": str(number)}
