"""A training step on a CPU with and without the kernels of `summarizer/ops` that training uses.

    python experiments/training_throughput/kernels_in_a_step.py --trials 8
    python experiments/training_throughput/kernels_in_a_step.py model=hf model.name_or_path=outputs/smollm2 \\
        prompt=tldr prompt.max_tokens=512 data=files data.train=../shared/cnn_dailymail/train.jsonl.gz \\
        data.validation=../shared/cnn_dailymail/validation.jsonl.gz data.rows.train=500

The step is a run's own, of a group of trials that differ in their adapters' dim, over the first batch of the rows.
Each way takes one step in each turn, so that all see the machine in the same state; the median counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

from training_groups import group_of

from summarizer.ops import activations, attention, elementwise, linear, loss, low_rank, norms, rotary
from summarizer.training.trainer import train_step

DIMS = (2, 4, 8, 16)
GELU, ATTENTION, NORMS, ROTATIONS, NARROW, LOSS, ONEDNN = (
    (module, "supports") for module in (activations, attention, norms, rotary, low_rank, loss, linear)
)
SCALES = (elementwise, "supports_scales")
WAYS = {
    "all kernels": (),
    "without gelu": (GELU,),
    "without scales": (SCALES,),
    "without attention": (ATTENTION,),
    "without RMS norms": (NORMS,),
    "without rotations": (ROTATIONS,),
    "without narrow products": (NARROW,),
    "without loss": (LOSS,),
    "without oneDNN in fp32": (ONEDNN,),
    "torch alone": (GELU, SCALES, ATTENTION, NORMS, ROTATIONS, NARROW, LOSS, ONEDNN),
}
"""What is switched off in each."""


@contextmanager
def without(kernels: Sequence[tuple[object, str]]) -> Iterator[None]:
    """As on a machine that cannot compile them."""
    if not kernels:
        yield
        return
    with patch.object(*kernels[0], lambda *given: False), without(kernels[1:]):
        yield


def main(typed: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("overrides", nargs="*", help="of the config")
    options = parser.parse_args(typed)
    dims = [DIMS[trial % len(DIMS)] for trial in range(options.trials)]
    group = group_of([[f"adapter.dim={dim}"] for dim in dims], ["trainer.device=cpu", *options.overrides])
    batches = [trial.next_batch() for trial in group.trials]
    times: dict[str, list[float]] = {way: [] for way in options.ways}
    with group.adapted.training():
        for _ in range(options.turns + 1):
            for way, seen in times.items():
                begun = time.perf_counter()
                with without(WAYS[way]):
                    measured = train_step(group, batches)
                measured.read()
                seen.append(time.perf_counter() - begun)
    tokens = measured.tokens
    print(f"{tokens} tokens a step")
    for way, seen in times.items():
        median = statistics.median(seen[1:])  # the first finds memory
        print(f"{way:23} {median:6.3f} s a step, {tokens / median:6.0f} tokens/s")


if __name__ == "__main__":
    main()
