"""How far the summaries of a run's backends are from its own adapter beside its own base, in nats of KL.

    python experiments/generation_speed/backend_error.py RUN --rows 8 [--model FOLDER]

The rows are those that `summarizer.export` measures by: the run's own, or the package's sample.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
from torch import Tensor

from summarizer.console.progress import bar
from summarizer.converting.openvino import Converted, open_converted
from summarizer.exporting.examples import examples_of
from summarizer.exporting.measure import Example, LogProbs, Reference, log_probs_of
from summarizer.runs.opened import open_runs
from summarizer.runs.trained_run import read_run

BACKENDS = ("openvino", "openvino_int4")
PRECISIONS = ("auto", "fp32")


def answers_of(converted: Converted) -> LogProbs:
    """Of a graph that reads the prompt at once, then the reference's tokens one by one, as it would its own."""
    running = converted.running(base_alone=False)

    def answer(example: Example) -> Tensor:
        logits = [running.begin(example.ids[: example.prompt_tokens])]
        logits += [running.go_on([token], [0]) for token in example.summary[:-1]]
        return torch.cat(logits).float().log_softmax(dim=-1)

    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--model", help="where its base lies now")
    parser.add_argument("--rows", type=int, default=8, help="at most")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    run = read_run(arguments.run, model=arguments.model)
    opened = open_runs([run], device="cpu", precision="fp32")
    examples, source = examples_of(run.spec, opened.prompt)
    examples = examples[: arguments.rows]
    own = log_probs_of(opened.adapted.model, torch.device("cpu"))
    with bar("unmerged", len(examples)) as progress, opened.adapted.only([0]):
        reference = Reference.of(examples, own, progress)
    lines = [
        f"{len(examples)} rows of {source}, {reference.tokens:,} summary tokens; "
        f"the unmerged adapter's loss: {reference.loss:.4f}",
        "",
        "| backend | --precision | KL, nats a summary token | summary loss |",
        "|---|---|---|---|",
    ]
    for backend in BACKENDS:
        for precision in PRECISIONS:
            converted = open_converted([run], backend, precision=precision)
            with bar(f"{backend}, {precision}", len(examples)) as progress:
                found = reference.divergence(answers_of(converted), progress)
            lines.append(f"| {backend} | {precision} | {found.kl:.4f} | {found.loss:.4f} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
