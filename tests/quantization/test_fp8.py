"""fp8: its rounding against the format's own definition, its products against slow loops and torch's operator."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from small_runs import REPOSITORY
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from summarizer.quantization import fp8
from summarizer.quantization.frozen import FrozenLinear, FrozenWeight
from summarizer.quantization.protocol import WeightFormat

SHAPE = (48, 32)
E4M3 = sorted(
    sign * (2.0 ** (e - 7) * (1 + m / 8) if e else 2.0**-6 * m / 8)
    for sign in (1, -1)
    for e in range(16)
    for m in range(8)
    if (e, m) != (15, 7)  # NaN
)
"""Every number of the format, from its definition (arXiv:2209.05433, table 1)."""


def drawn(*shape: int, seed: int = 0, spread: float = 0) -> Tensor:
    """Normal numbers; with a spread, times e to the power of normal ones, as gradients are."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * (spread * torch.randn(shape, generator=generator)).exp()


def layer(products: WeightFormat, shape: tuple[int, int] = SHAPE) -> FrozenLinear:
    weight = FrozenWeight("fp8", shape)
    weight.load(products.quantize(drawn(*shape)))
    weight.format = products
    return FrozenLinear(weight, bias=False)


def passed(module: FrozenLinear, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    own = x.clone().requires_grad_()
    y = module(own)
    y.backward(grad.to(y.dtype))
    assert own.grad is not None
    return y.detach(), own.grad


def error(got: Tensor, expected: Tensor) -> float:
    return float(torch.dist(got.float(), expected.float()) / expected.float().norm())


def test_the_definition_has_the_range_that_torch_says() -> None:
    assert len(E4M3) == 254
    assert max(E4M3) == torch.finfo(fp8.E4M3).max == 448


def test_each_weight_is_at_the_nearest_number_of_its_row_s_grid() -> None:
    weight = drawn(5, 37, spread=2)
    parts = fp8.FORMAT.quantize(weight)
    back = fp8.FORMAT.dequantize(parts, (5, 37), torch.float32)
    grid = torch.tensor(E4M3, dtype=torch.float64)
    for row, restored, scale in zip(weight.double(), back.double(), parts["scale"], strict=True):
        step = float(row.abs().max()) / 448
        assert float(scale) == pytest.approx(step, rel=1e-6)
        nearest = (row[:, None] - step * grid).abs().amin(dim=1)
        torch.testing.assert_close((row - restored).abs(), nearest, rtol=1e-3, atol=1e-6 * step)


def test_the_error_is_bounded_by_half_a_unit_in_the_last_place() -> None:
    weight = drawn(64, 129)
    parts = fp8.FORMAT.quantize(weight)
    back = fp8.FORMAT.dequantize(parts, (64, 129), torch.float32)
    bound = torch.maximum(weight.abs() * 2**-4, parts["scale"] * 2**-10)
    assert ((weight - back).abs() <= bound * 1.0001).all()


def test_slices_are_the_whole_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = drawn(65, 129)
    whole = fp8.FORMAT.quantize(weight)
    monkeypatch.setattr(fp8, "WEIGHTS_AT_ONCE", 300)
    sliced = fp8.FORMAT.quantize(weight)
    assert torch.equal(whole["q"].view(torch.uint8), sliced["q"].view(torch.uint8))
    assert torch.equal(whole["scale"], sliced["scale"])


@pytest.mark.parametrize("to", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_rows_that_no_scale_fits_are_zeros(to: torch.dtype) -> None:
    x = torch.zeros(3, 8)
    x[1] = 1e-38  # its scale would be below what fp32 holds in full
    x[2] = 3e38
    q, scale = fp8.quantize_rows(x, to)
    assert q[:2].float().count_nonzero() == 0
    assert scale[:2].tolist() == [[1], [1]]
    torch.testing.assert_close(q.float()[2] * scale[2], x[2])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_show_in_their_own_row_alone(bad: float) -> None:
    x = drawn(3, 32)
    x[1, 5] = bad
    y = fp8.W8A8.matmul(x, fp8.W8A8.quantize(drawn(*SHAPE)), SHAPE)
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()


def test_the_emulated_product_is_the_slow_loop_and_torch_s_operator() -> None:
    a, a_scale = fp8.quantize_rows(drawn(16, 32))
    b, b_scale = fp8.quantize_rows(drawn(48, 32, seed=1))
    got = fp8.scaled_matmul(a, a_scale, b, b_scale, torch.float32)
    by_hand = [
        [
            sum(float(x) * float(y) for x, y in zip(row, column, strict=True)) * float(s) * float(t)
            for column, t in zip(b.double(), b_scale, strict=True)
        ]
        for row, s in zip(a.double(), a_scale, strict=True)
    ]
    torch.testing.assert_close(got, torch.tensor(by_hand), rtol=1e-5, atol=1e-5)
    own = torch._scaled_mm(a, b.t(), a_scale, b_scale.t(), out_dtype=torch.float32)  # torch's, on the CPU
    torch.testing.assert_close(got, own, rtol=1e-5, atol=1e-5)


def test_autocast_leaves_the_emulation_alone() -> None:
    a, a_scale = fp8.quantize_rows(drawn(16, 32))
    expected = fp8.scaled_matmul(a, a_scale, a, a_scale, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fp8.scaled_matmul(a, a_scale, a, a_scale, torch.float32), expected)


@pytest.mark.parametrize(
    ("products", "bounds"),
    [
        (fp8.FORMAT, ((0, 1e-6), (0, 1e-6))),
        (fp8.WEIGHT_ONLY, ((0, 1e-6), (0, 1e-6))),
        (fp8.W8A8, ((0.01, 0.03), (0.01, 0.03))),
        (fp8.W8A8_E5M2_GRADIENTS, ((0.01, 0.03), (0.02, 0.06))),
    ],
)
def test_products_against_autograd_of_the_dequantized_weight(
    products: WeightFormat, bounds: tuple[tuple[float, float], ...]
) -> None:
    """Weight-only is exact but for the order of sums; W8A8 adds the error of 3 bits (2 in e5m2) of mantissa."""
    module = layer(products, (128, 96))
    x, grad = drawn(2, 7, 96, seed=1), drawn(2, 7, 128, seed=2, spread=1)
    plain = x.clone().requires_grad_()
    y = plain @ module.weight.dense(torch.float32).t()
    y.backward(grad)
    assert plain.grad is not None
    for got, expected, (low, high) in zip(
        passed(module, x, grad), (y.detach(), plain.grad), bounds, strict=True
    ):
        assert low <= error(got, expected) <= high


def test_the_quantized_products_are_those_of_dequantized_operands() -> None:
    """With identical roundings only the order of sums is left."""
    weight = drawn(*SHAPE, spread=1)
    parts = fp8.W8A8.quantize(weight)
    x, grad = drawn(5, 32, seed=1, spread=1), drawn(5, 48, seed=2, spread=1)

    def rounded(t: Tensor) -> Tensor:
        q, scale = fp8.quantize_rows(t)
        return q.float() * scale

    torch.testing.assert_close(fp8.W8A8.matmul(x, parts, SHAPE), rounded(x) @ rounded(weight).t())
    torch.testing.assert_close(
        fp8.W8A8.matmul_backward(grad, parts, SHAPE), rounded(grad * parts["scale"].t()) @ parts["q"].float()
    )


def test_no_row_depends_on_another() -> None:
    """So that no trial of a group changes another's result."""
    module = layer(fp8.W8A8)
    x, grad = drawn(6, 32, seed=1), drawn(6, 48, seed=2)
    alone = passed(module, x[:2], grad[:2])
    x[2:] *= 1000
    grad[2:] *= 1000
    together = passed(module, x, grad)
    for single, batched in zip(alone, together, strict=True):
        torch.testing.assert_close(batched[:2], single, rtol=1e-5, atol=1e-5)


def test_fp16_does_not_overflow_where_the_product_does_not() -> None:
    weight = torch.full((16, 512), 0.01)
    x = torch.ones(1, 512, dtype=torch.float16)
    y = fp8.FORMAT.matmul(x, fp8.FORMAT.quantize(weight), (16, 512))
    torch.testing.assert_close(y, torch.full((1, 16), 5.12, dtype=torch.float16), rtol=1e-3, atol=0)


COMPILED = """
import torch
from summarizer.quantization import fp8
from summarizer.quantization.frozen import FrozenLinear, FrozenWeight

torch.manual_seed(0)
for products in (fp8.FORMAT, fp8.W8A8):
    weight = FrozenWeight("fp8", (48, 32))
    weight.load(products.quantize(torch.randn(48, 32)))
    weight.format = products
    layer = FrozenLinear(weight, bias=False)
    x, grad = torch.randn(3, 5, 32), torch.randn(3, 5, 48)
    results = []
    for backend in (None, "aot_eager"):
        torch.compiler.reset()
        made = layer if backend is None else torch.compile(layer, backend=backend, fullgraph=True)
        own = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = made(own)
        y.backward(grad.to(y.dtype))
        results.append((y.detach(), own.grad))
    print(*(torch.equal(made, plain) for made, plain in zip(*results, strict=True)))
"""


@pytest.mark.slow
def test_compiles_without_a_break_to_the_same_numbers() -> None:
    """In a process of its own: the compiler cannot trace the checks of shapes that pytest puts around functions."""
    ended = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=120, cwd=REPOSITORY
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["True"] * 4


@pytest.mark.parametrize(
    ("dtype", "shape", "capability", "expected"),
    [
        (torch.bfloat16, (48, 32), (9, 0), True),
        (torch.bfloat16, (48, 32), (8, 9), True),
        (torch.bfloat16, (48, 32), (12, 0), True),
        (torch.bfloat16, (48, 32), (8, 6), False),
        (torch.bfloat16, (40, 32), (9, 0), False),
        (torch.bfloat16, (48, 24), (9, 0), False),
        (torch.float32, (48, 32), (9, 0), False),
        (torch.float16, (48, 32), (9, 0), False),
    ],
)
def test_which_products_a_gpu_takes(
    dtype: torch.dtype,
    shape: tuple[int, int],
    capability: tuple[int, int],
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = SimpleNamespace(major=capability[0], minor=capability[1])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    with FakeTensorMode():
        assert fp8.has_fp8_matmul(torch.empty(4, shape[1], dtype=dtype, device="cuda"), shape) == (expected)
    assert not fp8.has_fp8_matmul(torch.empty(4, shape[1], dtype=dtype), shape)


def test_torch_s_own_checks_take_what_the_gpu_would_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layouts, sizes, scales: torch's shape function of the operator checks them, for a GPU that is not there."""
    gpu = SimpleNamespace(major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    seen = []
    operator = torch._scaled_mm

    def counted(*arguments: object, **more: object) -> object:
        seen.append([(t.dtype, tuple(t.shape)) for t in arguments if isinstance(t, Tensor)])
        return operator(*arguments, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(torch, "_scaled_mm", counted)
    with FakeTensorMode():
        parts = {
            "q": torch.empty(*SHAPE, dtype=fp8.E4M3, device="cuda"),
            "scale": torch.empty(SHAPE[0], 1, device="cuda"),
        }
        x = torch.empty(3, 5, SHAPE[1], dtype=torch.bfloat16, device="cuda")
        y = fp8.FORMAT.matmul(x, parts, SHAPE)
        dx = fp8.FORMAT.matmul_backward(y, parts, SHAPE)
    assert (y.dtype, tuple(y.shape), y.is_cuda) == (torch.bfloat16, (3, 5, 48), True)
    assert (dx.dtype, tuple(dx.shape)) == (torch.bfloat16, (3, 5, 32))
    e4m3, fp32 = fp8.E4M3, torch.float32
    assert seen == [
        [(e4m3, (15, 32)), (e4m3, (32, 48)), (fp32, (15, 1)), (fp32, (1, 48))],
        [(e4m3, (15, 48)), (e4m3, (48, 32)), (fp32, (15, 1)), (fp32, (1, 32))],
    ]


def takes_fp8() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)


@pytest.mark.gpu
@pytest.mark.skipif(not takes_fp8(), reason="no CUDA device with fp8 products here")
@pytest.mark.parametrize("rows", [1, 17, 256])
@pytest.mark.parametrize("compiled", [False, True])
def test_the_gpu_multiplies_what_the_cpu_emulates(rows: int, compiled: bool) -> None:
    shape = (512, 1024)
    parts = fp8.FORMAT.quantize(drawn(*shape))
    there = {name: part.cuda() for name, part in parts.items()}
    x = drawn(rows, shape[1], seed=1).bfloat16()
    grad = drawn(rows, shape[0], seed=2, spread=1).bfloat16()
    assert fp8.has_fp8_matmul(x.cuda(), shape)
    for name, given in (("matmul", x), ("matmul_backward", grad)):
        product = getattr(fp8.FORMAT, name)
        if compiled:
            product = torch.compile(product, fullgraph=True)
        emulated = getattr(fp8.W8A8, name)(given, parts, shape)
        # bf16's own rounding, and sums that tensor cores keep to fewer bits (use_fast_accum).
        assert error(product(given.cuda(), there, shape).cpu(), emulated) <= 5e-3
