"""Advice before a run: what is counted is counted once more, and the bounds are those of the sources."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from composing import composed
from omegaconf import OmegaConf

from summarizer.config.paths import conf_folder
from summarizer.config.schema import RunConfig
from summarizer.data.prompt import build_prompt
from summarizer.data.splits import build_split
from summarizer.models.load import load_config
from summarizer.models.source import model_folder
from summarizer.models.tokenizer import load_tokenizer
from summarizer.runs.advice import advise, kind_of, learned_tokens, normal_form, rates_of, scale_of
from summarizer.runs.preflight import preflight
from summarizer.training.sizing import trained_numbers


def spec(*overrides: str) -> RunConfig:
    return preflight(composed(*overrides), imported=True)


def plain(*overrides: str) -> dict[str, object]:
    return OmegaConf.to_container(composed(*overrides), resolve=True)["adapter"]  # type: ignore[index,call-overload,return-value]


def test_capacity_is_parameters_against_tokens() -> None:
    specs = [spec("adapter.dim=2"), spec("adapter.dim=8")]
    (short, _) = advise(specs, [50, 50], [100, 400], 450)
    assert short.startswith("capacity: 100 and 400 trained parameters for 450 summary tokens are not enough")
    assert "adapter.dim=9 would be" in short  # 2 * 450 / 100
    (partly, _) = advise(specs, [50, 50], [100, 400], 300)
    assert partly.startswith("capacity: 100 trained parameters for 300 summary tokens are not enough")
    (enough, _) = advise(specs, [50, 50], [100, 400], 100)
    assert "are enough" in enough
    assert not any("capacity" in line for line in advise(specs, [50, 50], None, 100))
    (of_vectors, *_) = advise([spec("adapter=vera")], [50], [100], 450)
    assert "adapter.dim" not in of_vectors


def test_numbers_and_tokens_are_those_that_are_there() -> None:
    one = spec("adapter.dim=3")
    config = load_config(model_folder(one.model))
    d, ff, v, blocks = config.n_embd, 4 * config.n_embd, config.vocab_size, config.n_layer
    per_rank = blocks * (4 * 2 * d + 2 * (d + ff)) + (d + v) + (v + d)
    two = [one, spec("adapter=lora_fa", "adapter.dim=1"), one]
    only_b = blocks * (4 * d + ff + d) + v + d
    assert trained_numbers(two, config, torch.float32) == [3 * per_rank, only_b, 3 * per_rank]
    prompt = build_prompt(one.prompt, load_tokenizer(model_folder(one.model)))
    split = build_split(one.data, "validation", prompt)
    by_row = sum(len(row.target_ids) for row in split.encoded(range(len(split))))
    assert split.summary_tokens == by_row
    assert [learned_tokens(100, steps, 10) for steps in (5, 10, 30)] == [50, 100, 100]


@pytest.mark.parametrize(
    ("overrides", "kind", "scale", "rates"),
    [
        (["adapter.dim=8"], "lora", 1.0, (2e-5, 1e-3)),
        (["adapter.dim=8", "adapter.alpha=16"], "lora", 2.0, (1e-5, 5e-4)),
        (["adapter=rslora", "adapter.dim=4"], "rslora", 2.0, (1e-5, 5e-4)),
        (["adapter=lora_plus", "adapter.dim=4"], "lora_plus", 1.0, (1e-5, 5e-4)),
        (["adapter=dora"], "dora", 1.0, None),
        (["adapter=pissa"], "pissa", 1.0, None),
        (["adapter=lora_fa"], "lora_fa", 1.0, None),
    ],
)
def test_rates_follow_kind_and_scale(
    overrides: Sequence[str], kind: str, scale: float, rates: tuple[float, float] | None
) -> None:
    adapter = plain(*overrides)
    assert kind_of(adapter) == kind
    assert scale_of(adapter) == pytest.approx(scale)
    assert rates_of(adapter) == (None if rates is None else pytest.approx(rates))


def test_each_kind_has_its_name() -> None:
    kinds = sorted(path.stem for path in (conf_folder() / "adapter").glob("*.yaml"))
    assert [kind_of(plain(f"adapter={kind}")) for kind in kinds] == kinds
    others = [plain(f"adapter={kind}") for kind in ("miss", "ia3", "oft", "vera")]
    assert [scale_of(other) for other in others] == [rates_of(other) for other in others] == [None] * 4
    (line,) = advise([spec("adapter=miss"), spec("adapter=oft")], [9, 9], None, None)
    assert line.startswith("rates for miss and oft: no published range")


def test_a_rate_outside_is_named_once_and_inside_is_not() -> None:
    inside = spec("adapter.dim=2", "optimizer.lr=1e-3")
    outside = spec("adapter.dim=2", "optimizer.lr=3e-2")
    (line,) = advise([inside, outside, outside], [9, 9, 9], None, None)
    assert "2e-5 to 1e-3 with Adam, 0.03 lies outside (" in line
    assert "arXiv:2405.09673" in line
    (line,) = advise([inside], [9], None, None)
    assert "lies outside" not in line
    assert advise([spec("optimizer=sgd")], [9], None, None) == []


def test_a_warm_up_that_is_too_long() -> None:
    def said(warmup: int) -> list[str]:
        own = spec(f"trainer.schedule.warmup_steps={warmup}", "optimizer=sgd")
        return advise([own, own], [10, 10], None, None)

    assert said(5) == []
    (half,) = said(6)
    assert "more than half of the 10 steps" in half
    (never,) = said(40)
    assert "is more than the 10 steps" in never
    assert "25% of it at most" in never


def form(*overrides: str) -> str:
    config = OmegaConf.to_container(composed(*overrides), resolve=True)
    return normal_form(config)  # type: ignore[arg-type]


def test_points_that_are_the_same_run_have_one_form() -> None:
    assert form("adapter=rslora", "adapter.dim=1") == form("adapter=lora", "adapter.dim=1")
    assert form("adapter.dim=4", "adapter.alpha=4") == form("adapter.dim=4")
    assert form("adapter=rslora", "adapter.dim=4", "adapter.alpha=4") == form(
        "adapter.dim=4", "adapter.alpha=8"
    )
    assert form("adapter.dim={default: 4}") == form("adapter.dim=4")
    assert form("tracking.tags=[a]") == form()
    assert form("adapter=rslora", "adapter.dim=4") != form("adapter.dim=4")
    assert form("adapter.dim=4") != form("adapter.dim=8")
    assert form("seed=1") != form()
    assert math.isclose(scale_of(plain("adapter=rslora", "adapter.dim=4")) or 0, 2.0)
