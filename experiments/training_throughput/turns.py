"""Contenders taking turns: who is loaded at the same time, what each did, and how that compares."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from report import Row, median, percentile, ratio, relative_difference
from worker import Begun, ContenderFailed, Turn, Worker
from workload import Contender, Point, Setting

from summarizer.console.progress import Bar
from summarizer.tracking.utilization import utilization

GRADIENT_ERRORS = 20
"""A gradient's norm may differ by so many times what a loss may: quantization_error has int8's loss 0.4 % off,
its gradient 14 %."""


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
            mfu=utilization(sum(flops), sum(seconds), matrix_flops_per_s),
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
