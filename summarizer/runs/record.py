"""The record of a run: what it was told to do, and what came of it, as its folder has it.

`RunRecord` is the one type for a run beside its checked config (`config.schema.RunConfig`) and the live trial
(`training.trial.Trial`). A waiting run has its config and its folder; a run that ended has in addition everything
that its `summary.json` says, and, as a run of a sweep, its row in `sweep.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from omegaconf import DictConfig, ListConfig, OmegaConf
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from summarizer.atomic import write_text
from summarizer.config.plain import to_plain
from summarizer.config.renamed import translate_old_keys
from summarizer.config.schema import TrainerConfig
from summarizer.console.safe_text import one_line
from summarizer.console.secrets import MASK, masked_text, without_references
from summarizer.errors import ConfigError, Issue
from summarizer.evaluation.record import Faithfulness, Rouge, RougeTokenizer
from summarizer.files import read_own
from summarizer.json_files import FiniteOrNull, GitState, Part, broken
from summarizer.tracking.metrics import METRICS, EndStatus, read_metrics
from summarizer.training.schedule import EndedBy, total_steps
from summarizer.yaml_files import REFERENCE, read_yaml, require_bounded

SUMMARY = "summary.json"

Status = Literal["waiting", "running", EndStatus]
"""`running` is begun and not ended, whether or not a process is at it now; only the last three are in a summary."""


# ---- the parts of a record ---------------------------------------------------------------------------------------


class TrainLoss(Part):
    """Mean loss per summary token at the first and the last logged step."""

    first: FiniteOrNull
    last: FiniteOrNull


class BaseScores(Part):
    """The scores of the untrained base model on the same rows."""

    val_loss: FiniteOrNull
    rouge: Rouge | None
    faithfulness: Faithfulness | None = None


class Best(Part):
    """The best value of `trainer.best_metric`, and the optimizer step at which it was measured."""

    value: float
    step: int


# ---- the record --------------------------------------------------------------------------------------------------


class RunRecord(Part):
    """One run. Null is what has not been found out, or what the run's config did not ask for."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    status: Status = "waiting"
    ended_by: EndedBy | None = None
    error: str | None = None
    overrides: tuple[str, ...] = ()
    """As typed; in a file with *** for what looks secret."""
    seed: int = 0
    steps: int | None = None
    best_step: int | None = None
    """The step whose adapter was saved."""
    epochs: FiniteOrNull = None
    tokens: int | None = None
    wall_s: FiniteOrNull = None
    tokens_per_s: FiniteOrNull = None
    mfu: FiniteOrNull = None
    """Model FLOP utilization over the training steps, as `tracking.utilization` derives it; 1 is all of it."""
    startup_s: dict[str, float] | None = None
    """Seconds from the command to the end of the first step, by part."""
    peak_memory_bytes: int | None = None
    trainable_parameters: int | None = None
    train_loss: TrainLoss | None = None
    val_loss: FiniteOrNull = None
    """Loss of the final rows (`split`, `rows`), in nats per summary token."""
    rouge: Rouge | None = None
    """Percent, of the final rows, with 95 % intervals."""
    rouge_tokenizer: RougeTokenizer | None = None
    """What ROUGE's tokens are; earlier versions do not say it, whose were rouge-score's."""
    baseline: Rouge | None = None
    """Lead-3 on the same rows: no model, the article's first three sentences."""
    faithfulness: Faithfulness | None = None
    """What of the summaries' names, numbers and quotes their articles have, and what else was asked for."""
    baseline_faithfulness: Faithfulness | None = None
    """The same of Lead-3, whose sentences are the article's own."""
    base: BaseScores | None = None
    systems: dict[str, str] | None = None
    """Whose scores `rouge`, `baseline` and `base` are, in words."""
    split: str | None = None
    rows: int | None = None
    model: str = ""
    quantization: str = ""
    adapter: str | None = None
    """Path of the saved adapter below the run folder."""
    versions: dict[str, str | None] = Field(default_factory=dict)
    git: GitState | None = None
    data_fingerprint: str | None = None
    held_out_rows: int | None = None
    """Validation rows that `data.validation` held out of the training rows; 0 where they came from elsewhere."""

    # What stands around a run, and is no part of its summary.json.
    folder: str = ""
    """The run folder; in `sweep.json` its path below the sweep folder."""
    config: dict[str, Any] = Field(default_factory=dict)
    """The composed config, resolved, as plain data."""
    sweep: str | None = None
    """The sweep's folder name, for the runs of one -m command."""
    resumed: bool = False
    """Whether it resumes what an earlier process left in its folder."""
    resumed_with: tuple[str, ...] = ()
    """Overrides that it is resumed with; its folder has them from when it begins."""
    group: int = 0
    """Runs of a sweep with one number may train together."""
    rank: int | None = None
    """1 is the best. Runs that stopped come after all that completed; others have none."""
    best: Best | None = None
    """Of the evaluations after step 0, which is the untrained base model's."""
    planned_steps: int | None = None
    """What its config asks for."""
    batch_size: int | None = None
    """Examples per optimizer step."""
    cause: Exception | None = Field(default=None, exclude=True)
    """What ended it before its time, in the process that saw it; `error` is its text."""
    logged: bool = Field(default=False, exclude=True)
    """Whether the log has the failure already."""

    @field_validator("adapter")
    @classmethod
    def _below_the_run_folder(cls, path: str | None) -> str | None:
        if path is not None and (PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts):
            raise ValueError(f"{path} is not a path below the run folder")
        return path

    @property
    def path(self) -> Path:
        return Path(self.folder)

    @property
    def sweep_folder(self) -> Path | None:
        """The folder of its sweep; None for a run of no sweep."""
        return next((one for one in self.path.absolute().parents if one.name == self.sweep), None)

    @property
    def only_shown(self) -> bool:
        """Whether it is planned or previewed, and not trained."""
        return bool(self.config["plan"] or self.config.get("preview"))

    @property
    def samples(self) -> int | None:
        """Examples trained on, repeats counted; None where the batch size is not known."""
        if not self.steps:
            return 0
        return None if self.batch_size is None else self.steps * self.batch_size

    def summary(self) -> dict[str, Any]:
        """What summary.json holds."""
        return self.model_dump(mode="json", include=set(IN_SUMMARY))


NOT_IN_SUMMARY = frozenset(
    (
        "folder",
        "config",
        "sweep",
        "resumed",
        "resumed_with",
        "group",
        "rank",
        "best",
        "planned_steps",
        "batch_size",
        "cause",
        "logged",
    )
)
IN_SUMMARY = tuple(name for name in RunRecord.model_fields if name not in NOT_IN_SUMMARY)
"""The keys of summary.json."""
REQUIRED = ("status", "overrides", "seed", "model", "quantization", "versions")
"""Those of them that every summary has."""
IN_SWEEP = (
    *("folder", "overrides", "group", "status", "ended_by", "error", "rank", "best", "val_loss", "rouge"),
    *("split", "rows", "steps", "planned_steps", "batch_size", "tokens", "wall_s", "tokens_per_s"),
    *("trainable_parameters", "rouge_tokenizer"),
)
"""The keys of a run in sweep.json."""


def composed_run(config: DictConfig, hydra: Any, sweep: str | None) -> RunRecord:
    """The waiting run of a config that Hydra composed.

    config: without the node `hydra`, which is `hydra`.  sweep: the sweep folder's name, for a run of a sweep.
    """
    # Not resolved: an interpolation in an override may stand for what no file should hold.
    as_typed: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    folder = str(hydra.runtime.output_dir)
    if masked_text(folder) != folder:
        text = f"{masked_text(folder)}: a folder's name cannot hold what looks secret; name it otherwise"
        raise ConfigError.single("hydra.run.dir" if sweep is None else "hydra.sweep.subdir", text)
    return RunRecord(config=to_plain(config), folder=folder, overrides=tuple(as_typed), sweep=sweep)


# ---- between processes, and on disk ------------------------------------------------------------------------------


def records_to_json(records: Sequence[RunRecord]) -> str:
    """Runs for another process, which `records_from_json` reads: plain data, no pickle."""
    return json.dumps([record.model_dump(mode="json") for record in records])


def records_from_json(text: str) -> list[RunRecord]:
    return TypeAdapter(list[RunRecord]).validate_json(text)


def write_summary(folder: Path, record: RunRecord) -> None:
    """Replace the run folder's summary.json in one step. Raises OSError, leaving the old file as it was."""
    write_text(folder / SUMMARY, json.dumps(record.summary(), indent=2, ensure_ascii=False) + "\n")


def read_summary(folder: Path) -> RunRecord:
    """What a run folder's summary.json says. Raises ConfigError where it is missing, or for each wrong field."""
    path = folder / SUMMARY
    try:
        raw = TypeAdapter(dict[str, Any]).validate_json(read_own(path))
    except OSError as error:
        raise ConfigError.single(str(path), f"no summary to read here ({error.strerror})") from error
    except ValidationError as error:
        raise broken(str(path), error) from error
    return record_of_summary(raw, path)


def record_of_summary(raw: Mapping[str, Any], path: Path) -> RunRecord:
    """The record of what a summary, found at `path`, holds. Raises ConfigError, naming each field that is wrong."""
    wrong = {name: "Extra inputs are not permitted" for name in raw if name not in IN_SUMMARY}
    wrong |= {name: "Field required" for name in REQUIRED if name not in raw}
    if "status" in raw and raw["status"] not in get_args(EndStatus):
        wrong["status"] = "Input should be 'completed', 'stopped' or 'failed'"
    issues = [Issue(f"{path}: {name}", message) for name, message in wrong.items()]
    known = {name: value for name, value in raw.items() if name not in wrong}
    try:
        record = RunRecord.model_validate({**known, "folder": str(path.parent)})
    except ValidationError as error:
        raise ConfigError([*issues, *broken(str(path), error).issues]) from error
    if issues:
        raise ConfigError(issues)
    return record


def is_finished(folder: Path) -> bool:
    """Whether nothing is left to do for a run: it completed, lost in successive halving, or was stopped on request.

    Raises ConfigError where its summary is broken.
    """
    if not (folder / SUMMARY).is_file():
        return False
    summary = read_summary(folder)
    return summary.status == "completed" or summary.ended_by in ("successive_halving", "request")


def read_configured(folder: Path, key: str = "resume") -> RunRecord:
    """The run that a folder was made for, as it was configured: a waiting run, to be resumed.

    key: what a message names as the source of the folder.

    The folder may come from elsewhere: its config is data, checked like any other, and nothing in it may call
    a function, such as `${oc.env:HOME}`, whose result would end up in what the run writes.
    Raises ConfigError where the folder or its config is missing, broken or does so.
    """
    if not (folder / ".hydra" / "config.yaml").is_file():
        what = "no run folder: it has no .hydra/config.yaml" if folder.is_dir() else "no such folder"
        if folder.is_file():
            what = "is a file; name the folder of a run"
        if folder.exists() and (folder.parent / ".hydra" / "config.yaml").is_file():
            what = f"is a part of a run; name the run's folder, {folder.parent}"
        raise ConfigError.single(key, f"{folder}: {what}")
    config = read_config(folder, key)
    overrides = _read_yaml(folder / ".hydra" / "overrides.yaml", key)
    if not isinstance(overrides, ListConfig):
        raise ConfigError.single(key, f"{folder / '.hydra'} is not a run's config")
    as_typed: list[Any] = OmegaConf.to_container(overrides)  # type: ignore[assignment]
    in_sweep = (folder.parent / "multirun.yaml").is_file()
    return RunRecord(
        folder=str(folder),
        config=config,
        overrides=tuple(map(str, as_typed)),
        sweep=folder.parent.name if in_sweep else None,
        resumed=True,
    )


def read_config(folder: Path, key: str = "resume") -> dict[str, Any]:
    """The composed config that a run folder holds, as plain data. Raises ConfigError as `read_configured` does."""
    file = folder / ".hydra" / "config.yaml"
    config = _read_yaml(file, key)
    if not isinstance(config, DictConfig):
        raise ConfigError.single(key, f"{file.parent} is not a run's config")
    # Looked for before and after resolving: the pieces of a call could be put together by it.
    raw: Any = without_references(OmegaConf.to_container(config))
    issues = list(_calls(raw, ""))
    try:
        require_bounded(raw)
    except ValueError as error:
        raise ConfigError.single(key, f"{file} cannot be read: {error}") from error
    translate_old_keys(raw, str(folder))
    plain = {} if issues else to_plain(OmegaConf.create(raw))
    if issues := issues or [*_calls(plain, ""), *_masked_values(plain, "")]:
        raise ConfigError(issues)
    return plain


def _read_yaml(file: Path, key: str) -> DictConfig | ListConfig:
    try:
        return read_yaml(file)
    except OSError as error:
        raise ConfigError.single(key, f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError.single(key, f"{file} cannot be read: {one_line(str(error))}") from error


def _calls(node: object, key: str) -> Iterator[Issue]:
    """The values of a plain config, and its keys, that do more than refer to another key."""
    from summarizer.config.messages import shown

    if isinstance(node, dict):
        for name, value in node.items():
            yield from _calls(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for value in node:
            yield from _calls(value, key)
    elif isinstance(node, str) and "${" in REFERENCE.sub("", node):
        yield Issue(
            key, f"{shown(node)} is not resolved in a run folder; write the value itself in its place"
        )


def _masked_values(node: object, key: str) -> Iterator[Issue]:
    """The values that a run needs and its folder has no more, since they looked secret."""
    if isinstance(node, dict):
        for name, value in node.items():
            if key or name != "tracking":
                yield from _masked_values(value, f"{key}.{name}" if key else str(name))
    elif node == MASK:
        yield Issue(key, "looked secret and was left out; write it in its place in .hydra/config.yaml")


def read_record(folder: Path, known: RunRecord | None = None, metric: str | None = None) -> RunRecord:
    """The run as its folder tells it now: waiting, running, or ended as its summary.json says.

    known: what is known of it already, such as its overrides and its group in a sweep; a waiting run, whose
    `folder` stays as it is.  metric: what `best` is the best value of; by default the config's best_metric.
    Raises ConfigError where a file of the folder is broken.
    """
    known = RunRecord(folder=str(folder)) if known is None else known
    found: dict[str, Any] = {}
    epochs: float | None = None
    file = folder / ".hydra" / "config.yaml"
    config = read_config(folder, str(file)) if file.is_file() else known.config
    trainer = _trainer(folder, config) if config else None
    if metric is None and trainer is not None:
        metric = trainer.best_metric
    if (folder / METRICS).is_file():
        rows = read_metrics(folder / METRICS)
        found |= {"status": "running", "best": None if metric is None else best_of(rows, metric)}
        if rows:
            found |= {"steps": rows[-1]["step"], "tokens": rows[-1].get("tokens")}
            epochs = rows[-1].get("epoch")
    if (folder / SUMMARY).is_file():
        summary = read_summary(folder)
        found |= {name: value for name in IN_SUMMARY if (value := getattr(summary, name)) is not None}
        epochs = summary.epochs or epochs  # metrics.jsonl rounds them
    if trainer is not None:
        found["batch_size"] = trainer.batch_size
        if config["data"].get("streaming") or trainer.epochs is None:
            found["planned_steps"] = total_steps(trainer, None)
        elif epochs and found.get("steps"):
            found["planned_steps"] = total_steps(trainer, round(found["steps"] / epochs))
    if known.overrides:
        found.pop("overrides", None)
    return known.model_copy(update={"config": config, **found})


def _trainer(folder: Path, config: Mapping[str, Any]) -> TrainerConfig:
    path = folder / ".hydra" / "config.yaml"
    try:
        if not isinstance(config["data"], dict):
            raise ValueError("its data is no group")
        return TrainerConfig.model_validate(config["trainer"])
    except (ValueError, KeyError) as error:
        raise ConfigError.single(str(path), f"cannot be read: {' '.join(str(error).split())}") from error


def best_of(rows: Sequence[Mapping[str, Any]], metric: str) -> Best | None:
    """The best value of a metric after step 0, the first of equals, as in training. Null was not finite."""
    sign = 1.0 if metric == "val/loss" else -1.0
    values = [
        Best(value=row[metric], step=row["step"])
        for row in rows
        if row["step"] and row.get(metric) is not None
    ]
    return min(values, key=lambda best: sign * best.value, default=None)
