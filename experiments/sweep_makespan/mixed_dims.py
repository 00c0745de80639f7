"""What it costs a group that its trials' dimensions differ: steps of mixed dims beside steps of equal ones.

    python experiments/sweep_makespan/mixed_dims.py [--model FOLDER] [--steps 5]

A group's pairs lie in one stack, padded to the largest dim. Every group has as many trials, on the same rows; the
groups take turns of a step.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir

from summarizer.adapters.attach import attach
from summarizer.config.paths import conf_folder
from summarizer.data.order import EncodedRow, TrainingRows
from summarizer.data.prompt import Prompt, build_prompt
from summarizer.data.splits import build_split
from summarizer.model.load import load_base, load_config
from summarizer.model.source import model_folder
from summarizer.model.tokenizer import load_tokenizer
from summarizer.processes import Processes, join_processes
from summarizer.runs.preflight import preflight
from summarizer.runs.sizing import compiles, size_run
from summarizer.tracking.recorder import no_recorder
from summarizer.tracking.utilisation import shape_of
from summarizer.training.course import Course
from summarizer.training.flat_optimizer import build_optimizer
from summarizer.training.group import Group, build_group
from summarizer.training.step import train_step
from summarizer.training.trial import Trial

MIXED = (2, 4, 8, 16, 32, 64)
EQUAL = (2, 21, 64)
"""The least, the mean and the most of MIXED."""


def group_of(
    dims: Sequence[int], overrides: Sequence[str], processes: Processes, prompt: Prompt, rows: TrainingRows
) -> Group:
    """A trial for each dim over a base of its own."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        specs = [preflight(compose("config", [*overrides, f"adapter.dim={dim}"])) for dim in dims]
    config = load_config(model_folder(specs[0].model))
    sizing = size_run(specs[0], config, processes.dtype, processes.device)
    base = load_base(specs[0].model, specs[0].quantization, processes.device)
    sizing.prepare(base.model, compiled=compiles(specs[0], processes.device))
    adapted = attach(base.model, [spec.adapter.build() for spec in specs], [spec.seed for spec in specs])
    group = build_group(adapted, prompt, processes, sizing.microbatches)
    endless = Course(10**6, None, 10**6, 10**6, "max_steps")
    trials = []
    for place, spec in enumerate(specs):
        parameters = adapted.parameters_of(place)
        trials.append(
            Trial(
                spec,
                Path(tempfile.gettempdir()),
                parameters,
                build_optimizer(spec, parameters),
                no_recorder(),
                endless,
                rows,
                shape_of(adapted, place),
            )
        )
    group.enter(trials)
    return group


def step_s(group: Group, batch: list[EncodedRow]) -> float:
    begun_s = time.perf_counter()
    with group.adapted.training():
        train_step(group, [batch] * len(group.trials)).read()
    return time.perf_counter() - begun_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", help="a model's folder; by default the embedded one")
    parser.add_argument("--steps", type=int, default=5, help="of each group, after one to begin with")
    arguments = parser.parse_args()
    overrides = ["tracking=none", "data=sample"]
    if arguments.model:
        overrides += ["model=hf", f"model.name_or_path={arguments.model}", "prompt=tldr"]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        spec = preflight(compose("config", overrides))
    processes = join_processes(device=spec.trainer.device, precision=spec.trainer.precision, wanted=None)
    tokenizer = load_tokenizer(model_folder(spec.model))
    prompt = build_prompt(spec.prompt, tokenizer)
    rows = build_split(spec.data, "train", prompt)
    batches = rows.batches(spec.seed, spec.trainer.batch_size, 0, shuffle=True, group_by_length=False)

    dims_of = {"mixed": MIXED} | {f"equal, {dim}": (dim,) * len(MIXED) for dim in EQUAL}
    groups = {name: group_of(dims, overrides, processes, prompt, rows) for name, dims in dims_of.items()}
    took: dict[str, list[float]] = {name: [] for name in groups}
    for step in range(arguments.steps + 1):
        batch = next(batches)
        for name, group in groups.items():
            seconds = step_s(group, batch)
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
