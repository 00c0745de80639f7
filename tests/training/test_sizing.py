"""What the plan decides, and that the run then does it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from transformers import GPTJConfig

from summarizer.config.paths import conf_folder
from summarizer.config.schema import RunConfig
from summarizer.errors import ConfigError
from summarizer.runs.preflight import preflight
from summarizer.training import sizing
from summarizer.training.sizing import Sizing, dry_run_of, planned_bytes, rows_at_once, size_run
from summarizer.training.step import Microbatches

CPU = torch.device("cpu")


def spec_of(*overrides: str) -> RunConfig:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return preflight(
            compose("config", ["prompt.max_tokens=64", "generation.max_new_tokens=16", *overrides]),
            imported=True,
        )


def config() -> GPTJConfig:
    return GPTJConfig(vocab_size=512, n_embd=64, n_layer=4, n_head=4, n_positions=128, rotary_dim=8)


def planned(spec: RunConfig, recomputed: int | None, rows: int) -> int:
    run = dry_run_of([spec], config(), torch.float32, Sizing(recomputed, Microbatches(None, None)))
    return planned_bytes(run, spec, rows)


def sized(spec: RunConfig, memory_bytes: float, monkeypatch: pytest.MonkeyPatch) -> Sizing:
    monkeypatch.setattr(sizing, "device_memory_bytes", lambda device: int(memory_bytes / sizing.SHARE) + 1)
    return size_run(spec, config(), torch.float32, CPU)


@pytest.mark.parametrize(("memory", "recomputed"), [("fast", 0), ("low", None)])
def test_without_auto_nothing_is_planned(
    memory: str, recomputed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing, "dry_run_of", None)
    spec = spec_of(f"trainer.memory={memory}", "trainer.microbatch_size=1", "trainer.batch_tokens=50")
    assert size_run(spec, config(), torch.float32, CPU) == Sizing(recomputed, Microbatches(1, 50))


def test_a_process_holds_its_share_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, shared = spec_of("trainer.batch_size=8"), spec_of("trainer.batch_size=8", "trainer.processes=4")
    assert (rows_at_once(alone), rows_at_once(shared)) == (8, 2)
    assert (
        rows_at_once(spec_of("trainer.batch_size=8", "trainer.processes=2", "trainer.microbatch_size=3")) == 3
    )
    monkeypatch.setenv("WORLD_SIZE", "3")  # as torchrun has it; the first process takes one more
    assert rows_at_once(alone) == 3


@pytest.mark.slow
def test_as_few_blocks_are_recomputed_as_let_the_batch_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of("trainer.memory=auto", "trainer.batch_size=8")
    by_count = [planned(spec, count, 8) for count in range(5)]
    assert by_count == sorted(by_count, reverse=True)
    assert sized(spec, by_count[0], monkeypatch).recomputed == 0
    assert sized(spec, by_count[4] - 1, monkeypatch).recomputed is None
    chosen = sized(spec, by_count[2], monkeypatch).recomputed
    assert chosen in (2, 3), "one to spare, and no more"
    assert by_count[chosen] <= by_count[2]


@pytest.mark.slow
def test_the_largest_microbatch_that_fits_is_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = spec_of("trainer.batch_tokens=auto", "trainer.batch_size=8")
    with caplog.at_level("INFO"):
        assert sized(spec, planned(spec, 0, 3), monkeypatch).microbatches == Microbatches(None, 3 * 64)
    assert "192 tokens per forward pass" in caplog.text


@pytest.mark.slow
def test_not_even_one_example_is_a_mistake_with_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of("trainer.batch_tokens=auto")
    with pytest.raises(ConfigError, match=r"one example of 64 tokens .* trainer\.memory=low"):
        sized(spec, planned(spec, 0, 1) - 1, monkeypatch)


@pytest.mark.parametrize(("recomputed", "count"), [(0, 0), (2, 2), (None, 4)])
def test_preparing_a_model_does_what_was_decided(recomputed: int | None, count: int) -> None:
    spec = spec_of()
    run = dry_run_of([spec], config(), torch.float32, Sizing(recomputed, Microbatches(None, None)))
    changed = ["forward" in vars(block) for block in run.adapted.model.blocks]
    assert changed == [True] * count + [False] * (4 - count)


def test_a_dry_run_holds_each_trial_with_its_own_adapter() -> None:
    specs = [spec_of(f"adapter.dim={dim}") for dim in (2, 6)]
    run = dry_run_of(specs, config(), torch.float32, Sizing(0, Microbatches(None, None)))
    narrow, wide = (sum(p.numel() for p in run.adapted.parameters_of(i).values()) for i in (0, 1))
    assert run.adapted.stack.size == 2
    assert wide == 3 * narrow > 0


@pytest.mark.parametrize(
    ("override", "device", "expected"),
    [
        ("auto", "cpu", False),
        ("auto", "cuda", True),
        ("true", "cpu", True),
        ("false", "cuda", False),
        ("graphs", "cuda", True),
    ],
)
def test_blocks_are_compiled_on_a_gpu_unless_told(override: str, device: str, expected: Any) -> None:
    spec = spec_of(f"trainer.compile={override}")
    assert sizing.compiles(spec, torch.device(device)) is expected
    assert size_run(spec, config(), torch.float32, CPU).microbatches.few_shapes is (override == "graphs")


def test_the_planned_tokens_are_of_few_shapes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of("trainer.batch_tokens=auto", "trainer.compile=graphs", "trainer.batch_size=2")
    assert sized(spec, 2**40, monkeypatch).microbatches == Microbatches(None, 2 * 64, few_shapes=True)
