"""What a command says before it imports what takes seconds: help, mistakes, and what a run is about to do."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_runs import REPOSITORY
from terminal import run_in_terminal

from summarizer.config.help import asks_for_help

HEAVY = {
    "torch",
    "transformers",
    "bitsandbytes",
    "accelerate",
    "peft",
    "datasets",
    "matplotlib",
    "wandb",
    "openvino",
}
IMPORT_LINE = re.compile(r"import time:[\s\d|]+\|\s+(\S+)")
HELP_S, MISTAKE_S = 2.0, 3.0
"""User CPU seconds; the aims are 1 and 3, measured on two cores at 0.4 and 0.9, and a machine may be busy."""


def command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-X", "importtime", "-m", f"summarizer.{name}", *arguments]


def imported(stderr: str) -> set[str]:
    """Top-level packages, by `-X importtime`."""
    found = {match[1].partition(".")[0] for match in IMPORT_LINE.finditer(stderr)}
    assert "argparse" in found or "hydra" in found, "the reading of -X importtime sees nothing"
    return found


def said(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if not line.startswith("import time:")]


def run_of(folder: Path) -> Path:
    """A run folder as far as a command line is checked against it."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        config = compose("config")
    (folder / "run" / ".hydra").mkdir(parents=True)
    (folder / "run" / "adapter").mkdir()
    (folder / "run" / "adapter" / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 2, "lora_alpha": 2}'
    )
    OmegaConf.save(config, folder / "run" / ".hydra" / "config.yaml")
    OmegaConf.save([], folder / "run" / ".hydra" / "overrides.yaml")
    return folder / "run"


def user_s() -> float:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["run", "--help"], {}),
        (["run", "--cfg", "job"], {}),
        (["run", "--cfg", "job", "experiment=gptj_cnn_dailymail"], {}),
        (["run", "-sc", "install=bash"], {}),
        (["run", "-sc", "query=bash"], {"COMP_LINE": "summarizer.run optimizer="}),
        (["summarize", "--help"], {}),
        (["evaluate", "--help"], {}),
        (["export", "--help"], {}),
        (["compare", "--help"], {}),
        (["sweep", "--help"], {}),
        (["serve", "--help"], {}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_answers_at_once(arguments: list[str], environment: dict[str, str], tmp_path: Path) -> None:
    before_s = user_s()
    done = subprocess.run(
        command(*arguments), cwd=tmp_path, capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert (done.returncode, said(done.stderr)) == (0, [])
    assert len(done.stdout) > 50
    assert not imported(done.stderr) & HEAVY
    assert user_s() - before_s < HELP_S
    assert list(tmp_path.iterdir()) == [], "a question leaves no folder"
    # Nor is a config typed that nobody runs; the flags of the other commands are made of types.
    assert not imported(done.stderr) & ({"pydantic"} if arguments[0] == "run" else {"omegaconf", "hydra"})


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            ["adapter.dim=eight", "optimizer.lr=-1"],
            [
                "adapter.dim: 'eight' is not a whole number of at least 1",
                "optimizer.lr: -1 is not a number above 0",
            ],
        ),
        (["+optimizer.betta=3"], ["optimizer.betta: unknown key; did you mean 'betas'?"]),
        (["optimizer=lion8bit", "+optimizer.eps=1"], ["optimizer.eps: unknown key; did you mean 'betas'?"]),
        (["optimizer=adamw", "optimizer.betas=[1]"], ["optimizer.betas: 1 is not a number below 1"]),
        (["optimizer=adam9bit"], ["optimizer: 'adam9bit' is not one of"]),
        (["data.train=/nowhere/x.jsonl"], ["data.train: no such file: /nowhere/x.jsonl"]),
        (["resume=nowhere"], ["resume: "]),
        (["adapter.start_from=."], ["adapter.start_from: . is no PEFT adapter folder"]),
        (["model.name_or_path=/nowhere"], ["model.name_or_path: no folder at '/nowhere'"]),
        (
            ["-m", "adapter.dim=2,eight"],
            ["adapter.dim: 'eight' is not a whole number of at least 1 (in 1 of 2"],
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_the_config(arguments: list[str], lines: list[str], tmp_path: Path) -> None:
    before_s = user_s()
    done = subprocess.run(command("run", *arguments), cwd=tmp_path, capture_output=True, text=True)
    count = "1 mistake:" if len(lines) == 1 else f"{len(lines)} mistakes:"
    found = [line for line in said(done.stderr) if not line.startswith("sweep over ")]
    assert (done.returncode, found[0], len(found)) == (2, count, 1 + len(lines))
    for line, start in zip(found[1:], lines, strict=True):
        assert line.startswith(f"  {start}")
    assert not imported(done.stderr) & (HEAVY | {"pyarrow"})
    assert user_s() - before_s < MISTAKE_S


@pytest.mark.parametrize(
    ("name", "arguments", "line"),
    [
        ("summarize", ["RUN", "--mdoel", "x"], "unknown flag --mdoel; did you mean --model?"),
        ("summarize", ["/nowhere", "x"], "RUN: /nowhere: no such folder"),
        ("summarize", ["RUN", "x", "--beams", "x"], "--beams: 'x' is not a whole number of at least 1"),
        ("summarize", ["RUN", "x", "--batch-size", "x"], "--batch-size: 'x' is not a whole number"),
        ("summarize", ["RUN", "/nowhere"], "/nowhere cannot be read: No such file or directory"),
        ("evaluate", ["/nowhere"], "RUN: /nowhere: no such folder"),
        ("evaluate", ["RUN", "--rows", "x"], "--rows: 'x' is not a whole number of at least 1 or all"),
        ("export", ["RUN", "--format", "x"], "--format: 'x' is not one of peft"),
        ("export", ["/nowhere", "--format", "peft"], "RUN: /nowhere: no such folder"),
        ("compare", ["/nowhere"], "/nowhere: no such folder"),
        ("sweep", ["/nowhere", "stop", "1"], "no such folder: /nowhere"),
        ("serve", ["/nowhere"], "RUN: /nowhere: no such folder"),
        ("serve", ["RUN", "--model", "/nowhere"], "model.name_or_path: no folder at '/nowhere'"),
    ],
)
def test_a_mistake_of_the_other_commands(name: str, arguments: list[str], line: str, tmp_path: Path) -> None:
    run = str(run_of(tmp_path))
    typed = [run if word == "RUN" else word for word in arguments]
    done = subprocess.run(command(name, *typed), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert line in "\n".join(said(done.stderr))
    assert not imported(done.stderr) & HEAVY


def until_torch(arguments: list[str], folder: Path) -> Iterator[str]:
    """What a run says before it imports torch, line by line; it is ended there."""
    started = subprocess.Popen(
        command("run", *arguments), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert started.stderr is not None
    try:
        for line in started.stderr:
            if (match := IMPORT_LINE.match(line)) and match[1].partition(".")[0] in HEAVY:
                return
            if not line.startswith("import time:"):
                yield line.rstrip("\n")
    finally:
        started.kill()
        started.communicate()
    pytest.fail("it never imported torch")


def test_a_run_says_first_what_it_will_do(tmp_path: Path) -> None:
    lines = list(until_torch(["hydra.run.dir=here", "adapter.dim=3"], tmp_path))
    assert lines == [
        "run: LoRA dim=3 on embedded:tiny_gptj in int8, Adam8bit lr=0.001",
        "from embedded:sample/train.jsonl to here",
    ]
    assert max(map(len, lines)) <= 80
    assert "run: LoRA dim=3" in (tmp_path / "here" / "run.log").read_text()


def test_a_sweep_says_first_what_it_sweeps(tmp_path: Path) -> None:
    lines = list(
        until_torch(["-m", "hydra.sweep.dir=here", "adapter.dim=2,3", "optimizer.lr=1e-4,1e-3"], tmp_path)
    )
    assert lines == [
        "sweep over adapter.dim=2,3 optimizer.lr=1e-4,1e-3: checking each combination",
        "sweep of 4 runs, in 1 group that trains together: here",
        "4 runs: LoRA dim=2,3 on embedded:tiny_gptj in int8, Adam8bit lr=0.0001,0.001",
        "from embedded:sample/train.jsonl",
    ]


def test_a_plan_and_several_processes_say_so_too(tmp_path: Path) -> None:
    plan = list(until_torch(["plan=true"], tmp_path))
    assert plan == [
        "plan: LoRA dim=2 on embedded:tiny_gptj in int8, Adam8bit lr=0.001",
        "from embedded:sample/train.jsonl",
    ]
    several = list(until_torch(["trainer.processes=2", "hydra.run.dir=here"], tmp_path))
    assert several[0] == "run: LoRA dim=2 on embedded:tiny_gptj in int8, Adam8bit lr=0.001"


def test_a_broken_package_is_a_mistake_all_the_same(tmp_path: Path) -> None:
    """Its source is plain to read, and only importing it tells; that comes before a model is loaded."""
    optim = tmp_path / "bitsandbytes" / "optim.py"
    optim.parent.mkdir()
    (optim.parent / "__init__.py").write_text("raise ImportError('libcudart.so.9: not found')\n")
    optim.write_text(
        "import torch\nclass Adam8bit(torch.optim.Optimizer):\n"
        "    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0): ...\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "summarizer.run", "hydra.run.dir=here"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 2
    first, *_, count, mistake = done.stderr.splitlines()
    assert first.startswith("run: LoRA dim=2 on ")
    assert (count, mistake) == (
        "1 mistake:",
        "  optimizer._target_: 'bitsandbytes.optim.Adam8bit' cannot be imported: libcudart.so.9: not found",
    )
    assert not (tmp_path / "here").exists()


def test_hydra_is_asked_wherever_more_than_help_is_typed() -> None:
    assert asks_for_help(["--help"])
    assert asks_for_help(["adapter.dim=2", "-h"])
    for arguments in (
        ["--help", "--resolve"],
        ["--hydra-help"],
        ["--cfg", "job"],
        ["-m", "--help"],
        [],
        ["x=1"],
    ):
        assert not asks_for_help(arguments)


def test_a_run_at_a_terminal_of_80_columns(tmp_path: Path) -> None:
    """Its first words, then a bar until torch is there; here it is stopped in its place."""
    script = f"""
import os, sys, time
os.chdir({str(tmp_path)!r})
class Stopped:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("torch."):
            time.sleep(1.5)
            raise KeyboardInterrupt
sys.meta_path.insert(0, Stopped())
sys.argv = ["run", "hydra.run.dir=here"]
from summarizer.run import main
main()
"""
    screen, code = run_in_terminal(script, width=80, height=24)
    lines = [line.rstrip() for line in screen.lines if line.strip()]
    assert code == 130
    assert lines[:2] == [
        "run: LoRA dim=2 on embedded:tiny_gptj in int8, Adam8bit lr=0.001",
        "from embedded:sample/train.jsonl to here",
    ]
    assert len(lines) == 3
    assert lines[2].startswith("importing torch, transformers ")
    assert lines[2].endswith("0:00:01")
    assert len(lines[2]) <= 80
    assert not screen.cursor_hidden


NOT_BEFORE_THE_FIRST_STEP = (
    "torch._dynamo",
    "torch._inductor",
    "transformers.modeling_utils",
    *("datasets", "matplotlib", "peft", "scipy", "sklearn", "sympy", "nltk", "wandb"),
)
"""Each takes a second or more to import; the small run's words come by what is left, and wandb after a step."""


@pytest.mark.slow
def test_a_first_step_and_a_summary_import_what_they_need(tmp_path: Path) -> None:
    script = """
import sys
from summarizer.tracking.startup import Stopwatch
describe = Stopwatch.describe
def seen(watch):
    print("first step:", *sys.modules, file=sys.stderr)
    return describe(watch)
Stopwatch.describe = seen
sys.argv[1:] = ["trainer.max_steps=1", "data.rows.validation=2", "hydra.run.dir=run"]
from summarizer.run import command
sys.exit(command(sys.argv[1:]))
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    (line,) = (line for line in ran.stderr.splitlines() if line.startswith("first step:"))
    modules = set(line.split())
    assert {"torch", "bitsandbytes"} <= modules
    assert not modules & set(NOT_BEFORE_THE_FIRST_STEP)
    article = tmp_path / "article.txt"
    article.write_text("The council of Harrowmere voted on Tuesday to close the car park at Tanner's Row.")
    done = subprocess.run(
        command("summarize", "run", str(article)), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip()
    modules = {match[1] for match in IMPORT_LINE.finditer(done.stderr)}
    assert "torch" in modules
    assert not modules & {*NOT_BEFORE_THE_FIRST_STEP, "bitsandbytes"}
