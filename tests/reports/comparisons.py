"""Comparisons as data, for tests of what is made of them: sweeps of any size with curves that look like curves."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

from summarizer.evaluation.metrics import Scores
from summarizer.evaluation.record import VARIANTS, Difference, Interval
from summarizer.reports.compared import ComparedRun, Comparison, Point, Row, RowSet, ScoredText
from summarizer.runs.record import RunRecord
from summarizer.runs.settings import Value

ROWS = RowSet("validation", 100, "a" * 64)
DIMS, RATES = (2, 4, 8, 16), ("1e-4", "3e-4", "1e-3", "3e-3")
EVIL = "</script><!--<script><img src=x onerror='hacked=1'>\"&amp;${x}\u2028\ud800"
"""What would break out of a script, an attribute, a template or a file's encoding if it were let."""
SENTENCES = (
    "Pupils at Dunmarch Primary will have no homework for a year.",
    "The trial has split parents in the village.",
    "A survey showed that two thirds of families argued weekly over it.",
    "The head teacher said that children should read for twenty minutes each night.",
    "It will return if test scores drop by more than five per cent.",
)


def value_of(text: str) -> Value:
    try:
        return Value((1, float(text), ""), text)
    except ValueError:
        return Value((2, 0.0, text), text)


def scores(loss: float, lsum: float) -> Scores:
    """With the other variants in their usual relation to ROUGE-Lsum."""
    means = dict(zip(VARIANTS, (1.1 * lsum, 0.37 * lsum, 0.83 * lsum, lsum), strict=True))
    return Scores({v: Interval(mean, mean - 1.6, mean + 1.7) for v, mean in means.items()}, loss)


BASE, LEAD3 = scores(2.807, 15.74), Scores(scores(0, 30.45).rouge)


def run_of(
    config: Mapping[str, str],
    *,
    loss: float = 2.4,
    lsum: float = 23.0,
    status: str = "completed",
    row_set: RowSet | None = ROWS,
    steps: int = 250,
    rows: int = 8,
    seed: int = 0,
) -> ComparedRun:
    """A run whose curve falls from the base's loss to `loss`; a failed one rises halfway and has no scores."""
    drawn = random.Random(seed)
    name = " ".join(f"{key}={text}" for key, text in config.items()) or "run"
    failed = status == "failed"
    last = steps // 2 if status != "completed" else steps
    train, val = [], []
    for step in range(1, last + 1):
        fall = loss + (2.807 - loss) * math.exp(-4 * step / steps)
        grown = 0.06 * max(0, step - steps // 3) if failed else 0.0
        train.append(Point(step, fall + grown + drawn.gauss(0, 0.12)))
        if step % max(steps // 10, 1) == 0:
            val.append(Point(step, fall + grown))
    lsums = tuple(Point(p.step, lsum - 8 * math.exp(-4 * p.step / steps)) for p in val)
    texts = {
        f"row-{i}": ScoredText(
            " ".join(drawn.sample(SENTENCES, 2)), {v: drawn.uniform(10, 45) for v in VARIANTS}
        )
        for i in range(rows)
    }
    return ComparedRun(
        name=name,
        source=f"outputs/sweep/{seed}",
        record=RunRecord(
            status="completed" if status == "completed" else "failed" if failed else "stopped",
            wall_s=60 + 3.7 * steps * drawn.uniform(0.9, 1.1),
            tokens_per_s=drawn.uniform(1300, 1600),
            peak_memory_bytes=int(1e9 * drawn.uniform(0.9, 1.4)),
            trainable_parameters=51_584 * int(float(config.get("adapter.dim", "2"))),
            steps=last,
            best_step=None if failed else last,
        ),
        why="the loss was not a finite number at step 125: a smaller optimizer.lr may help"
        if failed
        else None,
        command=f"python -m summarizer.run {name}",
        config={key: value_of(text) for key, text in config.items()}
        | {"model.name_or_path": value_of("tiny")},
        row_set=None if failed else row_set,
        scores=None if failed else scores(loss, lsum),
        base=None if failed else BASE,
        lead3=None if failed else LEAD3,
        history={"train/loss": tuple(train), "val/loss": tuple(val), "val/rougeLsum": lsums},
        predictions={} if failed else texts,
        base_predictions={
            f"row-{i}": ScoredText("the art of the art of the art", dict.fromkeys(VARIANTS, 4.2))
            for i in range(rows)
        },
    )


def comparison_of(
    runs: Sequence[ComparedRun], ranked_by: str = "rougeLsum", swept: Sequence[str] | None = None
) -> Comparison:
    """As the reading side arranges it: by row set, best first; each run against the best of its rows."""

    def cost(run: ComparedRun) -> float:
        assert run.scores is not None
        if ranked_by == "val/loss":
            return run.scores.loss if run.scores.loss is not None else math.inf
        return -run.scores.rouge[ranked_by].value

    row_sets = list(dict.fromkeys(run.row_set for run in runs if run.row_set))
    ordered = [
        run for row_set in row_sets for run in sorted((r for r in runs if r.row_set == row_set), key=cost)
    ]
    best = {row_set: next(run for run in ordered if run.row_set == row_set) for row_set in row_sets}
    against: dict[str, dict[str, Difference]] = {}
    for run in ordered:
        first = best[run.row_set] if run.row_set else run
        if run is first or not run.scores or not first.scores:
            continue
        against[run.name] = {}
        for variant in VARIANTS:
            gap = first.scores.rouge[variant].value - run.scores.rouge[variant].value
            p = max(1e-4, math.exp(-2 * abs(gap)))
            interval = Interval(gap, gap - 1.2, gap + 1.2)
            against[run.name][variant] = Difference(
                first.name, run.name, variant, interval, p, min(1.0, 3 * p), 100
            )
    differing = [
        key
        for key in dict.fromkeys(key for run in runs for key in run.config)
        if len({run.config.get(key) for run in runs}) > 1
    ]
    ids = dict.fromkeys(row_id for run in runs for row_id in run.predictions)
    articles = tuple(
        Row(row_id, SENTENCES[0], " ".join(SENTENCES) if i % 2 else None) for i, row_id in enumerate(ids)
    )
    return Comparison(
        runs=(*ordered, *(run for run in runs if run.row_set is None)),
        swept=tuple(differing if swept is None else swept),
        row_sets=tuple(row_sets),
        best={row_set: run.name for row_set, run in best.items()},
        ranked_by=ranked_by,
        against_best=against,
        rows=dict.fromkeys(row_sets, articles),
        problems={},
        notes=(),
    )


def sweep(count: int, ranked_by: str = "rougeLsum", *, steps: int = 250) -> Comparison:
    """A grid of dim, learning rate and then seed, up to `count` runs; of four and more one failed, one stopped."""
    seeds, dims, rates = range((count - 1) // 16 + 1), DIMS, RATES
    if count <= 4:
        dims, rates = DIMS[::2], RATES[::2]
    runs = []
    for i, (seed, dim, rate) in enumerate(list(product(seeds, dims, rates))[:count]):
        far = abs(math.log10(float(rate)) + 3.2)
        config = {"adapter.dim": str(dim), "optimizer.lr": rate} | ({"seed": str(seed)} if count > 16 else {})
        status = "completed" if count < 4 or i not in (1, 3) else "failed" if i == 3 else "stopped"
        runs.append(
            run_of(
                config,
                loss=2.3 + 0.18 * far + 0.03 * (4 - math.log2(dim)) + 0.01 * seed,
                lsum=26 - 3 * (status == "stopped") - 3.1 * far - 0.4 * (4 - math.log2(dim)) - 0.1 * seed,
                status=status,
                steps=steps,
                seed=i,
            )
        )
    return comparison_of(runs, ranked_by)


def with_text_everywhere(comparison: Comparison, text: str) -> Comparison:
    """The same with `text` wherever text of a run can come to stand."""
    runs = tuple(
        replace(
            run,
            name=f"{text} {i}",
            source=text,
            why=text,
            command=text,
            config={
                **run.config,
                "data.text_column": Value((2, 0.0, f"{text}{i}"), f"{text}{i}"),
                text: value_of("1"),
            },
            predictions={key: ScoredText(text, one.rouge) for key, one in run.predictions.items()},
            base_predictions={key: ScoredText(text, one.rouge) for key, one in run.base_predictions.items()},
        )
        for i, run in enumerate(comparison.runs)
    )
    names = {old.name: new.name for old, new in zip(comparison.runs, runs, strict=True)}
    return replace(
        comparison,
        runs=runs,
        swept=(*comparison.swept, "data.text_column"),
        best={row_set: names[name] for row_set, name in comparison.best.items()},
        against_best={names[name]: of for name, of in comparison.against_best.items()},
        rows={
            row_set: tuple(Row(row.id, text, text) for row in rows)
            for row_set, rows in comparison.rows.items()
        },
        problems={text: text},
        notes=(text,),
    )
