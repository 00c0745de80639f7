"""The GPU tests and the headline of three studies on one GPU, in at most nine minutes, written down point by point.

    python experiments/gpu/run.py --out FOLDER
    python experiments/gpu/run.py --out FOLDER --only tests training
    python experiments/gpu/run.py --device cpu --quick       the same points, small, on a CPU: to see that all works

A point has a time limit, and what is left of the nine minutes; one that fails or is out of time is said in the
table, and the next begins. Three files are in the folder after each point: report.md, results.json and log.txt.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MINUTES = 9.0
LEAST_S = 10.0
"""A point that would have less time is not begun."""
GRACE_S = 5.0
"""How long a point whose time is up may take to end by SIGTERM."""
TAIL = 15
"""Lines of a point's output that stand in the report where it has no table."""


@dataclass(frozen=True)
class Point:
    """One command of the report: the tests, or a study."""

    name: str
    limit_s: float
    words: str
    """Its arguments."""
    study: str | None = None
    out: str = "-"
    """The folder below the working one in which a study leaves its table and its results."""
    keeps: str | None = None
    """Another, in which it makes bases and finds those that an earlier point made."""

    def command(self, work: Path) -> list[str]:
        if self.study is None:
            return [sys.executable, "-m", "pytest", *self.words.split()]
        script = str(ROOT / "experiments" / self.study / "measure.py")
        kept = ["--work", str(work / self.keeps)] if self.keeps else []
        return [sys.executable, script, *self.words.split(), *kept, "--out", str(work / self.out)]


TRAINING, SPEED, MAKESPAN = "training_throughput", "generation_speed", "sweep_makespan"
ALL = "-m gpu -rs -p no:cacheprovider"
SWEEP = "--device cuda --trials 8 --most-alone 2 --systems fused peer"
POINTS = (
    Point("tests", 120, ALL),
    Point(
        "training",
        130,
        "--device cuda --batches 2 --lengths 1024 --dims 2 --formats int8 int8+low fp8 "
        "--peers int8 int8+checkpointing bf16 --steps 8 --turns 2",
        TRAINING,
        "training",
    ),
    Point(
        "one_article",
        100,
        "--device cuda --contenders ours:int8 ours:fp8 transformers:int8 transformers:fp16 "
        "--prompts 1 --turns 1 --prompt-tokens 1024 --tokens 129 --articles 0",
        SPEED,
        "one",
        "bases",
    ),
    Point(
        "64_articles",
        80,
        "--device cuda --contenders ours:int8 transformers:fp16 "
        "--prompts 1 --turns 1 --prompt-tokens 1024 --tokens 2 --articles 64 --beams 4",
        SPEED,
        "many",
        "bases",
    ),
    Point("sweep_1024", 120, f"{SWEEP} --tokens 1024", MAKESPAN, "sweep", "checkpoint"),
    Point("sweep_256", 80, f"{SWEEP} --tokens 256 --add", MAKESPAN, "sweep", "checkpoint"),
)
"""In the order of what they are worth: 9 minutes may not be enough for the last."""
QUICK = (
    Point("tests", 180, f"{ALL} tests/ops/test_decode_gemm_on_gpu.py tests/quantization/test_fp8.py"),
    Point("training", 180, "--quick --formats int8 --lengths 64 --steps 2 --turns 1", TRAINING, "training"),
    Point(
        "articles",
        120,
        "--quick --contenders ours:int8 --turns 1 --articles 2 --article-tokens 4",
        SPEED,
        "many",
        "bases",
    ),
    Point("sweep", 180, "--quick --systems fused", MAKESPAN, "sweep"),
)


@dataclass(frozen=True)
class Ended:
    """What became of a point."""

    point: Point
    seconds: float
    code: int | None
    """Of its exit; None where its time was up, or where it was not begun."""
    output: str

    @property
    def said(self) -> str:
        if self.code is None:
            return f"stopped after {self.seconds:.0f} s" if self.seconds else "not begun: no time was left"
        return "passed" if self.code == 0 else f"failed with exit code {self.code}"


def carry_out(point: Point, limit_s: float, work: Path) -> Ended:
    """Run a point to its end or to its limit, with all processes that it started."""
    if limit_s < LEAST_S:
        return Ended(point, 0.0, None, "")
    begun_s = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            point.command(work),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        code: int | None = None
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            time.sleep(GRACE_S)
        finally:
            _end_group(process)
        said.seek(0)
        output = said.read().decode("utf-8", "replace")
    return Ended(point, time.monotonic() - begun_s, code, output)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def report(ended: Sequence[Ended], device: str, work: Path) -> str:
    """All that is known after a point, as Markdown."""
    lines = [
        f"# {device}, {time.strftime('%Y-%m-%d %H:%M')}",
        "",
        "| point | limit s | took s | |",
        "|---|---|---|---|",
        *(
            f"| {one.point.name} | {one.point.limit_s:.0f} | {one.seconds:.0f} | {one.said} |"
            for one in ended
        ),
    ]
    shown: set[str] = set()
    for one in reversed(ended):  # of points that add to one table, the last has it
        table = _table(one.point, work)
        if table and one.point.out in shown:
            continue
        shown.add(one.point.out)
        tail = ["```text", *one.output.splitlines()[-TAIL:], "```"]
        lines += ["", f"## {one.point.name}", "", *([table] if table else tail)]
    return "\n".join(lines) + "\n"


def _table(point: Point, work: Path) -> str | None:
    files = [work / point.out / name for name in ("table.md", "results.md")]
    return next((file.read_text(encoding="utf-8").strip() for file in files if file.is_file()), None)


def results(ended: Sequence[Ended], work: Path) -> dict[str, Any]:
    """What the studies wrote for programs, and how the points ended."""
    found: dict[str, Any] = {}
    for one in ended:
        file = work / one.point.out / "results.json"
        found[one.point.name] = {
            "study": one.point.study,
            "arguments": one.point.words,
            "seconds": round(one.seconds, 1),
            "ended": one.said,
            "results": json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None,
        }
    return found


def name_of(device: str) -> str:
    """What the report is of, without importing torch."""
    if device == "cpu":
        return "CPU, a dry run"
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    if shutil.which(asked[0]) is None:
        return device
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip().replace("\n", "; ") or device


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Each file whole or as it was, since the machine may be taken away at any moment."""
    for name, text in files.items():
        scratch = folder / f".{name}"
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(folder / name)


def main() -> int:
    """Exit code 0 where every point passed, 1 where one did not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"), help="default outputs/gpu")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="small, for a CPU")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all points together (default 9)")
    parser.add_argument("--only", nargs="+", metavar="POINT", help="these points alone")
    parser.add_argument(
        "--work", type=Path, help="where bases are kept for the next time; else a temporary folder"
    )
    arguments = parser.parse_args()
    if arguments.device == "cpu" and not arguments.quick:
        parser.error("--device cpu is for --quick; the studies have commands of their own for a CPU")
    if arguments.quick and arguments.device != "cpu":
        parser.error("--quick is for --device cpu")
    until_s = time.monotonic() + 60 * arguments.minutes
    out: Path = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).absolute()
        chosen = QUICK if arguments.quick else POINTS
        names = [point.name for point in chosen]
        if unknown := sorted({*(arguments.only or ())} - {*names}):
            parser.error(f"no point {', '.join(unknown)}; there are {', '.join(names)}")
        ended: list[Ended] = []
        device = name_of(arguments.device)
        for point in chosen:
            if arguments.only and point.name not in arguments.only:
                continue
            ended.append(carry_out(point, min(point.limit_s, until_s - time.monotonic() - GRACE_S), work))
            print(f"{point.name}: {ended[-1].said}, {ended[-1].seconds:.0f} s", flush=True)
            log = "\n".join(f"==== {one.point.name}\n{one.output}" for one in ended)
            content = json.dumps({"device": device, **results(ended, work)}, indent=1) + "\n"
            write(out, {"report.md": report(ended, device, work), "results.json": content, "log.txt": log})
    print(f"{out / 'report.md'}")
    return 0 if all(one.code == 0 for one in ended) else 1


if __name__ == "__main__":
    sys.exit(main())
