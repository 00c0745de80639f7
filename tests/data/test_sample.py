"""The embedded sample keeps its promises: sizes, lengths, and no row in two splits."""

from __future__ import annotations

import json
import re

import pytest

from summarizer.config.paths import resolve_path

SIZES = {"train": 100, "validation": 32, "test": 16}


def rows(split: str) -> list[dict[str, str]]:
    path = resolve_path(f"embedded:sample/{split}.jsonl", "data")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("split", SIZES)
def test_each_row_is_a_short_article_with_two_to_four_highlights(split: str) -> None:
    found = rows(split)
    assert len(found) == SIZES[split]
    for row in found:
        assert set(row) == {"id", "article", "highlights"}
        assert 150 <= len(row["article"].split()) <= 350, row["id"]
        lines = row["highlights"].split("\n")
        assert 2 <= len(lines) <= 4, row["id"]
        for line in lines:
            assert re.search(r"[.!?][\"'”’)]?$", line), f"{row['id']}: no sentence: {line}"
            assert len(line.split()) >= 3, row["id"]


def test_no_text_is_in_two_places() -> None:
    everything = [row for split in SIZES for row in rows(split)]
    assert len(everything) == sum(SIZES.values())
    for field in ("id", "article", "highlights"):
        assert len({row[field] for row in everything}) == len(everything), field


def test_no_two_articles_are_the_same_story_reworded() -> None:
    stories = []
    for split in SIZES:
        for row in rows(split):
            words = row["article"].lower().split()
            stories.append({tuple(words[start : start + 5]) for start in range(len(words) - 4)})
    shared = max(len(a & b) / min(len(a), len(b)) for i, a in enumerate(stories) for b in stories[:i])
    assert shared < 0.05  # of the runs of five words


def test_it_says_that_it_is_fiction() -> None:
    assert "fiction" in resolve_path("embedded:sample/README.md", "data").read_text(encoding="utf-8")
