"""What looks secret in what Hydra writes is *** there, and a run that needs it says so when it is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
from composing import composed
from omegaconf import OmegaConf

from summarizer.errors import ConfigError
from summarizer.runs.folder import mask_written
from summarizer.runs.record import composed_run, read_configured

SECRET = "hf_abcdefghijklmnopqrstuvwxyz"


def written(sweep: Path, *overrides: str) -> Path:
    folder = sweep / "0"
    (folder / ".hydra").mkdir(parents=True)
    files = {
        folder / ".hydra" / "config.yaml": composed("data=sample", *overrides),
        folder / ".hydra" / "overrides.yaml": OmegaConf.create(list(overrides)),
        folder / ".hydra" / "hydra.yaml": OmegaConf.create(
            {"hydra": {"overrides": {"task": list(overrides)}}}
        ),
        sweep / "multirun.yaml": OmegaConf.create({"hydra": {"job": {"env_set": {"HF_TOKEN": "hunter2"}}}}),
    }
    for file, node in files.items():
        OmegaConf.save(node, file)
    assert len(files) == 4
    return folder


def test_what_hydra_wrote_is_masked(tmp_path: Path) -> None:
    folder = written(tmp_path, f"tracking.name={SECRET}", "seed=3")
    mask_written(folder)
    mask_written(tmp_path)
    texts = [file.read_text() for file in tmp_path.rglob("*.yaml")]
    assert len(texts) == 4
    assert not [text for text in texts if SECRET in text or "hunter2" in text]
    assert all("***" in text for text in texts)
    run = read_configured(folder)
    assert (run.config["seed"], run.config["tracking"]["name"]) == (3, "***")


def test_nothing_is_written_anew_without_a_secret(tmp_path: Path) -> None:
    folder = written(tmp_path, "seed=3")
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*.yaml")}
    mask_written(folder)
    assert before == {file: file.stat().st_mtime_ns for file in folder.rglob("*.yaml")}
    assert len(before) == 3


def test_a_run_that_needs_a_masked_value_says_so(tmp_path: Path) -> None:
    folder = written(tmp_path, "data.train=https://me:pass@example.org/x.jsonl")
    mask_written(folder)
    with pytest.raises(ConfigError, match=r"data\.train: looked secret and was left out; write it"):
        read_configured(folder)


def test_a_folder_left_before_it_was_masked_says_the_same(tmp_path: Path) -> None:
    """A run that was killed between Hydra's write and its masking has the variable's name there."""
    reference = "${oc.env:SUMMARIZER_SECRET_1}"
    folder = written(tmp_path, "tracking.name=x", f"data.train='a {reference}'")
    file = folder / ".hydra" / "config.yaml"
    file.write_text(file.read_text().replace("name: x", f"name: {reference}"))
    with pytest.raises(ConfigError, match=r"^data\.train: looked secret and was left out"):
        read_configured(folder)
    file.write_text(file.read_text().replace(f"a {reference}", "here.jsonl"))
    assert read_configured(folder).config["tracking"]["name"] == "***"


def test_no_folder_is_called_by_a_secret(tmp_path: Path) -> None:
    hydra = OmegaConf.create({"overrides": {"task": []}, "runtime": {"output_dir": f"{tmp_path}/{SECRET}"}})
    with pytest.raises(ConfigError, match=r"hydra\.sweep\.subdir: .*/\*\*\*: a folder's name cannot hold"):
        composed_run(composed("data=sample"), hydra, "sweep")
