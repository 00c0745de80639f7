"""A group's plan: sums, products, and what a person reads."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace
from functools import partial

import bitsandbytes as bnb
import pytest
import torch
from composing import composed
from model_folders import tiny_config
from rich.console import Console
from rich.table import Table
from tiny_bases import lora

from summarizer.data.hold_out import SplitName
from summarizer.data.prompt import build_prompt
from summarizer.data.splits import build_split
from summarizer.models.source import model_folder
from summarizer.models.tokenizer import load_tokenizer
from summarizer.runs.plan import WHAT, Plan, Scoring, Work, build_plan, scoring_of, with_confirming
from summarizer.runs.preflight import preflight
from summarizer.training.dry_run import Microbatch, dry_run

WORK = Work(steps=300, tokens=60_000, tokens_per_epoch=20_000)
ADAM = partial(bnb.optim.Adam8bit, lr=1e-4)
SGD = partial(torch.optim.SGD, lr=1e-2, momentum=0.9)


@pytest.fixture(scope="module")
def plan() -> Plan:
    run = dry_run(tiny_config("gptj"), "int8", [lora(dim=2), lora(dim=3)], torch.float32)
    return build_plan(run, [ADAM, SGD], Microbatch(rows=2, tokens=16, summary_tokens=4), WORK)


def test_parts_sum_to_the_peak(plan: Plan) -> None:
    assert set(plan.bytes) == set(WHAT)
    assert sum(plan.bytes.values()) == plan.peak_bytes


def test_each_trial_counts_with_its_own_dim_and_optimizer(plan: Plan) -> None:
    per_dim = sum(
        parameter.numel()
        for parameter in dry_run(tiny_config("gptj"), "int8", [lora(dim=1)], torch.float32)
        .adapted.parameters_of(0)
        .values()
    )
    assert plan.trainable_parameters == (2 + 3) * per_dim
    # Adam8bit keeps two fp32 numbers for each parameter of a tensor this small, momentum one.
    assert plan.bytes["optimizer"] == pytest.approx(4 * (2 * 2 * per_dim + 3 * per_dim), rel=0.001)
    assert plan.microbatch_tokens == 2 * 2 * 16


def test_work_follows_from_the_data(plan: Plan) -> None:
    assert plan.tokens == 2 * 60_000
    assert plan.flops == pytest.approx(plan.flops_per_step * 300)
    assert plan.flops == pytest.approx(plan.flops_per_token * 120_000)
    assert plan.hours(100.0) == pytest.approx(120_000 / 100 / 3600)


def printed(table: Table) -> str:
    out = io.StringIO()
    Console(width=100, file=out).print(table)
    return out.getvalue()


def test_a_person_reads_every_part(plan: Plan) -> None:
    shown = printed(plan.table(tokens_per_s=100.0))
    for word in (
        *WHAT,
        "together",
        "trials",
        "300",
        "60,000",
        "an epoch: 20,000",
        "20 min",
        "at 100 tokens/s",
    ):
        assert word in shown
    assert "tokens/s" not in printed(plan.table())
    assert all(part in plan.describe() for part in WHAT)
    assert "processes" not in printed(plan.table()) + plan.describe()
    several = replace(plan, processes=4)
    assert re.search(r"processes +│ +4 │ take that each: the whole base model", printed(several.table()))
    assert " at most in each of 4 processes (" in several.describe()


# ---- the scores --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scoring() -> Scoring:
    spec = preflight(
        composed("evaluation.rows=2", "evaluation.loss_rows=3", "evaluation.rows_during_training=1")
    )
    prompt = build_prompt(spec.prompt, load_tokenizer(model_folder(spec.model)))
    split = build_split(spec.data, "validation", prompt)
    return scoring_of(spec, {"validation": split}, evaluations=3, trials=2, rows_at_once=4)


def test_what_is_read_and_written_for_scores(scoring: Scoring) -> None:
    """By two runs and the base model; counted once more, from the rows themselves."""
    spec = preflight(composed())
    prompt = build_prompt(spec.prompt, load_tokenizer(model_folder(spec.model)))
    rows = build_split(spec.data, "validation", prompt).encoded(range(3))
    lengths = [len(prompt.training_ids(row.article_ids, row.target_ids)[0]) for row in rows]
    targets = [len(row.target_ids) for row in rows]
    assert (scoring.rows, scoring.loss_rows, scoring.summary_rows) == (2, 3, 1)
    at_end = 3 * 2 * sum(lengths[:2])
    in_training = (2 * 3 + 1) * (sum(lengths) + lengths[0])
    assert scoring.read_tokens == at_end + in_training
    assert scoring.written_tokens == 3 * sum(targets[:2]) + 7 * targets[0]
    # The base model, then both runs side by side; it and each of three evaluations.
    assert scoring.decode_steps == math.ceil((2 * sum(targets[:2]) + 4 * targets[0]) / 4)


def test_a_sweep_plans_its_confirmation(scoring: Scoring) -> None:
    """Two settings of two seeds, on all 16 test rows: losses there and on the rows that ranked, and summaries."""
    specs = [
        preflight(composed(f"optimizer.lr={rate}", f"seed={seed}", "evaluation.loss_rows=3"))
        for rate in (1e-4, 1e-3)
        for seed in (0, 1)
    ]
    prompt = build_prompt(specs[0].prompt, load_tokenizer(model_folder(specs[0].model)))
    found = with_confirming(scoring, specs, prompt, rows_at_once=4)
    assert found.confirming == ("test", 16, 2, 4)

    def lengths(split: SplitName, count: int) -> list[int]:
        rows = build_split(specs[0].data, split, prompt).encoded(range(count))
        return [len(prompt.training_ids(row.article_ids, row.target_ids)[0]) for row in rows]

    read = 4 * (sum(lengths("validation", 3)) + 2 * sum(lengths("test", 16)))
    targets = [len(row.target_ids) for row in build_split(specs[0].data, "test", prompt).encoded(range(16))]
    assert found.read_tokens - scoring.read_tokens == read
    assert found.written_tokens - scoring.written_tokens == 4 * sum(targets)
    assert found.decode_steps - scoring.decode_steps == math.ceil(sum(targets) / 4)
    off = preflight(composed("evaluation.confirm_split=null"))
    assert with_confirming(scoring, [off, specs[0]], prompt, 4).confirming is None
    assert with_confirming(scoring, specs[:2], prompt, 4).confirming is None, (
        "one setting has nothing to beat"
    )


def test_how_long_scores_take(plan: Plan, scoring: Scoring) -> None:
    measured = replace(scoring, rates=(1e9, 1e6))
    writing_s = scoring.decode_steps * plan.bytes["base"] / 1e6
    assert measured.seconds(plan, 50.0) == pytest.approx(scoring.read_tokens / 100 + writing_s)
    forward_s = plan.flops_per_token / 2 / 1e9
    assert measured.seconds(plan, None) == pytest.approx(scoring.read_tokens * forward_s + writing_s)
    whole = replace(plan, scoring=measured)
    shown = printed(whole.table())
    for part in (
        "2 rows",
        "loss and summary by the base model",
        f"{scoring.read_tokens:,}",
        "at least, for scores",
    ):
        assert part in shown
    assert "scores of 2 rows take at least " in whole.describe()
    assert "about, for scores" in printed(whole.table(tokens_per_s=50.0))
    assert "scores" not in plan.describe()
