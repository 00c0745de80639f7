"""The README's commands run, its table of config groups is the config's, and its two commands are CI's."""

from __future__ import annotations

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

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    for line in block.strip().splitlines()
]
RUNS = [line for line in COMMANDS if line.startswith(("python -m summarizer.run ", "torchrun"))]
RUN_FOLDER = "outputs/2026-11-22/10-15-30-123456"
QUICK = (
    *TINY,
    "trainer.max_steps=1",
    "evaluation.rows=1",
    "evaluation.rows_during_training=0",
    "evaluation.base=false",
)


def test_every_command_is_one_that_these_tests_know() -> None:
    assert len(COMMANDS) == 23
    assert all(command.startswith(("python -m summarizer.", "torchrun")) for command in COMMANDS)
    assert len(RUNS) == 16


@pytest.mark.slow
@pytest.mark.parametrize("line", RUNS)
def test_command_runs(line: str, tmp_path: Path, command: Command) -> None:
    """As written, but short: the overrides of QUICK come after it."""
    if "experiment=gptj" in line and "--cfg" not in line:
        pytest.skip("wants GPT-J-6B from the hub; the same config is composed by the --cfg line")
    if line.startswith("torchrun"):
        pytest.skip("tests/test_processes.py runs it")
    arguments = shlex.split(line)[3:]
    if "resume=" in line:
        pytest.skip("tests/test_resume.py runs it on runs that were killed")
    if "data=files" in line:
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
    ended = command(arguments if "--cfg" in line else [*arguments, *QUICK])
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_commands_on_a_trained_run(tmp_path: Path, command: Command) -> None:
    """As written, one after the other, on a small run in the folder that they name."""
    trained = command([*QUICK, f"hydra.run.dir={RUN_FOLDER}"])
    assert trained.returncode == 0, trained.stderr
    rows = (REPOSITORY / "summarizer" / "data" / "sample" / "validation.jsonl").read_text().splitlines()[:3]
    (tmp_path / "articles.jsonl").write_text("".join(f"{row}\n" for row in rows))
    (tmp_path / "article.txt").write_text(json.loads(rows[0])["article"])
    lines = [line for line in COMMANDS if line not in RUNS]
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


def test_the_mistakes_it_shows_are_what_the_command_says(command: Command) -> None:
    found = re.search(r"```console\n\$ python -m summarizer.run (.*?)\n(.*?)```", README, flags=re.DOTALL)
    assert found is not None
    ended = command(shlex.split(found[1]))
    assert ended.returncode == 2
    assert ended.stderr.strip() == found[2].strip()


def test_its_table_of_config_groups_is_the_configs() -> None:
    """`python tests/config_table.py` prints the table to paste."""
    assert groups_table() in README


def test_the_scores_it_shows_are_those_of_the_default_run() -> None:
    """The shown table must have the three systems' rows in the order that the report prints them."""
    shown = README.split("```")[1]
    first_words = [line.split()[0] for line in shown.splitlines() if line.strip()]
    systems = [word for word in first_words if word in ("before", "after", "Lead-3")]
    assert systems[:3] == ["before", "after", "Lead-3"]


def test_ci_calls_the_two_commands() -> None:
    ci = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    assert "make run" in ci
    assert "make test" in ci


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    for link in links:
        assert (REPOSITORY / link).exists(), link
