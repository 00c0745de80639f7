"""The cached decompositions of weights: as torch's own, made once, made anew where they are damaged."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from summarizer.adapters import principal
from summarizer.adapters.principal import FACTORS_FILE, principal_pair
from summarizer.quantization import weight_format
from summarizer.quantization.frozen import FrozenWeight


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SUMMARIZER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decompositions"


@pytest.fixture
def frozen() -> FrozenWeight:
    weight = FrozenWeight("int8", (80, 96))
    weight.load(
        weight_format("int8").quantize(torch.randn(80, 96, generator=torch.Generator().manual_seed(1)))
    )
    return weight


def product(pair: tuple[Tensor, Tensor]) -> Tensor:
    a, b = pair
    return b.t() @ a


def nothing_is_decomposed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decomposed once more")

    monkeypatch.setattr(principal, "_decomposed", refuse)


@pytest.mark.parametrize(("method", "tolerance"), [("pissa", 1e-5), ("pissa_niter_200", 1e-3)])
def test_it_is_torch_s_and_made_once(
    method: str, tolerance: float, frozen: FrozenWeight, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    u, s, vh = torch.linalg.svd(frozen.dense(torch.float32))
    expected = u[:, :5] * s[:5] @ vh[:5]
    made = principal_pair(frozen, method, 5, 2.0)
    torch.testing.assert_close(2.0 * product(made), expected, rtol=tolerance, atol=tolerance)
    nothing_is_decomposed(monkeypatch)
    for own, again in zip(made, principal_pair(frozen, method, 5, 2.0), strict=True):
        assert torch.equal(own, again)
    assert len(list(cache.iterdir())) == 1


def test_an_exact_one_serves_other_dims(
    frozen: FrozenWeight, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide, _ = principal_pair(frozen, "pissa", 7, 1.0)
    nothing_is_decomposed(monkeypatch)
    narrow, _ = principal_pair(frozen, "pissa", 3, 1.0)
    assert torch.equal(narrow, wide[:3])


def test_a_damaged_one_is_made_anew(
    frozen: FrozenWeight, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = principal_pair(frozen, "pissa", 5, 1.0)
    (folder,) = cache.iterdir()
    file = folder / FACTORS_FILE
    content = bytearray(file.read_bytes())
    content[-9] ^= 64
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        again = principal_pair(frozen, "pissa", 5, 1.0)
    assert "is made anew" in caplog.text
    assert all(map(torch.equal, made, again))
    caplog.clear()
    principal_pair(frozen, "pissa", 5, 1.0)
    assert caplog.text == ""


def test_a_cache_that_cannot_be_written_costs_time_alone(frozen: FrozenWeight, cache: Path) -> None:
    made = principal_pair(frozen, "pissa", 5, 1.0)
    (folder,) = cache.iterdir()
    (folder / FACTORS_FILE).unlink()
    cache.rename(cache.with_name("aside"))
    cache.write_text("a file where the folder should be")
    assert all(map(torch.equal, made, principal_pair(frozen, "pissa", 5, 1.0)))
