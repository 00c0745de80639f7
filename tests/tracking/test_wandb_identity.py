from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from summarizer.config.schema import TrackingConfig
from summarizer.errors import ConfigError
from summarizer.tracking.wandb_run import Identity, identity_of, keep_agents_identity, open_tracker

SPEC = TrackingConfig(
    mode="online", project="p", entity="e", name=None, group=None, tags=[], log_adapter=False
)


@pytest.fixture(autouse=True)
def no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)


def test_a_new_run_has_an_id_of_its_own_that_a_resumed_one_keeps(tmp_path: Path) -> None:
    file = tmp_path / "id.txt"
    first = identity_of(SPEC, file, resumed=False)
    assert (first.project, first.entity) == ("p", "e")
    assert file.read_text() == f"{first.id}\n"
    assert identity_of(SPEC, file, resumed=True) == first
    assert identity_of(SPEC, file, resumed=False).id != first.id


def test_an_agents_run_is_left_to_wandb_and_found_again_without_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "id.txt"
    run = SimpleNamespace(entity="my-team", project="a grid", id="abc123")
    keep_agents_identity(file, run)
    assert not file.exists()  # nobody's agent
    with monkeypatch.context() as patch:
        patch.setenv("WANDB_SWEEP_ID", "s")
        assert identity_of(SPEC, file, resumed=False) == Identity(None, None, None)
        assert not file.exists()
        keep_agents_identity(file, run)
    assert identity_of(SPEC, file, resumed=True) == Identity("abc123", "a grid", "my-team")


@pytest.mark.parametrize("kept", ["", "../../x", "a/b/c/d", "e/p/", "e/p/UP", "a b"])
def test_a_file_that_names_no_run_is_refused(tmp_path: Path, kept: str) -> None:
    (tmp_path / "id.txt").write_text(kept)
    with pytest.raises(ConfigError, match="not a wandb run id"):
        identity_of(SPEC, tmp_path / "id.txt", resumed=True)


def test_an_agents_one_run_is_not_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    with pytest.raises(ConfigError, match="leave out -m"):
        open_tracker(SPEC, tmp_path, name="n", group="10-15-30-sweep", config={}, resumed=False)
    assert list(tmp_path.iterdir()) == []
