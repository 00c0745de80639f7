"""Training throughput: this project beside transformers + peft + bitsandbytes, in turns, in one run.

    python experiments/training_throughput/measure.py --quick                     the CPU, small, under a minute
    python experiments/training_throughput/measure.py --out FOLDER                a GPU: GPT-J-6B's true shapes
    python experiments/training_throughput/measure.py --model FOLDER --rows FILE  a real model on real rows

Each contender is a process that loads once; they take turns of a few steps, so that all see the machine in the same
state. All train on the same tokens, from the same adapter values, and their losses are compared.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from report import Row, table, write
from turns import measured, rounds
from worker import ContenderFailed, Worker
from workload import EMBEDDED, GPTJ_6B, Contender, Point, Setting, build_workload

from summarizer.console.progress import ConsoleHandler, bar
from summarizer.errors import ConfigError
from summarizer.tracking.environment import git_state, versions

log = logging.getLogger("training_throughput")


def main() -> None:
    """Exit code 0; 1 where a loss disagrees or nothing of this project could be measured; 2 for a mistake."""
    arguments = parse()
    setting, points, contenders = plan(arguments)
    peers = [str(contender) for contender in contenders if contender.side == "peer"]
    about = describe(arguments)
    rows: list[Row] = []
    turns = sum(len(own) * len(chosen) for own, chosen in rounds(points, contenders, arguments.together))
    with bar("turns", turns * (arguments.turns + 1)) as progress:
        for found, device in measured(setting, points, contenders, arguments, progress):
            rows += found
            about["device"] = device or about.get("device")
            rows.sort(key=lambda row: place(row, points, contenders))
            if arguments.out:
                write(rows, peers, about, arguments.out)
    print(table(rows, peers))
    disagreeing = [row for row in rows if row.agrees is False]
    for row in disagreeing:
        log.error("%s: its loss or gradient is not the reference's", row.contender)
    if disagreeing or not any(row.tokens_per_s for row in rows if row.contender.startswith("ours")):
        sys.exit(1)


def main_anatomy() -> None:
    """What one step of each contender is made of, at the first point."""
    from anatomy import anatomy_table

    arguments = parse()
    setting, (point, *_), contenders = plan(arguments)
    counts: dict[str, dict[str, float]] = {}
    problems: dict[str, str] = {}
    with bar("contenders", len(contenders)) as progress:
        for contender in contenders:
            progress.note(str(contender))
            worker = Worker(setting, contender, point)
            try:
                worker.wait_until_started()
                worker.begin(point, 2)
                counts[str(contender)] = worker.anatomy()
            except ContenderFailed as error:
                problems[str(contender)] = str(error)
            worker.close()
            progress.advance()
    text = f"{setting.model}, {point}\n\n{anatomy_table(counts, problems)}\n"
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        content = {"about": describe(arguments), "point": str(point), "counts": counts, "problems": problems}
        (arguments.out / "anatomy.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (arguments.out / "anatomy.md").write_text(text, encoding="utf-8")
    print(text)
    if problems:
        sys.exit(1)


def place(row: Row, points: Sequence[Point], contenders: Sequence[Contender]) -> tuple[int, int]:
    """Where a row stands in the table."""
    names = [str(contender) for contender in contenders]
    return points.index(Point(row.batch, row.length, row.dim)), names.index(row.contender)


def grid(batches: Sequence[int], lengths: Sequence[int], dims: Sequence[int], *, full: bool) -> list[Point]:
    """All combinations, or the center (first batch and dim, and 1024 tokens or the first length) and what differs
    from it in one respect: the center first."""
    length = 1024 if 1024 in lengths else lengths[0]
    if full:
        points = [Point(b, t, r) for r in dims for b in batches for t in lengths]
    else:
        points = [Point(batches[0], t, dims[0]) for t in lengths]
        points += [Point(b, length, dims[0]) for b in batches[1:]]
        points += [Point(batches[0], length, r) for r in dims[1:]]
    center = Point(batches[0], length, dims[0])
    return sorted(dict.fromkeys(points), key=lambda point: point != center)


def plan(arguments: argparse.Namespace) -> tuple[Setting, list[Point], list[Contender]]:
    """What to measure. Ends the command with exit code 2 on a mistake, before anything loads."""
    contenders = [Contender("ours", name) for name in dict.fromkeys(arguments.formats)]
    contenders += [Contender("peer", name) for name in dict.fromkeys(arguments.peers)]
    if problems := [problem for contender in contenders if (problem := contender.problem())]:
        arguments.parser.error("; ".join(problems))
    setting = Setting(
        arguments.model,
        arguments.layers,
        arguments.rows,
        arguments.summary_tokens,
        arguments.device,
        arguments.seed,
    )
    points = grid(arguments.batches, arguments.lengths, arguments.dims, full=arguments.full_grid)
    try:
        for point in points:
            build_workload(setting, point)
    except (ConfigError, ValueError) as error:
        arguments.parser.error(str(error))
    return setting, points, contenders


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add(
        "--model",
        help=f"{GPTJ_6B} (true shapes, random weights), a folder, a hub name, or {EMBEDDED};\n"
        "random:FOLDER reads its config alone. Default: gptj_6b on a GPU, embedded:tiny_gptj elsewhere",
    )
    add("--layers", type=int, help="fewer blocks than the config says (random weights)")
    add("--rows", help="file of articles and highlights; default: made rows, all full")
    add("--summary-tokens", type=int, default=72, help="of each made row (default 72)")
    add("--batches", type=int, nargs="+", default=[2])
    add("--lengths", type=int, nargs="+", help="tokens per row; the most for real rows")
    add("--dims", type=int, nargs="+", help="of the adapters")
    add(
        "--formats",
        nargs="*",
        help="ours: int8 fp8 nf4 blockwise8 none, each with +low +eager +compiled +graphs +bf16 +fp32",
    )
    add(
        "--peers",
        nargs="*",
        help="int8 nf4 bf16 autocast fp32, each with +checkpointing; the first is the reference",
    )
    add("--steps", type=int, help="timed steps of each contender at each point")
    add("--turns", type=int, help="in so many turns")
    add("--full-grid", action="store_true", help="every batch with every length and dim")
    add("--together", type=int, help="contenders in memory at once; default all on a CPU, 3 on a GPU")
    add("--one-at-a-time", action="store_true", help="the same as --together 1: no turns, for small GPUs")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--seed", type=int, default=0)
    add("--quick", action="store_true", help="the embedded model on the CPU, a few small steps")
    add("--out", type=Path, help="folder for results.json, results.md and results.png")
    arguments = parser.parse_args()
    arguments.parser = parser
    fill_in(arguments, on_gpu=arguments.device != "cpu" and torch.cuda.is_available())
    handler = ConsoleHandler()
    logging.basicConfig(level=logging.WARNING, handlers=[handler], format="%(message)s")
    for name in ("training_throughput", "summarizer.console.progress"):
        logging.getLogger(name).setLevel(logging.INFO)
    return arguments


def fill_in(arguments: argparse.Namespace, *, on_gpu: bool) -> None:
    """Defaults, which depend on where it runs."""
    quick = {
        "model": EMBEDDED,
        "device": "cpu",
        "lengths": [64, 128],
        "dims": [2],
        "formats": ["int8", "none+fp32"],
        "peers": ["fp32"],
        "steps": 4,
        "turns": 2,
        "summary_tokens": 16,
    }
    if arguments.quick:
        given = {"formats", "peers", "lengths", "steps", "turns"}
        for name, value in quick.items():
            if name not in given or getattr(arguments, name) is None:
                setattr(arguments, name, value)
        on_gpu = False
    gpu = {
        "model": GPTJ_6B,
        "lengths": [256, 512, 1024, 2048],
        "dims": [2, 16, 64],
        "formats": ["int8", "int8+graphs", "int8+low", "fp8", "none", "nf4"],
        "peers": ["int8", "int8+checkpointing", "bf16", "nf4+checkpointing"],
        "steps": 12,
        "turns": 3,
    }
    processor = {
        "model": EMBEDDED,
        "lengths": [512],
        "dims": [2],
        "formats": ["int8+bf16", "none+bf16", "none+fp32"],
        "peers": ["autocast", "fp32"],
        "steps": 9,
        "turns": 3,
    }
    for name, value in (gpu if on_gpu else processor).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if arguments.one_at_a_time:
        arguments.together = 1
    if arguments.together is None:
        arguments.together = 3 if on_gpu else len(arguments.formats) + len(arguments.peers)
    if arguments.steps < arguments.turns:
        arguments.parser.error("--steps must be at least --turns")
    # A GPU's memory was given back after the last turn: the first step of a turn takes it again.
    arguments.warm_steps, arguments.warm_steps_of_turn = (3, 1) if on_gpu else (2, 0)


def describe(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a reader must know beside the numbers. No path of this machine."""
    state = git_state()
    model = Path(arguments.model.removeprefix("random:"))
    return {
        "model": model.name if model.is_dir() else arguments.model,
        "rows": Path(arguments.rows).name
        if arguments.rows
        else f"made, {arguments.summary_tokens} summary tokens",
        "date": datetime.date.today().isoformat(),
        "processor": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "commit": None if state is None else state.commit + (" and changes" if state.dirty else ""),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items() if version),
        "turns": f"{arguments.steps} steps in {arguments.turns} turns, {arguments.together} contenders together",
    }


if __name__ == "__main__":
    main()
