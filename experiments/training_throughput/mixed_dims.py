"""What it costs a group that its trials' dimensions differ: steps of mixed dims beside steps of equal ones.

    python experiments/training_throughput/mixed_dims.py [--model FOLDER] [--steps 5]

A group's pairs lie in one stack, padded to the largest dim. Every group has as many trials, on the same rows; the
groups take turns of a step.
"""

from __future__ import annotations

import argparse
import statistics
import time

from training_groups import group_of

from summarizer.training.step import Group
from summarizer.training.trainer import train_step

MIXED = (2, 4, 8, 16, 32, 64)
EQUAL = (2, 21, 64)
"""The least, the mean and the most of MIXED."""


def step_s(group: Group) -> float:
    begun_s = time.perf_counter()
    with group.adapted.training():
        train_step(group, [trial.next_batch() for trial in group.trials]).read()
    return time.perf_counter() - begun_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", help="a model's folder; by default the embedded one")
    parser.add_argument("--steps", type=int, default=5, help="of each group, after one to begin with")
    arguments = parser.parse_args()
    overrides = []
    if arguments.model:
        overrides = ["model=hf", f"model.name_or_path={arguments.model}", "prompt=tldr"]
    dims_of = {"mixed": MIXED} | {f"equal, {dim}": (dim,) * len(MIXED) for dim in EQUAL}
    groups = {name: group_of(dims, overrides) for name, dims in dims_of.items()}
    took: dict[str, list[float]] = {name: [] for name in groups}
    for step in range(arguments.steps + 1):
        for name, group in groups.items():
            seconds = step_s(group)
            if step:
                took[name].append(seconds)
    mixed = statistics.median(took["mixed"])
    print("| dims of six trials | step, median | fastest | mixed takes |")
    print("|---|---|---|---|")
    for name, times in took.items():
        median = statistics.median(times)
        print(f"| {name} | {median * 1e3:.0f} ms | {min(times) * 1e3:.0f} ms | {mixed / median:.2f} x |")


if __name__ == "__main__":
    main()
