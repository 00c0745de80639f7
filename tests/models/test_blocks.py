from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from model_folders import load, tiny_model, token_ids

from summarizer.models.blocks import compile_blocks, recompute_blocks

COMPILED = """
import sys
import torch
from torch._dynamo.utils import counters
from model_folders import load
from summarizer.adapters.attach import attach
from summarizer.adapters.lora import LoRA
from summarizer.models import attention, blocks
from summarizer.models.attention import Sequences
from summarizer.ops.attention import masked_attention

def gradients(compiled):
    torch._dynamo.reset()
    base = load(sys.argv[1], "int8").model
    if compiled:
        blocks.recompute_blocks(base, 1)
        attention.packed_attention = masked_attention  # as on a GPU, nothing in it leaves the graph
        real = torch.compile
        torch.compile = lambda function, **how: real(function, backend="aot_eager", fullgraph=True, **how)
        assert blocks.compile_blocks(base) == 2
        torch.compile = real
    options = dict(alpha=None, dropout=0.0, targets=["linear", "head", "embedding"], exclude=[], start_from=None)
    adapted = attach(base, [LoRA(dim=2, **options), LoRA(dim=3, **options)], [0, 1])
    for stack in adapted.stacks():
        torch.nn.init.normal_(stack, std=0.1, generator=torch.Generator().manual_seed(0))
    with adapted.training():
        for length in (11, 13, 10, 9):  # equal to no size of a weight, which would stand for it
            ids = torch.arange(2 * length).reshape(2, length) % 90
            ends = torch.tensor([0, 3, length, length + 5, 2 * length], dtype=torch.int32)
            one = torch.cat([torch.arange(3), torch.arange(length - 3)])
            two = torch.cat([torch.arange(5), torch.arange(length - 5)])
            base(ids.flatten(), Sequences(torch.cat((one, two)), ends, rows=2)).square().mean().backward()
    return [stack.grad.clone() for stack in adapted.stacks()]

plain, compiled = gradients(False), gradients(True)
assert any(gradient.abs().max() > 1e-3 for gradient in plain)
for one, other in zip(plain, compiled, strict=True):
    torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)
print("compiled", counters["stats"]["unique_graphs"])
"""


@pytest.mark.parametrize("kind", ["gptj", "llama_tied", "gpt2", "opt"])
@pytest.mark.parametrize("count", [0, 1, None])
def test_recomputed_blocks_give_the_same_gradients_and_keep_less(
    kind: str, count: int | None, tmp_path: Path
) -> None:
    tiny_model(kind).save_pretrained(tmp_path)
    kept: list[int] = []
    grads = []
    for how_many in (0, count):
        model = load(tmp_path).model
        model.module.train()
        assert len(model.blocks) == 2
        assert recompute_blocks(model, how_many) == (2 if how_many is None else how_many)
        inputs: list[torch.Tensor] = []
        model.embedding.register_forward_hook(
            lambda *given, own=inputs: (own.append(given[-1].detach().requires_grad_()), own[-1])[1]
        )
        seen: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, seen=seen: (seen.append(t.numel()), t)[1], lambda t: t
        ):
            loss = model.logits(token_ids()).square().mean()
        kept.append(sum(seen))
        loss.backward()
        grads.append(inputs[0].grad)
    torch.testing.assert_close(grads[1], grads[0])
    assert (kept[1] < kept[0]) == (count != 0)


@pytest.mark.parametrize("graphs", [False, True])
def test_only_training_steps_run_compiled_code(
    graphs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Generating would be compiled anew for every layer's cache."""
    tiny_model("gptj").save_pretrained(tmp_path)
    model = load(tmp_path).model
    calls: list[bool] = []

    def compiled(function: Callable[..., object], **how: object) -> Callable[..., object]:
        assert how == {"dynamic": True} | ({"mode": "reduce-overhead"} if graphs else {})
        return lambda *inputs, **more: (calls.append(True), function(*inputs, **more))[1]

    monkeypatch.setattr(torch, "compile", compiled)
    assert compile_blocks(model, graphs=graphs) == 2
    model.module.eval()
    model.logits(token_ids())
    assert calls == []
    model.module.train()
    model.logits(token_ids())
    assert calls == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gptj", "llama_untied"])
def test_compiled_blocks_give_the_same_gradients_at_every_length(kind: str, tmp_path: Path) -> None:
    """In a process of its own: the compiler cannot see through the type checks that these tests run under."""
    tiny_model(kind).save_pretrained(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, str(tmp_path)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("compiled ")
    # The block that is recomputed and the one that is not, each for all lengths.
    assert int(done.stdout.split()[1]) <= 2
