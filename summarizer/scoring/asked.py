"""What is asked for, checked: the runs, the split, how summaries are written and where scores go."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

from summarizer.config.nearest import suggestion
from summarizer.config.paths import nearest_existing
from summarizer.config.schema import GenerationConfig
from summarizer.data.sources import SplitName
from summarizer.errors import ConfigError, Issue, sound
from summarizer.evaluation import mlperf
from summarizer.evaluation.record import Protocol
from summarizer.evaluation.rows import ALL, RowChoice
from summarizer.runs.trained_run import KEY, TrainedRun, base_differences, read_run
from summarizer.summaries.settings import FLAGS, chosen_generation, differences, whole_number

FOLDER = "evaluations"
"""Inside a run folder."""
SPLITS = get_args(SplitName)
PROTOCOLS = get_args(Protocol)


@dataclass(frozen=True)
class Request:
    """The command line, as typed."""

    runs: tuple[Path, ...]
    split: str | None
    protocol: str
    choice: RowChoice
    rows: str | None
    max_bad_rows: str | None
    output: Path | None
    base: bool
    loss: bool
    bertscore: Path | None
    bertscore_layer: str | None
    model: str | None
    generation: Mapping[str, str | bool]
    """By key of the config group."""
    batch_size: str | None
    device: str
    precision: str


@dataclass(frozen=True)
class Asked:
    """The same, sound. `names[i]` is what scores call `runs[i]`, `places[i]` the folder of its summaries."""

    request: Request
    runs: tuple[TrainedRun, ...]
    names: tuple[str, ...]
    places: tuple[Path, ...]
    split: SplitName
    label: str
    """What the scores call the rows' split."""
    protocol: Protocol
    choice: RowChoice
    generation: GenerationConfig
    articles_at_once: int
    bertscore: tuple[Path, int] | None

    @property
    def place(self) -> Path:
        """The folder of the scores."""
        return self.places[0] if self.request.output is None else self.request.output


def asked(request: Request) -> Asked:
    """Raises ConfigError with every mistake that shows before rows are read."""
    issues: list[Issue] = []
    runs = sound(lambda: _runs(request), issues)
    split = sound(lambda: _split(request, runs), issues)
    choice = sound(lambda: _choice(request), issues)
    generation = sound(lambda: _generation(request, runs), issues) if runs else None
    if runs and generation is not None:
        from summarizer.runs.opening import opening_issues

        issues += opening_issues(runs, device=request.device, precision=request.precision)
    at_once = None
    if request.batch_size is not None:
        at_once = sound(lambda: whole_number("--batch-size", request.batch_size or ""), issues)
    bertscore = sound(lambda: _bertscore(request), issues)
    if request.output is not None and not (there := nearest_existing(request.output)).is_dir():
        issues.append(Issue("--output", f"{there} is a file; name a folder"))
    if issues or not runs or split is None or choice is None or generation is None:
        raise ConfigError(issues)
    protocol = cast(Protocol, request.protocol)
    label = _label(request, split)
    names = _names(runs)
    return Asked(
        request=request,
        runs=runs,
        names=names,
        places=_places(request, runs, names, label + ("-mlperf" if protocol == "mlperf" else "")),
        split=split,
        label=label,
        protocol=protocol,
        choice=choice,
        generation=generation,
        articles_at_once=at_once or runs[0].spec.evaluation.batch_size,
        bertscore=bertscore,
    )


def _runs(request: Request) -> tuple[TrainedRun, ...]:
    issues: list[Issue] = []
    runs: list[TrainedRun] = []
    for folder in request.runs:
        try:
            runs.append(read_run(folder, model=request.model))
        except ConfigError as error:
            issues += error.issues
    resolved = [run.folder.resolve() for run in runs]
    issues += [
        Issue(KEY, f"{run.name} is named twice")
        for number, run in enumerate(runs)
        if resolved[number] in resolved[:number]
    ]
    # Scores of other bases and prompts do not stand beside one base's.
    issues += base_differences(runs)
    if issues:
        raise ConfigError(issues)
    return tuple(runs)


def _split(request: Request, runs: Sequence[TrainedRun] | None) -> SplitName | None:
    """Which of the data config's splits is read."""
    issues = []
    if request.protocol not in PROTOCOLS:
        issues.append(
            Issue(
                "--protocol",
                f"unknown protocol {request.protocol!r}{suggestion(request.protocol, PROTOCOLS)}",
            )
        )
    if request.split is not None and request.split not in SPLITS:
        issues.append(Issue("--split", f"unknown split {request.split!r}{suggestion(request.split, SPLITS)}"))
    if request.protocol == "mlperf":
        if request.split not in (None, mlperf.SPLIT):
            issues.append(Issue("--split", f"--protocol mlperf is over {mlperf.DATA}'s {mlperf.SPLIT} split"))
        issues += [
            Issue(FLAGS[key], "has no place beside --protocol mlperf, which fixes it")
            for key in request.generation
        ]
    if issues:
        raise ConfigError(issues)
    if request.protocol == "mlperf":
        return "validation"
    if request.split is not None:
        return cast(SplitName, request.split)
    if not runs:
        return None
    return runs[0].spec.evaluation.split


def _choice(request: Request) -> RowChoice:
    choice = request.choice
    typed = {
        "--column": choice.article,
        "--summary-column": choice.summary,
        "--id-column": choice.id,
    }
    issues = [
        Issue(flag, "names a column of --data FILE, which is not given")
        for flag, name in typed.items()
        if name is not None and not choice.files
    ]
    rows: int | str | None = request.rows
    bad: int | None = None
    try:
        rows = rows if rows in (None, ALL) else whole_number("--rows", str(rows))
    except ConfigError as error:
        issues += [Issue(issue.key, f"{issue.message}, or {ALL}") for issue in error.issues]
    if request.max_bad_rows is not None:
        if request.max_bad_rows.isdecimal():
            bad = int(request.max_bad_rows)
        else:
            issues.append(
                Issue("--max-bad-rows", f"{request.max_bad_rows!r} is not a whole number of at least 0")
            )
    if issues:
        raise ConfigError(issues)
    return replace(choice, rows=rows, max_bad_rows=bad)


def _generation(request: Request, runs: Sequence[TrainedRun]) -> GenerationConfig:
    if request.protocol == "mlperf":
        return mlperf.generation(runs[0].spec.generation)
    chosen = [chosen_generation(run.spec, request.generation) for run in runs]
    first = {FLAGS[key]: value for key, value in chosen[0].model_dump().items()}
    issues = [
        Issue(
            KEY,
            f"{runs[0].name} and {run.name} write differently: {difference}; say one for both by the flag",
        )
        for run, other in zip(runs[1:], chosen[1:], strict=True)
        for difference in differences(first, {FLAGS[key]: value for key, value in other.model_dump().items()})
    ]
    if issues:
        raise ConfigError(issues)
    return chosen[0]


def _bertscore(request: Request) -> tuple[Path, int] | None:
    if request.bertscore is None and request.bertscore_layer is None:
        return None
    if request.bertscore is None or request.bertscore_layer is None:
        raise ConfigError.single(
            "--bertscore",
            "--bertscore FOLDER and --bertscore-layer N go together; the paper's authors take layer 17 of "
            "roberta-large and 9 of bert-base-uncased",
        )
    if not request.bertscore_layer.isdecimal():
        raise ConfigError.single("--bertscore-layer", f"{request.bertscore_layer!r} is not a whole number")
    return request.bertscore, int(request.bertscore_layer)


def _label(request: Request, split: SplitName) -> str:
    """The split, or the first file's name where rows of one's own are in no split: never a split's name then."""
    if request.protocol == "mlperf" or request.split is not None or not request.choice.files:
        return split
    stem = Path(request.choice.files[0]).name.split(".")[0]
    name = re.sub(r"[^\w-]+", "-", stem).strip("-") or "data"
    return f"{name}-file" if name in SPLITS else name


def _names(runs: Sequence[TrainedRun]) -> tuple[str, ...]:
    """A run alone is "adapter"; several are named by the part of their paths that tells them apart."""
    if len(runs) == 1:
        return ("adapter",)
    paths = [run.folder.resolve() for run in runs]
    common = Path(os.path.commonpath([path.parent for path in paths]))
    return tuple(str(path.relative_to(common.parent)) for path in paths)


def _places(
    request: Request, runs: Sequence[TrainedRun], names: Sequence[str], label: str
) -> tuple[Path, ...]:
    if request.output is None:
        return tuple(run.folder / FOLDER / label for run in runs)
    if len(runs) == 1:
        return (request.output,)
    return tuple(request.output / name for name in names)
