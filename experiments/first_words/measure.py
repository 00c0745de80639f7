"""How soon each command answers: user CPU seconds and wall, with what it imports beside them.

    python experiments/first_words/measure.py --out experiments/first_words/results/after
    python experiments/first_words/measure.py --checkout ../earlier --out experiments/first_words/results/before
    python experiments/first_words/measure.py --quick

Each command is a process of its own, started as a person starts it. One that ends is measured to its end; one that
would train is measured to its first line, and ended there.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES_NAMED = 4
"""Of a command's imports, those that cost most."""
IMPORT_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")
"""Of `-X importtime`: microseconds of the module itself, without what it imports, and its name."""
HEAVY = ("torch", "transformers", "bitsandbytes", "datasets", "wandb", "matplotlib")


@dataclass(frozen=True)
class Case:
    """A command, and what is asked of it."""

    name: str
    arguments: tuple[str, ...]
    """After `python`."""
    aim_s: float | None
    """User CPU seconds; of a run, wall seconds until its first line. None is measured only to compare with."""
    code: int | None = 0
    """Its exit code; None: it would go on, and is measured until its first line."""
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Once:
    user_s: float
    wall_s: float
    first_line: str


@dataclass(frozen=True)
class Measured:
    case: Case
    user_s: list[float]
    wall_s: list[float]
    first_line: str
    imports_s: dict[str, float]
    """By top-level package, most first."""
    heavy: list[str]
    """Of HEAVY, what it imported."""


def cases(run: Path) -> Iterator[Case]:
    """run: the folder of a trained run, as far as a check of the command line reads it."""

    def of(command: str, *arguments: str) -> tuple[str, ...]:
        return "-m", f"summarizer.{command}", *arguments

    yield Case("python -c pass", ("-c", "pass"), None)
    yield Case("import pydantic", ("-c", "import pydantic"), None)
    yield Case("import hydra", ("-c", "import hydra"), None)
    yield Case("import torch", ("-c", "import torch"), None)
    yield Case("import bitsandbytes", ("-c", "import bitsandbytes"), None)
    yield Case("Hydra alone --help", (str(Path(__file__).with_name("hydra_alone.py")), "--help"), None)
    yield Case("run --help", of("run", "--help"), 1)
    yield Case("run --cfg job", of("run", "--cfg", "job"), 1)
    yield Case("run --info", of("run", "--info"), 1)
    query = (("COMP_LINE", "summarizer.run optimizer="),)
    yield Case("tab completion", of("run", "-sc", "query=bash"), 1, environment=query)
    mistakes = {
        "two wrong values": ("adapter.dim=eight", "optimizer.lr=-1"),
        "an unknown key": ("+foo=3",),
        "an unknown argument": ("+optimizer.betta=3",),
        "an unknown option": ("optimizer=adam9bit",),
        "a wrong path": ("data.train=/nowhere/x.jsonl",),
        "a wrong adapter folder": ("adapter.start_from=/nowhere",),
        "a sweep with a mistake": ("-m", "adapter.dim=2,eight"),
        "flags that exclude each other": ("-m", "--cfg", "job"),
    }
    for name, arguments in mistakes.items():
        yield Case(f"run, {name}", of("run", *arguments), 3, 2)
    for command in ("summarize", "evaluate", "export", "compare", "serve"):
        yield Case(f"{command} --help", of(command, "--help"), 1)
        yield Case(f"{command}, an unknown flag", of(command, str(run), "--mdoel", "x"), 1, 2)
        yield Case(f"{command}, no such folder", of(command, "/nowhere"), 1, 2)
    yield Case("summarize, a wrong number", of("summarize", str(run), str(run), "--beams", "x"), 1, 2)
    yield Case("summarize, a wrong batch", of("summarize", str(run), str(run), "--batch-size", "x"), 1, 2)
    yield Case("evaluate, a wrong number", of("evaluate", str(run), "--rows", "x"), 1, 2)
    yield Case("export, no such format", of("export", str(run), "--format", "x"), 1, 2)
    yield Case("serve, a wrong model", of("serve", str(run), "--model", "/nowhere"), 1, 2)
    yield Case("a run, to its first line", of("run"), 1, None)
    yield Case(
        "a sweep of 12, to its first line",
        of("run", "-m", "adapter.dim=1,2,3,4", "optimizer.lr=1e-4,2e-4,3e-4"),
        1,
        None,
    )


def once(case: Case, checkout: Path) -> Once:
    """One process of it. Raises RuntimeError where it ends in another way than it should."""
    with tempfile.TemporaryDirectory() as folder:
        start_s = time.perf_counter()
        started = subprocess.Popen(
            [sys.executable, *case.arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(checkout), **dict(case.environment)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert started.stdout is not None
        first_line = started.stdout.readline().rstrip("\n")
        if case.code is None:
            wall_s = time.perf_counter() - start_s
            user_s = psutil.Process(started.pid).cpu_times().user
            started.kill()
            started.communicate()
            return Once(user_s, wall_s, first_line)
        rest = started.stdout.read()
        _, status, usage = os.wait4(started.pid, 0)
        wall_s = time.perf_counter() - start_s
        started.returncode = os.waitstatus_to_exitcode(status)
        started.stdout.close()
        if started.returncode != case.code:
            raise RuntimeError(f"{case.name} ended with {started.returncode}: {first_line}\n{rest}")
        return Once(usage.ru_utime, wall_s, first_line)


def imports(case: Case, checkout: Path) -> dict[str, float]:
    """Seconds that a command's imports take, by top-level package; of one that would go on, to its first words."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-X", "importtime", *case.arguments]
        environment = {**os.environ, "PYTHONPATH": str(checkout), **dict(case.environment)}
        started = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert started.stderr is not None
        found: Counter[str] = Counter()
        for line in started.stderr:
            if match := IMPORT_LINE.match(line):
                found[match[2].partition(".")[0]] += int(match[1])
            elif case.code is None and not line.startswith("import time:"):
                break
        started.kill()
        started.communicate()
    return {package: micros / 1e6 for package, micros in found.most_common()}


def measured(case: Case, checkout: Path, repeats: int) -> Measured:
    runs = [once(case, checkout) for _ in range(repeats)]
    by_package = imports(case, checkout)
    return Measured(
        case,
        [run.user_s for run in runs],
        [run.wall_s for run in runs],
        runs[0].first_line,
        by_package,
        [package for package in HEAVY if package in by_package],
    )


@contextmanager
def trained_run() -> Iterator[Path]:
    """A run folder as far as a command line is checked against it: its config, and a place for its adapter."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
            config = compose("config")
        (folder / ".hydra").mkdir()
        (folder / "adapter").mkdir()
        OmegaConf.save(config, folder / ".hydra" / "config.yaml")
        OmegaConf.save([], folder / ".hydra" / "overrides.yaml")
        yield folder


def table(results: Sequence[Measured]) -> str:
    """Markdown: the median of each command, beside what is asked of it."""
    lines = [
        "| command | user CPU (s) | wall (s) | aim (s) | imports that cost most (s) | heavy ones |",
        "|---|---|---|---|---|---|",
    ]
    for one in results:
        aim = (
            "" if one.case.aim_s is None else f"{one.case.aim_s:g}{' wall' if one.case.code is None else ''}"
        )
        most = ", ".join(
            f"{name} {spent:.2f}" for name, spent in list(one.imports_s.items())[:PACKAGES_NAMED]
        )
        user_s, wall_s = statistics.median(one.user_s), statistics.median(one.wall_s)
        lines.append(
            f"| {one.case.name} | {user_s:.2f} | {wall_s:.2f} | {aim} | {most} | {', '.join(one.heavy)} |"
        )
    return "\n".join(lines) + "\n"


def missed(results: Sequence[Measured]) -> list[str]:
    """The commands that need longer than is asked of them."""
    lines = []
    for one in results:
        spent = statistics.median(one.wall_s if one.case.code is None else one.user_s)
        if one.case.aim_s is not None and spent > one.case.aim_s:
            lines.append(f"{one.case.name}: {spent:.2f} s, asked for {one.case.aim_s:g} s")
    return lines


def environment() -> Mapping[str, object]:
    names = ("torch", "transformers", "bitsandbytes", "hydra-core", "omegaconf", "pydantic", "rich")
    plugins = ("hydra-optuna-sweeper", "hydra-submitit-launcher", "hydra-joblib-launcher")
    known = [name for name in plugins if importlib.util.find_spec(f"hydra_plugins.{name.replace('-', '_')}")]
    return {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in (*names, *known)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--checkout", type=Path, default=REPOSITORY, help="whose commands; default: this one's"
    )
    parser.add_argument("--repeats", type=int, default=5, help="processes of each command (default: 5)")
    parser.add_argument("--only", metavar="TEXT", default="", help="commands whose name has this in it")
    parser.add_argument("--quick", action="store_true", help="one process of each: a check, no measurement")
    parser.add_argument("--out", type=Path, metavar="NAME", help="write NAME.json and NAME.md")
    options = parser.parse_args()
    results = []
    with trained_run() as run:
        for case in cases(run):
            if options.only in case.name:
                results.append(
                    measured(case, options.checkout.resolve(), 1 if options.quick else options.repeats)
                )
                print(table(results).splitlines()[-1], flush=True)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        plain = [
            {**asdict(one), "case": {"name": one.case.name, "aim_s": one.case.aim_s, "code": one.case.code}}
            for one in results
        ]
        content = {"environment": environment(), "commands": plain}
        options.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        options.out.with_suffix(".md").write_text(table(results), encoding="utf-8")
    print("\n".join(["", *missed(results)]) or "")


if __name__ == "__main__":
    main()
