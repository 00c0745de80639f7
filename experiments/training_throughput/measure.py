"""Training throughput: this project beside transformers + peft + bitsandbytes, in turns, in one run.

    python experiments/training_throughput/measure.py --quick                     the CPU, small, under a minute
    python experiments/training_throughput/measure.py --out FOLDER                a card: GPT-J-6B's true shapes
    python experiments/training_throughput/measure.py --model FOLDER --rows FILE  a real model on real rows

Each contender is a process that loads once; they take turns of a few steps, so that all see the machine in the same
state. All train on the same tokens, from the same adapter values, and their losses are compared.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import logging
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from report import Row, median, percentile, ratio, relative_difference, table, write
from worker import Begun, ContenderFailed, Turn, Worker
from workload import EMBEDDED, GPTJ_6B, Contender, Point, Setting, build_workload

from summarizer.errors import ConfigError
from summarizer.progress import Bar, ConsoleHandler, bar
from summarizer.tracking.environment import git_state, versions
from summarizer.tracking.utilisation import utilisation

GRADIENT_ERRORS = 20
"""A gradient's norm may differ by so many times what a loss may: quantization_error has int8's loss 0.4 % off,
its gradient 14 %."""
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


def rounds(
    points: Sequence[Point], contenders: Sequence[Contender], together: int
) -> Iterator[tuple[list[Point], list[Contender]]]:
    """Who is loaded at the same time, and the points that they take: one dim's, since adapters are attached once.

    The reference, the first peer, is in every round of several; the others share the places beside it.
    """
    reference = next((contender for contender in contenders if contender.side == "peer"), None)
    others = [contender for contender in contenders if contender != reference]
    for dim in dict.fromkeys(point.dim for point in points):
        own = [point for point in points if point.dim == dim]
        if together == 1 or reference is None:
            first = [] if reference is None else [reference]
            yield from ((own, [contender]) for contender in [*first, *others])
            continue
        places = together - 1
        for start in range(0, max(len(others), 1), places):
            yield own, [reference, *others[start : start + places]]


def measured(
    setting: Setting,
    points: Sequence[Point],
    contenders: Sequence[Contender],
    arguments: argparse.Namespace,
    progress: Bar,
) -> Iterator[tuple[list[Row], str | None]]:
    """The rows of each round's points as they come, and the device's name. The reference's are those of its first
    round."""
    reported: set[tuple[Contender, Point]] = set()
    first_losses: dict[Point, tuple[Contender, str, Begun]] = {}
    for of_round, chosen in rounds(points, contenders, arguments.together):
        workers = {contender: Worker(setting, contender, of_round[0]) for contender in chosen}
        failures: dict[Contender, str] = {}
        for contender, worker in workers.items():
            progress.note(f"{contender}: loading")
            try:
                worker.wait_until_started()
            except ContenderFailed as error:
                failures[contender] = str(error)
        for point in of_round:
            taken = take_turns(workers, failures, point, arguments, progress)
            reference = next(
                (c for c in chosen if c.side == "peer" and c in taken and isinstance(taken[c], Turns)), None
            )
            rates = {c: taken[c].rate() for c in chosen if isinstance(taken[c], Turns)}
            if reference is not None and point not in first_losses:
                started = workers[reference].wait_until_started()
                first_losses[point] = (reference, started.precision, taken[reference].begun)
            found = []
            for contender in chosen:
                if (contender, point) in reported:
                    continue
                reported.add((contender, point))
                own = taken[contender]
                if isinstance(own, str):
                    found.append(Row(str(contender), point.batch, point.length, point.dim, problem=own))
                    continue
                in_turns = len(chosen) > 1 and chosen[0].side == "peer"
                against = ratio(rates[contender], rates.get(chosen[0])) if in_turns else None
                rate = matrix_rate_of(workers, workers[contender].wait_until_started().precision)
                found.append(
                    own.row(contender, point, workers[contender], rate, against, first_losses.get(point))
                )
            device = next((w.started.device for w in workers.values() if w.started is not None), None)
            yield found, device
        for worker in workers.values():
            worker.close()


def matrix_rate_of(workers: dict[Contender, Worker], precision: str) -> float:
    """The device's FLOP/s in a precision: the best that any contender saw, for others only lower it."""
    started = [worker.started for worker in workers.values() if worker.started is not None]
    return max(one.matrix_flops_per_s for one in started if one.precision == precision)


@dataclasses.dataclass
class Turns:
    """What one contender did at one point."""

    begun: Begun
    turns: list[Turn] = dataclasses.field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        return [second for turn in self.turns for second in turn.seconds]

    def rate(self) -> float:
        """Tokens/s, the median over steps."""
        tokens = [token for turn in self.turns for token in turn.tokens]
        return median([token / second for token, second in zip(tokens, self.seconds, strict=True)])

    def row(
        self,
        contender: Contender,
        point: Point,
        worker: Worker,
        matrix_flops_per_s: float,
        against: float | None,
        reference: tuple[Contender, str, Begun] | None,
    ) -> Row:
        started = worker.wait_until_started()
        seconds = self.seconds
        flops = [flop for turn in self.turns for flop in turn.flops]
        loss, norm = self.begun.numbers[0]
        numbers = [*self.begun.numbers, *(pair for turn in self.turns for pair in turn.numbers)]
        row = Row(
            str(contender),
            point.batch,
            point.length,
            point.dim,
            precision=started.precision,
            tokens_per_s=self.rate(),
            ratio=against,
            step_s=median(seconds),
            step_s_p10=percentile(seconds, 10),
            step_s_p90=percentile(seconds, 90),
            peak_bytes=max(turn.peak_bytes for turn in self.turns),
            mfu=utilisation(sum(flops), sum(seconds), matrix_flops_per_s),
            start_s=started.start_s,
            first_step_s=self.begun.first_step_s,
            compile_s=self.begun.compile_s,
            loss=loss,
            gradient_norm=norm,
            loss_last=numbers[-1][0],
            steps=len(seconds),
            note=next((turn.note for turn in self.turns if turn.note), None),
        )
        if reference is None or reference[0] == contender:
            return row
        other, precision, begun = reference
        allowed = contender.error(started.precision) + other.error(precision)
        of_loss = relative_difference(loss, begun.numbers[0][0])
        of_norm = relative_difference(norm, begun.numbers[0][1])
        return dataclasses.replace(
            row,
            loss_difference=of_loss,
            gradient_difference=of_norm,
            agrees=of_loss <= allowed and of_norm <= GRADIENT_ERRORS * allowed,
        )


def take_turns(
    workers: dict[Contender, Worker],
    failures: dict[Contender, str],
    point: Point,
    arguments: argparse.Namespace,
    progress: Bar,
) -> dict[Contender, Any]:
    """Each contender's Turns, or why it has none."""
    taken: dict[Contender, Any] = dict(failures)
    for turn in range(arguments.turns + 1):
        for contender, worker in workers.items():
            if isinstance(taken.get(contender), str):
                progress.advance()
                continue
            progress.note(f"{contender}, {point}: {'warming up' if turn == 0 else f'turn {turn}'}")
            try:
                if turn == 0:
                    taken[contender] = Turns(worker.begin(point, arguments.warm_steps))
                else:
                    steps = len(range(turn - 1, arguments.steps, arguments.turns))
                    taken[contender].turns.append(worker.steps(steps, arguments.warm_steps_of_turn))
            except ContenderFailed as error:
                taken[contender] = str(error)
            progress.advance()
    return taken


def place(row: Row, points: Sequence[Point], contenders: Sequence[Contender]) -> tuple[int, int]:
    """Where a row stands in the table."""
    names = [str(contender) for contender in contenders]
    return points.index(Point(row.batch, row.length, row.dim)), names.index(row.contender)


def grid(batches: Sequence[int], lengths: Sequence[int], dims: Sequence[int], *, full: bool) -> list[Point]:
    """All combinations, or the centre (first batch and dim, and 1024 tokens or the first length) and what differs
    from it in one respect: the centre first."""
    length = 1024 if 1024 in lengths else lengths[0]
    if full:
        points = [Point(b, t, r) for r in dims for b in batches for t in lengths]
    else:
        points = [Point(batches[0], t, dims[0]) for t in lengths]
        points += [Point(b, length, dims[0]) for b in batches[1:]]
        points += [Point(batches[0], length, r) for r in dims[1:]]
    centre = Point(batches[0], length, dims[0])
    return sorted(dict.fromkeys(points), key=lambda point: point != centre)


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
        "random:FOLDER reads its config alone. Default: gptj_6b on a card, embedded:tiny_gptj elsewhere",
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
        help="ours: int8 fp8 nf4 blockwise8 none, each with +low +eager +compiled +bf16 +fp32",
    )
    add(
        "--peers",
        nargs="*",
        help="int8 nf4 bf16 autocast fp32, each with +checkpointing; the first is the reference",
    )
    add("--steps", type=int, help="timed steps of each contender at each point")
    add("--turns", type=int, help="in so many turns")
    add("--full-grid", action="store_true", help="every batch with every length and dim")
    add("--together", type=int, help="contenders in memory at once; default all on a CPU, 3 on a card")
    add("--one-at-a-time", action="store_true", help="the same as --together 1: no turns, for small cards")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--seed", type=int, default=0)
    add("--quick", action="store_true", help="the embedded model on the CPU, a few small steps")
    add("--out", type=Path, help="folder for results.json, results.md and results.png")
    arguments = parser.parse_args()
    arguments.parser = parser
    fill_in(arguments, on_card=arguments.device != "cpu" and torch.cuda.is_available())
    handler = ConsoleHandler()
    logging.basicConfig(level=logging.WARNING, handlers=[handler], format="%(message)s")
    for name in ("training_throughput", "summarizer.progress"):
        logging.getLogger(name).setLevel(logging.INFO)
    return arguments


def fill_in(arguments: argparse.Namespace, *, on_card: bool) -> None:
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
        on_card = False
    card = {
        "model": GPTJ_6B,
        "lengths": [256, 512, 1024, 2048],
        "dims": [2, 16, 64],
        "formats": ["int8", "int8+low", "fp8", "none", "nf4"],
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
    for name, value in (card if on_card else processor).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if arguments.one_at_a_time:
        arguments.together = 1
    if arguments.together is None:
        arguments.together = 3 if on_card else len(arguments.formats) + len(arguments.peers)
    if arguments.steps < arguments.turns:
        arguments.parser.error("--steps must be at least --turns")
    # A card's memory was given back after the last turn: the first step of a turn takes it again.
    arguments.warm_steps, arguments.warm_steps_of_turn = (3, 1) if on_card else (2, 0)


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
