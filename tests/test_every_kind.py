"""Every kind of adapter in conf/adapter, in one fused sweep, through every command that knows adapters."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import KILL_IN, TINY, Command

from summarizer import evaluate, export, summarize
from summarizer.config.paths import conf_folder

KINDS = sorted(path.stem for path in (conf_folder() / "adapter").glob("*.yaml"))
SWEEP = (
    "-m",
    *TINY,
    f"adapter={','.join(KINDS)}",
    "trainer.max_steps=3",
    "trainer.checkpoint_every_steps=1",
    "evaluation.rows=1",
    "evaluation.rows_during_training=0",
    "evaluation.confirm_split=null",
    "optimizer.lr=0.003",
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds") / "sweep"
    run = [sys.executable, "-m", "summarizer.run", *SWEEP, f"hydra.sweep.dir={folder}"]
    done = subprocess.run(run, capture_output=True, text=True, cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    assert "in 1 group that trains together" in done.stderr
    return folder


def test_a_killed_sweep_goes_on_to_the_same_bytes(sweep: Path, tmp_path: Path, command: Command) -> None:
    folder = tmp_path / "sweep"
    script = KILL_IN.format(function="save_state", call=len(KINDS) + 2)
    run = [sys.executable, "-c", script, *SWEEP, f"hydra.sweep.dir={folder}"]
    assert subprocess.run(run, cwd=tmp_path, capture_output=True).returncode == -signal.SIGKILL
    resumed = command([f"resume={folder}"])
    assert resumed.returncode == 0, resumed.stderr
    for number, kind in enumerate(KINDS):
        own, theirs = (of / str(number) / "adapter" / "adapter_model.safetensors" for of in (folder, sweep))
        assert own.read_bytes() == theirs.read_bytes(), kind


def test_all_are_evaluated_over_one_base(sweep: Path) -> None:
    runs = [str(sweep / str(number)) for number in range(len(KINDS))]
    assert evaluate.command([*runs, "--split", "validation", "--rows", "2"]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_each_summarizes_and_is_exported(
    kind: str, sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(sweep / str(KINDS.index(kind)))
    article = tmp_path / "article.txt"
    article.write_text("The harbor of Port Wells was closed on Monday after a storm. Ships waited at sea.")
    assert summarize.command([run, str(article)]) == 0
    merged = [run, "--format", "merged", "--dtype", "fp32", "--output", str(tmp_path / "merged")]
    assert export.command(merged) == 0
    (kl,) = (line for line in capsys.readouterr().out.splitlines() if "KL from the unmerged model" in line)
    assert float(kl.split("model:")[1].split()[0]) < 1e-6
    assert export.command([run, "--format", "peft", "--output", str(tmp_path / "peft")]) == 0
    assert json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["peft_type"]
