from __future__ import annotations

import pytest

from summarizer.console.secrets import redact
from summarizer.tracking.names import run_name

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "default"),
        (["adapter.dim=2", "optimizer.lr=1e-4"], "dim=2 lr=1e-4"),
        (["model=smollm2", "adapter.dim=2"], "model=smollm2 dim=2"),
        (["data.rows.train=5", "data.train=x.jsonl"], "rows.train=5 data.train=x.jsonl"),
        (["a.b.c=1", "x.b.c=2", "c=3"], "a.b.c=1 x.b.c=2 c=3"),
        (["+experiment=gptj", "++seed=3"], "experiment=gptj seed=3"),
        (["~data.test"], "~test"),
        (["tracking.mode=online", "hydra.run.dir=x", "hydra/launcher=basic", "seed=1"], "seed=1"),
        (["data.train='a=b'"], "train='a=b'"),
        (["prompt.max_tokens=64", "model.completion_token=<|x|>"], "max_tokens=64 completion_token=<|x|>"),
        ([f"model.revision={KEY}"], f"revision={KEY}"),
        ([f"+data.api_key={KEY}"], "api_key=***"),
        (["+hub.token=abc", "+a.hf_token=q"], "token=*** hf_token=***"),
        (["+b.password=p", "+c.client_secret=s"], "password=*** client_secret=***"),
        (["data.path=hf_abcdefghijklmnopqrstuvwx"], "path=***"),
        (["data.train=https://me:pass@example.org/x"], "train=***"),
    ],
)
def test_names(overrides: list[str], name: str) -> None:
    assert run_name(overrides) == name


def test_long_names_are_cut_and_stay_different() -> None:
    names = {run_name([f"data.train={'x' * 200}", f"seed={seed}"]) for seed in range(3)}
    assert len(names) == 3
    assert {len(name) for name in names} == {128}


def test_redact_keeps_everything_else() -> None:
    assert redact("adapter.dim=2") == "adapter.dim=2"
    assert redact("~data.test") == "~data.test"
    assert redact("+hub.token=abc") == "+hub.token=***"
