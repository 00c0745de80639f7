from __future__ import annotations

import random

import numpy as np
import pytest

from summarizer.evaluation.metrics import bootstrap
from summarizer.evaluation.record import Interval
from summarizer.evaluation.text_statistics import (
    UNITS,
    Fragment,
    fragments,
    mean_statistics,
    novel_share,
    repeated_share,
    text_statistics,
    words,
)


def test_by_hand() -> None:
    article = "The cat sat on the mat, and the cat ran."  # 10 words
    summary = "A cat ran. And the cat sat!"  # 7 words, fragments of 2, 3 and 1
    row = {name: float(values[0]) for name, values in text_statistics([article], [summary]).items()}
    assert row == pytest.approx(
        {
            "words": 7,
            "sentences": 2,
            "coverage": 6 / 7,
            "density": (4 + 9 + 1) / 7,
            "compression": 10 / 7,
            "novel_1grams": 1 / 7,  # a
            "novel_2grams": 2 / 6,  # a cat, ran and
            "novel_3grams": 3 / 5,  # all but "and the cat" and "the cat sat"
            "novel_4grams": 1.0,  # "and the cat sat" is not in the article either
            "repeated_3grams": 0.0,
        }
    )


def test_a_copy_and_a_stranger() -> None:
    article = " ".join(f"word{index}" for index in range(40)) + "."
    copied = " ".join(f"word{index}" for index in range(10, 20))
    stats = text_statistics([article] * 2, [copied, "nothing of all this here"], show=False)
    assert stats["coverage"].tolist() == [1, 0]
    assert stats["density"].tolist() == [10, 0]
    assert stats["compression"].tolist() == [4, 8]
    for n in (1, 2, 3, 4):
        assert stats[f"novel_{n}grams"].tolist() == [0, 1]


def test_repetition() -> None:
    assert repeated_share(["a", "b", "c", "a", "b", "c", "a", "b", "c"]) == pytest.approx(
        4 / 7
    )  # abc bca cab, 7 in all
    assert repeated_share(["a", "b", "c", "d"]) == 0
    assert np.isnan(repeated_share(["a", "b"]))


def test_shares_by_a_slow_count() -> None:
    generator = random.Random(2)
    for _ in range(300):
        article = generator.choices("abcd", k=generator.randint(0, 15))
        summary = generator.choices("abcde", k=generator.randint(4, 12))
        joined = "".join(article)
        for n in (1, 2, 3, 4):
            grams = ["".join(summary[k : k + n]) for k in range(len(summary) - n + 1)]
            novel = [gram for gram in grams if gram not in joined]
            assert novel_share(article, summary, n) == pytest.approx(len(novel) / len(grams))
        grams = ["".join(summary[k : k + 3]) for k in range(len(summary) - 2)]
        seen_before = [gram for k, gram in enumerate(grams) if gram in grams[:k]]
        assert repeated_share(summary) == pytest.approx(len(seen_before) / len(grams))
        lengths = [fragment.length for fragment in fragments(article, summary)]
        row = text_statistics([" ".join(article)], [" ".join(summary)], show=False)
        assert row["coverage"][0] == pytest.approx(sum(lengths) / len(summary))
        # the length of the fragment around each word, averaged over the words
        around = [length for length in lengths for _ in range(length)]
        assert row["density"][0] == pytest.approx(sum(around) / len(summary))


def test_a_summary_too_short_for_a_statistic_is_left_out_of_its_mean() -> None:
    per_row = text_statistics(["a b c d e"] * 3, ["", "a b", "a b x y z"], show=False)
    assert per_row["words"].tolist() == [0, 2, 5]
    means = mean_statistics(per_row, samples=50, seed=3)
    assert list(means) == list(UNITS)
    assert {name: mean.rows for name, mean in means.items()} == {
        **dict.fromkeys(UNITS, 2),
        "words": 3,
        "sentences": 3,
        "novel_3grams": 1,
        "novel_4grams": 1,
        "repeated_3grams": 1,
    }
    assert means["coverage"].mean == bootstrap({"": np.array([1, 0.4])}, 50, 3)[""]
    assert means["coverage"].unit == "share, 0 to 1"
    none = mean_statistics(text_statistics(["a"], [""], show=False), samples=5, seed=0)
    assert none["density"].mean is None
    assert none["words"].mean == Interval(0, 0, 0)


def test_no_rows_and_unequal_rows() -> None:
    assert all(values.shape == (0,) for values in text_statistics([], []).values())
    with pytest.raises(ValueError, match="2 summaries for 1 articles"):
        text_statistics(["a"], ["b", "c"])
    with pytest.raises(ValueError, match="rouge1"):
        mean_statistics({"rouge1": np.ones(3)}, 5, 0)


def figure_3(article: list[str], summary: list[str]) -> list[list[str]]:
    """The paper's procedure, line by line, in its own index arithmetic (1-based, written with - 1)."""
    found: list[list[str]] = []
    i, j = 1, 1
    while i <= len(summary):
        f: list[str] = []
        while j <= len(article):
            if summary[i - 1] == article[j - 1]:
                i_, j_ = i, j
                while i_ <= len(summary) and j_ <= len(article) and summary[i_ - 1] == article[j_ - 1]:
                    i_, j_ = i_ + 1, j_ + 1
                if len(f) < i_ - i:
                    f = summary[i - 1 : i_ - 1]
                j = j_
            else:
                j += 1
        i, j = i + max(len(f), 1), 1
        if f:
            found.append(f)
    return found


def test_fragments_are_figure_3s_on_random_words() -> None:
    generator = random.Random(1)
    counts: list[int] = []
    for _ in range(2000):
        letters = "abcdefgh"[: generator.randint(1, 8)]
        article = generator.choices(letters, k=generator.randint(0, 25))
        summary = generator.choices(letters + "z", k=generator.randint(0, 12))
        found = fragments(article, summary)
        assert [summary[f.summary_start : f.summary_start + f.length] for f in found] == figure_3(
            article, summary
        )
        for f in found:
            ours = summary[f.summary_start : f.summary_start + f.length]
            assert article[f.article_start : f.article_start + f.length] == ours
        counts.append(len(found))
    assert max(counts) > 5
    assert min(counts) == 0


def test_fragments_by_hand() -> None:
    article = ["the", "cat", "sat", "on", "the", "mat", "and", "the", "cat", "ran"]
    summary = ["a", "cat", "ran", "and", "the", "cat", "sat"]
    assert fragments(article, summary) == [Fragment(1, 8, 2), Fragment(3, 6, 3), Fragment(6, 2, 1)]
    # a run that starts inside one already tried is passed over: "a a b" stands in the article
    assert [f.length for f in fragments(list("aaab"), list("aab"))] == [2, 1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop, U.S.-based Mr. O’Neil!", ["don't", "stop", "u", "s", "based", "mr", "o'neil"]),
        ("He paid $3.5m or 1,200 ... 'quoted' .", ["he", "paid", "3.5", "m", "or", "1,200", "quoted"]),
        ("Élan\nвода_x", ["élan", "вода", "x"]),
        (" .\n", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected
