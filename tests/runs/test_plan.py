"""A group's plan: sums, products, and what a person reads."""

from __future__ import annotations

import io
from functools import partial

import bitsandbytes as bnb
import pytest
import torch
from model_folders import tiny_config
from rich.console import Console
from rich.table import Table
from tiny_bases import lora

from summarizer.runs.plan import WHAT, Plan, Work, build_plan
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
