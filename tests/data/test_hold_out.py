"""`data.validation` as a share or a number of rows: which rows are held out, and that they stay so."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from composing import composed, mistakes
from data_examples import example_rows

from summarizer.config.schema import DataConfig
from summarizer.config.shared_flags import RowFlags
from summarizer.data.hold_out import HASHES, article_hash
from summarizer.data.prompt import Prompt
from summarizer.data.splits import Split, build_split
from summarizer.data.stream import StreamedSplit
from summarizer.errors import ConfigError
from summarizer.evaluation.rows import data_of, described, require_same_rows
from summarizer.runs.preflight import preflight
from summarizer.sweeps.compose import group_key

SpecBuilder = Callable[..., DataConfig]
Writer = Callable[..., str]


@pytest.fixture
def sides(data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt) -> Callable[..., tuple[Split, Split]]:
    """The training and the validation split of rows, and of what else a config says."""

    def build(examples: list[dict[str, Any]], held: float, **changes: Any) -> tuple[Split, Split]:
        spec = data_spec(write_jsonl(examples), validation=held, **changes)
        return build_split(spec, "train", prompt), build_split(spec, "validation", prompt)

    return build


def ids(split: Split) -> set[str]:
    return set(split.rows["id"])


def test_a_share_is_held_out_and_nothing_is_lost(sides: Callable[..., tuple[Split, Split]]) -> None:
    rows = example_rows(400)
    train, validation = sides(rows, 0.1)
    expected = {row["id"] for row in rows if article_hash(row["article"]) / HASHES < 0.1}
    assert ids(validation) == expected
    assert ids(train) == {row["id"] for row in rows} - expected
    assert 20 < len(validation) < 60  # 400 draws at 0.1: three standard deviations are 18
    assert train.fingerprint != validation.fingerprint
    # The order of the file is kept on both sides.
    assert list(train.rows["id"]) == [row["id"] for row in rows if row["id"] not in expected]


def test_a_side_depends_on_the_article_alone(sides: Callable[..., tuple[Split, Split]]) -> None:
    rows = example_rows(120)
    _, validation = sides(rows, 0.2)
    shuffled = rows[:]
    random.Random(3).shuffle(shuffled)
    assert ids(sides(shuffled, 0.2)[1]) == ids(validation)
    renamed = [row | {"highlights": "Another summary."} for row in rows[::2]]
    _, fewer = sides(renamed, 0.2)
    assert ids(fewer) == ids(validation) & {row["id"] for row in renamed}
    assert ids(sides(rows, 0.2, rows_seed=5, rows={"validation": 5})[1]) < ids(validation)
    assert ids(sides(rows, 0.1)[1]) < ids(validation), (
        "a larger share holds out what a smaller one does, and more"
    )


def test_twins_stay_together(sides: Callable[..., tuple[Split, Split]]) -> None:
    rows = example_rows(40)
    twins = [
        row | {"id": f"{row['id']}-{number}", "article": " " + row["article"].replace(". ", ".\n ")}
        for number in range(3)
        for row in rows
    ]
    for held in (0.3, 7):
        train, validation = sides([*rows, *twins], held)
        families = [{name.partition("-")[0] for name in ids(split)} for split in (train, validation)]
        assert not families[0] & families[1]
        assert len(ids(validation)) == 4 * len(families[1])


def test_a_number_of_rows_is_those_of_the_smallest_hashes(sides: Callable[..., tuple[Split, Split]]) -> None:
    rows = example_rows(50)
    train, validation = sides(rows, 8)
    by_hash = sorted(rows, key=lambda row: article_hash(row["article"]))
    assert ids(validation) == {row["id"] for row in by_hash[:8]}
    assert len(train) == 42
    grown = [*rows, {"id": "new", "article": by_hash[20]["article"] + " More.", "highlights": "x"}]
    assert len(ids(sides(grown, 8)[1]) ^ ids(validation)) in (0, 2), "a new row takes one's place at most"
    with pytest.raises(ConfigError, match=r"data\.validation: 50 rows held out of 50 leave none to train on"):
        sides(rows, 50)
    with pytest.raises(
        ConfigError, match=r"data\.validation: 0\.0001 holds out none of the rows of data\.train"
    ):
        sides(rows, 0.0001)


def test_unusable_rows_are_counted_once(sides: Callable[..., tuple[Split, Split]]) -> None:
    bad = {"id": "bad", "article": "", "highlights": "x"}
    train, validation = sides([*example_rows(30), bad], 0.3, max_bad_rows=1)
    assert (len(train.report.bad), len(validation.report.bad)) == (1, 0)
    with pytest.raises(ConfigError, match=r"1 unusable row in data\.train"):
        sides([*example_rows(30), bad], 0.3)


def test_what_is_kept_of_one_share_is_not_taken_for_another(
    data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt
) -> None:
    path = write_jsonl(example_rows(60))
    sizes = []
    for held in (0.1, 0.5, 5):
        spec = data_spec(path, validation=held)
        sizes.append(tuple(len(build_split(spec, name, prompt)) for name in ("train", "validation")))
    assert len(set(sizes)) == 3
    assert all(sum(both) == 60 for both in sizes)
    assert len(build_split(data_spec(path), "train", prompt)) == 60


def test_a_stream_leaves_out_the_same_rows(
    sides: Callable[..., tuple[Split, Split]], data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt
) -> None:
    rows = example_rows(60)
    train, _ = sides(rows, 0.25)
    stream = StreamedSplit(data_spec(write_jsonl(rows), validation=0.25, streaming=True), prompt)
    batches = stream.batches(0, 1, 0, shuffle=False, group_by_length=False)
    assert [batch[0].id for batch in itertools.islice(batches, len(train))] == list(train.rows["id"])
    (line,) = [
        line
        for line in mistakes("data.validation=20", "data.streaming=true", "trainer.max_steps=3")
        if "stream" in line
    ]
    assert line.startswith(
        "data.validation: 20 rows are chosen among all rows, which data.streaming never holds"
    )


@pytest.mark.parametrize("value", ["0", "1.0", "-3", "1.5", "nan", "-0.1"])
def test_numbers_that_hold_out_nothing_or_all(value: str) -> None:
    (line,) = mistakes(f"data.validation={value}")
    assert line.startswith(
        f"data.validation: {value} is not a share above 0 and below 1, a whole number of rows"
    )


def test_validation_may_be_left_out_of_a_plan_and_a_preview() -> None:
    without = ("data=files", "data.train=embedded:sample/train.jsonl")
    assert preflight(composed(*without, "plan=true")).data.validation is None
    assert preflight(composed(*without, "plan=true", "evaluation.split=test")).data.test is None
    assert preflight(composed(*without, "preview=3")).data.validation is None
    (line,) = mistakes(*without)
    assert "or hold out a tenth of the training rows by data.validation=0.1" in line
    assert preflight(composed(*without, "data.validation=0.1")).data.validation == 0.1
    assert mistakes("data=files", "data.train=/nowhere/x.jsonl", "plan=true") == [
        "data.train: no such file: /nowhere/x.jsonl"
    ]


def test_runs_that_hold_out_otherwise_are_other_runs(data_spec: SpecBuilder, write_jsonl: Writer) -> None:
    """In sweeps, and where runs are evaluated on the same rows."""
    from omegaconf import OmegaConf

    keys = [
        group_key(OmegaConf.to_container(composed(f"data.validation={held}"), resolve=True))  # type: ignore[arg-type]
        for held in (0.1, 0.1, 0.2)
    ]
    assert keys[0] == keys[1] != keys[2]
    path = write_jsonl(example_rows(3))
    specs = {name: data_spec(path, validation=held) for name, held in (("a", 0.1), ("b", 0.1), ("c", 0.2))}
    require_same_rows({name: specs[name] for name in "ab"}, "validation", RowFlags())
    for split in ("validation", "train"):
        with pytest.raises(ConfigError, match=r"data\.validation differ"):
            require_same_rows({name: specs[name] for name in "bc"}, split, RowFlags())
    elsewhere = specs["a"].model_copy(update={"train": "other.jsonl"})
    with pytest.raises(ConfigError, match=r"data\.train differ"):
        require_same_rows({"a": specs["a"], "b": elsewhere}, "validation", RowFlags())
    require_same_rows({name: specs[name] for name in "bc"}, "test", RowFlags())


def test_files_that_a_person_names_are_scored_whole(
    data_spec: SpecBuilder, write_jsonl: Writer, prompt: Prompt
) -> None:
    spec = data_spec(write_jsonl(example_rows(40)), validation=0.3)
    others = write_jsonl(example_rows(40), "others.jsonl")
    for split in ("train", "validation", "test"):
        assert len(build_split(data_of(spec, split, RowFlags(data=(others,))), split, prompt)) == 40
    assert described(spec, "validation").endswith("train.jsonl (0.3 held out)")
    assert described(spec, "train").endswith("train.jsonl")
