"""The study of quantization error: what it measures, and that its command still runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_runs import REPOSITORY, measure_of

from summarizer.config.schema import ModelConfig, QuantizationConfig
from summarizer.models.attention import Sequences
from summarizer.models.load import load_base

STUDY = REPOSITORY / "experiments" / "quantization_error"
study = measure_of(STUDY)


def test_error_is_the_sum_over_the_vocabulary() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 7, 11, generator=generator).double()
    gradients = torch.randn(2, 5, 3, generator=generator)
    reference, got = (
        study.Passed(scores.log_softmax(-1), torch.tensor([float(index)]), gradient)
        for index, (scores, gradient) in enumerate(zip(logits, gradients, strict=True))
    )
    error = study.Error()
    error.add(got, reference)
    summary = error.summary(False)
    p, q = logits.softmax(-1)
    kl = [
        sum(float(a * (a / b).log()) for a, b in zip(row, other, strict=True))
        for row, other in zip(p, q, strict=True)
    ]
    assert summary["kl_mean"] == pytest.approx(sum(kl) / 7)
    assert sorted(kl)[-2] <= summary["kl_p95"] <= max(kl)
    changed = sum(int(row.argmax() != other.argmax()) for row, other in zip(p, q, strict=True))
    assert 0 < changed == round(summary["argmax_changed_percent"] * 7 / 100)
    assert summary["summary_loss"] == 1
    distance = (gradients[1] - gradients[0]).square().sum() / gradients[0].square().sum()
    assert summary["gradient_error_percent"] == pytest.approx(100 * float(distance) ** 0.5, rel=1e-5)
    assert error.summary(True) == {"gradient_error_percent": summary["gradient_error_percent"]}


def test_a_pass_is_the_model_s_own_loss_and_gradient() -> None:
    spec = ModelConfig(name_or_path="embedded:tiny_gptj", revision=None, completion_token=None)
    device = torch.device("cpu")
    model = load_base(spec, QuantizationConfig(format="int8", cache=False), device).model
    ids = [5, 17, 300, 4, 99, 1000, 42, 7]
    got = study.pass_text(model, ids, 5, device, "fp32", backward=True)
    tokens, positions = torch.tensor(ids), torch.arange(len(ids))
    embedded = model.embedding(tokens).detach().requires_grad_()
    sequences = Sequences(positions, torch.tensor([0, len(ids)], dtype=torch.int32), rows=1)
    logits = model.through_blocks(embedded, model.rotary(positions), sequences)
    loss = F.cross_entropy(logits[4:-1], tokens[5:])
    (gradient,) = torch.autograd.grad(3 * loss, embedded)
    assert got.losses.shape == (3,)
    assert float(got.losses.mean()) == pytest.approx(float(loss.detach()), rel=1e-5)
    torch.testing.assert_close(got.gradient, gradient, rtol=1e-4, atol=1e-6)
    assert study.pass_text(model, ids, 5, device, "fp32", backward=False).gradient is None


@pytest.mark.slow
def test_the_command_runs_on_what_is_in_the_package(tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = subprocess.run(
        [sys.executable, STUDY / "measure.py", "--rows=2", "--max-tokens=96", f"--out={out}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr
    results = json.loads((out / "results.json").read_text())
    assert results["texts"] == 2
    kl = {label: error.get("kl_mean") for label, error in results["variants"].items()}
    assert list(kl) == [variant.label for variant in study.VARIANTS]
    assert kl["int8"] == pytest.approx(0, abs=1e-6)  # what the package's model is stored in
    assert (
        0
        < kl["blockwise8"]
        < kl["fp8, weights only"]
        < kl["fp8, W8A8"]
        < kl["nf4, embedding and head in int8"]
    )
    assert kl["nf4, embedding and head in int8"] < kl["nf4, embedding and head too"]
    assert (out / "kl.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "results.md").read_text().strip() in ended.stdout
