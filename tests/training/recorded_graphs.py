"""What CUDA graphs would do to a group's steps, played on the CPU. Run as a script, it prints what came.

Blocks are compiled with the arguments of `compile_blocks`, down to the graphs that inductor would record. Each runs
as a recorded one does: inputs that may move are copied, those that may not must lie where they lay when that call
of a pass had this shape before, and with the next pass all results of the last are overwritten, here by NaN.
Source: torch/_inductor/cudagraph_trees.py.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tiny_bases import fill_randomly
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor.compile_fx import compile_fx
from training_groups import build_group, spec_of

from summarizer.models import attention, blocks
from summarizer.ops.attention import masked_attention
from summarizer.training.step import Group
from summarizer.training.trainer import train_step

STEPS = 4


class Recorder:
    """Stands in for the recording of graphs."""

    def __init__(self) -> None:
        self.graphs = 0
        """Compiled."""
        self.recorded: dict[tuple[Any, ...], list[int]] = {}
        """Where the inputs that stay lie, by graph, its place in the pass, and the sizes."""
        self.calls = 0
        self.results: list[Tensor] = []

    def begin_pass(self) -> None:
        for result in self.results:
            result.fill_(torch.nan if result.is_floating_point() else 99)
        self.results.clear()
        self.calls = 0

    def backend(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        return compile_fx(graph, inputs, inner_compile=self.inner)

    def inner(
        self, graph: torch.fx.GraphModule, _: Any, static_input_idxs: Any = (), **more: Any
    ) -> Callable[[list[Any]], Any]:
        number, static = self.graphs, frozenset(static_input_idxs or ())
        self.graphs += 1

        def replay(given: list[Any]) -> Any:
            inputs = [
                one.clone() if isinstance(one, Tensor) and index not in static else one
                for index, one in enumerate(given)
            ]
            given.clear()
            where = [
                inputs[index].data_ptr() for index in sorted(static) if isinstance(inputs[index], Tensor)
            ]
            # Backward's come from forward, whose memory is the recorder's own.
            if not more.get("is_backward"):
                sizes = tuple(one for one in inputs if isinstance(one, int))
                assert self.recorded.setdefault((number, self.calls, sizes), where) == where, "it moved"
            self.calls += 1
            inputs_at = {one.untyped_storage().data_ptr() for one in inputs if isinstance(one, Tensor)}
            results = graph(*inputs)
            self.results += [
                one
                for one in results
                if isinstance(one, Tensor) and one.untyped_storage().data_ptr() not in inputs_at
            ]
            return results

        replay._boxed_call = True  # type: ignore[attr-defined]
        return replay


@contextmanager
def recording() -> Iterator[Recorder]:
    """Within the block, compiled code runs as recorded graphs do."""
    recorder = Recorder()
    real, real_mark = torch.compile, torch.compiler.cudagraph_mark_step_begin

    def compiled(function: Callable[..., Any], *, dynamic: bool, mode: str) -> Callable[..., Any]:
        assert mode == "reduce-overhead"
        return real(function, dynamic=dynamic, fullgraph=True, backend=recorder.backend)  # type: ignore[no-any-return]

    torch.compile, torch.compiler.cudagraph_mark_step_begin = compiled, recorder.begin_pass  # type: ignore[assignment]
    try:
        yield recorder
    finally:
        torch.compile, torch.compiler.cudagraph_mark_step_begin = real, real_mark


def numbers(group: Group) -> list[tuple[list[float], list[float]]]:
    """Losses and gradient norms of some steps."""
    found = []
    with group.adapted.training():
        for _ in range(STEPS):
            measured = train_step(group, [trial.next_batch() for trial in group.trials])
            found.append(measured.read())
    return found


def main() -> None:
    # As on a GPU, nothing in attention leaves the graph.
    attention.packed_attention = masked_attention
    folder = Path(tempfile.mkdtemp())
    overrides = ["optimizer=adamw", "prompt.max_tokens=448", "data.rows.train=20", *sys.argv[1:]]
    specs = [spec_of(*overrides, f"adapter.dim={dim}", f"seed={dim}") for dim in (2, 5)]
    groups = [build_group(specs, folder / name) for name in ("plain", "recorded")]
    for group in groups:
        for place in range(len(specs)):
            fill_randomly(group.adapted, place)
    plain = numbers(groups[0])
    groups[1].microbatches.few_shapes = True
    with recording() as recorder:
        assert blocks.compile_blocks(groups[1].adapted.model, graphs=True) == 6
        for layer in groups[1].adapted.layers.values():  # it was attached before
            layer.at_positions = layer.role == "head"
        recorded = numbers(groups[1])
    for one, other in zip(plain, recorded, strict=True):
        torch.testing.assert_close(torch.tensor(other), torch.tensor(one), rtol=1e-4, atol=1e-5)
    sizes = {key[2] for key in recorder.recorded}
    print("graphs", recorder.graphs, "breaks", len(counters["graph_break"]), "sizes", len(sizes))


if __name__ == "__main__":
    main()
