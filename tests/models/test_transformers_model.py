"""A model of transformers gives packed examples what each gives alone, where its attention can be chosen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers
from model_folders import load, logits, tiny_model, token_ids
from packaging.version import Version
from torch import Tensor
from transformers import AutoModelForCausalLM

from summarizer import compat
from summarizer.data.batches import Batch
from summarizer.errors import ConfigError
from summarizer.models import meta_model
from summarizer.models.transformers_model import TransformersModel
from summarizer.ops import attention

pytestmark = pytest.mark.versions

PACKED = ("gptj", "llama_tied", "llama_untied", "gpt2", "neox", "qwen2", "qwen3", "gemma3", "opt", "phi")
LENGTHS = (9, 3, 6)


@pytest.fixture(autouse=True)
def _none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Families of our own too as transformers has them."""
    monkeypatch.setattr(meta_model, "families", lambda first: ())


def loaded(kind: str, folder: Path) -> TransformersModel:
    tiny_model(kind).save_pretrained(folder)
    model = load(folder).model
    assert isinstance(model, TransformersModel)
    return model


def packed(parts: list[Tensor]) -> Batch:
    """One trial's, every token of which is asked for what follows."""
    ids = torch.cat(parts)[None]
    lengths = torch.tensor([0, *map(len, parts)], dtype=torch.int32)
    return Batch(
        input_ids=ids,
        position_ids=torch.cat([torch.arange(len(part)) for part in parts])[None],
        attention_mask=None,
        cu_seqlens=lengths.cumsum(0, dtype=torch.int32),
        positions=torch.arange(ids.shape[1])[None],
        targets=torch.zeros_like(ids),
        token_numbers=torch.zeros_like(ids),
    )


@pytest.mark.parametrize("kind", PACKED)
def test_packed_examples_give_what_each_gives_alone(kind: str, tmp_path: Path) -> None:
    if kind == "gptj" and Version(transformers.__version__) < Version("5.24"):
        pytest.skip("GPT-J's attention goes through transformers' interface from 5.24 on")
    model = loaded(kind, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert model.packs(32)
    parts = [token_ids(1, length, seed=seed)[0] for seed, length in enumerate(LENGTHS)]
    with torch.no_grad():
        got = model.summary_logits(packed(parts))[0]
    for part, own in zip(parts, got.split(LENGTHS), strict=True):
        torch.testing.assert_close(own, logits(theirs, part[None])[0], rtol=1e-4, atol=1e-5)


def test_where_nothing_says_how_a_model_attends_it_is_padded_and_computes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packing = loaded("llama_untied", tmp_path)
    monkeypatch.setattr(compat, "attends_through_interface", lambda model: False)
    padding = load(tmp_path).model
    assert (packing.packs(32), padding.packs(32)) == (True, False)
    torch.testing.assert_close(
        logits(padding, token_ids(2)), logits(packing, token_ids(2)), rtol=1e-4, atol=1e-5
    )


def test_no_mask_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What attention is handed is where sequences begin: it needs nothing as large as t x t."""
    model = loaded("llama_untied", tmp_path)
    seen = []

    def watched(*args: Tensor, **more: object) -> Tensor:
        seen.append((more.get("attn_mask"), more.get("is_causal")))
        return plain(*args, **more)

    plain = F.scaled_dot_product_attention
    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", watched)
    model.summary_logits(packed([token_ids(1, 4)[0], token_ids(1, 5)[0]]))
    assert len(seen) == 2 * model.config.num_hidden_layers
    assert set(seen) == {(None, True)}


def test_a_window_shorter_than_the_examples_is_not_packed(tmp_path: Path) -> None:
    model = loaded("llama_untied", tmp_path)
    model.config.sliding_window = 16
    assert model.packs(16)
    assert not model.packs(17)


def test_a_model_that_does_not_say_where_sequences_begin_is_refused_rather_than_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("llama_untied", tmp_path)
    batch = packed([token_ids(1, 4)[0], token_ids(1, 5)[0]])
    forward = model.model.forward
    monkeypatch.setattr(
        model.model,
        "forward",
        lambda cu_seq_lens_q=None, cu_seq_lens_k=None, **given: forward(**given),
    )
    with pytest.raises(AssertionError, match="where its sequences begin"):
        model.summary_logits(batch)


def test_a_model_that_gives_no_logits_at_each_token_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ProphetNet does, whose head computes two tokens ahead of each."""
    model = loaded("gpt2", tmp_path)
    for wrong in (torch.zeros(1, 12, 4), torch.zeros(1, 7)):
        monkeypatch.setattr(TransformersModel, "summary_logits", lambda *_, wrong=wrong: wrong)
        with pytest.raises(
            ConfigError, match="of two padded rows it gives no logits at each token"
        ) as caught:
            model.check_batches(torch.device("cpu"))
        assert "\n" not in str(caught.value)


def test_a_model_that_gives_no_gradients_outside_training_mode_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Reformer does, whose layers go backward by code of their own."""

    class OnlyInTraining(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, logits: Tensor) -> Tensor:
            return logits.clone()

        @staticmethod
        def backward(ctx: object, *gradients: Tensor) -> Tensor:
            raise AssertionError("put the model\ninto training mode")

    model = loaded("gpt2", tmp_path)
    plain = model.logits
    monkeypatch.setattr(model, "logits", lambda ids: OnlyInTraining.apply(plain(ids)))
    with pytest.raises(
        ConfigError, match=r"it gives no gradients .AssertionError: put the model into tr"
    ) as caught:
        model.check_batches(torch.device("cpu"))
    assert "\n" not in str(caught.value)
    assert not model.embedding._forward_hooks
