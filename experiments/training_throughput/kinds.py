"""What each kind of adapter costs beside LoRA: a step of as many trials of each, and of all together.

    python experiments/training_throughput/kinds.py [--model FOLDER] [--dim 8] [--trials 3] [--steps 7] [KEY=VALUE]

Every group has as many trials, on the same rows. The last one has all of them, beside as many of LoRA's.
"""

from __future__ import annotations

import argparse
import statistics

from training_groups import group_of, steps_in_turn

from summarizer.config.paths import conf_folder

FIRST = "lora"
OF_THEIR_OWN_SIZE = ("ia3", "oft", "vera")
"""Those without a dim, or whose dim is of another order."""
MIXED = "all kinds in one group"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", help="a model's folder; by default the embedded one")
    parser.add_argument("--dim", type=int, default=8)
    parser.add_argument("--trials", type=int, default=3, help="of each group")
    parser.add_argument("--steps", type=int, default=7, help="of each group, after one to begin with")
    parser.add_argument("--kinds", help="by default all of conf/adapter")
    parser.add_argument("overrides", nargs="*", help="of every trial")
    arguments = parser.parse_args()
    found = arguments.kinds.split(",") if arguments.kinds else known_kinds()
    kinds = [FIRST, *(kind for kind in found if kind != FIRST)]
    shared = [*arguments.overrides]
    if arguments.model:
        shared += ["model=hf", f"model.name_or_path={arguments.model}", "prompt=tldr"]
    trials = {kind: [of_kind(kind, arguments.dim)] * arguments.trials for kind in kinds}
    trials[MIXED] = [of_kind(kind, arguments.dim) for kind in kinds for _ in range(arguments.trials)]
    took = steps_in_turn({name: group_of(own, shared) for name, own in trials.items()}, arguments.steps)
    plain = statistics.median(took[FIRST])
    print(f"| {arguments.trials} trials, dim {arguments.dim} | step, median | fastest | over {FIRST}'s |")
    print("|---|---|---|---|")
    for name, times in took.items():
        median = statistics.median(times)
        count = len(kinds) if name == MIXED else 1
        print(
            f"| {name} | {median * 1e3:.0f} ms | {min(times) * 1e3:.0f} ms | {median / plain / count:.2f} |"
        )


def known_kinds() -> list[str]:
    return sorted(path.stem for path in (conf_folder() / "adapter").glob("*.yaml"))


def of_kind(kind: str, dim: int) -> list[str]:
    return [f"adapter={kind}", "seed=1", *([] if kind in OF_THEIR_OWN_SIZE else [f"adapter.dim={dim}"])]


if __name__ == "__main__":
    main()
