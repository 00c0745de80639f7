from __future__ import annotations

import pytest

from summarizer.config.messages import LONGEST_VALUE, shown
from summarizer.errors import nearest, suggestion


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "null"), (True, "true"), (False, "false"), ("a", "'a'"), (1e-5, "1e-05"), ([1], "[1]")],
)
def test_values_are_shown_as_yaml_has_them(value: object, text: str) -> None:
    assert shown(value) == text


def test_a_long_value_is_cut() -> None:
    assert len(shown("x" * 500)) == LONGEST_VALUE


def test_nearest_name() -> None:
    assert nearest("dmi", ["dim", "alpha"]) == "dim"
    assert nearest("zzz", ["dim", "alpha"]) is None
    assert suggestion("zzz", ["b", "a"]) == "; valid names: a, b"
