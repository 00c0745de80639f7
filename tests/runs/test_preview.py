"""`preview=3`: what a model reads, read back from the tokens, and how long it all is."""

from __future__ import annotations

import io
import json
import logging
import re
from pathlib import Path

import pytest
from small_runs import TINY, run_here

from summarizer.config.paths import PACKAGE
from summarizer.config.plain import read_option
from summarizer.config.schema import PromptConfig
from summarizer.console.progress import SafeConsole
from summarizer.data.order import EncodedRow
from summarizer.data.prompt import Prompt, build_prompt
from summarizer.models.tokenizer import load_tokenizer
from summarizer.runs.launch import warn_of_escapes
from summarizer.runs.preview import Lengths, drawn, lengths_drawn, read_back

EMBEDDED = PACKAGE / "models" / "embedded" / "tiny_gptj"
ARTICLE = "The council of Orford met.\n\nIt spoke of trams & of buses. " * 8
SUMMARY = "The council met.\nIt spoke of trams."


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    return load_tokenizer(EMBEDDED)


def prompt_of(tokenizer, max_tokens: int = 96, **changes: object) -> Prompt:  # type: ignore[no-untyped-def]
    spec = read_option("prompt", "tldr") | {"max_tokens": max_tokens} | changes
    return build_prompt(PromptConfig.model_validate(spec), tokenizer)


def row_of(prompt: Prompt, article: str = ARTICLE, summary: str = SUMMARY) -> EncodedRow:
    return EncodedRow("a\x1b[31m1", *prompt.encode(article, summary))


def printed(example, width: int, **options: object) -> str:  # type: ignore[no-untyped-def]
    out = io.StringIO()
    console = SafeConsole(out, width=width, soft_wrap=True, **options)
    console.print(drawn(example, console), soft_wrap=False)
    return out.getvalue()


def test_the_parts_are_the_tokens_that_are_trained_on(tokenizer) -> None:  # type: ignore[no-untyped-def]
    prompt = prompt_of(tokenizer)
    row = row_of(prompt)
    example = read_back(row, prompt, tokenizer)
    ids, prompt_tokens = prompt.training_ids(row.article_ids, row.target_ids)
    text = {
        name: "".join(part.text for part in example.parts if part.name == name) for name in ("article", "cut")
    }
    assert [part.name for part in example.parts] == ["article", "cut", "prompt", "summary"]
    assert text["article"] + text["cut"] == ARTICLE.strip()
    read = "".join(part.text for part in example.parts if part.name != "cut")
    assert read == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert example.parts[-1].pieces == ((f" {SUMMARY}", False), ("<|endoftext|>", True))
    kept = prompt_tokens - len(prompt.after)
    assert f"{len(ids)} tokens, {len(prompt.after)} of prompt, {kept} of article" in example.title
    assert f"({len(row.article_ids) - kept} more are cut), {len(row.target_ids)} of summary" in example.title
    assert example.title.startswith("id a [31m1: "), "an id cannot steer a terminal"


def test_an_article_that_fits_is_not_cut(tokenizer) -> None:  # type: ignore[no-untyped-def]
    prompt = prompt_of(tokenizer)
    example = read_back(row_of(prompt, "A short one."), prompt, tokenizer)
    assert [part.name for part in example.parts] == ["article", "prompt", "summary"]
    assert "cut" not in example.title


@pytest.mark.parametrize("width", [40, 80, 120])
def test_it_is_drawn_in_the_terminals_width(tokenizer, width: int) -> None:  # type: ignore[no-untyped-def]
    prompt = prompt_of(tokenizer, 512)
    example = read_back(row_of(prompt, "word " * 400), prompt, tokenizer)
    lines = printed(example, width).splitlines()
    assert max(map(len, lines)) <= width
    assert any(re.search(r"\[\d+ more lines\]", line) for line in lines)
    assert [line.split()[0] for line in lines if line[:7].strip()] == ["article", "prompt", "summary"]
    assert len(lines) < 24


def test_colors_are_for_those_who_see_them(tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    prompt = prompt_of(tokenizer)
    example = read_back(row_of(prompt), prompt, tokenizer)
    plain = printed(example, 80)
    assert "\x1b" not in plain
    monkeypatch.delenv("NO_COLOR", raising=False)
    colored = printed(example, 80, force_terminal=True, color_system="standard")
    for code in ("36", "32", "1;35", "2;9"):  # prompt, summary, control tokens, what is cut
        assert f"\x1b[{code}m" in colored, code
    assert re.sub(r"\x1b\[[\d;]*m", "", colored) == plain
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[\d;]*3[0-9]m", printed(example, 80, force_terminal=True))


def test_what_a_text_tells_the_terminal_is_spelled_out(tokenizer) -> None:  # type: ignore[no-untyped-def]
    prompt = prompt_of(tokenizer)
    example = read_back(row_of(prompt, "A \x1b[2J b \u202e c"), prompt, tokenizer)
    for text in (printed(example, 80), example.lines()):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "\\x1b[2J" in text


def test_blanks_that_decide_on_tokens_are_marked(tokenizer) -> None:  # type: ignore[no-untyped-def]
    prompt = prompt_of(tokenizer, template="News:\n{article}\n\nShort:\n")
    lines = printed(read_back(row_of(prompt, "A short one."), prompt, tokenizer), 80).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "prompt News:↵",
        "article A short one.",
        "prompt ↵↵Short:↵",
        "summary The council met.",
        "It spoke of trams.<|endoftext|>",
    ]


def test_the_lengths_add_up() -> None:
    tokens = sorted([*range(100, 700, 3), 5000])
    lines = [line.plain for line in lengths_drawn(Lengths(f"{len(tokens)} examples", tokens), 512, 80)]
    bars = [
        re.match(r" *([\d,]+) (?:- [\d,]+|or more) (\S*) ([\d,]+)( <- \S+)?$", line) for line in lines[1:-1]
    ]
    assert all(bars), lines
    found = [bar for bar in bars if bar]
    assert sum(int(bar[3].replace(",", "")) for bar in found) == len(tokens)
    assert [bar[4] for bar in found if bar[4]] == [" <- prompt.max_tokens=512"]
    limit = next(i for i, bar in enumerate(found) if bar[4])
    assert {bar[2][:1] for bar in found[: limit + 1]} == {"█"}
    assert {bar[2][:1] for bar in found[limit + 1 :]} - {""} == {"▒"}
    over = sum(count > 512 for count in tokens)
    assert lines[-1].startswith(
        f"{over / len(tokens):.1%} ({over} of {len(tokens)}) are over prompt.max_tokens=512"
    )
    assert "the longest 5,000" in lines[0]
    assert max(map(len, lines[1:-1])) <= 80
    (*_, last) = lengths_drawn(Lengths("1 example", [20]), 512, 80)
    assert last.plain == "none is over prompt.max_tokens=512"


def test_the_command_shows_examples_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("summarizer.models.load.load_base", None)
    run_here([*TINY, "preview=2"])
    said = capsys.readouterr().err
    assert said.startswith("preview: LoRA dim=2 on embedded:tiny_gptj")
    assert said.count("\nexample ") == 2
    assert "tokens of the 8 examples of train" in said
    assert "are over prompt.max_tokens=160" in said
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_every_run_logs_an_example_and_does_not_print_it(trained_run: Path) -> None:
    log = (trained_run / "run.log").read_text(encoding="utf-8")
    first = json.loads((PACKAGE / "data" / "sample" / "train.jsonl").read_text().splitlines()[0])
    assert "an example of train, as the model reads it: id " in log
    assert f"[article]  {first['article'].strip()[:60]}" in log.replace("\n  ", "\n")
    assert f"[summary] {first['highlights'].strip()}<|endoftext|>" in log.replace("\n  ", "\n")


@pytest.mark.parametrize(
    ("key", "text"), [("template", r"{article}\n\nTL;DR:"), ("template", "{article}\n\nTL;DR:")]
)
def test_a_line_break_that_a_shell_left_is_warned_of(
    key: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    spec = PromptConfig.model_validate(read_option("prompt", "tldr") | {key: text})
    with caplog.at_level(logging.WARNING):
        warn_of_escapes(spec)
    assert bool(caplog.messages) == ("\\n" in text)
    if caplog.messages:
        assert r"""$'prompt.template="...\n..."'""" in caplog.messages[0]
