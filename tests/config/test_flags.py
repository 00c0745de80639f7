"""Flags made of a class of settings: what is read, and what every mistake of a command line is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field
from pydantic_settings import CliPositionalArg

from summarizer.compare import CompareFlags
from summarizer.config.flags import Flags, FolderPath
from summarizer.config.schema import PositiveCount
from summarizer.errors import ConfigError
from summarizer.evaluate import EvaluateFlags
from summarizer.exporting.request import ExportFlags
from summarizer.serve import ServeFlags
from summarizer.summarize import SummarizeFlags


class TableFlags(Flags):
    HEADING: ClassVar[str] = "tables"

    id_column: str | None = None
    """of the id"""


class SomeFlags(TableFlags):
    """Do something."""

    files: CliPositionalArg[tuple[str, ...]] = Field(validation_alias="FILE")
    """what to read"""
    num_beams: PositiveCount | None = Field(None, validation_alias="beams")
    """1 is greedy, 100 % of the time"""
    rows: PositiveCount | Literal["all"] | None = None
    """how many"""
    penalty: Annotated[float, Field(ge=-2)] = 1.0
    """how much"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where"""
    base: bool = True
    """leave the base model out"""
    sample: bool | None = None
    """draw at random"""
    output: FolderPath | None = None
    """where to"""
    data: tuple[str, ...] = ()
    """may be repeated"""


def read(*words: str) -> SomeFlags:
    return SomeFlags.read(words, command="some", usage="FILE [FILE ...]", epilog="The end.")


def mistakes(*words: str) -> list[str]:
    return [str(issue) for issue in read(*words).mistakes]


def test_what_is_typed_is_read_wherever_it_stands() -> None:
    flags = read(
        "a", "--beams", "3", "b,c", "--penalty", "-1.5", "-o", "x", "--no-base", "[1].txt", "--rows=all"
    )
    assert (flags.files, flags.num_beams, flags.penalty) == (("a", "b,c", "[1].txt"), 3, -1.5)
    assert (flags.output, flags.base, flags.rows, flags.sample) == (Path("x"), False, "all", None)
    assert read("a", "--no-sample").sample is False
    assert read("a", "--data", "x,y", "--data", "null").data == ("x,y", "null")
    assert read("a", "--", "-b").files == ("a", "-b")


def test_no_variable_of_the_environment_is_a_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVICE", "cuda")
    monkeypatch.setenv("output", "x")
    assert (read("a").device, read("a").output) == ("auto", None)


def test_every_mistake_at_once() -> None:
    flags = read(
        "a", "--bems", "4", "--rows", "x", "--penalty", "-3", "--device=gpu", "--beams", "0", "--id-column"
    )
    assert [str(issue) for issue in flags.mistakes] == [
        "--id-column: expected one argument",
        "unknown flag --bems; did you mean --beams?",
        "--beams: 0 is not a number of at least 1",
        "--rows: 'x' is not a whole number of at least 1 or all",
        "--penalty: -3 is not a number of at least -2",
        "--device: 'gpu' is not one of auto, cpu, cuda; did you mean 'cpu'?",
    ]
    assert flags.files == ("a",), "the rest of the command is checked all the same"
    assert (flags.num_beams, flags.device) == (None, "auto")
    assert flags.mistaken == {"num_beams", "rows", "penalty", "device"}
    assert mistakes("a", "--beams", "many") == ["--beams: 'many' is not a whole number of at least 1"]
    assert mistakes("a", "--beams", "2.5") == ["--beams: 2.5 is not a whole number of at least 1"]
    assert mistakes("a", "--bea", "2") == ["unknown flag --bea; did you mean --beams?"], (
        "no part of a name is one"
    )


def test_what_a_command_cannot_be_without() -> None:
    with pytest.raises(ConfigError) as caught:
        read("--beams", "0")
    assert [str(issue) for issue in caught.value.issues] == [
        "FILE: is required",
        "--beams: 0 is not a number of at least 1",
    ]


def test_help_says_what_the_docstrings_say(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read("--help")
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert told.startswith("usage: python -m summarizer.some [options] FILE [FILE ...]\n\nDo something.\n")
    assert told.endswith("\ntables:\n  --id-column NAME      of the id\n\nThe end.\n")
    for line in (
        "  --beams N             1 is greedy, 100 % of the time\n",
        "  --rows N|all          how many\n",
        "  --penalty N           how much (default: 1.0)\n",
        "  --no-base             leave the base model out\n",
        "  --sample, --no-sample\n",
        "  -o FOLDER, --output FOLDER\n",
    ):
        assert line in told
    assert "num-beams" not in told


@pytest.mark.parametrize("kind", [CompareFlags, EvaluateFlags, ExportFlags, ServeFlags, SummarizeFlags])
def test_every_flag_of_a_command_is_explained(kind: type[Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        kind.read(["--help"], command="some", usage="RUN")
    told = " ".join(capsys.readouterr().out.split())
    for field, info in kind.model_fields.items():
        assert info.description, field
        assert " ".join(info.description.split()) in told, field
        shown = kind.flag(field) if info.default is not True else f"--no-{field}"
        assert shown in told, field
