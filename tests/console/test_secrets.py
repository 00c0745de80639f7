"""What looks secret, and what only looks so."""

from __future__ import annotations

import pytest

from summarizer.console.secrets import masked, masked_text, redact

HEX = "0123456789abcdef0123456789abcdef01234567"
SECRETS = (
    "hf_abcdefghijklmnopqrstuvwx",
    "sk-proj-abcdefghijklmnopqrstuvwx",
    "ghp_abcdefghijklmnopqrstuvwx1234",
    "github_pat_11ABCDEFG0abcdefghijkl_mnop",
    "wandb_v1_abcdefghijklmnopqrst",
    "AKIAABCDEFGHIJKLMNOP",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    HEX,
)


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_masked_wherever_it_stands(secret: str) -> None:
    assert masked_text(f"run {secret}: done") == "run ***: done"
    assert redact(f"tracking.name={secret}") == "tracking.name=***"
    config = {"tracking": {"name": secret, "tags": ["a", secret]}, "overrides": ["seed=1", f"x.y={secret}"]}
    assert masked(config) == {
        "tracking": {"name": "***", "tags": ["a", "***"]},
        "overrides": ["seed=1", "x.y=***"],
    }


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("git clone https://me:pass@example.org/x", "git clone https://***@example.org/x"),
        ("GET https://example.org/x?a=1&token=abc&b=2", "GET https://example.org/x?a=1&token=***&b=2"),
        ("+data.password=hunter2, then", "+data.password=***, then"),
        ("api_key='my own' x", "api_key=*** x"),
    ],
)
def test_only_the_secret_part_of_a_line_is_masked(text: str, kept: str) -> None:
    assert masked_text(text) == kept


@pytest.mark.parametrize(
    "text",
    [
        f"model.revision={HEX}",
        f"the revision {HEX}",
        f"/cache/models--a--b/snapshots/{HEX}/config.json",
        "prompt.completion_token=<|extratoken_1|> prompt.end_token='</s>' pad_token=x",
        "train: 100 rows, 42,000 tokens; max_new_tokens=6",
        f"sha256 {HEX}{HEX[:24]}",
        "https://example.org/a:b@c",
        "adapter.dim=2 optimizer.lr=1e-4",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked_text(text) == text
