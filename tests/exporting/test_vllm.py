"""What stands against vLLM taking an adapter, and what the card says of serving it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from trained_runs import save_run

from summarizer.errors import ConfigError
from summarizer.exporting.export import export
from summarizer.exporting.request import ExportFlags, requested
from summarizer.json_files import write_part
from summarizer.runs.record import RunRecord
from summarizer.sweeps.record import FILE_NAME, Metric, SweepRecord


def exported(run: Path, **more: Any) -> str:
    """The card of a folder for vLLM."""
    flags = ExportFlags(run=run, **({"format": "peft", "device": "cpu", "target": "vllm"} | more))
    list(export(requested(flags)))
    return (run / "export" / "peft" / "README.md").read_text()


@pytest.mark.parametrize(
    ("kind", "targets", "said"),
    [
        ("gptj", ["linear"], "takes no adapters for models of the kind 'gptj'; --format merged makes"),
        ("gpt2", ["linear"], "takes no adapters for models of the kind 'gpt2'"),
        ("qwen2", ["linear", "head"], "this one is on the head too; train with adapter.targets=[linear]"),
        ("qwen2", ["linear", "embedding", "head"], "this one is on the embedding and the head too"),
    ],
)
def test_what_stands_against_it(kind: str, targets: list[str], said: str, tmp_path: Path) -> None:
    run = save_run(kind, tmp_path, targets=targets)
    with pytest.raises(ConfigError, match=re.escape(said)):
        exported(run)
    assert not (run / "export").exists()


def test_a_rank_beyond_its_largest(tmp_path: Path) -> None:
    run = save_run("llama_tied", tmp_path)
    config = run / "adapter" / "adapter_config.json"
    (run / "adapter" / "digests.json").unlink()
    config.write_text(json.dumps(json.loads(config.read_text()) | {"r": 600}))
    with pytest.raises(ConfigError, match="ranks up to 512, and this adapter's is 600"):
        exported(run)


def test_another_format(tmp_path: Path) -> None:
    run = save_run("llama_tied", tmp_path)
    with pytest.raises(ConfigError, match="--for: goes with --format peft alone, which vllm loads"):
        exported(run, format="merged")


def test_the_card(tmp_path: Path) -> None:
    run = save_run("llama_tied", tmp_path, "prompt.template='{article} It''s said:'")
    card = exported(run, hub_base="org/base")
    assert "vllm serve org/base --enable-lora --max-loras 1 --lora-modules run=.\n" in card
    (asked,) = re.findall(r"```bash\n(curl.*?)\n```", card, flags=re.DOTALL)
    *_, body = shlex.split(asked.replace("\\\n", ""))
    assert json.loads(body) == {
        "model": "run",
        "prompt": "The text of an article. It's said:",
        "max_tokens": 8,
        "temperature": 0,
        "stop_token_ids": [0],
    }
    config = json.loads((run / "export" / "peft" / "adapter_config.json").read_text())
    assert (config["lora_alpha"], type(config["lora_alpha"])) == (6, int)


def test_the_adapters_of_a_sweep(tmp_path: Path) -> None:
    run = save_run("llama_tied", tmp_path / "made")
    sweep = tmp_path / "sweep"
    for name in ("0", "dim=2,lr=1"):
        shutil.copytree(run, sweep / name)
    (sweep / "never").mkdir()
    runs = tuple(RunRecord(folder=name) for name in ("0", "dim=2,lr=1", "never"))
    write_part(sweep / FILE_NAME, SweepRecord(metric=Metric.of("val/loss"), runs=runs))
    adapter = sweep / "dim=2,lr=1" / "adapter" / "adapter_config.json"
    (adapter.parent / "digests.json").unlink()
    adapter.write_text(json.dumps(json.loads(adapter.read_text()) | {"r": 33}))
    card = exported(sweep / "0", hub_base="org/base")
    (_, served) = re.findall(r"vllm serve .*", card)
    words = shlex.split(served)
    assert words[3:7] == ["--enable-lora", "--max-loras", "2", "--max-lora-rank"]
    assert words[7:10] == ["64", "--lora-modules", "0=0/adapter"]
    assert json.loads(words[10]) == {"name": "dim=2,lr=1", "path": "dim=2,lr=1/adapter"}
