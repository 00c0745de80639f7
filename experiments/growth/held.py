"""What a fused sweep holds at its most, phase by phase: in use, freed but kept by the C library, mapped files.

    python experiments/growth/held.py --model outputs/smollm2 --rows ../shared/cnn_dailymail --out NAME [OVERRIDE]

Runs a sweep of six trials in this process, and looks at its memory while it trains, evaluates and writes.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from watched import LINES, REPOSITORY

GIB = 2**30
EVERY_S = 0.03
PHASES = {
    "forward": ("summarizer.training.step", "summary_nll"),
    "step": ("summarizer.training.trainer", "train_step"),
    "losses": ("summarizer.evaluation.evaluator.Evaluator", "_row_losses"),
    "summaries": ("summarizer.evaluation.evaluator.Evaluator", "_summaries"),
    "leaving": ("summarizer.runs.callbacks.RunCallbacks", "on_leave"),
    "loading": ("summarizer.runs.experiment", "load_base"),
    "planning": ("summarizer.runs.experiment", "plan_slots"),
}
"""Functions whose time is a phase; what is called within one is its. The rest of `step` is the backward pass."""


class Allocated(ctypes.Structure):
    """glibc's `struct mallinfo2`, over all arenas."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


@dataclass
class Most:
    """Of a phase, in bytes: the most of each, not at the same moment."""

    looks: int = 0
    in_use: int = 0
    """Allocated and not freed."""
    kept: int = 0
    """Freed, and resident at most."""
    anonymous: int = 0
    mapped: int = 0
    peak: int = 0
    """VmHWM by the end of the phase."""


class Watch:
    """Looks at this process from a thread of its own, and books what it sees under the phase of the moment."""

    def __init__(self) -> None:
        self.phases: list[str] = ["the rest"]
        self.most: dict[str, Most] = {}
        self.trace: list[tuple[float, str, int, int, int]] = []
        library = ctypes.CDLL(None)
        library.mallinfo2.restype = Allocated
        self._mallinfo2: Callable[[], Any] = library.mallinfo2
        self._begun_s = time.perf_counter()
        threading.Thread(target=self._look_always, daemon=True).start()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.phases.append(name)
        try:
            yield
        finally:
            self.phases.pop()

    def _look_always(self) -> None:
        while True:
            self.look()
            time.sleep(EVERY_S)

    def look(self) -> None:
        name = self.phases[-1]
        found = self._mallinfo2()
        status = {
            key.decode(): int(kib) * 1024
            for key, kib in LINES.findall(Path("/proc/self/status").read_bytes())
        }
        in_use = found.uordblks + found.hblkhd
        most = self.most.setdefault(name, Most())
        most.looks += 1
        most.in_use = max(most.in_use, in_use)
        most.kept = max(most.kept, min(found.fordblks, status["RssAnon"]))
        most.anonymous = max(most.anonymous, status["RssAnon"])
        most.mapped = max(most.mapped, status["RssFile"])
        most.peak = max(most.peak, status["VmHWM"])
        self.trace.append(
            (time.perf_counter() - self._begun_s, name, in_use, status["RssAnon"], found.fordblks)
        )


def instrument(watch: Watch) -> None:
    """Make each of PHASES say when it runs."""
    import importlib

    for name, (place, function) in PHASES.items():
        try:
            owner: Any = importlib.import_module(place)
        except ModuleNotFoundError:
            module, _, kind = place.rpartition(".")
            owner = getattr(importlib.import_module(module), kind)

        setattr(owner, function, _within(watch, name, getattr(owner, function)))


def _within(watch: Watch, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with watch.phase(name):
            return call(*args, **kwargs)

    return wrapped


def table(most: dict[str, Most]) -> str:
    lines = [
        "| phase | in use, at most | freed and kept | anonymous | mapped files | VmHWM by then |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, of in most.items():
        cells = [f"{value / GIB:.2f}" for value in (of.in_use, of.kept, of.anonymous, of.mapped, of.peak)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--model", type=Path, help="the folder of a Llama-like model; default: the embedded one"
    )
    parser.add_argument(
        "--rows", type=Path, required=True, help="a folder with train and validation.jsonl.gz"
    )
    parser.add_argument("--dims", default="2,4,8,16,24,32", help="of the trials")
    parser.add_argument("--out", type=Path, required=True, metavar="NAME", help="NAME.json and NAME.md")
    options, overrides = parser.parse_known_args()
    model = []
    if options.model is not None:
        model = ["model=smollm2", f"model.name_or_path={options.model.resolve()}", "prompt=tldr"]
    sys.path.insert(0, str(REPOSITORY))  # this checkout's summarizer, whichever is installed
    watch = Watch()
    instrument(watch)
    from summarizer.run import main as run

    begun_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        sys.argv[1:] = [
            "-m",
            *model,
            "prompt.max_tokens=512",
            "data=files",
            f"data.train={options.rows.resolve()}/train.jsonl.gz",
            f"data.validation={options.rows.resolve()}/validation.jsonl.gz",
            "data.rows={train: 40, validation: 16}",
            "data.max_bad_rows=10",
            f"adapter.dim={options.dims}",
            "tracking=none",
            "trainer.max_steps=6",
            "trainer.evaluate_every_steps=3",
            "evaluation.confirm_split=null",
            f"hydra.sweep.dir={folder}/sweep",
            *overrides,
        ]
        try:
            run()
        except SystemExit as ended:
            if ended.code:
                raise
        summaries = sorted(Path(folder, "sweep").glob("*/metrics.jsonl"))
        losses = {
            path.parent.name: [
                row["train/loss"]
                for row in map(json.loads, path.read_text().splitlines())
                if "train/loss" in row
            ]
            for path in summaries
        }
    watch.look()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "seconds": time.perf_counter() - begun_s,
        "phases": {name: asdict(most) for name, most in watch.most.items()},
        "losses": losses,
    }
    options.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    options.out.with_suffix(".md").write_text(table(watch.most), encoding="utf-8")
    Path(f"{options.out}.trace.json").write_text(json.dumps(watch.trace), encoding="utf-8")
    print(table(watch.most))


if __name__ == "__main__":
    main()
