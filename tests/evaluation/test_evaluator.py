"""The loss of each row, against that row alone through the plain model; and how long evaluations take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import small_run

from summarizer.adapters.attach import attach
from summarizer.console import progress
from summarizer.evaluation import evaluator as evaluator_module
from summarizer.evaluation.evaluator import EvaluationPace, Evaluator
from summarizer.processes import join_processes


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_row_losses_are_each_row_s_own(batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the base model and of two trials: as B is drawn as 0, the adapters change nothing until one is changed."""
    shown: list[str] = []

    def bar(label: str, *arguments: Any, **more: Any) -> Any:
        shown.append(label)
        return progress.bar(label, *arguments, **more)

    monkeypatch.setattr(evaluator_module, "bar", bar)
    run = small_run()
    spec, prompt, rows, model = run.spec, run.prompt, run.rows, run.model

    nats = []
    for row in rows:
        ids, prompt_tokens = prompt.training_ids(row.article_ids, row.target_ids)
        with torch.no_grad():
            scores = model.logits(torch.tensor([ids]))[0, prompt_tokens - 1 : -1]
        of_tokens = torch.nn.functional.cross_entropy(
            scores, torch.tensor(ids[prompt_tokens:]), reduction="none"
        )
        nats.append(float(of_tokens.double().sum()))
    assert len(set(nats)) == 3

    processes = join_processes(device="cpu", precision="fp32", wanted=None)
    adapted = attach(model, [spec.adapter, spec.adapter], [0, 1])
    evaluator = Evaluator(adapted, prompt, spec.generation, batch_size, processes, lambda: None)
    expected = [len(row.target_ids) for row in rows]
    for trials in (None, [0, 1]):
        found = evaluator.row_losses(rows, trials)
        assert len(found) == (1 if trials is None else 2)
        for losses in found:
            assert losses.nats.tolist() == pytest.approx(nats, rel=1e-5)
            assert losses.tokens.tolist() == expected
    assert shown == ["loss of the base model", "loss"]
    with torch.no_grad():
        for parameter in adapted.parameters_of(1).values():
            parameter.add_(0.01)
    first, second = evaluator.row_losses(rows, [0, 1])
    assert first.nats.tolist() == pytest.approx(nats, rel=1e-5)
    assert second.nats.tolist() != pytest.approx(nats, rel=1e-3)
    assert evaluator.row_losses(rows, [1])[0].nats.tolist() == pytest.approx(second.nats.tolist(), rel=1e-5)
    (of_base,) = evaluator.row_losses(rows, None)
    assert of_base.mean == pytest.approx(sum(nats) / sum(expected), rel=1e-5)


def test_a_row_s_pace_is_that_of_the_last_evaluation() -> None:
    pace = EvaluationPace()
    assert pace.expected_s(loss_rows=10, summary_rows=10) == 0
    pace.took("loss", 4.0, rows=8, trials=None)
    assert pace.expected_s(loss_rows=10, summary_rows=10) == 5.0, "the base's, until a trial was evaluated"
    pace.took("loss", 4.0, rows=8, trials=5)
    pace.took("summaries", 30.0, rows=3, trials=5)
    assert pace.expected_s(loss_rows=10, summary_rows=10) == pytest.approx(1.0 + 20.0)
    assert pace.expected_s(loss_rows=10, summary_rows=10, base=True) == pytest.approx(5.0 + 20.0)
