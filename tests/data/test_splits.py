from __future__ import annotations

import itertools
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from data_examples import example_rows

from summarizer.config.schema import DataConfig
from summarizer.data import tokenize as tokenize
from summarizer.data.prompt import Prompt
from summarizer.data.rows import BadRow, SplitReport
from summarizer.data.splits import Split, build_split
from summarizer.errors import ConfigError

SpecBuilder = Callable[..., DataConfig]
Writer = Callable[..., str]
BAD = {"id": "bad", "article": "", "highlights": "x"}


def ids(split: Split) -> list[str]:
    return list(split.rows["id"])


def test_a_split_holds_texts_tokens_and_counts(
    data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt
) -> None:
    rows = example_rows(60)
    split = build_split(data_spec(write_jsonl(rows)), "train", prompt)
    assert len(split) == 60
    expected = [prompt.encode(row["article"], row["highlights"]) for row in rows]
    assert ids(split) == [row["id"] for row in rows]
    assert list(split.rows["summary"]) == [row["highlights"] for row in rows]
    assert [row.article_ids for row in split.encoded(range(60))] == [article for article, _ in expected]
    assert [row.target_ids for row in split.encoded([5, 3])] == [expected[5][1], expected[3][1]]
    lengths = [len(prompt.training_ids(*pair)[0]) for pair in expected]
    assert split.training_tokens == lengths
    uncut = [
        len(prompt.before) + len(article) + len(prompt.after) + len(target) for article, target in expected
    ]
    cut = [whole - 128 for whole in uncut if whole > 128]
    assert 0 < len(cut) < 60
    assert split.report == SplitReport("train", 60, (), len(cut), sum(cut))
    average = round(sum(cut) / len(cut))
    assert (
        split.report.describe() == f"train: 60 rows; {len(cut)} articles cut, by {average} tokens on average"
    )


def test_bad_rows_within_the_limit_are_skipped_and_named(
    data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt
) -> None:
    endless = {"id": "endless", "article": "a", "highlights": "word " * 200}
    rows = [
        *example_rows(5),
        BAD,
        *example_rows(7)[5:],
        endless,
        {"id": "r9", "article": "x", "highlights": "y"},
    ]
    split = build_split(data_spec(write_jsonl(rows), max_bad_rows=2), "train", prompt)
    assert len(split) == 8
    assert split.report.bad[0] == BadRow("train.jsonl row 6 (id bad)", "article is empty")
    assert split.report.bad[1].where == "train.jsonl row 9 (id endless)"
    assert "leaves no room in prompt.max_tokens=128" in split.report.bad[1].reason
    assert "2 rows skipped (train.jsonl row 6 (id bad): article is empty; train.jsonl row 9" in (
        split.report.describe()
    )


def test_too_many_bad_rows_are_counted_to_the_end(
    data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt, cache: Path
) -> None:
    path = write_jsonl([*example_rows(4), *[BAD] * 9, *example_rows(7)[4:]])
    with pytest.raises(ConfigError) as caught:
        build_split(data_spec(path, max_bad_rows=2), "train", prompt)
    message = str(caught.value)
    assert message.startswith(
        "data.max_bad_rows: 9 unusable rows in data.train, 2 accepted: train.jsonl row 5 (id"
    )
    assert "and 4 more" in message
    assert message.endswith("data.max_bad_rows=9")
    assert not list(cache.rglob("*.arrow"))
    assert len(build_split(data_spec(path, max_bad_rows=9), "train", prompt)) == 7
    with pytest.raises(ConfigError, match="9 unusable rows"):  # though it is in the cache now
        build_split(data_spec(path, max_bad_rows=8), "train", prompt)


def test_a_limit_takes_the_first_usable_rows_and_reads_no_further(
    data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt
) -> None:
    path = write_jsonl([BAD, *example_rows(9), BAD])
    split = build_split(data_spec(path, max_bad_rows=1, rows={"train": 4}), "train", prompt)
    assert ids(split) == ["r0", "r1", "r2", "r3"]
    assert len(split.report.bad) == 1


def test_a_small_limit_starts_no_processes_and_reads_no_further(
    data_spec: SpecBuilder,
    write_jsonl: Writer,
    prompt: Prompt,
    monkeypatch: pytest.MonkeyPatch,
    encodings: list[int],
) -> None:
    monkeypatch.setattr(tokenize, "ROWS_WORTH_PROCESSES", 5)
    read: list[int] = []
    check = tokenize.check_row
    monkeypatch.setattr(tokenize, "check_row", lambda *given: (read.append(given[3]), check(*given))[1])
    path = write_jsonl(example_rows(9))
    split = build_split(data_spec(path, processes=2, rows={"train": 4}), "train", prompt)
    assert (len(split), sum(encodings), read) == (4, 4, [0, 1, 2, 3])


def test_a_seed_draws_rows_at_random(data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt) -> None:
    path = write_jsonl(example_rows(200))

    def drawn(limit: int, seed: int) -> list[str]:
        return ids(build_split(data_spec(path, rows={"train": limit}, rows_seed=seed), "train", prompt))

    twenty = drawn(20, 1)
    assert len(set(twenty)) == 20
    assert drawn(50, 1)[:20] == twenty
    assert drawn(20, 2) != twenty
    assert sorted(drawn(500, 1)) == sorted(f"r{number}" for number in range(200))
    hits = [name for seed in range(40) for name in drawn(10, seed)]
    low = sum(int(name[1:]) < 100 for name in hits)
    assert 150 < low < 250  # 400 draws from two equal halves: 5 standard deviations about 200


def test_a_drawn_row_that_is_too_long_is_replaced(
    data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt
) -> None:
    rows = example_rows(30)
    path = write_jsonl(rows)
    first = ids(build_split(data_spec(path, rows={"train": 5}, rows_seed=3), "train", prompt))
    rows[int(first[2][1:])]["highlights"] = "word " * 300
    path = write_jsonl(rows)
    spec = data_spec(path, rows={"train": 5}, rows_seed=3, max_bad_rows=1)
    split = build_split(spec, "train", prompt)
    assert ids(split)[:4] == [first[0], first[1], first[3], first[4]]
    assert len(split) == 5
    assert len(split.report.bad) == 1


@pytest.mark.parametrize(
    ("rows", "key"),
    [([BAD], "data.max_bad_rows"), ([], "data.train: .*is empty"), ([[]], "data.max_bad_rows")],
)
def test_no_usable_row(
    data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt, rows: list[object], key: str
) -> None:
    with pytest.raises(ConfigError, match=key):
        build_split(data_spec(write_jsonl(rows)), "train", prompt)


def test_only_bad_rows_make_no_split_whatever_is_accepted(
    data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt
) -> None:
    with pytest.raises(ConfigError, match=r"data\.train: has no usable row: train\.jsonl row 1"):
        build_split(data_spec(write_jsonl([BAD]), max_bad_rows=5), "train", prompt)


def test_a_split_that_is_not_given(data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt) -> None:
    with pytest.raises(ConfigError, match=r"data\.validation: null, .*set data\.validation to a path"):
        build_split(data_spec(write_jsonl(example_rows(1))), "validation", prompt)


def test_a_wrong_column_is_no_heap_of_bad_rows(
    data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt
) -> None:
    spec = data_spec(write_jsonl(example_rows(50)), columns={"summary": "highlight"}, max_bad_rows=100)
    with pytest.raises(ConfigError, match=r"data\.columns\.summary: .*did you mean 'highlights'") as caught:
        build_split(spec, "train", prompt)
    assert len(caught.value.issues) == 1


def test_batches_go_on_over_epochs_from_any_step(
    data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt
) -> None:
    split = build_split(data_spec(write_jsonl(example_rows(23))), "train", prompt)
    assert split.steps_per_epoch(4) == 6

    def names(start: int, count: int) -> list[list[str]]:
        batches = split.batches(5, 4, start, shuffle=True, group_by_length=True)
        return [[row.id for row in batch] for batch in itertools.islice(batches, count)]

    whole = names(0, 20)
    for start in (1, 5, 6, 7, 12, 17):
        assert names(start, 20 - start) == whole[start:]
    for epoch in range(3):
        assert sorted(chain.from_iterable(whole[6 * epoch : 6 * epoch + 6])) == sorted(ids(split))
    assert whole[:6] != whole[6:12]


def test_many_processes_give_the_rows_of_one(
    prompt: Prompt, monkeypatch: pytest.MonkeyPatch, encodings: list[int]
) -> None:
    monkeypatch.setattr(tokenize, "ROWS_WORTH_PROCESSES", 150)
    rows = [
        tokenize.Row(row["id"], row["article"], row["highlights"], f"f row {number}")
        for number, row in enumerate(example_rows(300))
    ]
    mixed: list[Any] = [
        *rows[:7],
        BadRow("f row 8", "empty"),
        *rows[7:],
        tokenize.Row("l", "a", "w " * 200, "f row x"),
    ]

    def plain(found: Any) -> list[Any]:
        return [
            row if isinstance(row, BadRow) else (row.row.id, list(row.article_ids), list(row.target_ids))
            for row in found
        ]

    one = plain(tokenize.tokenize(mixed, prompt, 1))
    assert sum(encodings) == len(mixed) == len(one)
    assert plain(tokenize.tokenize(mixed, prompt, 2)) == one
    assert sum(encodings) == len(mixed), "the others were tokenized elsewhere"
    assert one[-1] == BadRow("f row x", one[-1].reason)


def test_real_rows(data_spec: SpecBuilder, prompt: Prompt, tokenizer: Any) -> None:
    folder = Path(__file__).resolve().parents[2].parent / "shared" / "cnn_dailymail"
    if not folder.is_dir():
        pytest.skip("the CNN/DailyMail rows are not beside this checkout")
    spec = data_spec(
        str(folder / "train.jsonl.gz"),
        validation=str(folder / "val*.gz"),
        rows={"train": 200, "validation": 50},
        max_bad_rows=2,
    )
    train, validation = (build_split(spec, name, prompt) for name in ("train", "validation"))
    assert (len(train), len(validation)) == (200, 50)
    # One summary of the first 200 takes 116 of the 128 tokens.
    assert [row.where[:22] for row in train.report.bad] == ["train.jsonl.gz row 74 "]
    assert train.report.cut_rows > 190  # 128 tokens hold no article of 600 words
    row = {
        name: values[0]
        for name, values in train.rows.columns(
            ["article", "summary", "article_ids", "target_ids"], [17]
        ).items()
    }
    assert row["article_ids"] == tokenizer(" " + row["article"].strip()).input_ids
    assert prompt.decode(row["target_ids"]) == row["summary"].strip()
    assert max(train.training_tokens) == 128


def test_the_embedded_sample(data_spec: SpecBuilder, prompt: Prompt) -> None:
    names = ("train", "validation", "test")
    spec = data_spec(**{name: f"embedded:sample/{name}.jsonl" for name in names})
    assert [len(build_split(spec, name, prompt)) for name in names] == [100, 32, 16]
