from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from summarizer.evaluation.sentences import split_sentences

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "cnn_dailymail"

CASES = """
It rained. | It stopped. | Then what?
Stop! | Who goes there? | A friend.
"It is over," he said. | "Go home."
He said "no." | Then he left.
She asked, "Why?" | Nobody knew.
"Why?" she asked.
(It was late.) | They left.
Mr. Smith met Dr. Jones and Sen. Hillary Clinton.
Lt. Gen. Ricardo Sanchez spoke. | He was brief.
The U.S. Army left the U.S. in 2011.
He came back to the U.S. | The army stayed.
She works for the U.N. | In May she moved.
It begins at 6 a.m. Thursday. | It ends at 7 p.m. | The doors close.
John F. Kennedy and J. K. Rowling and George W. Bush.
In 'J.J. Abrams' they trust.
(CNN)T.J. Maxx has pulled a shirt.
He paid $3.5 million, or 2.7 percent. | It was No. 1 on Sept. 11 and Jan. 5.
He said no. | She said yes.
The answer was no. | Nobody minded.
They live in St. Louis and on Wall St. | It is loud there.
MG Aviation Inc. | The plane was not equipped.
Apple Inc. Chairman Tim Cook spoke.
Martin Luther King Jr. Day is in January.
Kennedy v. Louisiana was cited, e.g. Mark 3.19.
WASHINGTON (CNN) -- Some waver. | Others don't.
(CNN)Share, and it multiplies. | That may sound odd.
Well ... maybe. | Wait... | What?
Yahoo! shares rose. | So did others.
visit www.cnn.com. | Then read on.
By . | Daily Mail Reporter .
In 2008 he won. | 21 people lost.
"Really?!" | "Yes."
He left . " | The end.
Über was banned. | Élan was not.
"""


@pytest.mark.parametrize("case", CASES.strip().split("\n"))
def test_split(case: str) -> None:
    assert split_sentences(case.replace(" | ", " ")) == case.split(" | ")


def test_newlines_always_split_and_blank_lines_vanish() -> None:
    assert split_sentences("one .\n\n  two and\r\nthree\n") == ["one .", "two and", "three"]


@pytest.mark.parametrize("text", ["", "  \n ", "\n"])
def test_nothing_has_no_sentences(text: str) -> None:
    assert split_sentences(text) == []


def test_full_width_marks() -> None:
    assert split_sentences("下雨了。停了！") == ["下雨了。", "停了！"]


def test_real_articles_keep_every_character_and_split_into_plausible_sentences() -> None:
    if not SHARED.is_dir():
        pytest.skip("needs shared/cnn_dailymail beside the checkout")
    with gzip.open(SHARED / "validation.jsonl.gz", "rt", encoding="utf-8") as file:
        articles = [json.loads(line)["article"] for line in file][:300]
    assert len(articles) == 300
    sentences = [split_sentences(article) for article in articles]
    for article, parts in zip(articles, sentences, strict=True):
        assert "".join("".join(parts).split()) == "".join(article.split())
    words = sorted(len(sentence.split()) for parts in sentences for sentence in parts)
    assert 15 <= words[len(words) // 2] <= 25  # newswire's median sentence has about 20 words
    ended_in_title = [
        s for parts in sentences for s in parts if s.endswith((" Mr.", " Dr.", " Sen.", " Gov."))
    ]
    assert not ended_in_title
