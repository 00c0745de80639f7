"""What cannot fit into a device is refused before a base is loaded, and what can is not counted."""

from __future__ import annotations

import pytest
import torch
from composing import composed
from model_folders import tiny_config

from summarizer.config.schema import RunConfig
from summarizer.errors import ConfigError
from summarizer.runs.preflight import preflight
from summarizer.training import require_memory
from summarizer.training.require_memory import require_adapter_fits, require_generation_fits

CPU = torch.device("cpu")
GIB = 2**30


def spec(*overrides: str) -> RunConfig:
    return preflight(composed("data=sample", *overrides), imported=True)


@pytest.fixture
def device_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the device has to give: its last number."""
    held = [GIB]
    monkeypatch.setattr(require_memory, "device_memory_bytes", lambda device: held[-1])
    return held


def test_an_adapter_is_refused_by_what_it_takes_exactly(device_bytes: list[int]) -> None:
    config, wide = tiny_config("gptj"), spec("adapter.dim=1000")
    numbers = require_memory.dry_run_of(
        [wide], config, torch.float32, require_memory.Sizing(0, require_memory.Microbatches(None, None))
    ).adapted.parameters_of(0)
    bytes_needed = 8 * sum(parameter.numel() for parameter in numbers.values())
    device_bytes.append(bytes_needed)
    require_adapter_fits(wide, config, torch.float32, CPU)
    device_bytes.append(bytes_needed - 1)
    with pytest.raises(ConfigError, match=r"^adapter: [\d,]+ trained numbers .* and cpu has .*adapter\.dim"):
        require_adapter_fits(wide, config, torch.float32, CPU)


def test_a_usual_adapter_is_not_counted(monkeypatch: pytest.MonkeyPatch, device_bytes: list[int]) -> None:
    monkeypatch.delattr(require_memory, "dry_run_of")
    require_adapter_fits(spec("adapter.dim=64"), tiny_config("gptj"), torch.float32, CPU)


def test_beams_are_refused_under_the_key_that_was_typed(device_bytes: list[int]) -> None:
    config = tiny_config("gptj")
    many, one = spec("generation.num_beams=1000").generation, spec().generation
    require_generation_fits(many, 512, config, CPU)
    device_bytes.append(10 << 20)
    for key in ("generation.num_beams", "--beams"):
        with pytest.raises(ConfigError, match=f"^{key}: 1000 beams of one article would take "):
            require_generation_fits(many, 512, config, CPU, key)
    require_generation_fits(one, 512, config, CPU)
