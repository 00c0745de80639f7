"""Record what a tree of this project computes, and how fast, by its public commands; compare records.

    python experiments/same_numbers/record.py record --tree . --model SMOLLM2 --rows CNN_DAILYMAIL --out before.json
    python experiments/same_numbers/record.py compare before.json after.json
    python experiments/same_numbers/record.py speed --tree before=../before --tree after=. --model ... --rows ...

Everything runs in fp32 on the CPU, so that equal arithmetic gives equal bits.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import itertools
import json
import math
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open

REPOSITORY = Path(__file__).parents[2]
FP32 = ["trainer.precision=fp32", "trainer.device=cpu"]
SWEEP = ["-m", "adapter.dim=2,8", "optimizer.lr=1e-4,1e-3", "trainer.max_steps=60", "evaluation.rows=8"]
CHECKPOINT = "step-00000050"


# ---- running a tree's commands ----------------------------------------------------------------------------------


class Tree:
    """One checkout of the project, and a folder in which its commands leave what they make."""

    def __init__(self, folder: Path, work: Path) -> None:
        self.folder, self.work = folder.resolve(), work
        self.environment = os.environ | {
            "PYTHONPATH": str(self.folder),
            "SUMMARIZER_CACHE": str(work / "cache"),
            "WANDB_MODE": "offline",
            "CUDA_VISIBLE_DEVICES": "",
        }

    def start(self, command: str, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", f"summarizer.{command}", *arguments],
            cwd=self.work,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def call(self, command: str, *arguments: str) -> str:
        """A command's standard output. Raises RuntimeError with its errors where it does not exit with 0."""
        process = self.start(command, *arguments)
        output, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(
                f"{command} {arguments}: exit code {process.returncode}\n{errors.decode()[-4000:]}"
            )
        return output.decode()

    def timed(self, command: str, *arguments: str) -> tuple[float, float]:
        """Wall and CPU seconds of a command."""
        used, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        self.call(command, *arguments)
        wall_s, now = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        return wall_s, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime


def write_rows(folder: Path, source: Path, *, train: int, validation: int, articles: int) -> None:
    """The first rows of CNN/DailyMail as small files, and some articles to summarize."""
    for split, count in (("train", train), ("validation", validation)):
        with gzip.open(source / f"{split}.jsonl.gz", "rt") as lines:
            chosen = list(itertools.islice(lines, count))
        (folder / f"{split}.jsonl").write_text("".join(chosen))
    (folder / "articles.jsonl").write_text("".join(chosen[:articles]))


def smollm2_run(folder: str, model: Path, *, steps: int) -> list[str]:
    return [
        f"hydra.run.dir={folder}",
        *("model=smollm2", f"model.name_or_path={model.resolve()}", "prompt=tldr", "data=files"),
        *("data.train=train.jsonl", "data.validation=validation.jsonl", "evaluation.rows=8"),
        *("evaluation.loss_rows=8", f"trainer.max_steps={steps}", *FP32),
    ]


# ---- what a run leaves -----------------------------------------------------------------------------------------


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every tensor in a folder's safetensors files, by name."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - the file is no mapping
                found[name] = hashlib.sha256(tensors.get_tensor(name).tobytes()).hexdigest()
    if not found:
        raise RuntimeError(f"no tensors in {folder}")
    return found


def of_run(folder: Path) -> dict[str, Any]:
    """A run's losses, gradient norms, validation figures, final scores, texts and adapter."""
    kept = ("train/loss", "train/grad_norm", "val/")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    texts = {
        path.name: [json.loads(line)["prediction"] for line in path.read_text().splitlines()]
        for path in sorted((folder / "predictions").glob("*.jsonl"))
    }
    scores = {
        name: summary.get(name) for name in ("status", "steps", "val_loss", "rouge", "baseline", "base")
    }
    metrics = [
        {name: line[name] for name in line if name == "step" or name.startswith(kept)} for line in lines
    ]
    return {"metrics": metrics, "scores": scores, "texts": texts, "adapter": digests(folder / "adapter")}


def numbers(value: Any) -> Any:
    """What is numbers in a JSON value, at its place; words may be worded otherwise."""
    if isinstance(value, dict):
        return {name: numbers(part) for name, part in value.items()}
    if isinstance(value, list):
        return [numbers(part) for part in value]
    return None if isinstance(value, str) else value


def killed_and_resumed(tree: Tree) -> dict[str, Any]:
    """The default run, killed by SIGKILL once its checkpoint of step 50 is whole, then resumed."""
    process = tree.start("run", "hydra.run.dir=killed", "trainer.checkpoint_every_steps=25", *FP32)
    while not (tree.work / "killed" / "checkpoints" / CHECKPOINT).exists():
        if process.poll() is not None:
            raise RuntimeError(f"ended before it was killed: {process.communicate()[1].decode()[-4000:]}")
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    tree.call("run", "resume=killed")
    return of_run(tree.work / "killed")


# ---- the three commands ------------------------------------------------------------------------------------------


def record(tree: Tree, model: Path) -> dict[str, Any]:
    """Everything that must stay: each part is one public command on the embedded model or on SmolLM2."""
    work, found = tree.work, {}

    def note(name: str, value: Any) -> None:
        found[name] = value
        print(f"recorded {name}", file=sys.stderr, flush=True)

    tree.call("run", "hydra.run.dir=default", *FP32)
    note("default run", of_run(work / "default"))
    note("killed and resumed", killed_and_resumed(tree))
    tree.call("run", *SWEEP, "hydra.sweep.dir=sweep", *FP32)
    note("fused sweep", {str(number): of_run(work / "sweep" / str(number)) for number in range(4)})
    tree.call("run", *smollm2_run("smollm2", model, steps=24))
    note("SmolLM2", of_run(work / "smollm2"))
    tree.call("evaluate", "smollm2", "--rows", "8", "--precision", "fp32", "--output", "scored")
    scores = json.loads((work / "scored" / "scores.json").read_text())
    note(
        "evaluate", {name: numbers(part) for name, part in scores.items() if name not in ("git", "versions")}
    )
    for name, flags in (("greedy", []), ("beam 4", ["--beams", "4"])):
        flags = [*flags, "--precision", "fp32", "--output", f"{name}.jsonl"]
        tree.call("summarize", "smollm2", "articles.jsonl", *flags)
        lines = (work / f"{name}.jsonl").read_text().splitlines()
        note(f"summarize {name}", [json.loads(line)["prediction"] for line in lines])
    tree.call("export", "smollm2", "--format", "merged", "--dtype", "fp32", "--output", "merged")
    note("export merged", digests(work / "merged"))
    return found


def speeds(tree: Tree, model: Path, turn: int) -> dict[str, float]:
    """Seconds, less being better: of a training step, an article read, a token written, the default run's CPU."""
    name = f"speed-{turn}"
    tree.call("run", *smollm2_run(name, model, steps=24), "tracking=none", "evaluation=loss_only")
    lines = [json.loads(line) for line in (tree.work / name / "metrics.jsonl").read_text().splitlines()]
    rates = [line["train/tokens_per_s"] for line in lines if "train/tokens_per_s" in line]
    answer = ["summarize", name, "articles.jsonl", "--precision", "fp32", "--batch-size", "1"]
    walls = []
    for tokens in (1, 97):
        flags = ["--min-new-tokens", str(tokens), "--max-new-tokens", str(tokens)]
        walls.append(tree.timed(*answer, *flags, "--output", f"{name}-{tokens}.jsonl")[0])
    articles = len((tree.work / "articles.jsonl").read_text().splitlines())
    cpu_s = tree.timed("run", f"hydra.run.dir={name}-default", *FP32)[1]
    return {
        "training, s per 1,000 tokens": 1000 / statistics.median(rates[4:]),
        "summarize with 1 token, s an article": walls[0] / articles,
        "decode, ms a token": 1000 * (walls[1] - walls[0]) / articles / 96,
        "default run, CPU s": cpu_s,
    }


def differences(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every leaf that differs, by its path."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            yield from differences(before.get(name), after.get(name), f"{path}/{name}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (left, right) in enumerate(zip(before, after, strict=True)):
            yield from differences(left, right, f"{path}/{number}")
    elif before != after:
        yield path, before, after


def is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and " " not in value


def compare(before: Path, after: Path, rounding: float) -> int:
    """Print what differs, part by part. Returns 1 where a number differs by more than rounding, or a text."""
    left, right = json.loads(before.read_text()), json.loads(after.read_text())
    wrong = False
    for part in left:
        found = list(differences(left[part], right.get(part)))
        numbers = [(p, a, b) for p, a, b in found if isinstance(a, float) and isinstance(b, float)]
        # A digest tells only that bits differ; what they do is in the losses and texts.
        bits = [p for p, a, b in found if is_digest(a) and is_digest(b)]
        others = [(p, a, b) for p, a, b in found if (p, a, b) not in numbers and p not in bits]
        worst = max((abs(a - b) / max(abs(a), 1e-12) for _, a, b in numbers), default=0.0)
        failed = bool(others) or not math.isfinite(worst) or worst > rounding
        wrong |= failed
        verdict = (
            "same bits"
            if not found
            else f"{len(numbers)} numbers to {worst:.1e}, {len(bits)} tensors in bits"
        )
        print(f"{part:20} {'DIFFERS: ' if failed else ''}{verdict}")
        for p, a, b in others[:6]:
            print(f"    {p}: {str(a)[:100]!r} -> {str(b)[:100]!r}")
    return int(wrong)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("record", "speed"):
        command = commands.add_parser(name)
        command.add_argument(
            "--tree", action="append", required=True, help="a checkout, or for speed LABEL=CHECKOUT"
        )
        command.add_argument("--model", type=Path, required=True, help="the folder of SmolLM2-135M-Instruct")
        command.add_argument("--rows", type=Path, required=True, help="folder of {train,validation}.jsonl.gz")
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--turns", type=int, default=3, help="of speed: how often the trees alternate")
    command = commands.add_parser("compare")
    command.add_argument("before", type=Path)
    command.add_argument("after", type=Path)
    command.add_argument("--rounding", type=float, default=1e-5, help="relative; 0 asks for the same bits")
    arguments = parser.parse_args()
    if arguments.command == "compare":
        return compare(arguments.before, arguments.after, arguments.rounding)
    work = Path(tempfile.mkdtemp(prefix="same-numbers-"))
    try:
        found = measured(arguments, work)
    finally:
        shutil.rmtree(work)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return 0


def measured(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    trees = {}
    for named in arguments.tree:
        label, _, folder = named.rpartition("=")
        (place := work / (label or "tree")).mkdir()
        write_rows(place, arguments.rows, train=64, validation=16, articles=8)
        trees[label or "tree"] = Tree(Path(folder), place)
    if arguments.command == "record":
        (tree,) = trees.values()
        return record(tree, arguments.model)
    found: dict[str, list[dict[str, float]]] = {label: [] for label in trees}
    for turn in range(arguments.turns):
        for label, tree in trees.items():
            found[label].append(speeds(tree, arguments.model, turn))
            print(label, {name: round(value, 3) for name, value in found[label][-1].items()}, flush=True)
    first, *others = found
    for label in others:
        for name in found[first][0]:
            # The least of each: what else runs on the machine only ever adds.
            before, after = (min(turn[name] for turn in found[tree]) for tree in (first, label))
            print(f"{name}: {before:.3f} {first}, {after:.3f} {label}: speed {before / after:.3f}")
    return found


if __name__ == "__main__":
    sys.exit(main())
