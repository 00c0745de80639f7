"""One contender in a process of its own, which loads once and then steps when it is asked to.

Between its turns it waits on a pipe, without spinning and, on a GPU, without the memory of a step.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import time
import warnings
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

from summarizer.runs.launch import prepare_process

prepare_process()  # before torch is imported, in this process and in those that it starts

from workload import Contender, Point, Setting  # noqa: E402

START_S = 1800.0
"""Longest that loading may take: a cold disk, a hub."""


class ContenderFailed(Exception):  # noqa: N818 - what happened, for a person
    """A contender could not do what it was asked for; the message is for a person."""


@dataclass(frozen=True)
class Started:
    start_s: float
    """Imports, base, adapters."""
    device: str
    precision: str
    matrix_flops_per_s: float


@dataclass(frozen=True)
class Begun:
    """The first steps of a point, which are not timed for its rate."""

    first_step_s: float
    compile_s: float
    numbers: list[tuple[float, float]]
    """Loss and gradient norm."""


@dataclass(frozen=True)
class Turn:
    """Timed steps."""

    seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    flops: list[int] = field(default_factory=list)
    """That the mathematics asks for, by tracking.utilization's count; the same for every contender."""
    numbers: list[tuple[float, float]] = field(default_factory=list)
    peak_bytes: int = 0
    """Since the point began."""
    note: str | None = None
    """How the steps differ from what was asked for."""


class Worker:
    """The parent's end of the pipe."""

    def __init__(self, setting: Setting, contender: Contender, point: Point) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, setting, contender, point), daemon=True)
        self._process.start()
        theirs.close()
        self.started: Started | None = None

    def wait_until_started(self) -> Started:
        """Raises ContenderFailed where it could not load."""
        if self.started is None:
            self.started = self._receive(START_S)
        assert isinstance(self.started, Started)
        return self.started

    def begin(self, point: Point, warm_steps: int) -> Begun:
        begun = self._ask("begin", point, warm_steps)
        assert isinstance(begun, Begun)
        return begun

    def steps(self, count: int, warm_steps: int) -> Turn:
        turn = self._ask("steps", count, warm_steps)
        assert isinstance(turn, Turn)
        return turn

    def anatomy(self) -> dict[str, float]:
        counts = self._ask("anatomy")
        assert isinstance(counts, dict)
        return counts

    def close(self) -> None:
        self._pipe.close()  # the worker's recv ends, and the worker with it
        self._process.join(timeout=30)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def _ask(self, *command: Any) -> Any:
        try:
            self._pipe.send(command)
        except OSError as error:
            raise ContenderFailed(self._died()) from error
        return self._receive(None)

    def _receive(self, timeout_s: float | None) -> Any:
        try:
            if not self._pipe.poll(timeout_s):
                raise ContenderFailed(f"did not answer in {timeout_s:.0f} s")
            answer = self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise ContenderFailed(self._died()) from error
        if isinstance(answer, str):
            raise ContenderFailed(answer)
        return answer

    def _died(self) -> str:
        self._process.join(timeout=10)
        code = self._process.exitcode
        return "killed, probably for memory" if code == -9 else f"its process ended with code {code}"


def serve(pipe: Connection, setting: Setting, contender: Contender, point: Point) -> None:
    """The worker's side: commands in, results or a message of what went wrong out."""
    start_s = time.perf_counter()
    warnings.filterwarnings("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    turns: Any = None
    command: tuple[Any, ...] = ("start",)
    while True:
        answer: Any
        try:
            if turns is None:
                turns = Turns(setting, contender, point)
                answer = turns.started(time.perf_counter() - start_s)
            else:
                answer = getattr(turns, command[0])(*command[1:])
        except Exception as error:
            if turns is not None:
                turns.free()
            answer = describe(error)
        pipe.send(answer)
        if turns is None:
            return
        try:
            command = pipe.recv()
        except EOFError:
            return


def describe(error: Exception) -> str:
    """One line for the table."""
    text = " ".join(str(error).split())
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return "out of memory"
    return f"{type(error).__name__}: {text[:300]}"


class Turns:
    """The contender and its clock, inside the worker."""

    def __init__(self, setting: Setting, contender: Contender, point: Point) -> None:
        # Imported here: a worker imports only what its own side needs.
        if contender.side == "ours":
            from ours import Ours as Side
        else:
            from peer import Peer as Side
        self._side: Any = Side(setting, contender, point)
        self._device = self._side.device

    def started(self, seconds: float) -> Started:
        import torch

        from summarizer.processes import DTYPES
        from summarizer.tracking.utilization import matrix_rate

        name = "cpu"
        if self._device.type == "cuda":
            name = torch.cuda.get_device_name(self._device)
        rate = matrix_rate(self._device, DTYPES[self._side.precision])
        self.free()
        return Started(seconds, name, self._side.precision, rate)

    def begin(self, point: Point, warm_steps: int) -> Begun:
        from summarizer.compat import compile_s
        from summarizer.tracking.environment import reset_peak_memory

        before_s = compile_s()
        self._workload = self._side.workload(point)
        self._shape = self._side.begin(self._workload)
        self._of_steps = self._workload.stream()
        self.free()
        reset_peak_memory(self._device)
        seconds = self._timed(warm_steps)
        numbers = self._side.numbers()
        self.free()
        return Begun(seconds[0], compile_s() - before_s, numbers)

    def steps(self, count: int, warm_steps: int) -> Turn:
        from summarizer.tracking.environment import peak_memory_bytes
        from summarizer.tracking.utilization import training_flops

        self._timed(warm_steps)
        warm = self._side.numbers()
        batches = [next(self._of_steps) for _ in range(count)]
        seconds = self._timed(count, skip=False)
        lengths = [self._workload.lengths(batch) for batch in batches]
        flops = [
            training_flops(self._shape, own, sum(len(row.target_ids) for row in batch)).total
            for own, batch in zip(lengths, batches, strict=True)
        ]
        peak = peak_memory_bytes(self._device)
        numbers = self._side.numbers()
        self.free()
        return Turn(seconds, [sum(own) for own in lengths], flops, [*warm, *numbers], peak, self._side.note())

    def anatomy(self) -> dict[str, float]:
        from anatomy import count_step

        counts = count_step(self._side.step, self._device)
        self._side.numbers()
        return counts

    def free(self) -> None:
        """Give a step's memory back to the GPU, for the others."""
        import torch

        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _timed(self, count: int, *, skip: bool = True) -> list[float]:
        """Seconds of each of so many steps. On a GPU by its own clock: no step waits for the one before.

        skip: the steps' batches are not those of a later account.
        """
        if skip:
            for _ in range(count):
                next(self._of_steps)
        if hasattr(self._side, "make_ready"):
            self._side.make_ready(count)
        if self._device.type != "cuda":
            seconds = []
            for _ in range(count):
                begun_s = time.perf_counter()
                self._side.step()
                seconds.append(time.perf_counter() - begun_s)
            return seconds
        import torch

        marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        torch.cuda.synchronize(self._device)
        marks[0].record()
        for mark in marks[1:]:
            self._side.step()
            mark.record()
        torch.cuda.synchronize(self._device)
        return [a.elapsed_time(b) / 1e3 for a, b in pairwise(marks)]
