"""How many trials train at once, against dry runs of that many, and caches that were filled."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from config.composing import composed
from transformers import AutoModelForCausalLM, GPTJConfig, LlamaConfig, PretrainedConfig

from summarizer import compat
from summarizer.config.plain import to_plain
from summarizer.config.schema import RunConfig
from summarizer.errors import ConfigError
from summarizer.runs.plan import show_plan
from summarizer.runs.preflight import preflight
from summarizer.runs.record import RunRecord
from summarizer.training import sizing
from summarizer.training.dry_run import Microbatch, group_state_bytes
from summarizer.training.sizing import (
    Sizing,
    _need,
    dry_run_of,
    evaluation_rows,
    plan_slots,
    size_run,
    widest,
)
from summarizer.training.step import Microbatches

CPU = torch.device("cpu")
ALL_AT_ONCE = Sizing(0, Microbatches(None, None))


def spec_of(*overrides: str) -> RunConfig:
    small = ("prompt.max_tokens=64", "generation.max_new_tokens=16", "optimizer=adamw")
    return preflight(composed(*small, *overrides), imported=True)


def config() -> GPTJConfig:
    return GPTJConfig(
        vocab_size=512,
        n_embd=64,
        n_layer=1,
        n_head=4,
        n_positions=256,
        rotary_dim=8,
        bos_token_id=0,
        eos_token_id=0,
    )


def direct_bytes(specs: Sequence[RunConfig], rows: int) -> int:
    """Planned for a step of exactly these trials over so many full rows of each."""
    run = dry_run_of(specs, config(), torch.float32, ALL_AT_ONCE)
    tokens = specs[0].prompt.max_tokens
    step = run.cost(Microbatch(rows, tokens, min(tokens, 128)))
    return step.peak_bytes + group_state_bytes(run, [spec.optimizer.build for spec in specs])


def give(memory_bytes: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "device_memory_bytes", lambda device: int(memory_bytes / sizing.SHARE) + 1)


def planned(specs: Sequence[RunConfig], start: Sizing = ALL_AT_ONCE) -> Sizing:
    return plan_slots(specs, start, config(), torch.float32, CPU)


def test_as_many_train_at_once_as_fit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The plan is a bound from above, by some 2 % here: of what rows share it counts some for each of them."""
    spec = spec_of()
    three, four = (direct_bytes([spec] * count, rows=2) for count in (3, 4))
    for memory_bytes, fitting in (((three + four) / 2, 3), (four - 1, 3), (three / 9, 1)):
        give(memory_bytes, monkeypatch)
        assert planned([spec] * 6).slots == fitting
    give(1.05 * four, monkeypatch)
    caplog.clear()
    with caplog.at_level("INFO"):
        assert planned([spec] * 4).slots == 4
        assert not caplog.messages
        assert planned([spec] * 5).slots == 4
    assert "4 of the group's 5 runs train at once" in caplog.text


def test_what_rows_share_is_not_counted_for_each() -> None:
    """Beside 6 settings planned directly: the head's dense matrix is as large here as the logits of 64 tokens."""
    spec = spec_of()
    for count, rows in ((1, 1), (1, 4), (3, 1), (3, 4), (6, 1), (6, 4)):
        need = _need([spec] * count, ALL_AT_ONCE, config(), torch.float32, 64, closely=True)
        planned_bytes, needed = need.bytes(count, rows), direct_bytes([spec] * count, rows)
        assert needed <= planned_bytes <= 1.03 * needed, (count, rows)


def test_every_slot_is_as_wide_as_the_widest_run(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow, wide = (spec_of(f"adapter.dim={dim}", "optimizer=sgd") for dim in (2, 64))
    mixed = [narrow, wide, narrow, narrow]
    two, three = (direct_bytes([wide] * count, rows=2) for count in (2, 3))
    give((two + three) / 2, monkeypatch)
    assert planned(mixed).slots == 2
    assert planned([narrow] * 4).slots > 2


def test_what_a_glance_says_too_much_of_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short rows cost more per token than long ones, so that few short ones settle only what fits with ease."""
    spec = spec_of("prompt.max_tokens=256")
    looks: list[int] = []

    def counted(specs: Sequence[RunConfig], *rest: object) -> object:
        looks.append(len(specs))
        return dry_run_of(specs, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(sizing, "dry_run_of", counted)
    three = direct_bytes([spec] * 3, rows=2)
    give(1.02 * three, monkeypatch)
    assert planned([spec] * 3).slots == 3
    assert looks == [1, 1]
    looks.clear()
    give(2.1 * three, monkeypatch)
    assert planned([spec] * 3).slots == 3
    assert looks == [1]


@pytest.mark.parametrize(("asked", "runs", "count"), [("2", 5, 2), ("9", 3, 3), ("3", 1, 1), ("auto", 1, 1)])
def test_slots_as_asked_are_not_planned(
    asked: str, runs: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing, "dry_run_of", None)
    give(1, monkeypatch)
    start = Sizing(None, Microbatches(3, 50))
    sized = planned([spec_of(f"sweep.max_concurrent_trials={asked}")] * runs, start)
    assert sized == Sizing(None, Microbatches(3, 50), slots=count, evaluation_rows=1)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (2, (3, 6)),  # two of each trial
        (1, (3, 3)),
        (9, (3, 12)),  # no more than the batches hold
    ],
)
def test_microbatches_leave_room_for_every_trial(
    rows: int, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of("trainer.batch_tokens=auto", "trainer.batch_size=4")
    memory_bytes = 1.05 * direct_bytes([spec] * 3, rows)
    give(memory_bytes, monkeypatch)
    alone = size_run(spec, config(), torch.float32, CPU)
    sized = planned([spec] * 3, alone)
    tokens = sized.microbatches.tokens
    assert tokens is not None
    assert (sized.slots, tokens / 64) == expected
    assert direct_bytes([spec] * 3, tokens // 64 // sized.slots) <= memory_bytes


def test_where_not_all_fit_one_row_of_each_makes_way_for_more_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of("trainer.batch_tokens=auto", "trainer.batch_size=4")
    two, three = (direct_bytes([spec] * count, rows=1) for count in (2, 3))
    give((two + three) / 2, monkeypatch)
    sized = planned([spec] * 3, size_run(spec, config(), torch.float32, CPU))
    assert (sized.slots, sized.microbatches.tokens) == (2, 2 * 64)


def llama() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
    )


@pytest.mark.parametrize("architecture", [config(), llama()])
@pytest.mark.parametrize(("trials", "beams"), [(1, 1), (3, 1), (2, 4)])
def test_rows_that_generate_at_once_fill_half_of_what_is_free_with_keys_and_values(
    architecture: PretrainedConfig, trials: int, beams: int
) -> None:
    model = AutoModelForCausalLM.from_config(architecture)
    with torch.no_grad():
        ids = torch.zeros(trials * beams, 64 + 16, dtype=torch.long)
        cache = model(ids, use_cache=True).past_key_values
    row_bytes = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    spec = spec_of("evaluation.batch_size=5", f"generation.num_beams={beams}")
    for free_bytes, rows in (
        (2 * row_bytes * 3, 3),
        (2 * row_bytes * 3 - 1, 2),
        (2 * row_bytes * 9, 5),
        (row_bytes, 1),
        (-row_bytes, 1),
    ):
        assert evaluation_rows(spec, architecture, trials, free_bytes) == rows


def test_rows_that_generate_find_the_base_and_all_trials_there(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of("evaluation.batch_size=1000")
    memory_bytes = 1.05 * direct_bytes([spec] * 3, rows=2)
    run = dry_run_of([spec] * 3, config(), torch.float32, ALL_AT_ONCE)
    at_peak = run.cost(Microbatch(1, 64, 64)).at_peak
    lasting = sum(at_peak[part] for part in ("base", "adapters", "gradients"))  # type: ignore[index]
    lasting += group_state_bytes(run, [spec.optimizer.build] * 3)
    give(memory_bytes, monkeypatch)
    sized = planned([spec] * 3)
    row_bytes = 3 * (2 * 64) * 4 * (64 + 16)  # trials; keys and values, width; fp32; tokens
    assert sized.evaluation_rows == (memory_bytes - lasting) // (2 * row_bytes) > 1


def test_the_widest_run_is_the_one_of_the_largest_dim() -> None:
    specs = [spec_of(f"adapter.dim={dim}", f"seed={seed}") for seed, dim in enumerate((2, 16, 4, 16))]
    assert widest(specs) is specs[1]
    assert widest(specs[:1]) is specs[0]


def test_where_nothing_can_be_planned_runs_train_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "can_simulate", lambda: False)
    monkeypatch.setattr(compat, "fake_tensor_mode", None)
    give(2**40, monkeypatch)
    for overrides, at_once, tokens in (
        ((), 1, None),
        (("sweep.max_concurrent_trials=2",), 2, None),
        (("trainer.batch_tokens=auto",), 1, 64),
        (("trainer.batch_tokens=auto", "sweep.max_concurrent_trials=2"), 2, 128),
    ):
        spec = spec_of(*overrides)
        start = size_run(spec, config(), torch.float32, CPU)
        found = planned([spec] * 3, start)
        assert (found.slots, found.microbatches.tokens) == (at_once, tokens)
        assert found.evaluation_rows == spec.evaluation.batch_size
    with pytest.raises(ConfigError, match="plan: true: a step cannot be planned"):
        show_plan([RunRecord(config=to_plain(composed("plan=true")), folder="folder")])


@pytest.mark.parametrize(("memory", "recomputed"), [("fast", 0), ("low", None), ("auto", None)])
def test_where_nothing_can_be_planned_all_blocks_are_recomputed(
    memory: str, recomputed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compat, "can_simulate", lambda: False)
    monkeypatch.setattr(compat, "fake_tensor_mode", None)
    spec = spec_of(f"trainer.memory={memory}", "trainer.batch_tokens=auto")
    found = size_run(spec, config(), torch.float32, CPU)
    assert (found.recomputed, found.microbatches.tokens) == (recomputed, 64)
