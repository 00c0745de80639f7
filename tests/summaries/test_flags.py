"""Flags that several commands share, and what a mistyped one is told."""

from __future__ import annotations

import argparse

import pytest

from summarizer import compare, evaluate, export, serve, summarize
from summarizer.summaries.flags import flags_of, parsed

PARSERS = {
    "compare": compare._parser,
    "evaluate": evaluate._parser,
    "export": export.parser,
    "serve": serve.parser,
    "summarize": summarize._parser,
}


@pytest.mark.parametrize("command", PARSERS)
def test_every_flag_of_a_command_is_known(command: str) -> None:
    parser = PARSERS[command]()
    assert set(flags_of(parser)) == {name for action in parser._actions for name in action.option_strings}


def test_a_mistyped_flag_is_told_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--beams", help="not --bee")
    with pytest.raises(SystemExit, match="2"):
        parsed(parser, ["--beans=3"])
    assert "unknown flag --beans; did you mean --beams?" in capsys.readouterr().err
