"""YAML and JSON of run folders from elsewhere: what would take for ever, or all memory, is refused in no time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from summarizer.json_files import parse_json
from summarizer.yaml_files import read_yaml, require_bounded

NINES = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else '1'] * 10)}]" for n in range(9))
"""Nine lines that stand for 10^9 numbers."""
INTERPOLATED = "\n".join(["a0: x"] + [f"a{n}: ${{a{n - 1}}}${{a{n - 1}}}" for n in range(1, 60)])
"""Sixty lines that stand for a text of 2^59 letters."""

BOMBS = {
    "aliases": (NINES, "aliases written out"),
    "an alias of itself": ("a: &a [*a]", "line 1"),
    "an alias of nothing": ("a: *b", "line 1"),
    "deep brackets": ("a: " + "[" * 100_000, "nest"),
    "deep blocks": ("\n".join(" " * n + "a:" for n in range(100)), "deeper than 64 levels"),
    "many keys": ("\n".join(f"a{n}: 1" for n in range(20_000)), "more than 10,000"),
    "a large file": ("# " + "x" * 2**21, ""),
    "not UTF-8": (b"a: \xff", ""),
    "no YAML": ("a: b: c", ""),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_in_one_line_and_no_time(bomb: str, tmp_path: Path) -> None:
    text, said = BOMBS[bomb]
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    begun_s = time.process_time()
    with pytest.raises((ValueError, OSError)) as caught:
        read_yaml(path)
    assert time.process_time() - begun_s < 5
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [INTERPOLATED, "a: ${b}\nb: ${a}", "a: {b: '${a}'}"])
def test_references_that_grow_without_end_are_refused_before_they_are_resolved(text: str) -> None:
    with pytest.raises(ValueError, match=r"megabyte|leads to itself"):
        require_bounded(OmegaConf.to_container(OmegaConf.create(text)))  # type: ignore[arg-type]  # a mapping


def test_what_people_write_is_read_as_omegaconf_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("base: &base {lr: 1e-3, dims: [2, 4]}\nrun: *base\nname: ${run.lr}-${base.dims.0}\n")
    assert read_yaml(path) == OmegaConf.load(path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 65 + "]" * 65])
def test_json_nests_no_deeper_than_people_write(text: str) -> None:
    with pytest.raises(ValueError, match="64"):
        parse_json(text)
    assert parse_json("[" * 60 + "]" * 60) is not None
