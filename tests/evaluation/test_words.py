"""ROUGE in every script, against a slow ROUGE with tokens told by the names of their characters."""

from __future__ import annotations

import gzip
import json
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from summarizer.evaluation.metrics import score_pairs
from summarizer.evaluation.pipeline import lead
from summarizer.evaluation.record import CHARACTERS, ROUGE_SCORE, TOKENIZERS, WORDS, RougeTokenizer
from summarizer.evaluation.sentences import split_sentences
from summarizer.evaluation.words import build_tokenizer, choose_tokenizer, has_token, tokenizer_for

pytestmark = pytest.mark.versions

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "cnn_dailymail"
WITHOUT_SPACES = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")

TEXTS: dict[str, tuple[RougeTokenizer, str, str]] = {
    "English": (ROUGE_SCORE, "The mayor said no. She left.", "Mayor says no."),
    "French": (WORDS, "L'été dernier, le maire a refusé. Élue en mai, elle part.", "Le maire refusa l’été."),
    "German": (WORDS, "Die Straße wurde für Fußgänger geöffnet.", "Die STRASSE ist geöffnet für alle."),
    "Russian": (WORDS, "Мэр города сказал нет. Она ушла в мае.", "Мэр сказал: нет."),
    "Greek": (WORDS, "Ο δήμαρχος είπε όχι. Έφυγε τον Μάιο.", "Ο ΔΗΜΑΡΧΟΣ είπε όχι."),
    "Arabic": (WORDS, "قال رئيس البلدية لا. هل غادرت؟ نعم في مايو.", "رئيس البلدية قال لا."),
    "Hindi": (WORDS, "मेयर ने मना कर दिया। वह मई में चली गईं।", "मेयर ने मना किया।"),
    "Korean": (WORDS, "시장은 거부했다. 그녀는 5월에 떠났다.", "시장은 떠났다."),
    "Chinese": (CHARACTERS, "市长说不行。她在2024年5月离开了！", "市长在5月说：“不行”。"),
    "Japanese": (CHARACTERS, "市長は断った。彼女はタワーを出た。", "市長がタワーで断った。"),
    "Thai": (CHARACTERS, "นายกเทศมนตรีปฏิเสธเมื่อวันที่ 5 พฤษภาคม", "นายกปฏิเสธในเดือนพฤษภาคม"),
    "Khmer": (CHARACTERS, "អភិបាលក្រុងបានបដិសេធ។ នាងបានចាកចេញ។", "អភិបាលបានចាកចេញ។"),
    "Lao": (CHARACTERS, "ເຈົ້າເມືອງໄດ້ປະຕິເສດ", "ເຈົ້າເມືອງປະຕິເສດ"),
    "Burmese": (CHARACTERS, "မြို့တော်ဝန်က ငြင်းခဲ့သည်။ သူမ ထွက်ခွာသွားသည်။", "မြို့တော်ဝန် ထွက်ခွာသည်။"),
}


def tokens_of(text: str, tokenizer: RougeTokenizer) -> list[str]:
    """Character by character, by what each is called."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    found: list[str] = []
    before = ""  # what the last character was: a letter of a word, a character by itself, or neither
    for character in plain:
        kind = unicodedata.category(character)
        if kind == "Cf" and character != "\u200b":
            continue
        alone = tokenizer == CHARACTERS and unicodedata.name(character, "").startswith(WITHOUT_SPACES)
        if kind[0] == "M" and before:
            found[-1] += character
        elif kind[0] not in "LMN":
            before = ""
        elif before == "word" and not alone:
            found[-1] += character
        else:
            found.append(character)
            before = "alone" if alone else "word"
    return found


def f1(hits: float, said: int, wanted: int) -> float:
    return 100 * 2 * hits / (said + wanted) if hits else 0.0


def longest(one: list[str], other: list[str]) -> set[int]:
    """Places in `one` of a longest common subsequence, the one that rouge-score finds."""

    @cache
    def length(i: int, j: int) -> int:
        if not i or not j:
            return 0
        if one[i - 1] == other[j - 1]:
            return length(i - 1, j - 1) + 1
        return max(length(i - 1, j), length(i, j - 1))

    places, i, j = set(), len(one), len(other)
    while i and j:
        if one[i - 1] == other[j - 1]:
            places.add(i - 1)
            i, j = i - 1, j - 1
        elif length(i, j - 1) > length(i - 1, j):
            j -= 1
        else:
            i -= 1
    return places


def slow_rouge(prediction: str, reference: str, tokenizer: RougeTokenizer) -> dict[str, float]:
    said, wanted = (
        [tokens_of(part, tokenizer) for part in split_sentences(text)] for text in (prediction, reference)
    )
    all_said, all_wanted = (list(chain.from_iterable(of)) for of in (said, wanted))
    sizes = len(all_said), len(all_wanted)
    scores = {}
    for n in (1, 2):
        grams = [Counter(zip(*(of[k:] for k in range(n)), strict=False)) for of in (all_said, all_wanted)]
        scores[f"rouge{n}"] = f1((grams[0] & grams[1]).total(), *(max(size - n + 1, 0) for size in sizes))
    scores["rougeL"] = f1(len(longest(all_wanted, all_said)), *sizes)
    left, hits = [Counter(all_said), Counter(all_wanted)], 0
    for sentence in wanted:
        for place in sorted(set().union(*(longest(sentence, other) for other in said))):
            if all(count[sentence[place]] > 0 for count in left):
                hits += 1
                for count in left:
                    count[sentence[place]] -= 1
    scores["rougeLsum"] = f1(hits, *sizes)
    return scores


def of_scripts() -> Iterator[tuple[str, RougeTokenizer, str, str]]:
    for language, (tokenizer, reference, prediction) in TEXTS.items():
        yield language, tokenizer, reference, prediction


@pytest.mark.parametrize(("language", "tokenizer", "reference", "prediction"), of_scripts())
def test_every_script_has_its_tokenizer_and_the_scores_of_a_slow_rouge(
    language: str, tokenizer: RougeTokenizer, reference: str, prediction: str
) -> None:
    assert choose_tokenizer([reference]) == tokenizer
    for name in (WORDS, CHARACTERS):
        found = score_pairs([prediction], [reference], tokenizer=name, show=False, processes=1)
        expected = slow_rouge(prediction, reference, name)
        assert {variant: rows[0] for variant, rows in found.items()} == pytest.approx(expected)
        of_name = build_tokenizer(name)
        assert of_name is not None
        assert of_name.tokenize(reference) == tokens_of(reference, name)
    scores = score_pairs([prediction], [reference], tokenizer=tokenizer, show=False, processes=1)
    assert 10 < scores["rouge1"][0] < 100


@pytest.mark.parametrize("language", TEXTS)
def test_a_copy_scores_a_hundred_and_so_does_lead_of_an_article_that_begins_with_it(language: str) -> None:
    tokenizer, reference, other = TEXTS[language]
    article = f"{reference} {other}" if language not in ("Thai", "Lao") else f"{reference}\n{other}"
    copy = lead(article, len(split_sentences(reference)))
    scores = score_pairs([copy], [reference], tokenizer=tokenizer, show=False, processes=1)
    assert {variant: rows[0] for variant, rows in scores.items()} == dict.fromkeys(scores, pytest.approx(100))


def test_what_is_rare_chooses_nothing_and_the_order_does_not_matter() -> None:
    english = ["The mayor of the city said that she would not do it again this year, and left."] * 50
    assert choose_tokenizer([*english, "Beyoncé sang in São Paulo."]) == ROUGE_SCORE
    assert choose_tokenizer([*english, TEXTS["Chinese"][1]]) == ROUGE_SCORE
    assert choose_tokenizer([]) == choose_tokenizer(["", "123 – …"]) == ROUGE_SCORE
    mixed = [TEXTS[language][1] for language in ("English", "Chinese", "Russian")]
    assert choose_tokenizer(mixed) == choose_tokenizer(mixed[::-1]) == CHARACTERS


def test_forms_that_look_alike_are_one_and_joiners_part_nothing() -> None:
    tokenizer = build_tokenizer(WORDS)
    assert tokenizer is not None
    assert (
        tokenizer.tokenize("Cafe\u0301 ＡＢＣ１２") == tokenizer.tokenize("CAFÉ abc12") == ["café", "abc12"]
    )
    assert tokenizer.tokenize("می‌شود a\u200bb") == ["میشود", "a", "b"]


def test_a_reference_without_a_token_is_said(caplog: pytest.LogCaptureFixture) -> None:
    rows = ["He left.", "市长说不行。", "—"]
    assert [has_token(row, ROUGE_SCORE) for row in rows] == [True, False, False]
    assert [has_token(row, CHARACTERS) for row in rows] == [True, True, False]
    with caplog.at_level(logging.WARNING):
        assert tokenizer_for("rouge-score", rows, "test") == ROUGE_SCORE
        assert "2 of 3 test references have no token" in caplog.text
        assert "(the first is row 2)" in caplog.text
        assert "auto chooses one" in caplog.text
        caplog.clear()
        assert tokenizer_for("auto", rows[:2], "test") == CHARACTERS
    assert not caplog.records


def test_every_tokenizer_is_described() -> None:
    assert set(TOKENIZERS) == {ROUGE_SCORE, WORDS, CHARACTERS}


def test_real_english_is_scored_as_rouge_score_does_by_itself() -> None:
    if not SHARED.is_dir():
        pytest.skip("needs shared/cnn_dailymail beside the checkout")
    with gzip.open(SHARED / "validation.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    references = [row["highlights"] for row in rows]
    assert choose_tokenizer(references) == ROUGE_SCORE
    for start in range(0, len(rows), 8):  # and whatever part of them is scored
        assert choose_tokenizer(references[start : start + 8]) == ROUGE_SCORE
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rougeLsum"], use_stemmer=True)
    leads = [lead(row["article"]) for row in rows[:40]]
    found = score_pairs(leads, references[:40], tokenizer=ROUGE_SCORE, show=False, processes=1)
    alone = [
        scorer.score("\n".join(split_sentences(reference)), summary)
        for reference, summary in zip(references, leads, strict=False)
    ]
    for variant in ("rouge1", "rougeLsum"):
        assert np.array_equal(found[variant], [100 * one[variant].fmeasure for one in alone])
