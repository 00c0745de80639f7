"""What looks secret is taken out of an override, and the composed config has it all the same."""

from __future__ import annotations

import os

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from summarizer.config.overrides import without_secrets
from summarizer.console.secrets import redact

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz"
HEX = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _no_secrets_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, 9):
        monkeypatch.setenv(f"SUMMARIZER_SECRET_{number}", "")
        monkeypatch.delenv(f"SUMMARIZER_SECRET_{number}")


def values(override: str) -> list[object]:
    """What Hydra makes of an override, resolved: one value, or each of a choice, as its sweepers write it."""
    parsed = OverridesParser.create().parse_override(override)
    if not parsed.is_sweep_override():
        return list(OmegaConf.to_container(OmegaConf.create({"a": parsed.value()}), resolve=True).values())
    return [found for one in parsed.sweep_string_iterator() for found in values(f"a={one}")]


@pytest.mark.parametrize(
    ("override", "secrets"),
    [
        (f"tracking.name={TOKEN}", [TOKEN]),
        (f"tracking.name='run of {TOKEN}, mine'", [TOKEN]),
        (f"tracking.name=plain,{TOKEN},'it\\'s {TOKEN}'", [TOKEN, TOKEN]),
        (f"tracking.name=choice({HEX},b)", [HEX]),
        (f"tracking.tags=[a,3,null,'{TOKEN} b']", [TOKEN]),
        ("data.train=https://me:pa\\,ss@example.org/x.jsonl", ["me:pa,ss"]),
        ("data.train='https://me:p\\'a@h/x?a=1&token=abc&b=2'", ["me:p'a", "abc"]),
        ("+hydra.job.env_set.HF_TOKEN=hunter2", ["hunter2"]),
        ("+hydra.job.env_set.HF_TOKEN='trailing\\\\'", ["trailing\\"]),
        ("hydra.job.env_set={HF_TOKEN:hunter2,B:1.5e-3,C:true,D:null,E:'x y'}", ["hunter2"]),
        ("+data.password=hunter2,hunter3", ["hunter2", "hunter3"]),
    ],
)
def test_a_secret_is_moved_to_the_environment(override: str, secrets: list[str]) -> None:
    expected = values(override)
    hidden = without_secrets(override)
    assert values(hidden) == expected
    assert [os.environ[f"SUMMARIZER_SECRET_{n + 1}"] for n in range(len(secrets))] == secrets
    assert f"SUMMARIZER_SECRET_{len(secrets) + 1}" not in os.environ
    parsed = OverridesParser.create().parse_override(hidden)
    typed = list(parsed.sweep_string_iterator()) if parsed.is_sweep_override() else [hidden]
    assert not [text for text in typed for secret in secrets if secret in text]
    assert "***" in redact(f"{parsed.get_key_element()}={typed[-1 if len(typed) > 2 else 0]}")


@pytest.mark.parametrize(
    "override",
    [
        f"model.revision={HEX}",
        "adapter.dim=2,4",
        "prompt.completion_token=<|extratoken_1|>",
        "+hydra.job.env_set.HF_TOKEN=${oc.env:HOME}",
        "data.train='https://me:${oc.env:HOME}@example.org/x.jsonl'",
        "+hydra.job.env_set.HF_TOKEN=null",
        "--config-dir=hf_abcdefghijklmnopqrstuvwxyz",
        f"tracking.name=({TOKEN}",
        "-m",
    ],
)
def test_what_is_no_secret_is_left_alone(override: str) -> None:
    assert without_secrets(override) == override
    assert "SUMMARIZER_SECRET_1" not in os.environ
