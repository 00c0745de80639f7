"""The article's gain and HaRiM+, against single rows through the plain model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_models import small_run

from summarizer.adapters.attach import attach
from summarizer.evaluation.evaluator import Evaluator
from summarizer.evaluation.likelihood import likelihood_scores
from summarizer.evaluation.record import GAIN, HARIM
from summarizer.processes import join_processes


def test_scores_are_those_of_single_rows_by_the_base_model_alone() -> None:
    run = small_run()
    spec, prompt, split, rows, model = run.spec, run.prompt, run.split, run.rows, run.model
    summaries = [split.rows["summary"][0][:90], "", " ".join(["word"] * 200)]

    def log_likelihoods(before: list[int], target: list[int]) -> list[float]:
        with torch.no_grad():
            scores = model.logits(torch.tensor([[*before, *target]]))[0].double().log_softmax(-1)
        return [float(scores[len(before) - 1 + i, token]) for i, token in enumerate(target)]

    expected: dict[str, list[float]] = {GAIN: [], HARIM: []}
    for row, summary in zip(rows, summaries, strict=True):
        target = [*prompt.text.encode(prompt.summary_lead + summary, add_special_tokens=False).ids]
        target = [*target, prompt.end_id][: prompt.room(0) // 2]
        article = list(row.article_ids)[: 96 - len(prompt.before) - len(prompt.after) - len(target)]
        read = log_likelihoods([*prompt.before, *article, *prompt.after], target)
        blind = log_likelihoods([*prompt.before, *prompt.after], target)
        expected[GAIN].append(sum(a - b for a, b in zip(read, blind, strict=True)) / len(read))
        risks = [
            (1 - math.exp(a)) * (1 - (math.exp(a) - math.exp(b))) / 2
            for a, b in zip(read, blind, strict=True)
        ]
        expected[HARIM].append(sum(read) / len(read) + 7 * (1 - sum(risks) / len(risks)))
    adapted = attach(model, [spec.adapter], [0])
    with torch.no_grad():
        for parameter in adapted.parameters_of(0).values():
            parameter.add_(0.01)  # the adapter says something else, and is not asked
    processes = join_processes(device="cpu", precision="fp32", wanted=None)
    evaluator = Evaluator(adapted, prompt, spec.generation, 2, processes, lambda: None)
    found = likelihood_scores(evaluator, rows, summaries)
    for name, values in expected.items():
        assert found[name].parts.tolist() == pytest.approx(values, rel=1e-4, abs=1e-4)
        assert np.array_equal(found[name].of, np.ones(3))
    with pytest.raises(ValueError, match="2 summaries for 3 articles"):
        likelihood_scores(evaluator, rows, summaries[:2])
