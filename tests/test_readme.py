"""The README's commands run, its table of config groups is the config's, and its two commands are CI's."""

from __future__ import annotations

import re
import shlex
import shutil
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
QUICK = (
    *TINY,
    "trainer.max_steps=1",
    "evaluation.rows=1",
    "evaluation.rows_during_training=0",
    "evaluation.base=false",
)


def test_every_command_is_one_that_these_tests_know() -> None:
    assert len(COMMANDS) == 16
    assert all(command.startswith(("python -m summarizer.run", "torchrun")) for command in COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("line", COMMANDS)
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
        AutoTokenizer.from_pretrained(resolve_path("embedded:tiny_gptj", "model/embedded")).save_pretrained(
            folder
        )
    ended = command(arguments if "--cfg" in line else [*arguments, *QUICK])
    assert ended.returncode == 0, ended.stderr


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
    """The shown table must have the four systems' rows in the order that the report prints them."""
    shown = README.split("```")[1]
    assert [name for name in ("adapter", "base alone", "Lead-3") if f"│ {name}" in shown] == [
        "adapter",
        "base alone",
        "Lead-3",
    ]


def test_ci_calls_the_two_commands() -> None:
    ci = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    assert "make run" in ci
    assert "make test" in ci


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    for link in links:
        assert (REPOSITORY / link).exists(), link
