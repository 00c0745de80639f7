"""Steps of a group on a GPU: eager, compiled, and as CUDA graphs. Run as a script, it prints what came."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch._dynamo.utils import counters
from torch._inductor.cudagraph_trees import get_manager
from training_groups import build_group, spec_of

from summarizer.models.blocks import compile_blocks
from summarizer.training.trainer import train_step

STEPS = 8


def graphs_recorded() -> int:
    manager = get_manager(0, create_if_none_exists=False)
    return 0 if manager is None else manager.new_graph_id().id  # each call takes a number itself


def main() -> None:
    overrides = ["trainer.precision=bf16", "quantization=int8", "data.rows.train=4", *sys.argv[1:]]
    specs = [spec_of(*overrides, f"adapter.dim={dim}", f"seed={dim}") for dim in (2, 5)]
    losses = {}
    recorded = []
    for way in ("eager", "compiled", "graphs"):
        torch.compiler.reset()
        group = build_group(specs, Path(tempfile.mkdtemp()), "cuda")
        group.microbatches.few_shapes = way == "graphs"
        model = group.adapted.model
        if way != "eager":
            assert compile_blocks(model, graphs=way == "graphs") == 6
            for layer in group.adapted.layers.values():  # it was attached before
                layer.at_positions = layer.role == "head"
        own = []
        with group.adapted.training():
            for _ in range(STEPS):
                own.append(train_step(group, [trial.next_batch() for trial in group.trials]).read())
                recorded.append(graphs_recorded())
        losses[way] = torch.tensor(own)
    for way in ("compiled", "graphs"):
        torch.testing.assert_close(losses[way], losses["eager"], rtol=2e-2, atol=2e-3)
    skips = counters["inductor"]["cudagraph_skips"]
    late = recorded[-1] - recorded[-3] - 2  # two calls, each of which took a number
    print("graphs", recorded[-1], "skips", skips, "recorded in the last steps", late)


if __name__ == "__main__":
    main()
