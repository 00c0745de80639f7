"""KL and loss against torch's own, and the choice between candidates."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from trained_runs import example, fill_randomly, load, lora, opened, save_run

from summarizer.adapters.attach import attach
from summarizer.adapters.peft_format import save_adapter
from summarizer.config.check import check
from summarizer.config.schema import RunConfig
from summarizer.console.progress import bar
from summarizer.errors import ConfigError
from summarizer.exporting.measure import MOST_ROWS, MOST_TOKENS, Reference, choose, examples_of, log_probs_of


def random_answer(seed: int) -> torch.Tensor:
    return torch.randn(8, 8192, generator=torch.Generator().manual_seed(seed)).log_softmax(dim=-1)


def test_kl_and_loss_are_torch_s() -> None:
    first, second = random_answer(1), random_answer(2)
    with bar("test", None, show=False) as progress:
        reference = Reference.of([example()], lambda _: first, progress)
        measured = reference.divergence(lambda _: second, progress)
        itself = reference.divergence(lambda _: first, progress)
    targets = torch.tensor(example().summary)
    assert reference.tokens == 8
    assert measured.kl == pytest.approx(
        float(F.kl_div(second, first, reduction="batchmean", log_target=True))
    )
    assert measured.loss == pytest.approx(float(F.nll_loss(second, targets)))
    assert reference.loss == pytest.approx(float(F.nll_loss(first, targets)))
    assert itself.kl == 0.0


def test_answers_are_those_that_predict_the_summary(tmp_path: Path) -> None:
    run = opened(save_run("gptj", tmp_path))
    answer = log_probs_of(run.adapted.model, run.adapted.device)(example())
    ids = torch.tensor([example().ids])
    with torch.no_grad():
        scores = run.adapted.model.logits(ids)[0, 11:-1]
    loss = F.cross_entropy(scores, ids[0, 12:])
    own = -answer.gather(1, torch.tensor(example().summary)[:, None]).mean()
    torch.testing.assert_close(own, loss, rtol=1e-4, atol=1e-5)


# ---- rows ----------------------------------------------------------------------------------------------------


def test_the_run_s_own_validation_rows(tmp_path: Path) -> None:
    run = opened(save_run("gptj", tmp_path, "data.rows.validation=3"))
    rows, where = examples_of(run.spec, run.prompt)
    assert (len(rows), where) == (3, "the run's validation rows")
    assert all(len(row.ids) <= 160 and row.summary[-1] == run.prompt.end_id for row in rows)
    everything, _ = examples_of(spec_with(tmp_path, "data.rows.validation", None), run.prompt)
    assert everything[:3] == rows
    assert len(everything) == MOST_ROWS
    assert sum(len(row.ids) for row in everything) <= MOST_TOKENS


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("data.validation", "/nowhere/validation.jsonl", "cannot be read: data.validation: "),
        ("data.validation", None, "are not here (it has none)"),
        ("data.source", "hub", "are not here (someone/news was never fetched to this machine)"),
    ],
)
def test_the_sample_where_they_are_gone(
    key: str, value: object, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = opened(save_run("gptj", tmp_path))
    with caplog.at_level(logging.WARNING):
        rows, where = examples_of(spec_with(tmp_path, key, value), run.prompt)
    assert len(rows) > 3
    assert where == "the sample inside the package"
    assert reason in caplog.text


def spec_with(folder: Path, key: str, value: object) -> RunConfig:
    """The run's spec with another value."""
    config = OmegaConf.load(folder / "run" / ".hydra" / "config.yaml")
    OmegaConf.update(config, key, value)
    if value == "hub":
        OmegaConf.update(config, "data.path", "someone/news")
    return check(config, [])


# ---- the choice ----------------------------------------------------------------------------------------------


def test_the_nearer_is_taken_and_said(tmp_path: Path) -> None:
    run = opened(save_run("llama_tied", tmp_path, "quantization.format=nf4"))
    choice = choose(run, None, "bf16")
    assert choice.weights == "trained"
    assert choice.measured["trained"].kl * 5 < choice.measured["original"].kl
    assert choice.unrounded.kl < 1e-6 < choice.cost.kl
    text = "\n".join(choice.lines())
    assert "weights: trained (the nearer to the unmerged model)" in text
    assert f"KL from the unmerged model: {choice.cost.kl:.2g} nats per summary token" in text
    assert f"original {choice.measured['original'].kl:.2g}" in text


def test_only_what_was_asked_for_is_measured(tmp_path: Path) -> None:
    run = opened(save_run("gptj", tmp_path, "quantization.format=int8"))
    assert list(choose(run, "original", "fp32").measured) == ["original"]
    trained = choose(run, "trained", "fp32")
    assert list(trained.measured) == ["trained"]
    assert trained.unrounded == trained.cost


def test_an_unquantized_base_has_one_kind(tmp_path: Path) -> None:
    choice = choose(opened(save_run("gptj", tmp_path)), None, "fp32")
    assert choice.weights == "original"
    assert "was not quantized" in choice.why
    assert choice.cost.kl < 1e-6


def test_a_base_that_is_only_stored_quantized(tmp_path: Path) -> None:
    folder = save_run("gptj", tmp_path)
    config = OmegaConf.load(folder / ".hydra" / "config.yaml")
    OmegaConf.update(config, "model.name_or_path", "embedded:tiny_gptj")
    OmegaConf.update(config, "quantization.format", "int8")
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    model = attach(load("embedded:tiny_gptj", "int8").model, [lora(3, alpha=6.0)], [0])
    fill_randomly(model, 0)
    save_adapter(model, 0, folder / "adapter", "base")
    run = opened(folder)
    with pytest.raises(
        ConfigError, match=r"--weights: original: embedded:tiny_gptj is kept in a quantized form"
    ):
        choose(run, "original", "bf16")
    choice = choose(run, None, "fp32")
    assert choice.weights == "trained"
    assert "the base has no others" in choice.why
    assert choice.cost.kl < 1e-5
