"""What an evaluation is asked for, checked: the runs, the split, how summaries are written, where scores go."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from summarizer.config.paths import nearest_existing
from summarizer.config.schema import GenerationConfig
from summarizer.config.shared_flags import chosen_generation, generation_by_flag, typed_generation
from summarizer.data.hold_out import SplitName
from summarizer.errors import ConfigError, Issue, sound
from summarizer.evaluation import mlperf
from summarizer.evaluation.resumable import ScoredModel
from summarizer.files import own_folder
from summarizer.generation.summary_file import differences
from summarizer.runs.trained_run import KEY, TrainedRun, base_differences, opening_issues, read_trained_run

if TYPE_CHECKING:
    from summarizer.evaluate import EvaluateFlags

FOLDER = "evaluations"
"""The folder of a run's evaluations, inside the run folder."""
SPLITS = get_args(SplitName)


@dataclass(frozen=True)
class EvaluationRequest:
    """An evaluation whose flags are sound."""

    flags: EvaluateFlags
    runs: tuple[TrainedRun, ...]
    names: tuple[str, ...]
    """What the scores call each of the runs."""
    folders: tuple[Path, ...]
    """Where each run's summaries and losses are kept."""
    inside: tuple[Path | None, ...]
    """Those folders by paths that stay with them (`held`); None for one that a person named."""
    split: SplitName
    label: str
    """What the scores call the rows' split."""
    generation: GenerationConfig
    batch_size: int
    """How many articles are summarized at the same time."""

    @property
    def task(self) -> mlperf.Task | None:
        """MLPerf's task that the protocol is; None where it is the run's own."""
        return mlperf.TASKS.get(self.flags.protocol)

    @property
    def scores_folder(self) -> Path:
        """Where the scores are saved."""
        return self.folders[0] if self.flags.output is None else self.flags.output

    @property
    def scores_inside(self) -> Path:
        """What the scores are written by there."""
        return self.scores_folder if self.flags.output is not None else self.inside[0] or self.scores_folder

    @contextmanager
    def held(self) -> Iterator[EvaluationRequest]:
        """For the block, the request with the folders inside its runs made and open: no link leads out of a run.

        Raises WriteError where such a folder cannot be made, or is a link.
        """
        if self.flags.output is not None:
            yield self
            return
        with ExitStack() as stack:
            above = [stack.enter_context(own_folder(folder.parent)) for folder in self.folders]
            inside = [
                stack.enter_context(own_folder(held / folder.name))
                for held, folder in zip(above, self.folders, strict=True)
            ]
            yield replace(self, inside=tuple(inside))

    def models(self) -> list[ScoredModel]:
        """What summarizes the rows: the runs' adapters, then the base model if it is asked for."""
        from summarizer.evaluation.pipeline import BASE

        extra = {} if self.task is None else {"--protocol": self.flags.protocol}

        def model(name: str, number: int, *, base: bool) -> ScoredModel:
            settings = self.runs[number].summary_settings(
                self.generation, base=base, precision=self.flags.precision
            )
            file = self.folders[number] / ("predictions.base.jsonl" if base else "predictions.jsonl")
            return ScoredModel(name, None if base else number, file, settings | extra, self.inside[number])

        runs = [model(name, number, base=False) for number, name in enumerate(self.names)]
        return [*runs, model(BASE, 0, base=True)] if self.flags.base else runs

    def cut_notes(self, cut_articles: int, rows: int) -> list[str]:
        """What a reader of the scores has to know of articles that the models read in part."""
        if not cut_articles:
            return []
        if self.task is None:
            most = self.runs[0].spec.prompt.max_tokens
            limit = f"prompt.max_tokens={most}, as in training; Lead-3 and Random-3 read them whole"
        elif self.task.max_prompt_tokens is None:
            limit = "the base's positions, beside 128 tokens to write; the task itself cuts none"
        else:
            limit = f"the protocol's {self.task.max_prompt_tokens:,} tokens"
        return [f"{cut_articles:,} of {rows:,} articles were cut at their end to fit {limit}"]


def requested(flags: EvaluateFlags) -> EvaluationRequest:
    """Raises ConfigError with every mistake that shows before rows are read."""
    issues = list(flags.mistakes)
    runs = sound(lambda: _runs(flags), issues)
    generation = sound(lambda: _generation(flags, runs), issues) if runs else None
    issues += [*_protocol_issues(flags), *_column_issues(flags), *_bertscore_issues(flags)]
    if runs:
        issues += opening_issues(runs, device=flags.device, precision=flags.precision)
    if flags.output is not None and not (there := nearest_existing(flags.output)).is_dir():
        issues.append(Issue("--output", f"{there} is a file; name a folder"))
    if issues or not runs or generation is None:
        raise ConfigError(issues)
    is_mlperf = flags.protocol in mlperf.TASKS
    split = flags.split or (mlperf.SPLIT if is_mlperf else runs[0].spec.evaluation.split)
    label = _label(flags, split)
    names = _names(runs)
    folders = _folders(flags, runs, names, f"{label}-{flags.protocol}" if is_mlperf else label)
    return EvaluationRequest(
        flags=flags,
        runs=runs,
        names=names,
        folders=folders,
        inside=(None,) * len(folders),
        split=split,
        label=label,
        generation=generation,
        batch_size=flags.batch_size or runs[0].spec.evaluation.batch_size,
    )


def _runs(flags: EvaluateFlags) -> tuple[TrainedRun, ...]:
    issues: list[Issue] = []
    runs: list[TrainedRun] = []
    for folder in flags.runs:
        try:
            runs.append(read_trained_run(folder, model=flags.model))
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


def _protocol_issues(flags: EvaluateFlags) -> Iterator[Issue]:
    if flags.protocol == "own":
        return
    if flags.split not in (None, mlperf.SPLIT):
        yield Issue("--split", f"--protocol {flags.protocol} is over {mlperf.DATA}'s {mlperf.SPLIT} split")
    if flags.article_gain:
        yield Issue(
            "--article-gain", f"is by the run's own prompt, which --protocol {flags.protocol} replaces"
        )
    for key in typed_generation(flags):
        yield Issue(flags.flag(key), f"has no place beside --protocol {flags.protocol}, which fixes it")


def _column_issues(flags: EvaluateFlags) -> Iterator[Issue]:
    for field in ("column", "summary_column", "id_column"):
        if getattr(flags, field) is not None and not flags.data:
            yield Issue(flags.flag(field), "names a column of --data FILE, which is not given")


def _bertscore_issues(flags: EvaluateFlags) -> Iterator[Issue]:
    if (
        flags.bertscore is None
        and flags.bertscore_layer is not None
        and not flags.mistaken & {"bertscore", "bertscore_layer"}
    ):
        yield Issue("--bertscore-layer", "is a layer of --bertscore FOLDER, which is not given")


def _generation(flags: EvaluateFlags, runs: Sequence[TrainedRun]) -> GenerationConfig:
    if task := mlperf.TASKS.get(flags.protocol):
        return task.generation_of(runs[0].spec.generation)
    first, *others = [chosen_generation(run.spec, flags) for run in runs]
    issues = [
        Issue(
            KEY,
            f"{runs[0].name} and {run.name} write differently: {difference}; say one for both by the flag",
        )
        for run, other in zip(runs[1:], others, strict=True)
        for difference in differences(generation_by_flag(first), generation_by_flag(other))
    ]
    if issues:
        raise ConfigError(issues)
    return first


def _label(flags: EvaluateFlags, split: SplitName) -> str:
    """The split's name, or the first file's for rows of one's own, which are in no split and never called so."""
    if flags.protocol in mlperf.TASKS or flags.split is not None or not flags.data:
        return split
    stem = Path(flags.data[0]).name.split(".")[0]
    name = re.sub(r"[^\w-]+", "-", stem).strip("-") or "data"
    return f"{name}-file" if name in SPLITS else name


def _names(runs: Sequence[TrainedRun]) -> tuple[str, ...]:
    """A run alone is "adapter"; several are named by the part of their paths that tells them apart."""
    if len(runs) == 1:
        return ("adapter",)
    paths = [run.folder.resolve() for run in runs]
    common = Path(os.path.commonpath([path.parent for path in paths]))
    return tuple(str(path.relative_to(common.parent)) for path in paths)


def _folders(
    flags: EvaluateFlags, runs: Sequence[TrainedRun], names: Sequence[str], label: str
) -> tuple[Path, ...]:
    if flags.output is None:
        return tuple(run.folder / FOLDER / label for run in runs)
    if len(runs) == 1:
        return (flags.output,)
    return tuple(flags.output / name for name in names)
