"""Each question about what a module computes, asked of modules that do and that do not."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import FalconConfig, Gemma3TextConfig, OPTConfig
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from summarizer.models import probe
from summarizer.models.meta_model import build_meta_model
from summarizer.quantization.frozen import FrozenEmbedding

pytestmark = pytest.mark.versions

SIZES = {"vocab_size": 16, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1}


class WrittenOut(nn.Linear):
    """What Falcon's linear layers are: a forward of their own that is a plain product."""

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 1.001 * super().forward(x)


class Clipped(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.clamp(-1, 1))


class Flat(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flatten(1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_product_is_known_by_its_numbers(bias: bool, device: str) -> None:
    for kind in (nn.Linear, WrittenOut):
        assert probe.is_product(kind(6, 4, bias=bias, device=device), transposed=False)
    for kind in (Scaled, Clipped, Flat):
        assert not probe.is_product(kind(6, 4, bias=bias, device=device), transposed=False)


def test_a_transposed_product_is_one() -> None:
    assert probe.is_product(Conv1D(4, 6), transposed=True)
    assert not probe.is_product(Conv1D(4, 6), transposed=False)


def test_a_layer_that_gives_more_than_a_product_is_none() -> None:
    class Router(nn.Linear):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            y = super().forward(x)
            return y, y.argmax(dim=-1)

    assert not probe.is_product(Router(6, 4), transposed=False)


def test_a_lookup_is_known_by_its_numbers() -> None:
    class Shifted(nn.Embedding):
        def forward(self, ids: Tensor) -> Tensor:
            return super().forward(ids + 1)

    class Doubled(nn.Embedding):
        def forward(self, ids: Tensor) -> Tensor:
            return 2 * super().forward(ids)

    class Own(nn.Embedding):
        def forward(self, ids: Tensor) -> Tensor:
            return self.weight[ids]

    class NoPadding(nn.Embedding):
        def forward(self, ids: Tensor) -> Tensor:
            return super().forward(ids) * (ids != self.padding_idx)[..., None]

    for padding in (None, 3):
        assert probe.lookup_scale(nn.Embedding(9, 4, padding, device="meta")) == 1
        assert probe.lookup_scale(Own(9, 4, padding, device="meta")) == 1
        assert probe.lookup_scale(Doubled(9, 4, padding)) == pytest.approx(2)
        assert probe.lookup_scale(Shifted(9, 4, padding)) is None
    assert probe.lookup_scale(NoPadding(9, 4, 3)) is None


def test_activations_are_known_by_their_numbers() -> None:
    tanh = partial(F.gelu, approximate="tanh")
    same = {name for name in ACT2FN if _is(name, tanh)}
    assert {"gelu_new", "gelu_fast", "gelu_pytorch_tanh"} <= same
    assert not same & {"gelu", "quick_gelu", "relu", "silu", "gelu_10", "linear"}
    assert {name for name in ACT2FN if _is(name, F.silu)} == {"silu", "swish"}


def _is(name: str, function: partial[Tensor]) -> bool:
    return probe.is_function(ACT2FN[name], function)


def test_asking_leaves_the_module_and_the_global_generator_alone() -> None:
    module = WrittenOut(6, 4)
    weight, before = module.weight, torch.get_rng_state()
    assert probe.is_product(module, transposed=False)
    assert module.weight is weight
    assert torch.equal(torch.get_rng_state(), before)


def test_falcon_s_linear_layers_and_gemma_s_scaled_embedding_are_adapted() -> None:
    falcon = build_meta_model(FalconConfig(**SIZES), "int8")
    assert falcon.unconverted == {}
    assert len(falcon.weights) == 5  # four products of a block and the embedding, to which the head is tied
    gemma = build_meta_model(Gemma3TextConfig(**SIZES, intermediate_size=8, head_dim=8), "int8")
    assert gemma.unconverted == {}
    assert isinstance(gemma.model.embedding, FrozenEmbedding)
    assert gemma.model.embedding.scale == pytest.approx(gemma.model.config.hidden_size**0.5)
    opt = build_meta_model(OPTConfig(**SIZES, word_embed_proj_dim=32, ffn_dim=8), "int8")
    assert list(opt.unconverted) == ["model.decoder.embed_positions"]  # it adds 2 to each position
