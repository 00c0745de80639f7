"""Bisection against the slow search, and the memory of a device."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from summarizer.training import sizing
from summarizer.training.sizing import device_memory_bytes, largest_fitting


@pytest.mark.parametrize("upper", [0, 1, 2, 7, 64, 100])
def test_bisection_finds_what_trying_each_finds(upper: int) -> None:
    for limit in range(upper + 2):
        asked: list[int] = []

        def fits(number: int, limit: int = limit, asked: list[int] = asked) -> bool:
            asked.append(number)
            return number <= limit

        slow = max((number for number in range(1, upper + 1) if number <= limit), default=0)
        assert largest_fitting(fits, upper) == slow
        assert len(asked) <= upper.bit_length() + 1
        assert all(1 <= number <= upper for number in asked)


def test_memory_of_the_cpu_is_what_the_system_can_give() -> None:
    memory = device_memory_bytes(torch.device("cpu"))
    assert 0 < memory < psutil.virtual_memory().total


def limited(folder: Path, names: tuple[str, str, str], limit: str, used_bytes: int) -> None:
    """A control group with 100 bytes of files in its cache."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used_bytes}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} 100\n")


@pytest.mark.parametrize(
    ("own", "groups", "left_bytes"),
    [
        ("0::/\n", {"": ("1000", 500)}, 600),  # a container's own view
        ("0::/user/job\n", {"user/job": ("max", 500), "user": ("2000", 700)}, 1400),
        ("0::/user/job\n", {"user/job": ("900", 500), "user": ("2000", 700)}, 500),
        ("0::/job\n", {"job": ("1000", 1500)}, 0),
        ("0::/job\n", {"job": ("max", 500)}, None),
        ("0::/job\n", {"other": ("1000", 500)}, None),
        ("3:cpu,cpuacct:/\n2:memory:/docker/0a\n0::/\n", {"memory": ("1000", 500)}, 600),
        ("2:memory:/job\n", {"memory/job": ("1000", 500), "memory": (str(2**63 - 4096), 9000)}, 600),
        ("3:cpu:/job\n", {"memory/job": ("1000", 500)}, None),
    ],
)
def test_a_container_s_limit_counts_where_it_leaves_less(
    own: str,
    groups: dict[str, tuple[str, int]],
    left_bytes: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for folder, (limit, used_bytes) in groups.items():
        names = sizing.VERSION_1 if folder.startswith("memory") else sizing.VERSION_2
        limited(tmp_path / "groups" / folder, names, limit, used_bytes)
    (tmp_path / "own").write_text(own)
    monkeypatch.setattr(sizing, "CONTROL_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(sizing, "OWN_GROUPS", tmp_path / "own")
    available = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available)
    expected = available.available if left_bytes is None else left_bytes
    assert device_memory_bytes(torch.device("cpu")) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_of_a_gpu_counts_what_the_allocator_keeps() -> None:
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    before = device_memory_bytes(device)
    block = torch.empty(2**28, dtype=torch.uint8, device=device)
    assert device_memory_bytes(device) == pytest.approx(before, rel=0.01)
    del block
    assert device_memory_bytes(device) == pytest.approx(before, rel=0.01)
