"""`python -m summarizer.summarize` from end to end, on a small run of the embedded model."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_runs import KILLED_WITHIN_A_LINE, REPOSITORY, TRAINED_ROWS
from terminal import run_in_terminal

from summarizer.config.paths import PACKAGE
from summarizer.evaluation.predictions import read_predictions
from summarizer.generation.summary_file import Summary, SummaryFile, settings_path
from summarizer.summarize import command

NEWS = PACKAGE / "data" / "sample" / "validation.jsonl"


@pytest.fixture
def news(tmp_path: Path) -> Path:
    """The rows that the run was evaluated on, in a file of a person's own."""
    path = tmp_path / "news.jsonl"
    lines = NEWS.read_text(encoding="utf-8").splitlines(keepends=True)[:TRAINED_ROWS]
    path.write_text("".join(lines), encoding="utf-8")
    return path


Ended = tuple[int, str, str]


@pytest.fixture
def summarize(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    def run(*arguments: object, precision: str = "fp32") -> Ended:
        capsys.readouterr()
        code = command([str(trained_run), *map(str, arguments), "--precision", precision])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def articles(path: Path) -> list[str]:
    return [str(row["article"]) for row in rows(path)]


@pytest.mark.versions
@pytest.mark.parametrize("which", ["adapter", "base"])
def test_the_output_holds_what_the_run_itself_predicted(
    which: str, trained_run: Path, news: Path, summarize: Callable[..., Ended], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    code, printed, said = summarize(news, "--output", out, *(["--base"] if which == "base" else []))
    assert (code, printed) == (0, "")
    name = "validation.jsonl" if which == "adapter" else "validation.base.jsonl"
    expected = read_predictions(trained_run / "predictions" / name)
    assert len(expected) == TRAINED_ROWS
    written = rows(out)
    assert [(row["id"], row["prediction"], row["reference"]) for row in written] == [
        (row.id, row.prediction, row.reference) for row in expected
    ]
    assert [row["source"] for row in written] == [f"{news} row {number}" for number in (1, 2, 3, 4)]
    cut = [row for row in written if int(str(row["cut_tokens"]))]
    assert cut, "the sample's articles are longer than 160 tokens"
    assert f"{len(cut)} of 4 articles were cut at their end to fit prompt.max_tokens=160" in said
    assert "out.jsonl: 4 summaries, 4 of them written now in" in said


def test_the_two_differ(trained_run: Path) -> None:
    found = [
        read_predictions(trained_run / "predictions" / name)
        for name in ("validation.jsonl", "validation.base.jsonl")
    ]
    assert found[0] != found[1], "or nothing above tells the adapter from the base"


def test_one_summary_is_printed_alone(
    trained_run: Path, news: Path, summarize: Callable[..., Ended], tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text(articles(news)[0])
    code, printed, said = summarize(tmp_path / "a.txt")
    expected = read_predictions(trained_run / "predictions" / "validation.jsonl")[0].prediction
    assert (code, printed) == (0, expected + "\n")
    assert f"{tmp_path}/a.txt: " in said
    assert "were cut to fit prompt.max_tokens=160 with the summary" in said


def test_several_are_printed_under_their_names_and_bad_ones_are_said(
    trained_run: Path, news: Path, summarize: Callable[..., Ended], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    texts = articles(news)
    (folder / "short.txt").write_text(texts[1])
    (folder / "long.txt").write_text(texts[0] + texts[2])
    (folder / "binary.bin").write_bytes(b"\0\1")
    (folder / "empty.txt").touch()
    code, printed, said = summarize(folder, tmp_path / "none.txt", news)
    assert code == 2
    expected = [row.prediction for row in read_predictions(trained_run / "predictions" / "validation.jsonl")]
    headings = [line for line in printed.splitlines() if line.startswith("==> ")]
    assert headings == [
        f"==> {folder}/long.txt <==",
        f"==> {folder}/short.txt <==",
        *(f"==> {news} row {number} <==" for number in (1, 2, 3, 4)),
    ]
    assert f"==> {folder}/short.txt <==\n{expected[1]}\n\n==> {news} row 1 <==\n{expected[0]}\n\n" in printed
    lines = said.splitlines()
    assert [line for line in lines if str(tmp_path) in line and "base:" not in line] == [
        f"{folder}/binary.bin is binary, not text",
        f"{folder}/empty.txt is empty",
        f"{tmp_path}/none.txt cannot be read: No such file or directory",
    ]
    assert lines[-1] == "3 of 9 items could not be summarized, as said above."


def test_standard_input_is_read_where_nothing_is_named(
    trained_run: Path, news: Path, summarize: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_predictions(trained_run / "predictions" / "validation.jsonl")[2].prediction + "\n"
    for arguments in ((), ("-",)):
        stdin = io.TextIOWrapper(io.BytesIO(articles(news)[2].encode()))
        monkeypatch.setattr(sys, "stdin", stdin)
        assert summarize(*arguments)[:2] == (0, expected)


def test_a_stopped_batch_goes_on(
    news: Path, summarize: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert summarize(news, "-o", whole)[0] == 0
    real, stops = SummaryFile.append, iter([signal.SIGINT, signal.SIGTERM])

    def one_then_a_signal(self: SummaryFile, summary: Summary) -> None:
        real(self, summary)
        if (stop := next(stops, None)) is not None:
            os.kill(os.getpid(), stop)

    monkeypatch.setattr(SummaryFile, "append", one_then_a_signal)
    for done, code in ((1, 130), (2, 143)):
        ended, _, said = summarize(news, "-o", out)
        assert ended == code
        assert said.endswith(
            f"Stopped: {done} of 4 summaries are in {out}; the same command resumes from there.\n"
        )
    code, _, said = summarize(news, "-o", out)
    assert code == 0
    assert "resuming after 2 of 4 summaries" in said
    assert "2 of them written now" in said
    assert out.read_bytes() == whole.read_bytes()
    code, _, said = summarize(news, "-o", out)
    assert (code, "all of them there already" in said, "base model:" in said) == (0, True, False)


def test_an_output_made_otherwise_is_refused(
    news: Path, summarize: Callable[..., Ended], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    assert summarize(news, "-o", out, "--base")[0] == 0
    before = out.read_bytes()
    code, _, said = summarize(news, "-o", out, "--max-new-tokens", "3")
    assert code == 2
    assert "adapter was null, now it is '" in said
    assert "--max-new-tokens was 6, now it is 3; name another file" in said
    assert "base model:" not in said, "no model is loaded for it"
    assert out.read_bytes() == before
    assert summarize(news, "-o", news)[0] == 2
    assert settings_path(out).is_file()


@pytest.mark.versions
def test_another_adapter_takes_the_runs_place(
    trained_run: Path, news: Path, summarize: Callable[..., Ended], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other"
    shutil.copytree(trained_run / "adapter", other)
    file = other / "adapter_model.safetensors"
    save_file({name: 0 * tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    (other / "digests.json").unlink()
    base = summarize(news, "--base")
    assert base[0] == 0
    assert summarize(news, "--adapter", other)[:2] == base[:2], "an adapter of zeros is none"
    assert summarize(news)[1] != base[1]


def test_flags_decide_how_it_is_written(news: Path, summarize: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(
        articles(news)[0][:200]
    )  # with room: what is cut depends on the length too
    short, longer = (summarize(tmp_path / "a.txt", "--max-new-tokens", count)[1] for count in ("2", "12"))
    assert longer.startswith(short.rstrip("\n"))
    assert len(longer) > len(short)
    draws = [
        summarize(tmp_path / "a.txt", "--sample", "--temperature", "5", "--seed", seed)[1]
        for seed in ("1", "1", "2")
    ]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--beams", "0", "--top-k", "x"), ["--beams: 0 is not a", "--top-k: 'x' is not a whole number"]),
        (("--max-new-tokens", "159"), ["--max-new-tokens: 159 leaves no room for an article"]),
        (
            ("--beams", "0", "--batch-size", "none", "--output", "x.csv"),
            [
                "3 mistakes",
                "--beams: 0 is not a",
                "--batch-size: 'none' is not a whole number of at least 1",
                "--output: x.csv must end in .jsonl",
            ],
        ),
        (("--output", "{news}/new.jsonl"), ["news.jsonl is a file, so that no folder can be made below it"]),
        (("--adapter", "nowhere"), ["--adapter: no such folder: nowhere"]),
        (("--model", "/nowhere"), ["no folder at '/nowhere'"]),
    ],
)
def test_mistakes_are_said_and_end_in_2(
    arguments: tuple[str, ...], said: list[str], news: Path, summarize: Callable[..., Ended]
) -> None:
    code, printed, errors = summarize(news, *(word.format(news=news) for word in arguments))
    assert (code, printed) == (2, "")
    for part in said:
        assert part in errors
    assert "Traceback" not in errors
    assert "base model:" not in errors, "no model is loaded for it"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_said_before_anything_is_read(summarize: Callable[..., Ended]) -> None:
    code, _, errors = summarize("nowhere.txt", "--device", "cuda")
    assert (code, "--device: cuda, but" in errors, "nowhere.txt" in errors) == (2, True, False)


def test_misuse_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments, said in (
        ([str(tmp_path), "a.txt", "--beem", "3"], "unknown flag --beem; did you mean --beams?"),
        ([], "RUN: is required"),
        ([str(tmp_path), "--base", "--adapter", "x"], "--adapter: has no place beside --base"),
    ):
        assert command(arguments) == 2
        assert said in capsys.readouterr().err
    assert command([str(tmp_path), "a.txt"]) == 2
    assert "no run folder" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_process_costs_its_last_line_alone(
    trained_run: Path, news: Path, summarize: Callable[..., Ended], tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    arguments = [str(trained_run), str(news), "-o", str(out), "--precision", "fp32"]
    script = KILLED_WITHIN_A_LINE.format(call=3, arguments=arguments, command="summarize")
    killed = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = out.read_bytes()
    assert left.count(b"\n") == 2
    assert not left.endswith(b"\n")
    code, _, said = summarize(news, "-o", out)
    assert code == 0
    assert "resuming after 2 of 4 summaries" in said
    assert summarize(news, "-o", whole)[0] == 0
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_at_a_terminal_summaries_stream_under_their_names(
    trained_run: Path, news: Path, tmp_path: Path
) -> None:
    texts = articles(news)
    for name, text in zip(("a.txt", "b.txt"), texts, strict=False):
        (tmp_path / name).write_text(text)
    script = f"""
import os, sys
os.chdir({str(tmp_path)!r})
import summarizer.generation.summarizer as s
real = s.Summarizer.stream
def counted(self, *arguments, **more):
    for number, piece in enumerate(real(self, *arguments, **more)):
        yield f"[{{number}}]" + piece + ("\\x1b[2J" if number == 0 else "")
s.Summarizer.stream = counted
from summarizer.summarize import command
sys.exit(command([{str(trained_run)!r}, "a.txt", "b.txt", "--precision", "fp32"]))
"""
    screen, code = run_in_terminal(script, width=100, height=40)
    assert code == 0
    shown = "\n".join(line.rstrip() for line in screen.lines)
    expected = read_predictions(trained_run / "predictions" / "validation.jsonl")
    for name, row in zip(("a.txt", "b.txt"), expected, strict=False):
        part = shown.split(f"==> {name} <==\n")[1].split("\n\n")[0]
        assert part.count("[") >= 3, "in pieces"
        assert "\ufffd[2J" in part, "what would clear the screen is shown instead"
        for number in range(10):
            part = part.replace(f"[{number}]", "")
        assert part.replace("\ufffd[2J", "").startswith(row.prediction)
    assert "a.txt: " in shown


@pytest.mark.slow
def test_a_reader_that_leaves_ends_the_command(trained_run: Path, news: Path) -> None:
    script = (
        f"{sys.executable} -m summarizer.summarize {trained_run} {news} | head -c 0; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert done.stderr.endswith("Stopped: nobody reads the output any more.\n")


@pytest.fixture(autouse=True)
def _not_asked_for_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
