"""What of a summary's names, numbers and quotes its article has, and ratios of sums with paired tests."""

from __future__ import annotations

import gzip
import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest

from summarizer.errors import ConfigError
from summarizer.evaluation.faithfulness import all_claims, claims, counted
from summarizer.evaluation.metrics import RowShares
from summarizer.evaluation.numbers import number_values, stated_numbers
from summarizer.evaluation.pipeline import lead
from summarizer.evaluation.predictions import RowFaithfulness, read_faithfulness, write_faithfulness
from summarizer.evaluation.statistics import compare_shares, sign_flip_test

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "cnn_dailymail"
ARTICLE = (
    "LONDON (Reuters) - Prime Minister David Cameron met Angela Merkel of Germany in the United States on Monday. "
    'He said: "We will not pay a cent more". Some 1,250 people, two of them children, came; tickets cost $1.5 '
    "million. The U.N. and Williams were there, 40 percent of them Kenya's."
)


def told(article: str, summary: str) -> dict[str, bool]:
    """Each claim's text and whether it is in the article."""
    return {summary[one.start : one.end]: one.supported for one in claims(article, summary)}


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        ("There David Cameron met Merkel.", {"David Cameron": True, "Merkel": True}),
        ("There Gordon Brown met DAVID CAMERON.", {"Gordon Brown": False, "DAVID CAMERON": True}),
        ("Obama left. Yesterday it rained.", {}),  # a capital at the start of a sentence says nothing
        ("Barack Obama left.", {"Obama": False}),  # ... but the next one does
        ("He met Cameron, Obama and Merkel's team.", {"Cameron": True, "Obama": False, "Merkel's": True}),
        ("All the German and Kenyans of the US came.", {"German": True, "Kenyans": True, "US": True}),
        (
            "The United Nations and the UN came with Williamson.",
            {"United Nations": True, "UN": True, "Williamson": False},
        ),
        ('He said: "Obama will not pay".', {'"Obama will not pay"': False}),
        ("I think he left, Mr. Cameron said.", {"Cameron": True}),
        ("Obama Meets Clinton At The White House", {}),  # a headline tells no names
        ("About 1250 came, 2 of them children.", {"1250": True, "2": True}),
        ("About 1,520 came, three of them children.", {"1,520": False, "three": False}),
        (
            "It cost $1.5m or $1,500,000, not 1.5 billion.",
            {"1.5m": True, "1,500,000": True, "1.5 billion": False},
        ),
        ("It was forty per cent, or 40%, not 41%.", {"forty": True, "40": True, "41": False}),
        ("One of them was first.", {}),
        ("They heard “we will not  pay a cent more.”", {"“we will not  pay a cent more.”": True}),
        ("They heard 'we will pay'.", {"'we will pay'": False}),
        ('They heard "We ... pay a [single] cent".', {'"We ... pay a [single] cent"': True}),
        ('They heard "We ... pay few [small] cents".', {'"We ... pay few [small] cents"': False}),
        ('They heard "We ... not pay [even] a cent".', {'"We ... not pay [even] a cent"': True}),
        ("It wasn't the man's, the others' or 'his'.", {}),  # apostrophes
        ("", {}),
    ],
)
def test_claims_of_english(summary: str, expected: dict[str, bool]) -> None:
    assert told(ARTICLE, summary) == expected


def test_claims_of_other_languages() -> None:
    russian = (
        "Президент Владимир Путин встретил Ангелу Меркель в Москве: пришли три тысячи человек, 1.250 детей."
    )
    assert told(russian, "Там Путину и Ангеле Меркель показали Москву, а Киев нет; детей 1250, и ещё 3.") == {
        "Путину": True,
        "Ангеле Меркель": True,
        "Москву": True,
        "Киев": False,
        "1250": True,
        "3": True,
    }
    german = "Die Regierung in Berlin hat für den Haushalt 1.000,50 Euro und zwei Jahre Zeit: „Das reicht für uns“."
    summary = "In der Stadt gibt die Frau dem Kind für ein Jahr Geld, Brot, Wein und 2 Euro: „Das reicht“."
    found = told(german, summary)
    assert found == {"2": True, "„Das reicht“": True}, "nouns have capitals there, which tell no name"
    chinese = "市长说：“我们不会付钱。”他在2024年5月得到了三万五千元，有二百五十人。"
    summary = "他说“我们不会付钱”和“好的”，2024年有250人，300元。"
    assert told(chinese, summary) == {
        "“我们不会付钱”": True,
        "“好的”": False,
        "2024": True,
        "250": True,
        "300": False,
    }
    arabic = "قال الرئيس إن ١٢٠ شخصا حضروا في عام 2024"
    assert told(arabic, "حضر 120 شخصا من ٣٠٠") == {"120": True, "٣٠٠": False}


def test_numbers_in_words_are_their_values() -> None:
    """Every number to a thousand and some beyond, spelled out as English schools teach it."""
    small = [
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
    ]
    small += [f"{of}teen" for of in ("thir", "four", "fif", "six", "seven", "eigh", "nine")]
    tens = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]

    def spelled(n: int) -> str:
        if n < 20:
            return small[n - 1]
        if n < 100:
            return tens[n // 10 - 2] + (f"-{small[n % 10 - 1]}" if n % 10 else "")
        if n < 1000:
            return f"{small[n // 100 - 1]} hundred" + (f" and {spelled(n % 100)}" if n % 100 else "")
        unit, name = next((u, m) for u, m in ((10**6, "million"), (10**3, "thousand")) if n >= u)
        return f"{spelled(n // unit)} {name}" + (f" {spelled(n % unit)}" if n % unit else "")

    for n in (*range(2, 1000), 1000, 1001, 21_000, 345_678, 2_000_000, 1_234_567):
        text = f"there were {spelled(n)} of them"
        assert [values for _, _, values in stated_numbers(text, english=True)] == [{float(n)}], text
        assert [values for _, _, values in stated_numbers(f"({n:,})", english=True)] == [{float(n)}]
        assert float(n) in number_values(f"{n:,}".replace(",", "."), english=False)


def test_leads_say_nothing_that_real_articles_do_not_and_references_say_little() -> None:
    if not SHARED.is_dir():
        pytest.skip("needs shared/cnn_dailymail beside the checkout")
    with gzip.open(SHARED / "validation.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in itertools.islice(file, 200)]
    articles = [row["article"] for row in rows]
    of_lead = counted(all_claims(articles, [lead(article) for article in articles], show=False))
    of_references = counted(all_claims(articles, [row["highlights"] for row in rows], show=False))
    of_others = counted(all_claims(articles, [row["highlights"] for row in rows[1:] + rows[:1]], show=False))
    for kind, (known, every) in of_lead.items():
        assert every.sum() > 50
        assert known.sum() == every.sum()
        share, by_chance = (float(of[kind][0].sum() / of[kind][1].sum()) for of in (of_references, of_others))
        assert share > 0.9
        assert by_chance < 0.5


def test_a_ratio_of_sums_and_its_paired_test_are_those_of_slow_loops() -> None:
    random_ = np.random.default_rng(4)
    of = random_.integers(0, 5, size=(2, 9)).astype(float)
    parts = np.array([[random_.integers(0, n + 1) for n in row] for row in of]).astype(float)
    one, other = (RowShares(parts[i], of[i]) for i in (0, 1))
    interval = one.interval(400, 7)
    assert interval is not None
    assert interval.value == pytest.approx(parts[0].sum() / of[0].sum())
    assert interval.low < interval.value < interval.high
    (found,) = compare_shares({("a", "b"): ({"names": one}, {"names": other})}, samples=4000, seed=7)
    assert found.mean.value == pytest.approx(parts[0].sum() / of[0].sum() - parts[1].sum() / of[1].sum())
    gaps = []  # all 512 ways to swap the systems' rows
    for signs in itertools.product((0, 1), repeat=9):
        first, second = (
            sum(parts[s ^ k, i] for i, s in enumerate(signs)) / sum(of[s ^ k, i] for i, s in enumerate(signs))
            for k in (0, 1)
        )
        gaps.append(abs(first - second))
    exact = np.mean(np.array(gaps) >= abs(found.mean.value) - 1e-12)
    assert found.p_value == pytest.approx(exact, abs=0.02)
    drawn = random.Random(1)
    resampled = []
    for _ in range(4000):
        rows = [drawn.randrange(9) for _ in range(9)]
        resampled.append(parts[0, rows].sum() / of[0, rows].sum() - parts[1, rows].sum() / of[1, rows].sum())
    assert (found.mean.low, found.mean.high) == pytest.approx(
        tuple(np.nanquantile(resampled, [0.025, 0.975])), abs=0.05
    )


def test_of_plain_means_the_test_is_that_of_rouge() -> None:
    values = np.random.default_rng(2).normal(0.2, 1, size=(2, 40))
    shares = [RowShares.of_rows(row) for row in values]
    (found,) = compare_shares(
        {("a", "b"): ({"HaRiM+": shares[0]}, {"HaRiM+": shares[1]})}, samples=100, seed=3
    )
    (p,) = sign_flip_test((values[0] - values[1])[:, None], 3)
    assert found.p_value == pytest.approx(p)
    assert found.verdict in ("better", "worse", "not significant")
    assert found.mean.value == pytest.approx(values[0].mean() - values[1].mean())


def test_what_nobody_counted_has_no_score() -> None:
    nothing = RowShares(np.zeros(3), np.zeros(3))
    some = RowShares(np.array([1.0, 0, 0]), np.array([1.0, 0, 0]))
    assert nothing.interval(10, 0) is None
    assert compare_shares({("a", "b"): ({"names": nothing}, {"names": some})}, samples=10, seed=0) == []
    (found,) = compare_shares({("a", "b"): ({"names": some}, {"names": some})}, samples=50, seed=0)
    assert (found.mean.value, found.p_value) == (0, 1)
    with pytest.raises(ValueError, match="same rows"):
        compare_shares(
            {("a", "b"): ({"names": some}, {"names": RowShares(np.ones(2), np.ones(2))})}, samples=9, seed=0
        )


def test_rows_survive_their_file_and_what_is_none_is_refused(tmp_path: Path) -> None:
    rows = [RowFaithfulness(id="a\u2028", scores={"names": (100.0, 2.0)}, missing=[("names", 3, 9)])]
    path = tmp_path / "faithfulness" / "test.jsonl"
    write_faithfulness(path, rows)
    assert read_faithfulness(path) == rows
    for broken in ('{"id": "a"}', "[]", '{"id": "a", "scores": {"x": [1, 2]}, "missing": []}', "{"):
        path.write_text(rows[0].model_dump_json() + "\n" + broken + "\n")
        with pytest.raises(ConfigError, match=r"test.jsonl:2: not the faithfulness of a row"):
            read_faithfulness(path)
