from __future__ import annotations

import random

import numpy as np
import pytest

from summarizer.evaluation.fragments import fragments
from summarizer.evaluation.rouge import Interval, bootstrap
from summarizer.evaluation.text_statistics import (
    UNITS,
    mean_statistics,
    novel_share,
    repeated_share,
    text_statistics,
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
    assert means["coverage"].interval == bootstrap({"": np.array([1, 0.4])}, 50, 3)[""]
    assert means["coverage"].unit == "share, 0 to 1"
    none = mean_statistics(text_statistics(["a"], [""], show=False), samples=5, seed=0)
    assert none["density"].interval is None
    assert none["words"].interval == Interval(0, 0, 0)


def test_no_rows_and_unequal_rows() -> None:
    assert all(values.shape == (0,) for values in text_statistics([], []).values())
    with pytest.raises(ValueError, match="2 summaries for 1 articles"):
        text_statistics(["a"], ["b", "c"])
    with pytest.raises(ValueError, match="rouge1"):
        mean_statistics({"rouge1": np.ones(3)}, 5, 0)
