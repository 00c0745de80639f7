"""Real engines on this machine: a sweep that loses one of its two machines has the numbers of one machine."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from pathlib import Path

import pytest
from small_runs import REPOSITORY, measure_of

STUDY = REPOSITORY / "experiments" / "clusters"
# Its files import each other by name, as the command does.
sys.path.insert(0, str(STUDY))
study = measure_of(STUDY)
same_sweep = importlib.import_module("same_sweep")

GRID = (*study.SMALL, *study.TRIALS, "quantization=int8,nf4")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", study.ENGINES)
def test_a_machine_is_killed_in_the_middle_of_its_group(name: str, tmp_path: Path) -> None:
    if not os.environ.get("CLUSTERS"):
        pytest.skip("it starts the daemons of an engine, on ports of its own; CLUSTERS=1 runs it")
    engine = importlib.import_module(f"{name}_here")
    if why := engine.missing():
        pytest.skip(why)
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    # An hour: whoever compares the clocks of two machines is found out. wandb opens no run under libfaketime.
    clocks = {"node2": 3600.0} if name == "slurm" and engine.has_faketime() else {}
    grid = (*GRID, "tracking=none" if clocks else "tracking=wandb")
    study.sweep(grid, alone, None, (), kill=False)
    with engine.cluster(tmp_path / "cluster", clocks) as cluster:
        seen = study.sweep(grid, killed, cluster, engine.OVERRIDES, kill=True)
    assert same_sweep.differences(alone, killed) == []
    said = "\n".join(study.resumed_from(killed, seen["killed"]["group"]))
    assert "these runs had begun in an earlier start of this job" in said
    assert "resuming from step-0000000" in said
    assert seen["last_node_of_each_group"][seen["killed"]["group"]] != seen["killed"]["node"]
    # What is compared: a number, an adapter's bit and a summary that are another's are found.
    for file in ("1/metrics.jsonl", "2/adapter/adapter_model.safetensors", "3/predictions/validation.jsonl"):
        shutil.copy(killed / file, tmp_path / "kept")
        shutil.copy(killed / "0" / file.partition("/")[2], killed / file)
        assert same_sweep.differences(alone, killed) == [file]
        shutil.copy(tmp_path / "kept", killed / file)


def test_without_an_engine_the_reason_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    slurm = importlib.import_module("slurm_here")
    monkeypatch.setattr(slurm, "_path", lambda: str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["measure.py", "slurm"])
    assert study.main() == 2
    assert "apt-get install slurmctld slurmd munge slurm-client" in capsys.readouterr().err
