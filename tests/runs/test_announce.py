"""A command's first words, for one run and for several, whatever stands in their configs."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
from config.composing import composed

from summarizer.config.plain import to_plain
from summarizer.runs.record import RunRecord
from summarizer.runs.session import Session, announce_runs, announce_sweep, described


def config(**values: Any) -> dict[str, Any]:
    """The default run with some values by dotted key, the dots written as `__`."""
    made = copy.deepcopy(to_plain(composed()))
    for key, value in values.items():
        *groups, last = key.split("__")
        node = made
        for group in groups:
            node = node[group]
        node[last] = value
    return made


def said(caplog: pytest.LogCaptureFixture, *configs: dict[str, Any]) -> list[str]:
    caplog.set_level(logging.INFO)
    announce_runs(
        [RunRecord(config=one, folder=str(Path.cwd() / "out" / str(n))) for n, one in enumerate(configs)]
    )
    return caplog.messages


def test_one_run(caplog: pytest.LogCaptureFixture) -> None:
    assert said(caplog, config()) == [
        "run: LoRA dim=2 on embedded:tiny_gptj in int8, Adam8bit lr=0.001",
        "from embedded:sample/train.jsonl to out/0",
    ]


def test_a_group_names_what_differs(caplog: pytest.LogCaptureFixture) -> None:
    first, second = said(caplog, config(), config(adapter__dim=4), config(optimizer__lr=1e-4))
    assert first == "3 runs: LoRA dim=2,4 on embedded:tiny_gptj in int8, Adam8bit lr=0.001,0.0001"
    assert second == "from embedded:sample/train.jsonl"


def test_many_values_are_a_range_or_counted() -> None:
    several = described([config(adapter__dim=dim) for dim in (3, 24, 1, *range(4, 20))])
    assert several == "LoRA dim=1..24 on embedded:tiny_gptj in int8, Adam8bit lr=0.001"
    several = described([config(model__name_or_path=name) for name in "abcde"])
    assert several == "LoRA dim=2 on (5 values) in int8, Adam8bit lr=0.001"


def test_two_formats_are_both_named() -> None:
    configs = [config(quantization__embedding_format=own) for own in ("int8", None, "nf4")]
    assert "in int8," in described(configs[:2])
    assert "in int8,int8+nf4," in described(configs)


def test_a_kind_without_a_dim() -> None:
    other = config()
    del other["adapter"]["dim"]
    assert described([other]).startswith("LoRA on embedded:tiny_gptj in int8")


def test_data_of_every_kind(caplog: pytest.LogCaptureFixture) -> None:
    assert said(caplog, config(data__path="cnn_dailymail"))[1] == "from cnn_dailymail to out/0"
    caplog.clear()
    assert said(caplog, config(data__train=["a.jsonl", "b.jsonl"]))[1] == "from a.jsonl and 1 more to out/0"


def test_a_folder_from_elsewhere_cannot_steer_the_terminal(caplog: pytest.LogCaptureFixture) -> None:
    lines = said(caplog, config(model__name_or_path="x\x1b[2Jy\nz", data__train="a\r\x07b"))
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


def test_a_sweep_as_it_was_typed_without_its_secrets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    announce_sweep(["seed=1", "adapter.dim=2,4", "++optimizer.lr=interval(1e-4,1e-3)", "x.api_key=a,b"])
    announce_sweep(["seed=1", "'x=${hydra:job.num}'".strip("'")])
    assert caplog.messages == [
        "sweep over adapter.dim=2,4 ++optimizer.lr=interval(1e-4,1e-3) x.api_key=***: checking each combination",
        "sweep: checking each combination",
    ]


def test_the_first_group_alone_is_timed_from_the_command() -> None:
    session = Session()
    session.begin_group()
    assert list(session.startup.parts) == ["imports", "compose"], "what was imported is not called composing"
    for _ in range(2):
        session.begin_group()
        assert session.startup.parts == {}
        session.startup.lap("tokens")
