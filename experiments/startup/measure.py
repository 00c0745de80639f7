"""How soon a run takes its first step and `summarize` writes its first word: wall and CPU seconds, beside a peer.

    python experiments/startup/measure.py --model outputs/smollm2 --out experiments/startup/results/after
    python experiments/startup/measure.py --checkout ../earlier --out experiments/startup/results/before
    python experiments/startup/measure.py --quick

Each contender is a process of its own, started as a person starts it and ended once it has come so far. They take
turns, and of each the least of all turns stands: what else the machine did can only add to it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
PEER = Path(__file__).with_name("peer.py")
PART = re.compile(r"([a-z ]+) (\d+\.\d) s")
"""Of the line that says where the start-up took its time."""
EMBEDDED = "embedded"
LONGEST_S = 600
"""That a contender may take to come so far."""


@dataclass(frozen=True)
class Contender:
    name: str
    command: tuple[str, ...]
    """After `python`."""
    lines: tuple[str, ...]
    """Words of the lines of its log that are waited for; none: the first word on its standard output."""


@dataclass(frozen=True)
class Reached:
    """When a process said so, from its start."""

    wall_s: float
    cpu_s: float
    """User and system, of all its threads."""
    line: str


def contenders(model: str, work: Path, base: Path, article: Path, rows: Sequence[str]) -> Iterator[Contender]:
    """The four of one model.  base: its dense checkpoint.  rows: overrides of the rows that it is trained on."""
    of = (
        []
        if model == EMBEDDED
        else ["model=hf", f"model.name_or_path={base}", "prompt=tldr", "prompt.completion_token=null"]
    )
    steps = ("step 0, the base model", "step 1: ")
    run = work / f"trained-{model}"
    own = ["-m", "summarizer.run", *of, *rows, "trainer.max_steps=1", "trainer.log_every_steps=1"]
    yield Contender(
        f"{model}: run", (*own, f"hydra.run.dir={work}/run-{model}-{time.time_ns()}"), ("start-up: ", *steps)
    )
    yield Contender(f"{model}: peer's run", (str(PEER), "step", str(base), str(article)), ("start-up: ",))
    yield Contender(
        f"{model}: summarize",
        ("-m", "summarizer.summarize", str(run), str(article), "--max-new-tokens", "8"),
        (),
    )
    yield Contender(f"{model}: peer's summary", (str(PEER), "summary", str(base), str(article)), ())


def environment(checkout: Path) -> dict[str, str]:
    """As a person has it, whose Python keeps the bytecode of what it imported."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return inherited | {"PYTHONPATH": str(checkout)}


def once(contender: Contender, checkout: Path) -> list[Reached]:
    """One process of it. Raises RuntimeError where it ends before it has come so far."""
    begun_s = time.perf_counter()
    log, out = (
        (subprocess.PIPE, subprocess.STDOUT) if contender.lines else (subprocess.PIPE, subprocess.DEVNULL)
    )
    started = subprocess.Popen(
        [sys.executable, *contender.command],
        cwd=checkout,
        env=environment(checkout),
        stdout=log,
        stderr=out,
        start_new_session=True,
    )
    assert started.stdout is not None
    reached: list[Reached] = []
    said: list[str] = []
    try:
        while len(reached) < max(len(contender.lines), 1):
            text = started.stdout.readline() if contender.lines else started.stdout.read(1)
            wall_s, line = time.perf_counter() - begun_s, text.decode(errors="replace").strip()
            said.append(line)
            if not text or wall_s > LONGEST_S:
                raise RuntimeError(f"{contender.name} came to {len(reached)}: " + "\n".join(said[-20:]))
            if not contender.lines or any(words in line for words in contender.lines):
                spent = psutil.Process(started.pid).cpu_times()
                reached.append(Reached(wall_s, spent.user + spent.system, line))
    finally:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
    return reached


def least(turns: Sequence[Sequence[Reached]]) -> list[Reached]:
    """Of each point the turn with the least CPU seconds, and the least wall seconds of all."""
    return [
        Reached(min(one.wall_s for one in point), best.cpu_s, best.line)
        for point in zip(*turns, strict=True)
        for best in [min(point, key=lambda one: one.cpu_s)]
    ]


def prepare(model: str, base: Path | None, work: Path, rows: Sequence[str], checkout: Path) -> Path:
    """Fill the caches by a run of one step, which `summarize` takes, too. Returns the model's dense checkpoint."""
    run = work / f"trained-{model}"
    of = [] if base is None else ["model=hf", f"model.name_or_path={base}"]
    more = [] if base is None else ["prompt=tldr", "prompt.completion_token=null"]
    small = ["trainer.max_steps=1", "evaluation.bootstrap_samples=10", f"hydra.run.dir={run}"]
    _call(["-m", "summarizer.run", *of, *more, *rows, *small], checkout)
    if base is None:
        base = work / "dense"
        _call(["-m", "summarizer.export", str(run), "--format", "merged", "--output", str(base)], checkout)
    return base


def _call(arguments: Sequence[str], checkout: Path) -> None:
    command, env = [sys.executable, *arguments], environment(checkout)
    subprocess.run(command, cwd=checkout, env=env, check=True, stdout=subprocess.DEVNULL)


def table(results: dict[str, list[Reached]]) -> str:
    """Markdown: each contender's points, and the parts of its start that its log names, in wall seconds."""
    lines = [
        "| contender | to | CPU (s) | wall (s) | parts (wall, of the turn with the least CPU) |",
        "|---|---|---|---|---|",
    ]
    for name, points in results.items():
        for point in points:
            is_start = "start-up: " in point.line
            to = "first step" if is_start else "first word" if len(points) == 1 else "base evaluated"
            to = "step 1 evaluated" if "step 1: " in point.line else to
            found = PART.findall(point.line.partition("start-up: ")[2].partition(";")[0]) if is_start else []
            parts = ", ".join(f"{part.strip()} {seconds}" for part, seconds in found)
            lines.append(f"| {name} | {to} | {point.cpu_s:.1f} | {point.wall_s:.1f} | {parts} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--model", type=Path, help="the folder of a Llama-like model, beside the embedded one"
    )
    parser.add_argument(
        "--checkout", type=Path, default=REPOSITORY, help="whose commands; default: this one's"
    )
    parser.add_argument("--turns", type=int, default=3, help="processes of each contender (default: 3)")
    parser.add_argument(
        "--quick", action="store_true", help="one turn of ours alone: a check, no measurement"
    )
    parser.add_argument("--out", type=Path, metavar="NAME", help="write NAME.json and NAME.md")
    options = parser.parse_args()
    checkout = options.checkout.resolve()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        article = work / "article.txt"
        sample = REPOSITORY / "summarizer" / "data" / "sample" / "validation.jsonl"
        article.write_text(json.loads(sample.read_text(encoding="utf-8").splitlines()[0])["article"], "utf-8")
        models = {EMBEDDED: None} | ({} if options.model is None else {"smollm2": options.model.resolve()})
        rows = {EMBEDDED: [], "smollm2": ["data.rows.train=40", "data.rows.validation=8"]}
        bases = {name: prepare(name, base, work, rows[name], checkout) for name, base in models.items()}
        turns: dict[str, list[list[Reached]]] = {}
        for _ in range(1 if options.quick else options.turns):
            for name in models:
                for contender in contenders(name, work, bases[name], article, rows[name]):
                    if not (options.quick and "peer" in contender.name):
                        turns.setdefault(contender.name, []).append(once(contender, checkout))
            print(table({name: least(done) for name, done in turns.items()}), flush=True)
    if options.out is not None:
        packages = ("torch", "transformers", "peft", "bitsandbytes", "wandb")
        about = {
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "load": os.getloadavg(),
            "versions": {name: version(name) for name in packages},
        }
        seen = {name: [[vars(point) for point in once] for once in done] for name, done in turns.items()}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"about": about, "turns": seen}, indent=1)
        options.out.with_suffix(".json").write_text(content + "\n", encoding="utf-8")
        found = table({name: least(done) for name, done in turns.items()})
        options.out.with_suffix(".md").write_text(found, encoding="utf-8")


if __name__ == "__main__":
    main()
