"""Padding to few shapes changes no loss and no gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
import torch
from tiny_bases import adapted, fill_randomly, lora, saved
from training_groups import build_group, losses_of, spec_of

from summarizer.adapters.attach import AdaptedModel
from summarizer.data.batches import Batch, PaddingBuckets
from summarizer.data.order import EncodedRow
from summarizer.data.prompt import Prompt
from summarizer.models.causal_lm import summary_nll
from summarizer.training.step import Group, backpropagate

TRIALS = ("adapter.dim=2", "seed=1,adapter.dim=5", "seed=2,adapter.dropout=0.3")
PROMPT = Prompt((3,), (4, 5), 0, 0, 30, frozenset(), frozenset(), tokenizers.Tokenizer.from_str(
    '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}'
), "", "")  # fmt: skip


def gradients(group: Group, *, few_shapes: bool) -> tuple[torch.Tensor, list[torch.Tensor], set[torch.Size]]:
    """Of the trials' next step: losses, stacks' gradients, and the shapes that came."""
    group.microbatches.few_shapes = few_shapes
    shapes: set[torch.Size] = set()
    real = group.adapted.model.summary_logits

    def seen(batch: Batch) -> torch.Tensor:
        shapes.add(batch.input_ids.shape)
        return real(batch)

    group.adapted.zero_grad()
    with pytest.MonkeyPatch.context() as patched, group.adapted.training():
        patched.setattr(group.adapted.model, "summary_logits", seen)
        losses = backpropagate(group, [trial.next_batch() for trial in group.trials])
    return losses, [stack.grad.clone() for stack in group.adapted.stacks() if stack.grad is not None], shapes


@pytest.mark.slow
@pytest.mark.parametrize("split", ["trainer.batch_size=3", "trainer.batch_size=3,trainer.microbatch_size=2"])
def test_padding_changes_nothing(split: str, tmp_path: Path) -> None:
    specs = [
        spec_of(
            *trial.split(","),
            *split.split(","),
            *(() if "dropout" in trial else ("adapter.dropout=0.1",)),
        )
        for trial in TRIALS
    ]
    group = build_group(specs, tmp_path)
    for place in range(len(specs)):
        fill_randomly(group.adapted, place)
    shapes: set[torch.Size] = set()
    plain_shapes: set[torch.Size] = set()
    for _ in range(2):
        plain_losses, plain, those = gradients(group, few_shapes=False)
        for trial in group.trials:
            trial._next_step = 0  # the same batch again
            trial._batches = None
        losses, padded, these = gradients(group, few_shapes=True)
        plain_shapes |= those
        shapes |= these
        torch.testing.assert_close(losses, plain_losses, rtol=1e-5, atol=0.0)
        assert len(plain) > 50
        assert all(gradient.abs().max() > 0 for gradient in plain)
        for one, other in zip(plain, padded, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5 * float(one.abs().max()))
        for trial in group.trials:
            trial.state.step += 1
    assert len(shapes) <= len(plain_shapes)
    assert all(shape[1] % 64 == 0 or shape[1] % 160 == 0 for shape in shapes)


@pytest.mark.parametrize("kind", ["gptj", "llama_untied", "llama_tied", "gpt2", "bloom"])
def test_padding_changes_nothing_in_other_models(kind: str, tmp_path: Path) -> None:
    """bloom's examples cannot be packed: they are rows of their own."""
    model = adapted(saved(kind, tmp_path), [lora(2), lora(3)])
    for place in range(2):
        fill_randomly(model, place)
    rows = [
        [EncodedRow("a", [10, 11, 12], [7, 0]), EncodedRow("b", list(range(20, 37)), [8, 9, 0])],
        [EncodedRow("c", list(range(40, 47)), [6, 0])],
    ]
    plain, padded = (
        of_batch(model, model.batch(rows, PROMPT, buckets=buckets))
        for buckets in (None, PaddingBuckets(3, 90))
    )
    assert padded[0].shape[1] > plain[0].shape[1]
    if kind == "bloom":
        assert padded[0].shape[1] == PROMPT.max_tokens, "no further than the model's own positions may go"
    torch.testing.assert_close(padded[1], plain[1], rtol=1e-5, atol=0.0)
    for one, other in zip(plain[2], padded[2], strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5 * float(one.abs().max()))


def of_batch(model: AdaptedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """The tokens, each trial's loss, and the gradients of all stacks."""
    model.zero_grad()
    with model.training():
        losses = summary_nll(model.model, batch)
        losses.sum().backward()
    grads = [stack.grad.clone() for stack in model.stacks() if stack.grad is not None]
    return batch.input_ids, losses.detach(), grads


@pytest.mark.slow
def test_a_whole_run_learns_the_same(tmp_path: Path) -> None:
    specs = [spec_of("trainer.max_steps=4", f"seed={seed}", "optimizer=adamw") for seed in (0, 1)]
    plain = losses_of(build_group(specs, tmp_path / "plain"))
    group = build_group(specs, tmp_path / "padded")
    group.microbatches.few_shapes = True
    padded = losses_of(group)
    assert plain[0][0] != pytest.approx(plain[0][-1], rel=1e-3)
    for one, other in zip(plain, padded, strict=True):
        assert other == pytest.approx(one, rel=1e-4)
