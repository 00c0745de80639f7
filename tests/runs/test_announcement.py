"""What a run is called in its first line."""

from __future__ import annotations

import pytest
from composing import composed
from omegaconf import OmegaConf

from summarizer.runs.session import described


@pytest.mark.parametrize(
    ("kinds", "name"),
    [
        (["lora"], "LoRA"),
        (["rslora", "lora_plus", "lora_fa"], "rsLoRA,LoRA+,LoRA-FA"),
        (["dora", "pissa", "olora"], "DoRA,PiSSA,OLoRA"),
    ],
)
def test_relatives_of_lora_have_their_own_names(kinds: list[str], name: str) -> None:
    configs = [OmegaConf.to_container(composed(f"adapter={kind}")) for kind in kinds]
    assert described(configs).startswith(f"{name} dim=2 on embedded:tiny_gptj")  # type: ignore[arg-type]


def test_settings_that_are_combined_are_named_together() -> None:
    config = OmegaConf.to_container(composed("adapter=dora", "adapter.use_rslora=true"))
    assert described([config]).startswith("rsLoRA DoRA dim=2")  # type: ignore[list-item]
