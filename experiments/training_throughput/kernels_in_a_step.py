"""A training step on a CPU with and without the kernels of `summarizer/model/kernels` that training uses.

    python -m experiments.training_throughput.kernels_in_a_step --trials 8
    python -m experiments.training_throughput.kernels_in_a_step model=hf model.name_or_path=outputs/smollm2 \\
        prompt=tldr prompt.max_tokens=512 data=files data.train=../shared/cnn_dailymail/train.jsonl.gz \\
        data.validation=../shared/cnn_dailymail/validation.jsonl.gz data.rows.train=500

The step is a run's own, of a group of trials that differ in their adapters' dim, over the first batch of the rows.
Each way takes one step in each turn, so that all see the machine in the same state; the median counts.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from hydra import compose, initialize_config_dir

from summarizer.adapters.attach import attach
from summarizer.config.paths import conf_folder
from summarizer.config.specs import RunSpec
from summarizer.data.prompt import build_prompt
from summarizer.data.splits import build_split
from summarizer.model.kernels import causal, gelu, scaled_columns
from summarizer.model.load import load_base
from summarizer.model.source import model_folder
from summarizer.model.tokenizer import load_tokenizer
from summarizer.processes import join_processes
from summarizer.runs.preflight import preflight
from summarizer.tracking.recorder import no_recorder
from summarizer.tracking.utilisation import shape_of
from summarizer.training.course import Course
from summarizer.training.flat_optimizer import build_optimizer
from summarizer.training.group import Group, build_group
from summarizer.training.microbatches import Microbatches
from summarizer.training.step import train_step
from summarizer.training.trial import Trial

DIMS = (2, 4, 8, 16)
TOTAL_STEPS = 1_000_000
"""More than any measurement takes: the schedule is constant."""
WAYS = {
    "all kernels": (),
    "without gelu": (gelu,),
    "without scales": (scaled_columns,),
    "without attention": (causal,),
    "torch alone": (gelu, scaled_columns, causal),
}
"""What is switched off in each."""


def specs_of(trials: int, overrides: Sequence[str]) -> list[RunSpec]:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        dims = (DIMS[trial % len(DIMS)] for trial in range(trials))
        typed = ["tracking=none", "trainer.device=cpu", *overrides]
        return [preflight(compose("config", [*typed, f"adapter.dim={dim}"])) for dim in dims]


def group_of(specs: Sequence[RunSpec]) -> Group:
    """As `runs.experiment` puts it together, all trials in their places."""
    first = specs[0]
    processes = join_processes(device="cpu", precision=first.trainer.precision, wanted=None)
    prompt = build_prompt(first.prompt, load_tokenizer(model_folder(first.model)))
    base = load_base(first.model, first.quantization, processes.device)
    adapted = attach(base.model, [spec.adapter.build() for spec in specs], [spec.seed for spec in specs])
    rows, course = (
        build_split(first.data, "train", prompt),
        Course(TOTAL_STEPS, None, TOTAL_STEPS, TOTAL_STEPS, "max_steps"),
    )
    group = build_group(adapted, prompt, processes, Microbatches(None, None))
    trials = []
    for place, spec in enumerate(specs):
        own = adapted.parameters_of(place)
        optimizer, shape = build_optimizer(spec, own), shape_of(adapted, place)
        folder = Path(tempfile.gettempdir())
        trials.append(Trial(spec, folder, own, optimizer, no_recorder(), course, rows, shape))
    group.enter(trials)
    return group


@contextmanager
def without(kernels: Sequence[object]) -> Iterator[None]:
    """As on a machine that cannot compile them."""
    if not kernels:
        yield
        return
    with patch.object(kernels[0], "library", lambda source: None), without(kernels[1:]):
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
    group = group_of(specs_of(options.trials, options.overrides))
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
    tokens = sum(measured.tokens)
    print(f"{tokens} tokens a step")
    for way, seen in times.items():
        median = statistics.median(seen[1:])  # the first finds memory
        print(f"{way:18} {median:6.3f} s a step, {tokens / median:6.0f} tokens/s")


if __name__ == "__main__":
    main()
