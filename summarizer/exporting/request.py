"""What an export is asked for, checked before anything heavy is imported."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from summarizer.config.nearest import suggestion
from summarizer.config.paths import nearest_existing
from summarizer.errors import ConfigError, Issue
from summarizer.runs.trained_run import TrainedRun, read_run

FORMATS = ("peft", "merged", "ctranslate2")
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
WEIGHTS = ("trained", "original")
DEVICES = ("auto", "cpu", "cuda")
PACKAGE = "ctranslate2>=4.8"
"""The first version that was tried with transformers 5."""


@dataclass(frozen=True)
class Request:
    """A checked export."""

    run: TrainedRun
    format: str
    dtype: str
    """One of TRANSFORMERS_DTYPES, or of CTRANSLATE2_DTYPES for that format."""
    output: Path
    weights: str | None
    """One of WEIGHTS; None takes whichever answers nearer to the unmerged model."""
    device: str
    with_base: bool
    """Put a dense copy of the base beside a PEFT adapter."""


def build_request(
    run: str,
    *,
    format_name: str | None,
    dtype: str | None,
    output: str | None,
    weights: str | None,
    model: str | None,
    device: str,
    with_base: bool,
) -> Request:
    """model: where the base lies now, where it has moved since training.

    Raises ConfigError with everything that is wrong with the run and the arguments.
    """
    issues: list[Issue] = []
    trained = None
    try:
        trained = read_run(Path(run), model=model)
    except ConfigError as error:
        issues += error.issues
    issues += _mistaken_names(format_name, dtype, weights, device)
    if with_base and format_name in ("merged", "ctranslate2"):
        issues.append(
            Issue("--with-base", f"goes with --format peft alone: {format_name} holds the base itself")
        )
    if format_name == "peft" and weights is not None:
        issues.append(Issue("--weights", "an adapter for peft is merged into nothing; see --format merged"))
    if format_name == "peft" and dtype in TRANSFORMERS_DTYPES and not with_base:
        issues.append(
            Issue("--dtype", "an adapter stays in fp32, as it was trained; with --with-base it is the base's")
        )
    if format_name == "ctranslate2" and importlib.util.find_spec("ctranslate2") is None:
        issues.append(
            Issue(
                "--format",
                f"ctranslate2 needs a package that is not installed: pip install '{PACKAGE}'",
            )
        )
    target = Path(output).expanduser() if output else Path(run) / "export" / (format_name or "")
    if output or format_name in FORMATS:
        issues += output_issues(target)
    if issues or trained is None or format_name is None:
        raise ConfigError(issues)
    return Request(
        trained,
        format_name,
        dtype or DEFAULT_DTYPES[format_name],
        target,
        weights,
        device,
        with_base,
    )


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


def _mistaken_names(
    format_name: str | None, dtype: str | None, weights: str | None, device: str
) -> Iterator[Issue]:
    if format_name is None:
        yield Issue("--format", f"is required; one of {', '.join(FORMATS)}")
    elif format_name not in FORMATS:
        yield Issue("--format", f"unknown format {format_name!r}{suggestion(format_name, FORMATS)}")
    of_transformers = format_name in ("peft", "merged")
    dtypes = TRANSFORMERS_DTYPES if of_transformers else tuple(CTRANSLATE2_DTYPES)
    if dtype is not None and dtype not in dtypes:
        hint = (
            "; --format ctranslate2 has it"
            if format_name == "merged" and dtype in CTRANSLATE2_DTYPES
            else suggestion(dtype, dtypes)
        )
        yield Issue("--dtype", f"unknown type {dtype!r}{hint}")
    if weights is not None and weights not in WEIGHTS:
        yield Issue("--weights", f"unknown weights {weights!r}{suggestion(weights, WEIGHTS)}")
    if device not in DEVICES:
        yield Issue("--device", f"unknown device {device!r}{suggestion(device, DEVICES)}")
