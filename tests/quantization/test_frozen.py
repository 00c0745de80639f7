"""Frozen layers against torch's own, holding the dequantized weight."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from summarizer.quantization import NAMES, weight_format
from summarizer.quantization.frozen import FrozenEmbedding, FrozenLinear, FrozenWeight


def frozen_weight(name: str, weight: Tensor) -> FrozenWeight:
    stored = FrozenWeight(name, (weight.shape[0], weight.shape[1]))
    stored.load(weight_format(name).quantize(weight))
    return stored


def pair(name: str, *, bias: bool = True) -> tuple[FrozenLinear, nn.Linear]:
    torch.manual_seed(0)
    plain = nn.Linear(33, 18, bias=bias)
    weight = frozen_weight(name, plain.weight.detach())
    layer = FrozenLinear(weight, bias=bias)
    if bias:
        layer.bias = plain.bias.detach().clone()
    plain.weight.data.copy_(weight.dense(torch.float32))
    return layer, plain


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("autocast", [False, True])
def test_forward_and_backward_are_those_of_nn_linear(name: str, bias: bool, autocast: bool) -> None:
    layer, plain = pair(name, bias=bias)
    x = torch.randn(2, 7, 33)
    grad = torch.randn(2, 7, 18)
    results = []
    for module in (layer, plain):
        own = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            y = module(own)
        y.backward(grad.to(y.dtype))
        assert own.grad is not None
        results.append((y, own.grad))
    (y, dx), (expected_y, expected_dx) = results
    assert y.dtype == (torch.bfloat16 if autocast else torch.float32)
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if autocast else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(y, expected_y, **tolerance)
    torch.testing.assert_close(dx, expected_dx, **tolerance)


def test_gradient_check_in_fp64() -> None:
    layer, _ = pair("none")
    x = torch.randn(3, 33, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


@pytest.mark.parametrize("name", NAMES)
def test_backward_keeps_no_dense_weight(name: str) -> None:
    layer, plain = pair(name)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    counts = []
    for module in (layer, plain):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            module(torch.randn(4, 33, requires_grad=True))
        counts.append(sum(tensor.numel() >= 33 * 18 for tensor in kept))
    assert counts == [0, 1]  # nn.Linear shows that the hook would have seen one


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("autocast", [False, True])
def test_embedding_is_that_of_torch(name: str, autocast: bool) -> None:
    torch.manual_seed(0)
    weight = frozen_weight(name, torch.randn(11, 66))
    ids = torch.tensor([[0, 10, 3], [3, 3, 1]])
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        got = FrozenEmbedding(weight)(ids)
    assert got.dtype == torch.float32
    assert torch.equal(got, nn.functional.embedding(ids, weight.dense(torch.float32)))


def test_a_weight_that_is_not_loaded_says_so() -> None:
    with pytest.raises(RuntimeError, match="before it is loaded"):
        FrozenLinear(FrozenWeight("int8", (3, 4)), bias=False)(torch.ones(1, 4))


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_reads_a_weight_by_itself_gets_the_whole_one_and_is_noticed(name: str) -> None:
    x = torch.randn(2, 33)
    for read in (
        lambda weight: nn.functional.linear(x, weight),
        lambda weight: x @ weight.t(),
        lambda weight: x @ weight.T,
        lambda weight: x @ weight[:].T,
        lambda weight: x @ weight.to(torch.float64).float().transpose(0, 1),
    ):
        layer, _ = pair(name)
        weight, parts = layer.weight, {key: part.dtype for key, part in layer.weight.parts.items()}
        assert (weight.dtype, weight.device.type, weight.read_by_the_model) == (torch.float32, "cpu", False)
        torch.testing.assert_close(read(weight), x @ weight.dense(torch.float32).T)
        assert weight.read_by_the_model
        assert {key: part.dtype for key, part in weight.parts.items()} == parts


def test_nothing_of_a_frozen_layer_is_trainable_or_saved() -> None:
    layer, _ = pair("int8")
    assert list(layer.parameters()) == []
    assert list(layer.state_dict()) == ["bias"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("autocast", [False, True])
def test_the_gpu_computes_what_the_cpu_computes(name: str, autocast: bool) -> None:
    layer, _ = pair(name)
    x, grad = torch.randn(4, 33), torch.randn(4, 18)
    results = []
    for device in ("cpu", "cuda"):
        own = x.to(device).requires_grad_()
        with torch.autocast(device, torch.bfloat16) if autocast else nullcontext():
            y = layer.to(device)(own)
        y.backward(grad.to(y))
        assert own.grad is not None
        results.append((y.float().cpu(), own.grad.cpu()))
    tolerance = 3e-2 if autocast else 1e-4
    torch.testing.assert_close(results[1], results[0], rtol=tolerance, atol=tolerance)
