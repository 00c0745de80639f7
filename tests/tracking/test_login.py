from __future__ import annotations

import os
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import pytest
import wandb

from summarizer.config.schema import TrackingConfig
from summarizer.tracking.login import check_tracking

KEY = "k" * 40


def spec(mode: Literal["offline", "online", "disabled"]) -> TrackingConfig:
    return TrackingConfig(
        mode=mode, project="p", entity=None, name=None, group=None, tags=[], log_adapter=False
    )


@pytest.fixture(autouse=True)
def nobody_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*(name for name in os.environ if name.startswith("WANDB_")), "NETRC"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_nothing_is_needed_offline(mode: Literal["offline", "disabled"]) -> None:
    assert check_tracking(spec(mode)) == []


def test_online_without_a_key_is_an_issue_that_says_how_to_mend_it() -> None:
    (issue,) = check_tracking(spec("online"))
    assert issue.key == "tracking.mode"
    for way_out in ("wandb login", "WANDB_API_KEY", "offline"):
        assert way_out in issue.message


@pytest.mark.parametrize("variable", ["WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"])
def test_a_key_in_the_environment(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, KEY)
    assert check_tracking(spec("online")) == []


def test_both_is_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_IDENTITY_TOKEN_FILE", "/token")
    (issue,) = check_tracking(spec("online"))
    assert "not both" in issue.message
    assert KEY not in str(issue)


def netrc(file: Path, host: str, key: str = KEY) -> None:
    file.write_text(f"machine {host}\n  login user\n  password {key}\n")
    file.chmod(0o600)


def test_what_wandb_login_writes(tmp_path: Path) -> None:
    netrc(tmp_path / ".netrc", urlsplit(wandb.Settings().base_url).netloc)
    assert check_tracking(spec("online")) == []
    netrc(tmp_path / ".netrc", "elsewhere.example.org")
    assert len(check_tracking(spec("online"))) == 1


def test_the_key_must_be_for_the_server_that_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / ".config" / "wandb" / "settings"
    settings.parent.mkdir(parents=True)
    settings.write_text("[default]\nbase_url = https://own.example.org\n")
    assert "own.example.org" in check_tracking(spec("online"))[0].message
    netrc(tmp_path / "keys", "own.example.org")
    monkeypatch.setenv("NETRC", str(tmp_path / "keys"))
    assert check_tracking(spec("online")) == []
    monkeypatch.setenv("WANDB_BASE_URL", "https://other.example.org")
    assert "other.example.org" in check_tracking(spec("online"))[0].message


def test_a_netrc_that_holds_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "https://own.example.org")
    netrc(tmp_path / ".netrc", "own.example.org", key="short")
    assert len(check_tracking(spec("online"))) == 1
    (tmp_path / ".netrc").write_text("machine\n")
    assert len(check_tracking(spec("online"))) == 1


@pytest.mark.parametrize(
    ("mode", "in_environment", "way_out"),
    [
        ("online", "offline", "tracking.mode=offline"),
        ("online", "dryrun", "tracking.mode=offline"),
        ("online", "disabled", "tracking=none"),
        ("offline", "disabled", "tracking=none"),
        ("offline", "everywhere", "none of disabled, offline, online"),
    ],
)
def test_what_the_environment_forbids_is_not_done(
    mode: Literal["offline", "online"], in_environment: str, way_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", in_environment)
    (issue,) = check_tracking(spec(mode))
    assert way_out in issue.message
    assert "unset" in issue.message


@pytest.mark.parametrize(
    ("mode", "in_environment"), [("offline", "online"), ("disabled", "online"), ("online", "run")]
)
def test_what_the_environment_allows_is_the_configs_to_decide(
    mode: Literal["offline", "online", "disabled"], in_environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", in_environment)
    assert check_tracking(spec(mode)) == []


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_a_sweeps_agent_must_hear_of_its_run(
    mode: Literal["offline", "disabled"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    (issue,) = check_tracking(spec(mode))
    assert "tracking.mode=online" in issue.message
    assert check_tracking(spec("online")) == []
