"""In which precision products are taken, on which device, and what accelerate is told of it: nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from summarizer import compat, processes
from summarizer.errors import ConfigError
from summarizer.processes import choose_precision, join_processes

pytestmark = pytest.mark.versions


@pytest.fixture(autouse=True)
def _fp32_again() -> Iterator[None]:
    yield
    join_processes(device="cpu", precision="fp32", wanted=None)


@pytest.mark.parametrize(
    ("wanted", "on_gpu", "native_bf16", "chosen"),
    [
        ("auto", True, True, "bf16"),
        ("auto", True, False, "fp16"),
        ("auto", False, True, "bf16"),
        ("auto", False, False, "fp32"),
        ("bf16", False, False, "bf16"),
        ("fp16", True, True, "fp16"),
        ("fp16", False, False, "fp16"),
        ("fp32", True, True, "fp32"),
    ],
)
def test_which_precision(wanted: str, on_gpu: bool, native_bf16: bool, chosen: str) -> None:
    assert choose_precision(wanted, on_gpu=on_gpu, native_bf16=native_bf16) == chosen


def test_bf16_on_a_gpu_without_it_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.precision: 'bf16': this GPU has no bf16; use fp16"):
        choose_precision("bf16", on_gpu=True, native_bf16=False)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_products_are_in_it(precision: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a launcher's own precision would do.
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    joined = join_processes(device="cpu", precision=precision, wanted=None)
    assert (joined.precision, joined.dtype) == (precision, dtype)
    a = torch.full((2, 2), 3.0)
    with joined.autocast():
        assert (a @ a).dtype == dtype
    assert (a @ a).dtype == torch.float32


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_accelerate_scales_no_loss(precision: str) -> None:
    joined = join_processes(device="cpu", precision=precision, wanted=None)
    assert joined.accelerator.mixed_precision == "no"
    assert joined.accelerator.scaler is None
    x = torch.ones(1, requires_grad=True)
    joined.accelerator.backward((x * 3).sum())
    assert x.grad is not None
    assert x.grad.item() == 3.0


def test_auto_asks_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for native, chosen in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(processes, "multiplies_bf16", lambda *, on_gpu, native=native: native)
        assert join_processes(device="cpu", precision="auto", wanted=None).precision == chosen


def test_accelerate_is_joined_once_and_anew_for_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps its state for the life of the process, and would keep the first run's device."""
    told: list[str] = []
    joined: list[FakeAccelerator] = []

    class FakeAccelerator:
        num_processes = 1

        def __init__(self, *, mixed_precision: str, cpu: bool) -> None:
            assert mixed_precision == "no"
            self.device = torch.device("cpu" if cpu else "cuda")
            if not joined:
                told.append(self.device.type)
                joined.append(self)
            assert self.device == joined[0].device, "as accelerate, which keeps the device of its state"

    def forget() -> None:
        told.append("forgotten")
        joined.clear()

    monkeypatch.setattr(processes, "is_initialized", lambda: bool(joined))
    monkeypatch.setattr(processes, "AcceleratorState", lambda: joined[0])
    monkeypatch.setattr(processes, "Accelerator", FakeAccelerator)
    monkeypatch.setattr(compat, "forget_processes", forget)
    devices = [
        processes._accelerator(on_gpu=on_gpu).device.type for on_gpu in (False, False, True, True, False)
    ]
    assert devices == ["cpu", "cpu", "cuda", "cuda", "cpu"]
    assert told == ["cpu", "forgotten", "cuda", "forgotten", "cpu"]
    monkeypatch.setattr(FakeAccelerator, "num_processes", 2)
    with pytest.raises(ConfigError, match=r"trainer\.device: the processes of this launch share cpu"):
        processes._accelerator(on_gpu=True)
    assert processes._accelerator(on_gpu=False).device.type == "cpu"
