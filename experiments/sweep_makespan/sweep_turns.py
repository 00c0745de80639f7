"""The systems taking turns: which sweep runs when, and what of it is measured, shared or counted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from contenders import (
    FUSED,
    ONE_BY_ONE,
    PEER,
    Machine,
    OwnProcesses,
    Sweep,
    SweepError,
    own_processes,
    peer_processes,
    run_sweep,
)
from makespans import Row, row_of
from sweep_workload import grid_of

from summarizer.console.progress import Bar

IMPORTS = "import bitsandbytes, peft, rouge_score, transformers"
ONE_STEP = (
    "trainer.max_steps=1",
    "evaluation.base=false",
    "evaluation.rows_during_training=0",
    "evaluation.rows=1",
    "evaluation.loss_rows=1",
    "generation.max_new_tokens=1",
)
"""Of a run that only fills the caches."""


@dataclass
class Turns:
    """Each system's sweeps over one length of examples."""

    machine: Machine
    systems: Sequence[str]
    trials: Sequence[int]
    """Sizes of the sweeps, from small to large."""
    turns: int
    overrides: Sequence[str]
    """Of this project's config."""
    peer_base: str
    seed: int
    tokens_per_row: int | None
    most_alone: int | None
    """Trials that a system without fusion really runs at the most."""
    _number: int = 0
    _one_by_one: dict[int, Sweep] = field(default_factory=dict)
    _processes: dict[str, OwnProcesses] = field(default_factory=dict)

    def warm(self) -> None:
        """What people pay once: caches of this project, libraries read from the disk. Raises SweepError."""
        self.machine.run(["-c", IMPORTS], self.machine.runs / "warm.log")
        own_processes(self.machine, self.machine.runs / "warm", [*self.overrides, *ONE_STEP]).run_to(
            grid_of(1).trials
        )
        shutil.rmtree(self.machine.runs / "warm")

    def measured(self, progress: Bar) -> Iterator[Row]:
        """A row for each system at each size in each turn, as they come."""
        for turn in range(self.turns):
            self._one_by_one.clear()
            self._processes.clear()
            for trials in self.trials:
                first = turn % len(self.systems)  # so that none always follows the same one
                for system in (*self.systems[first:], *self.systems[:first]):
                    progress.note(f"{trials} trials, {system}")
                    try:
                        yield self._row(system, trials, turn)
                    except SweepError as error:
                        yield Row(system, self.tokens_per_row, trials, turn, problem=str(error))
                    progress.advance()

    def _row(self, system: str, trials: int, turn: int) -> Row:
        running = trials if self.most_alone is None else min(trials, self.most_alone)
        if system == FUSED:
            sweep = self._swept(trials, fused=True)
            times, command_s = sweep.times, sweep.command_s
        elif system == ONE_BY_ONE:
            if running not in self._one_by_one:
                self._one_by_one[running] = self._swept(running, fused=False)
            times, command_s = self._one_by_one[running].times, self._one_by_one[running].command_s
        else:
            own = self._own_processes(system)
            own.run_to(grid_of(running).trials)
            times, command_s = own.times, own.command_s[running - 1]
        return row_of(system, self.tokens_per_row, turn, trials, times, command_s)

    def _swept(self, trials: int, *, fused: bool) -> Sweep:
        folder = self.machine.runs / self._new_name()
        sweep = run_sweep(self.machine, folder, grid_of(trials), self.overrides, fused=fused)
        shutil.rmtree(folder)
        return sweep

    def _own_processes(self, system: str) -> OwnProcesses:
        if system not in self._processes:
            folder = self.machine.runs / self._new_name()
            self._processes[system] = (
                peer_processes(self.machine, folder, self.peer_base, self.seed)
                if system == PEER
                else own_processes(self.machine, folder, self.overrides)
            )
        return self._processes[system]

    def _new_name(self) -> str:
        self._number += 1
        return f"sweep-{self._number}"
