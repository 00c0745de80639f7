"""What an export is asked for, checked before anything heavy is imported."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from summarizer.config.flags import FolderPath
from summarizer.config.paths import nearest_existing
from summarizer.config.shared_flags import BaseModelFlags
from summarizer.errors import ConfigError, Issue, sound

if TYPE_CHECKING:
    from summarizer.runs.trained_run import TrainedRun

TRANSFORMERS_DTYPES = ("bf16", "fp16", "fp32")
CTRANSLATE2_DTYPES = {
    "int8": "fp16",
    "int8_float16": "fp16",
    "int8_bfloat16": "bf16",
    "int8_float32": "fp16",
    "bf16": "bf16",
    "fp16": "fp16",
    "fp32": "fp32",
}
"""How CTranslate2 can store weights, and the type of the merged weights that it is given to make them of: half
precision for those it quantizes, whose own steps are some ten times as coarse."""
DEFAULT_DTYPES = {"peft": "bf16", "merged": "bf16", "ctranslate2": "int8"}
PACKAGE = "ctranslate2>=4.8"
"""The first version that was tried with transformers 5."""


class ExportFlags(BaseModelFlags):
    """Write a trained run into a folder that other programs load, with a model card."""

    run: CliPositionalArg[FolderPath] = Field(validation_alias="RUN")
    """the run's folder"""
    format: Literal["peft", "merged", "ctranslate2"] | None = None
    """required: peft (the adapter alone), merged (a model for transformers) or ctranslate2"""
    dtype: Literal["bf16", "fp16", "fp32", "int8", "int8_float16", "int8_bfloat16", "int8_float32"] | None = (
        None
    )
    """type of the weights; default: bf16, for ctranslate2 int8; those of int8 are for ctranslate2 alone"""
    output: FolderPath | None = None
    """new or empty (default: RUN/export/FORMAT); made whole or not at all"""
    weights: Literal["trained", "original"] | None = None
    """merge into the weights as the run had them, quantized (trained), or into the checkpoint's own (original); by
    default into those whose answers are nearer to the unmerged model's"""
    with_base: bool = False
    """for peft: a dense copy of the base model beside the adapter"""


@dataclass(frozen=True)
class ExportRequest:
    """An export whose flags are sound."""

    run: TrainedRun
    format: str
    dtype: str
    """One of TRANSFORMERS_DTYPES, or of CTRANSLATE2_DTYPES for that format."""
    output: Path
    weights: str | None
    """trained or original; None takes whichever answers nearer to the unmerged model."""
    device: str
    with_base: bool
    """Put a dense copy of the base beside a PEFT adapter."""


def requested(flags: ExportFlags) -> ExportRequest:
    """Raises ConfigError with everything that is wrong with the run and the flags."""
    from summarizer.runs.trained_run import read_trained_run

    issues: list[Issue] = []
    trained = sound(lambda: read_trained_run(flags.run, model=flags.model), issues)
    issues += [*flags.mistakes, *_disagreements(flags)]
    name = flags.format
    target = flags.output.expanduser() if flags.output else flags.run / "export" / (name or "")
    if flags.output or name:
        issues += output_issues(target)
    if issues or trained is None or name is None:
        raise ConfigError(issues)
    return ExportRequest(
        trained,
        name,
        flags.dtype or DEFAULT_DTYPES[name],
        target,
        flags.weights,
        flags.device,
        flags.with_base,
    )


def _disagreements(flags: ExportFlags) -> Iterator[Issue]:
    """Flags that are sound by themselves and have no place beside each other, or none on this machine."""
    name, dtype = flags.format, flags.dtype
    if name is None:
        if "format" not in flags.mistaken:
            yield Issue("--format", "is required; one of peft, merged, ctranslate2")
        return
    if name in ("peft", "merged") and dtype is not None and dtype not in TRANSFORMERS_DTYPES:
        yield Issue(
            "--dtype", f"{dtype!r} is a type of --format ctranslate2; {name} takes bf16, fp16 or fp32"
        )
    if flags.with_base and name != "peft":
        yield Issue("--with-base", f"goes with --format peft alone: {name} holds the base model itself")
    if name == "peft" and flags.weights is not None:
        yield Issue("--weights", "an adapter for peft is merged into nothing; see --format merged")
    if name == "peft" and dtype in TRANSFORMERS_DTYPES and not flags.with_base:
        yield Issue(
            "--dtype", "an adapter stays in fp32, as it was trained; with --with-base it is the base's"
        )
    if name == "ctranslate2" and importlib.util.find_spec("ctranslate2") is None:
        yield Issue("--format", f"ctranslate2 needs a package that is not installed: pip install '{PACKAGE}'")


def require_room(folder: Path, needed_bytes: int) -> None:
    """Raises ConfigError where the disk that `folder` will lie on has fewer bytes left."""
    free = shutil.disk_usage(nearest_existing(folder)).free
    if needed_bytes > free:
        raise ConfigError.single(
            "--output",
            f"{folder} needs {needed_bytes / 1e9:.2f} GB, and its disk has {free / 1e9:.2f} GB left; "
            "name a folder on another one",
        )


def output_issues(folder: Path) -> Iterator[Issue]:
    """Why nothing can be exported into a folder."""
    if folder.is_dir():
        if any(folder.iterdir()):
            yield Issue(
                "--output", f"{folder} is not empty, and nothing in it is overwritten; name another folder"
            )
    elif folder.exists():
        yield Issue("--output", f"{folder} is a file; name a folder")
    elif not nearest_existing(folder).is_dir():
        yield Issue(
            "--output", f"{nearest_existing(folder)} is a file, so that no folder can be made below it"
        )
