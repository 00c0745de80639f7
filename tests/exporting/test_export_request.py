"""What the command's arguments may be, and what a refusal says."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from trained_runs import composed, lora

from summarizer.errors import ConfigError
from summarizer.exporting.request import ExportFlags, ExportRequest, requested, require_room
from summarizer.json_files import write_part
from summarizer.runs.record import RunRecord
from summarizer.sweeps.record import FILE_NAME, Metric, SweepRecord


@pytest.fixture(autouse=True)
def run(tmp_path: Path) -> None:
    """Makes the test's folder a run's, as far as the arguments are checked against it."""
    (tmp_path / ".hydra").mkdir()
    (tmp_path / "adapter").mkdir()
    lora().peft_config([]).save_pretrained(tmp_path / "adapter")
    OmegaConf.save(composed(), tmp_path / ".hydra" / "config.yaml")
    OmegaConf.save(OmegaConf.create([]), tmp_path / ".hydra" / "overrides.yaml")


def request(run: Path, **more: Any) -> ExportRequest:
    """The flags as a person types them; None leaves one out, and the format is merged by default."""
    typed = {"format": "merged", **more}
    words = [str(run), *(f"--{name.replace('_', '-')}={value}" for name, value in typed.items() if value)]
    words = [word.removesuffix("=True") for word in words]
    return requested(ExportFlags.read(words, command="export", usage="RUN"))


def mistakes(run: Path, **more: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        request(run, **more)
    return [str(issue) for issue in caught.value.issues]


def test_defaults(tmp_path: Path) -> None:
    made = request(tmp_path)
    assert (made.dtype, made.output, made.weights) == ("bf16", tmp_path / "export" / "merged", None)
    if importlib.util.find_spec("ctranslate2"):
        assert request(tmp_path, format="ctranslate2").dtype == "int8"


def test_of_a_sweep_its_best_run(tmp_path: Path) -> None:
    for name in ("first", "second"):
        for part in (".hydra", "adapter"):
            shutil.copytree(tmp_path / part, tmp_path / "sweep" / name / part)
    runs = (RunRecord(folder="first", rank=2), RunRecord(folder="second", rank=1))
    write_part(tmp_path / "sweep" / FILE_NAME, SweepRecord(metric=Metric.of("val/loss"), runs=runs))
    made = request(tmp_path / "sweep")
    assert (made.run.folder, made.best_of) == (tmp_path / "sweep" / "second", tmp_path / "sweep")
    assert made.output == tmp_path / "sweep" / "second" / "export" / "merged"
    assert request(tmp_path).best_of is None
    shutil.rmtree(tmp_path / "sweep" / "second" / "adapter")
    (said,) = mistakes(tmp_path / "sweep")
    assert said.startswith(f"RUN: {tmp_path}/sweep/second has no adapter: it was never trained to an end")
    (tmp_path / "sweep" / FILE_NAME).write_text("{")
    (said,) = mistakes(tmp_path / "sweep")
    assert FILE_NAME in said


def test_every_mistake_at_once(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "theirs").touch()
    said = mistakes(
        tmp_path,
        format="merge",
        dtype="b16",
        weights="orginal",
        device="cuda:0",
        output=str(tmp_path / "full"),
    )
    assert said == [
        "--device: 'cuda:0' is not one of auto, cpu, cuda; did you mean 'cuda'?",
        "--format: 'merge' is not one of peft, merged, ctranslate2, gguf, gguf-lora; did you mean 'merged'?",
        "--dtype: 'b16' is not one of bf16, fp16, fp32, int8, int8_float16, int8_bfloat16, int8_float32; did you "
        "mean 'bf16'?",
        "--weights: 'orginal' is not one of trained, original; did you mean 'original'?",
        f"--output: {tmp_path / 'full'} is not empty, and nothing in it is overwritten; name another folder",
    ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"format": None}, "--format: is required; one of peft, merged, ctranslate2, gguf, gguf-lora"),
        ({"dtype": "int8"}, "--dtype: 'int8' is a type of --format ctranslate2; merged takes"),
        (
            {"with_base": True},
            "--with-base: goes with --format peft and gguf-lora alone: merged holds the base model itself",
        ),
        ({"format": "peft", "dtype": "fp16"}, "--dtype: an adapter stays in fp32"),
        (
            {"format": "peft", "weights": "trained"},
            "--weights: an adapter for peft is merged into nothing",
        ),
    ],
)
def test_one_mistake(more: dict[str, Any], said: str, tmp_path: Path) -> None:
    (only,) = mistakes(tmp_path, **more)
    assert only.startswith(said)


def test_without_a_format_the_other_mistakes_are_said_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "export" / "peft").mkdir(parents=True)  # of an earlier command
    assert mistakes(tmp_path / "nowhere", format=None, dtype="int8", device="gpu") == [
        f"RUN: {tmp_path / 'nowhere'}: no such folder",
        "--device: 'gpu' is not one of auto, cpu, cuda; did you mean 'cpu'?",
        "--format: is required; one of peft, merged, ctranslate2, gguf, gguf-lora",
    ]
    (only,) = mistakes(tmp_path, format=None)
    assert only.startswith("--format")
    assert any("'int9' is not one of" in line for line in mistakes(tmp_path, format=None, dtype="int9"))


def test_an_output_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert mistakes(tmp_path, output=str(tmp_path / "file"))[0].endswith("is a file; name a folder")
    assert (
        "no folder can be made below it" in mistakes(tmp_path, output=str(tmp_path / "file" / "x" / "y"))[0]
    )
    (tmp_path / "empty").mkdir()
    assert request(tmp_path, output=str(tmp_path / "empty")).output == tmp_path / "empty"


def test_ctranslate2_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    (only,) = mistakes(tmp_path, format="ctranslate2")
    assert (
        only == "--format: ctranslate2 needs a package that is not installed: pip install 'ctranslate2>=4.8'"
    )


def test_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 5, 2_000_000_000))
    require_room(tmp_path / "not" / "there", 2_000_000_000)
    with pytest.raises(ConfigError, match=r"needs 2.10 GB, and its disk has 2.00 GB left"):
        require_room(tmp_path / "not" / "there", 2_100_000_000)
