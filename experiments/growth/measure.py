"""How time and memory grow: with trials, with the length of rows, with their number, with predictions to compare.

    python experiments/growth/measure.py --axis rows --out experiments/growth/results
    python experiments/growth/measure.py --axis length --model outputs/smollm2 --out outputs/growth
    python experiments/growth/measure.py --quick --out /tmp/growth

Every point is a process of its own, by the commands that people type, whose CPU seconds and memory are taken.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

from inputs import long_rows, real_rows, short_rows, with_predictions, write_rows
from watched import Seen, watched

if TYPE_CHECKING:
    from collections.abc import Mapping

MIB = 2**20
COSTS = {"cpu_s": "CPU (s)", "peak_bytes": "VmHWM (MiB)"}
"""What the slopes are of: CPU seconds depend least on what else the machine does."""
GROWS = 1.15
"""A cost whose largest point is not so many times its smallest does not grow, and has no power."""


@dataclass(frozen=True)
class Point:
    """A command that is measured at one size."""

    series: str
    command: tuple[str, ...]
    after: Callable[[], int | None] = lambda: None
    """Bytes of what it wrote, where that is asked for."""


@dataclass(frozen=True)
class Work:
    """Where the study works, and on what."""

    folder: Path
    cache: Path
    """Where the commands keep compiled kernels and tokens."""
    rows: Sequence[dict[str, str]]
    model: tuple[str, ...]
    """Overrides that choose it."""

    def run(self, name: str, *overrides: str, sweep: bool = False) -> tuple[str, ...]:
        """`python` is left out of it."""
        out = f"hydra.sweep.dir={self.folder / name}" if sweep else f"hydra.run.dir={self.folder / name}"
        many = ("-m",) if sweep else ()
        return ("-m", "summarizer.run", *many, *self.model, "tracking=none", *overrides, out)


# ---- the axes ----------------------------------------------------------------------------------------------------


def trials(work: Work, count: int) -> Iterator[Point]:
    """A sweep over so many learning rates, trained at once, with its report and its confirmation."""
    rates = ",".join(f"{1e-3 * 1.05**i:.4g}" for i in range(count))
    yield Point(
        "sweep",
        work.run(
            f"trials-{count}",
            f"optimizer.lr={rates}",
            f"sweep.max_concurrent_trials={count}",
            "data.rows={train: 64, validation: 8, test: 4}",
            "trainer.max_steps=4",
            "prompt.max_tokens=256",
            "generation.max_new_tokens=8",
            sweep=True,
        ),
    )


def length(work: Work, tokens: int) -> Iterator[Point]:
    """A run of a few steps on rows that fill so many tokens; its generated summaries have at most 16."""
    files = {
        name: write_rows(work.folder / f"{name}-{tokens}.jsonl", long_rows(work.rows, count, tokens))
        for name, count in (("train", 16), ("validation", 4))
    }
    yield Point(
        "run",
        work.run(
            f"length-{tokens}",
            "data=files",
            f"data.train={files['train']}",
            f"data.validation={files['validation']}",
            f"prompt.max_tokens={tokens}",
            "trainer.max_steps=6",
            "generation.max_new_tokens=16",
        ),
    )


def rows(work: Work, count: int) -> Iterator[Point]:
    """Two steps on a file of so many rows: read as it goes; tokenized first; tokenized by the run before."""
    train = write_rows(work.folder / f"train-{count}.jsonl", short_rows(work.rows, count))
    validation = write_rows(work.folder / "validation.jsonl", short_rows(work.rows[::-1], 8))
    data = (
        "data=files",
        f"data.train={train}",
        f"data.validation={validation}",
        "data.columns.id=id",
        "prompt.max_tokens=256",
        "generation.max_new_tokens=8",
        "trainer.max_steps=2",
    )
    yield Point("streamed", work.run(f"streamed-{count}", *data, "data.streaming=true"))
    yield Point("tokenized", work.run(f"tokenized-{count}", *data))
    yield Point("cached", work.run(f"cached-{count}", *data))
    train.unlink()
    shutil.rmtree(work.cache / "data", ignore_errors=True)


def predictions(work: Work, count: int) -> Iterator[Point]:
    """Two runs with so many scored rows beside each other, in the terminal and as a page, which is written too."""
    runs = []
    for name in ("first", "second"):
        trained = work.folder / name
        if not trained.is_dir():
            rate = {"first": "1e-3", "second": "3e-3"}[name]
            short = "generation.max_new_tokens=12"
            small = ("data.rows={train: 16, validation: 20}", "trainer.max_steps=2", short)
            watched(work.run(name, *small, f"optimizer.lr={rate}"), environment=_environment(work))
        runs.append(with_predictions(trained, work.folder / f"{name}-{count}", count))
    page = work.folder / f"page-{count}.html"
    paths = tuple(map(str, runs))
    yield Point(
        "compare --html",
        ("-m", "summarizer.compare", *paths, "--html", str(page)),
        lambda: page.stat().st_size,
    )
    for run in runs:
        shutil.rmtree(run)


@dataclass(frozen=True)
class Axis:
    """One of the things that may become many."""

    points: Callable[[Work, int], Iterator[Point]]
    sizes: tuple[int, ...]
    quick: tuple[int, ...]
    label: str


AXES = {
    "trials": Axis(trials, (1, 2, 4, 8, 16, 32), (1, 2), "trials of a sweep"),
    "length": Axis(length, (128, 256, 512, 1024, 2048), (128, 192), "tokens of a row"),
    "rows": Axis(rows, (1_000, 10_000, 100_000, 300_000), (100, 200), "rows of the training file"),
    "predictions": Axis(predictions, (100, 1_000, 10_000, 100_000), (40, 80), "scored rows of each run"),
}


# ---- slopes ------------------------------------------------------------------------------------------------------


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The log-log slope over the last decade of sizes, by least squares; 1 is linear, NaN is of one point."""
    import numpy as np

    if len(sizes) < 2:
        return math.nan
    last = [i for i, size in enumerate(sizes) if size >= sizes[-1] / 10]
    x, y = (np.log([values[i] for i in last]) for values in (sizes, costs))
    return float(np.polyfit(x, y, 1)[0])


def power(sizes: Sequence[float], costs: Sequence[float]) -> float | None:
    """k of the c + a * size**k that is nearest to all points in proportion, c and a not below 0.

    What every command pays once hides a growth from the log-log slope, and does not from this. None for a cost that
    does not grow, and for fewer than four points.
    """
    import numpy as np
    from scipy.optimize import nnls

    if len(costs) < 4 or max(costs) < GROWS * min(costs):
        return None
    y = np.array(costs, dtype=float)

    def error(k: float) -> float:
        terms = np.stack([np.ones_like(y), (np.array(sizes) / sizes[-1]) ** k], axis=1) / y[:, None]
        return float(nnls(terms, np.ones_like(y))[1])

    return float(min(np.arange(0.1, 3.01, 0.01), key=error))


# ---- measuring ---------------------------------------------------------------------------------------------------


Costs = dict[str, dict[int, dict[str, float]]]
"""By series and size: seconds, CPU seconds, memory, and bytes written where they are asked for."""


def _environment(work: Work) -> Mapping[str, str]:
    return {"SUMMARIZER_CACHE": str(work.cache)}


def measure(axis: Axis, work: Work, size: int, found: Costs) -> None:
    """Add the points of one size."""
    for point in axis.points(work, size):
        seen: Seen = watched(point.command, environment=_environment(work))
        costs = {
            "seconds": seen.seconds,
            "cpu_s": seen.cpu_s,
            "peak_bytes": seen.peak_bytes,
            "anonymous_bytes": seen.anonymous_bytes,
        }
        if (written := point.after()) is not None:
            costs["written_bytes"] = written
        points = found.setdefault(point.series, {})
        points[size] = costs
        found[point.series] = dict(sorted(points.items()))
        print(f"{point.series} {size:,}: {seen.seconds:.1f} s, {seen.cpu_s:.1f} s of CPU, ", end="")
        print(f"{seen.peak_bytes / MIB:,.0f} MiB", flush=True)


def write(axis: str, found: Costs, model: Path | None, folder: Path) -> None:
    """AXIS.json, .md and .png of what there is."""
    about = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "model": str(model or "embedded"),
    }
    content = {"about": about, "axis": axis, "series": found}
    (folder / f"{axis}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / f"{axis}.md").write_text(table(axis, found), encoding="utf-8")
    draw(axis, found, folder / f"{axis}.png")


def read(path: Path) -> Costs:
    """What `write` wrote; nothing where it has not."""
    if not path.is_file():
        return {}
    series = json.loads(path.read_text(encoding="utf-8"))["series"]
    return {name: {int(size): costs for size, costs in points.items()} for name, points in series.items()}


def table(axis: str, found: Mapping[str, Mapping[int, Mapping[str, float]]]) -> str:
    """Markdown: each point, then each series' slope of its last decade and its power."""
    written = any("written_bytes" in costs for points in found.values() for costs in points.values())
    lines = [
        f"| {AXES[axis].label} | | wall (s) | CPU (s) | VmHWM (MiB) | own memory (MiB) |"
        + (" page (KiB) |" if written else ""),
        "|---:|---|---:|---:|---:|---:|" + ("---:|" if written else ""),
    ]
    for size in next(iter(found.values())):
        for series, points in found.items():
            costs = points[size]
            cells = [
                f"{size:,}",
                series,
                f"{costs['seconds']:.1f}",
                f"{costs['cpu_s']:.1f}",
                f"{costs['peak_bytes'] / MIB:,.0f}",
                f"{costs['anonymous_bytes'] / MIB:,.0f}",
            ]
            if written:
                cells.append(f"{costs['written_bytes'] / 1024:,.0f}" if "written_bytes" in costs else "")
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| | slope of the last decade: CPU, VmHWM | power without the constant: CPU, VmHWM |",
        "|---|---|---|",
    ]
    for series, points in found.items():
        sizes = list(points)
        costs_of = [[points[size][cost] for size in sizes] for cost in COSTS]
        slopes = ", ".join(f"{slope(sizes, costs):.2f}" for costs in costs_of)
        powers = [power(sizes, costs) for costs in costs_of]
        unsaid = "does not grow" if len(sizes) > 3 else "too few points"
        said = ", ".join(unsaid if k is None else f"{k:.2f}" for k in powers)
        lines.append(f"| {series} | {slopes} | {said} |")
    return "\n".join(lines) + "\n"


def draw(axis: str, found: Mapping[str, Mapping[int, Mapping[str, float]]], path: Path) -> None:
    """Time and memory against the size, on logarithmic scales, with the slope of each series in its name."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure, charts = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for chart, (cost, label) in zip(charts, COSTS.items(), strict=True):
        unit = MIB if cost.endswith("bytes") else 1
        for series, points in found.items():
            sizes = list(points)
            costs = [points[size][cost] / unit for size in sizes]
            chart.loglog(sizes, costs, marker="o", label=f"{series}: {slope(sizes, costs):.2f}")
        first = [points[sizes[0]][cost] / unit for points in found.values()]
        ends = sizes[0], sizes[-1]
        chart.loglog(
            ends, [min(first), min(first) * ends[1] / ends[0]], color="0.7", linestyle=":", label="linear: 1"
        )
        highest = max(points[size][cost] / unit for points in found.values() for size in points)
        chart.set_ylim(min(first) / 1.5, highest * 3)
        chart.set(xlabel=AXES[axis].label, ylabel=label)
        # A logarithmic axis of less than a decade has no tick of its own: the sizes, and costs as numbers.
        chart.set_xticks(sizes, labels=[f"{size:,}" for size in sizes])
        chart.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        chart.yaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
        for one in (chart.xaxis, chart.yaxis):
            one.set_minor_formatter(NullFormatter())
        chart.legend(title="slope of the last decade", fontsize=8, title_fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--axis", choices=AXES, nargs="+", default=list(AXES), help="default: all, one by one"
    )
    parser.add_argument("--sizes", type=int, nargs="+", help="of the axis; default: those of the study")
    parser.add_argument(
        "--model", type=Path, help="the folder of a Llama-like model; default: the embedded one"
    )
    parser.add_argument(
        "--rows", type=Path, help="JSONL of real rows; default: the shared ones, or the sample"
    )
    parser.add_argument("--cache", type=Path, help="a folder of kernels that is kept; default: a new one")
    parser.add_argument("--add", action="store_true", help="sizes to those that FOLDER has of the axis")
    parser.add_argument("--quick", action="store_true", help="two small sizes: a check, no measurement")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="AXIS.json, .md and .png")
    options = parser.parse_args()
    model: tuple[str, ...] = ()
    if options.model is not None:
        model = ("model=smollm2", f"model.name_or_path={options.model.resolve()}", "prompt=tldr")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.axis:
        axis = AXES[name]
        found = read(options.out / f"{name}.json") if options.add else {}
        with tempfile.TemporaryDirectory() as folder:
            cache = options.cache or Path(folder, "cache")
            work = Work(Path(folder), cache.resolve(), real_rows(options.rows), model)
            if not cache.is_dir():
                warm = ("data.rows={train: 4, validation: 2}", "trainer.max_steps=1")
                watched(
                    work.run("warm", *warm, "generation.max_new_tokens=2"), environment=_environment(work)
                )
            for size in options.sizes or (axis.quick if options.quick else axis.sizes):
                measure(axis, work, size, found)
                write(name, found, options.model, options.out)
        print(table(name, found), flush=True)


if __name__ == "__main__":
    main()
