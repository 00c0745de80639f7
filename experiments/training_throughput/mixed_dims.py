"""What it costs a group that its trials' dimensions differ: steps of mixed dims beside steps of equal ones.

    python experiments/training_throughput/mixed_dims.py [--model FOLDER] [--steps 5]

A group's pairs lie in one stack, padded to the largest dim. Every group has as many trials, on the same rows; the
groups take turns of a step.
"""

from __future__ import annotations

import argparse
import statistics

from training_groups import group_of, steps_in_turn

MIXED = (2, 4, 8, 16, 32, 64)
EQUAL = (2, 21, 64)
"""The least, the mean and the most of MIXED."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", help="a model's folder; by default the embedded one")
    parser.add_argument("--steps", type=int, default=5, help="of each group, after one to begin with")
    arguments = parser.parse_args()
    overrides = []
    if arguments.model:
        overrides = ["model=hf", f"model.name_or_path={arguments.model}", "prompt=tldr"]
    dims_of = {"mixed": MIXED} | {f"equal, {dim}": (dim,) * len(MIXED) for dim in EQUAL}
    took = steps_in_turn(
        {
            name: group_of([[f"adapter.dim={dim}"] for dim in dims], overrides)
            for name, dims in dims_of.items()
        },
        arguments.steps,
    )
    mixed = statistics.median(took["mixed"])
    print("| dims of six trials | step, median | fastest | mixed takes |")
    print("|---|---|---|---|")
    for name, times in took.items():
        median = statistics.median(times)
        print(f"| {name} | {median * 1e3:.0f} ms | {min(times) * 1e3:.0f} ms | {mixed / median:.2f} x |")


if __name__ == "__main__":
    main()
