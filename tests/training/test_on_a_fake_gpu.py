"""A step's code as a GPU would run it: nothing waits, nothing mixes the host's tensors with the GPU's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
BF16 = "trainer.precision=bf16"
VARLEN, NF4 = "torch_attn._varlen_attn_backward", "bitsandbytes.dequantize_4bit"


def ran(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: what stands in for the GPU stays in it, and shape checks cannot be compiled."""
    paths = os.pathsep.join([str(HERE.parents[1]), *sys.path])
    return subprocess.run(
        [sys.executable, HERE / script, *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def words(done: subprocess.CompletedProcess[str], name: str) -> list[str]:
    (line,) = (line for line in done.stdout.splitlines() if line.startswith(name))
    return line.split()[1:]


CASES = [
    ("gptj", (BF16, "quantization=int8", "adapter.dropout=0.1"), "flash", VARLEN),
    ("llama", (BF16, "quantization=nf4", "trainer.microbatch_size=2"), "flash", NF4),
    ("gptj", (BF16, "quantization=fp8", "optimizer=adamw"), "flash", "aten._scaled_mm"),
    ("llama", (BF16, "quantization=int8", "trainer.compile=graphs"), "flash", VARLEN),
    ("gptj", (BF16, "quantization=nf4", "trainer.memory=low"), "flash", NF4),
    ("llama", (BF16, "quantization=blockwise8"), "flash", "bitsandbytes.dequantize_blockwise"),
    ("gptj", ("trainer.precision=fp32", "quantization=none"), "masked", "aten.searchsorted"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "overrides", "attention", "operator"),
    [*CASES[:2], *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES[2:])],
)
def test_a_step_on_a_gpu(kind: str, overrides: tuple[str, ...], attention: str, operator: str) -> None:
    done = ran("fake_device.py", kind, *overrides)
    assert done.returncode == 0, done.stderr[-3000:]
    assert words(done, "attention") == [attention]
    seen = words(done, "operators")
    assert any(name.startswith(operator) for name in seen), seen
    assert "aten._local_scalar_dense.default" not in seen


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("adapter.dropout=0.1", "trainer.microbatch_size=2", "trainer.batch_size=3"),
        ("quantization=int8", "trainer.memory=low", "trainer.batch_size=3"),
    ],
)
def test_blocks_may_be_recorded_as_graphs(overrides: tuple[str, ...]) -> None:
    """The same numbers, no break, one compilation for all shapes, and nothing that must lie still moves."""
    done = ran("recorded_graphs.py", *overrides)
    assert done.returncode == 0, done.stderr[-3000:]
    graphs, breaks, sizes = (int(words(done, "graphs")[index]) for index in (0, 2, 4))
    assert (graphs, breaks) == (2, 0), "one forward, one backward"
    assert 2 <= sizes <= 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("overrides", [(), ("adapter.dropout=0.1", "trainer.microbatch_size=1")])
def test_a_gpu_s_graphs_give_the_losses_of_eager_steps(overrides: tuple[str, ...]) -> None:
    done = ran("graphs_on_a_gpu.py", *overrides)
    assert done.returncode == 0, done.stderr[-3000:]
    found = words(done, "graphs")
    assert int(found[0]) >= 2 * 6, "each block's two passes"
    assert found[1:3] == ["skips", "0"]
    assert int(found[-1]) <= 0, "what was recorded is replayed"
