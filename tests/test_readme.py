"""The commands of the README and of docs/ run, what they show is what is said, and their links lead somewhere."""

from __future__ import annotations

import ast
import csv
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from config_table import groups_table
from small_runs import REPOSITORY, TINY, Command

DOCS = sorted((REPOSITORY / "docs").glob("*.md"))
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *DOCS]
TEXTS = {path: path.read_text(encoding="utf-8") for path in PAGES}
README = TEXTS[PAGES[0]]
COMMANDS = list(
    dict.fromkeys(
        line
        for text in TEXTS.values()
        for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
        for line in block.strip().splitlines()
    )
)
"""Of all pages, each once, in their order."""
RUNS = [line for line in COMMANDS if line.startswith(("python -m summarizer.run ", "torchrun"))]
RUN_FOLDER = "outputs/2026-11-22/10-15-30-123456"
SYSTEMS = ("before", "after", "Lead-3")
QUICK = (
    *TINY,
    "trainer.max_steps=1",
    "evaluation.rows=1",
    "evaluation.rows_during_training=0",
    "evaluation.base=false",
)


def test_every_command_is_one_that_these_tests_know() -> None:
    assert len(COMMANDS) >= 27
    assert all(command.startswith(("python -m summarizer.", "torchrun")) for command in COMMANDS)
    assert len(RUNS) >= 20


def words_of(line: str) -> list[str]:
    """As the shell reads them, `$'...'` with its line breaks too."""
    said = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True
    )
    return said.stdout.split("\0")[:-1]


@pytest.mark.slow
@pytest.mark.parametrize("line", RUNS)
def test_command_runs(line: str, tmp_path: Path, command: Command) -> None:
    """As written, but short: the overrides of QUICK come after it."""
    if "experiment=gptj" in line and "--cfg" not in line:
        pytest.skip("wants GPT-J-6B from the hub; the same config is composed by the --cfg line")
    if line.startswith("torchrun"):
        pytest.skip("tests/test_processes.py runs it")
    arguments = words_of(line)[3:]
    if "resume=" in line:
        pytest.skip("tests/test_resume.py runs it on runs that were killed")
    if "articles.csv" in line:
        rows = [
            json.loads(row)
            for row in (REPOSITORY / "summarizer" / "data" / "sample" / "train.jsonl")
            .read_text()
            .splitlines()
        ]
        with (tmp_path / "articles.csv").open("w", newline="") as file:
            writer = csv.writer(file, delimiter=";")
            writer.writerows([["Text", "Summary"], *([row["article"], row["highlights"]] for row in rows)])
    elif "data=files" in line:
        for split in ("train", "validation"):
            shutil.copy(REPOSITORY / "summarizer" / "data" / "sample" / f"{split}.jsonl", tmp_path)
    if "path/to/model" in line:
        from transformers import AutoTokenizer, GPTJConfig, GPTJForCausalLM

        from summarizer.config.paths import resolve_path

        folder = tmp_path / "path" / "to" / "model"
        GPTJForCausalLM(
            GPTJConfig(vocab_size=8192, n_embd=32, n_layer=1, n_head=2, rotary_dim=8)
        ).save_pretrained(folder)
        AutoTokenizer.from_pretrained(resolve_path("embedded:tiny_gptj", "models/embedded")).save_pretrained(
            folder
        )
    quick = [word for word in QUICK if not (word.startswith("tracking=") and "tracking=" in line)]
    ended = command(arguments if "--cfg" in line else [*arguments, *quick])
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_commands_on_a_trained_run(tmp_path: Path, command: Command) -> None:
    """As written, one after the other, on a small run in the folder that they name."""
    trained = command([*QUICK, f"hydra.run.dir={RUN_FOLDER}"])
    assert trained.returncode == 0, trained.stderr
    rows = (REPOSITORY / "summarizer" / "data" / "sample" / "validation.jsonl").read_text().splitlines()[:3]
    (tmp_path / "articles.jsonl").write_text("".join(f"{row}\n" for row in rows))
    (tmp_path / "article.txt").write_text(json.loads(rows[0])["article"])
    lines = [line for line in COMMANDS if line not in RUNS and "gguf" not in line]
    assert len(lines) == 7
    for line in lines:
        assert RUN_FOLDER in line
        ended = subprocess.run(
            [sys.executable, *shlex.split(line)[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=250,
        )
        assert ended.returncode == 0, f"{line}\n{ended.stderr}"
    assert len((tmp_path / "summaries.jsonl").read_text().splitlines()) == 3
    assert (tmp_path / RUN_FOLDER / "evaluations" / "validation" / "scores.md").is_file()
    assert "<title>" in (tmp_path / "comparison.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_command_that_leads_to_llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As written, on a run over a Llama: GPT-J is none of llama.cpp's models."""
    pytest.importorskip("gguf")
    from trained_runs import save_run

    (line,) = (line for line in COMMANDS if "gguf" in line)
    run = tmp_path / RUN_FOLDER
    run.parent.mkdir(parents=True)
    save_run("llama_tied", tmp_path / "llama").rename(run)
    monkeypatch.chdir(tmp_path)
    ended = subprocess.run(
        [sys.executable, *shlex.split(line)[1:]], capture_output=True, text=True, timeout=250
    )
    assert ended.returncode == 0, ended.stderr
    made = {path.name for path in (run / "export" / "gguf-lora").iterdir()}
    assert made >= {"adapter.gguf", "base.gguf", "README.md"}


def test_the_mistakes_they_show_are_what_the_command_says(command: Command) -> None:
    shown = {
        block
        for text in TEXTS.values()
        for block in re.findall(
            r"```console\n\$ python -m summarizer.run (.*?)\n(.*?)```", text, flags=re.DOTALL
        )
    }
    assert shown
    for arguments, said in shown:
        ended = command(shlex.split(arguments))
        assert ended.returncode == 2
        assert ended.stderr.strip() == said.strip()


def test_the_table_of_config_groups_is_the_configs() -> None:
    """`python tests/config_table.py` prints the table to paste."""
    assert groups_table() in TEXTS[REPOSITORY / "docs" / "runs.md"]


def test_the_scores_it_shows_are_those_of_the_default_run() -> None:
    """The shown table must have the three systems' rows in the order that the report prints them."""
    shown = README.split("```")[1]
    first_words = [line.strip() for line in shown.splitlines() if line.strip()]
    systems = [word for line in first_words for word in SYSTEMS if line.startswith(word)]
    assert systems[:3] == list(SYSTEMS)


def test_the_readme_is_for_one_sitting() -> None:
    assert len(README.splitlines()) <= 200


def test_ci_calls_the_two_commands() -> None:
    ci = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    assert "make run" in ci
    assert "make test" in ci


def slugs(text: str) -> set[str]:
    """What GitHub calls the headings of a page in links."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)]+)\)", TEXTS[page])
    for link in links:
        name, _, part = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if part:
            assert part in slugs(target.read_text(encoding="utf-8")), link


def test_every_page_is_led_to() -> None:
    assert len(DOCS) >= 9
    for page in DOCS:
        assert f"](docs/{page.name})" in README, page.name


# ---- docs/architecture.md ---------------------------------------------------------------------------------------

ARCHITECTURE = TEXTS[REPOSITORY / "docs" / "architecture.md"]
PACKAGE_FILE = re.compile(r"`((?:\w+/)*\w+\.(?:py|yaml|c|json|jsonl|md|svg))`")
DEFINED = re.compile(r"`(\w+(?:\.\w+)?)\(\)`|`([A-Z][a-z]\w*)`")
"""`function()`, `Class.method()` and `Class`."""
WRITTEN = ("summary.json", "metrics.jsonl")
"""Files that a run writes."""
LIBRARIES = ("optimizer.step",)


def file_of(name: str) -> Path | None:
    for folder in (REPOSITORY / "summarizer", REPOSITORY):
        if (folder / name).is_file():
            return folder / name
    return None


def definitions(path: Path) -> set[str]:
    """Functions, classes and methods of a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{own.name}" for own in node.body if isinstance(own, ast.FunctionDef)}
    return found


def test_every_file_that_the_architecture_names_is_there() -> None:
    named = {name for name in PACKAGE_FILE.findall(ARCHITECTURE) if "NAME" not in name} - set(WRITTEN)
    assert len(named) > 20
    assert {name for name in named if file_of(name) is None} == set()


def test_every_definition_that_the_architecture_names_is_in_a_file_that_its_paragraph_names() -> None:
    count = 0
    for paragraph in re.split(r"\n\s*\n|\n(?=[-|] ?)", ARCHITECTURE):
        files = [path for name in PACKAGE_FILE.findall(paragraph) if (path := file_of(name))]
        there = set().union(*(definitions(path) for path in files if path.suffix == ".py"))
        for name in (function or kind for function, kind in DEFINED.findall(paragraph)):
            if name not in LIBRARIES:
                count += 1
                assert name in there, (name, paragraph)
    assert count > 20


def test_the_picture_of_the_layers_is_up_to_date() -> None:
    """`python experiments/house/layers.py` draws it anew."""
    sys.path.insert(0, str(REPOSITORY / "experiments" / "house"))
    try:
        layers = importlib.import_module("layers")
    finally:
        sys.path.pop(0)
    assert layers.drawn_from(layers.PICTURE) == layers.read_layers()
    assert "](layers.svg)" in ARCHITECTURE


# ---- the studies' pages -----------------------------------------------------------------------------------------


def test_the_files_of_the_package_that_studies_name_are_there() -> None:
    named = {
        (study.parent.name, name)
        for study in sorted((REPOSITORY / "experiments").glob("*/README.md"))
        for name in re.findall(r"`(summarizer/[\w/]+\.\w+)`", study.read_text(encoding="utf-8"))
    }
    assert len(named) > 3
    assert {pair for pair in named if not (REPOSITORY / pair[1]).is_file()} == set()
