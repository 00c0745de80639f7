"""How large the house is, and how far it is from the command to the optimizer: of any checkout, by one script.

    python experiments/house/measure.py --checkout ../before --out before.json
    python experiments/house/measure.py --out after.json
    python experiments/house/measure.py --table before.json after.json

A run of one step on the embedded model is traced in a process of its own. A file of ours counts as executed when
the body of one of its functions or classes runs; that its module body runs, because somebody imports it, does not
count.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
ONE_STEP = (
    "data.rows.train=8",
    "data.rows.validation=4",
    "prompt.max_tokens=160",
    "generation.max_new_tokens=6",
    "evaluation.rows_during_training=2",
    "evaluation.bootstrap_samples=50",
    "tracking=none",
    "trainer.precision=fp32",
    "trainer.max_steps=1",
)


@dataclass(frozen=True)
class House:
    """What is counted of one checkout. The last three are up to and at the first optimizer step."""

    modules: int
    median_lines: float
    lines: int
    imported: int
    executed_files: int
    executed_functions: int
    files_on_stack: int
    """Distinct files of ours among the frames that are open at the optimizer's first step."""
    frames_on_stack: int


ROWS = {
    "modules": ("Python modules in `summarizer/`", 150),
    "median_lines": ("lines of the median module", "120 to 220"),
    "lines": ("Python lines in `summarizer/`", 25_000),
    "imported": ("modules of ours imported by a training run", 95),
    "executed_files": ("files of ours that execute until the first optimizer step", 60),
    "executed_functions": ("functions of ours that execute until then", None),
    "files_on_stack": ("files of ours on the stack at `optimizer.step()`", 4),
    "frames_on_stack": ("frames of ours on it", None),
}
"""What each count is called, and the aim that was set for it."""


# ---- one traced run ---------------------------------------------------------------------------------------------


def traced_run(checkout: Path, out: Path) -> None:
    """Run the command in this process and write what it imported, executed and had open at the first step."""
    package = f"{checkout}/summarizer/"
    executed: set[CodeType] = set()
    found: dict[str, Any] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(package):
            executed.add(frame.f_code)

    def at_step(*_: object) -> None:
        if found:
            return
        frame: FrameType | None = sys._getframe()
        stack = []
        while frame is not None:
            if frame.f_code.co_filename.startswith(package):
                stack.append(f"{relative(frame.f_code)}:{frame.f_code.co_qualname}")
            frame = frame.f_back
        bodies = [code for code in executed if code.co_name != "<module>"]
        named = [code for code in bodies if not code.co_name.startswith("<")]
        found.update(
            stack=stack[::-1],
            files=sorted({relative(code) for code in bodies}),
            # A class body has locals of its own making; a function's are laid out when it is compiled.
            functions=sum(bool(code.co_flags & inspect.CO_OPTIMIZED) for code in named),
        )
        sys.setprofile(None)
        threading.setprofile(None)

    def relative(code: CodeType) -> str:
        return code.co_filename.removeprefix(package)

    from torch.optim.optimizer import register_optimizer_step_pre_hook

    register_optimizer_step_pre_hook(at_step)
    sys.path.insert(0, str(checkout))
    sys.argv = ["summarizer.run", *ONE_STEP]
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        runpy.run_module("summarizer.run", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code:
            raise
    found["imported"] = sorted(
        name
        for name, module in list(sys.modules.items())
        if str(getattr(module, "__file__", None)).startswith(package)
    )
    out.write_text(json.dumps(found))


def trace(checkout: Path) -> dict[str, Any]:
    """What `traced_run` found in a process of its own, which imports the package from this checkout."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        environment = os.environ | {
            "PYTHONPATH": str(checkout),
            "SUMMARIZER_CACHE": f"{folder}/cache",
            "CUDA_VISIBLE_DEVICES": "",
        }
        ended = subprocess.run(
            [
                sys.executable,
                str(Path(__file__).resolve()),
                "--checkout",
                str(checkout),
                "--traced",
                str(out),
            ],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        if ended.returncode or not out.is_file():
            raise RuntimeError(f"the traced run ended with {ended.returncode}\n{ended.stderr[-4000:]}")
        return dict(json.loads(out.read_text()))


# ---- counts -----------------------------------------------------------------------------------------------------


def lines_of(checkout: Path) -> dict[str, int]:
    """The number of lines of every Python module of the package."""
    package = checkout / "summarizer"
    return {
        path.relative_to(package).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted(package.rglob("*.py"))
    }


def measure(checkout: Path) -> tuple[House, dict[str, Any]]:
    """The counts of a checkout, and the trace that they were counted from."""
    lines, found = lines_of(checkout), trace(checkout)
    house = House(
        modules=len(lines),
        median_lines=statistics.median(lines.values()),
        lines=sum(lines.values()),
        imported=len(found["imported"]),
        executed_files=len(found["files"]),
        executed_functions=found["functions"],
        files_on_stack=len({frame.split(":")[0] for frame in found["stack"]}),
        frames_on_stack=len(found["stack"]),
    )
    return house, found


def table(results: dict[str, House]) -> str:
    """Markdown: a row for each count, a column for each result, and the aims."""
    lines = [
        f"| | {' | '.join(results)} | aim |",
        f"|---|{'---:|' * len(results)}---:|",
    ]
    for name, (meaning, aim) in ROWS.items():
        values = [
            f"{getattr(house, name):,g}"
            if isinstance(getattr(house, name), float)
            else f"{getattr(house, name):,}"
            for house in results.values()
        ]
        shown = "" if aim is None else f"{aim:,}" if isinstance(aim, int) else aim
        lines.append(f"| {meaning} | {' | '.join(values)} | {shown} |")
    return "\n".join(lines)


def read(path: Path) -> House:
    return House(**json.loads(path.read_text(encoding="utf-8"))["counts"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--checkout", type=Path, default=REPOSITORY, help="the tree to measure; default: this one"
    )
    parser.add_argument("--out", type=Path, help="where the counts and the trace are written, as JSON")
    parser.add_argument(
        "--table", type=Path, nargs="+", help="results to put side by side; nothing is measured"
    )
    parser.add_argument("--traced", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    checkout = asked.checkout.resolve()
    if asked.table:
        print(table({path.stem: read(path) for path in asked.table}))
    elif asked.traced:
        traced_run(checkout, asked.traced)
    else:
        house, found = measure(checkout)
        if asked.out:
            asked.out.parent.mkdir(parents=True, exist_ok=True)
            asked.out.write_text(json.dumps({"counts": asdict(house), "trace": found}, indent=1) + "\n")
        print(table({checkout.name: house}))


if __name__ == "__main__":
    main()
