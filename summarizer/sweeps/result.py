"""What one run of a sweep has come to, read from its own folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator
from yaml import YAMLError  # type: ignore[import-untyped]

from summarizer.config.schema import TrainerConfig
from summarizer.errors import ConfigError
from summarizer.evaluation.metrics import Rouge
from summarizer.records import Measured, Part
from summarizer.tracking.metrics import METRICS, read_metrics
from summarizer.tracking.summary import SUMMARY, EndedBy, read_summary
from summarizer.training.course import total_steps

FROM_SUMMARY = (
    *("status", "ended_by", "error", "steps", "tokens", "wall_s", "tokens_per_s"),
    *("val_loss", "rouge", "split", "rows", "trainable_parameters"),
)

Status = Literal["waiting", "running", "completed", "stopped", "failed"]


def _below(folder: str) -> str:
    path = PurePosixPath(folder)
    if not path.parts or path.is_absolute() or ".." in path.parts or not folder.isprintable():
        raise ValueError(f"{folder!r} is not a folder below the sweep folder")
    return folder


Below = Annotated[str, AfterValidator(_below)]
"""A folder's path below the sweep folder."""


class Metric(Part):
    """What the runs of a sweep are ranked by: `trainer.best_metric`."""

    name: str
    best: Literal["min", "max"]

    @classmethod
    def of(cls, name: str) -> Metric:
        return cls(name=name, best="min" if name == "val/loss" else "max")

    def cost(self, value: float) -> float:
        """The value with the sign by which lower is better."""
        return value if self.best == "min" else -value


class Best(Part):
    """The best value of the sweep's metric, and the optimizer step at which it was measured."""

    value: float
    step: int


class RunResult(Part):
    """One run of the sweep. Null is what it has not found out, or what its config did not ask for."""

    folder: Below
    overrides: tuple[str, ...]
    """As typed, with *** for what looks secret."""
    group: int
    status: Status = "waiting"
    """`running` is begun and not ended, whether or not a process is at it now."""
    ended_by: EndedBy | None = None
    error: str | None = None
    rank: int | None = None
    """1 is the best. Runs that stopped come after all that completed; others have none."""
    best: Best | None = None
    """Of the evaluations after step 0, which is the untrained base's."""
    val_loss: Measured = None
    """Loss of the final rows (`split`, `rows`), nats per summary token."""
    rouge: Rouge | None = None
    """Percent, of the final rows, with 95 % intervals."""
    split: str | None = None
    rows: int | None = None
    steps: int | None = None
    planned_steps: int | None = None
    """What its config asks for."""
    batch_size: int | None = None
    """Examples per optimizer step."""
    tokens: int | None = None
    wall_s: Measured = None
    tokens_per_s: Measured = None
    trainable_parameters: int | None = None

    @property
    def samples(self) -> int | None:
        """Examples trained on, repeats counted; None where the batch size is not known."""
        if not self.steps:
            return 0
        return None if self.batch_size is None else self.steps * self.batch_size


def read_result(sweep: Path, planned: RunResult, metric: Metric) -> RunResult:
    """The run as its folder tells it now, without a rank.

    Raises ConfigError where a file of the folder is broken.
    """
    folder = sweep / planned.folder
    known: dict[str, Any] = {}
    epochs: float | None = None
    if (folder / METRICS).is_file():
        rows = read_metrics(folder / METRICS)
        known |= {"status": "running", "best": _best(rows, metric)}
        if rows:
            known |= {"steps": rows[-1]["step"], "tokens": rows[-1].get("tokens")}
            epochs = rows[-1].get("epoch")
    if (folder / SUMMARY).is_file():
        summary = read_summary(folder)
        found = {name: getattr(summary, name) for name in FROM_SUMMARY}
        known |= {name: value for name, value in found.items() if value is not None}
        epochs = summary.epochs or epochs  # metrics.jsonl rounds them
    if (config := _config(folder)) is not None:
        trainer, streaming = config
        known["batch_size"] = trainer.batch_size
        if streaming or trainer.epochs is None:
            known["planned_steps"] = total_steps(trainer, None)
        elif epochs and known.get("steps"):
            known["planned_steps"] = total_steps(trainer, round(known["steps"] / epochs))
    return RunResult(folder=planned.folder, overrides=planned.overrides, group=planned.group, **known)


def _best(rows: list[dict[str, Any]], metric: Metric) -> Best | None:
    """The first of equals, as in training. Null is a value that was not finite."""
    found = [
        Best(value=row[metric.name], step=row["step"])
        for row in rows
        if row["step"] and row.get(metric.name) is not None
    ]
    return min(found, key=lambda best: metric.cost(best.value), default=None)


def _config(folder: Path) -> tuple[TrainerConfig, bool] | None:
    """A run's trainer and whether its data is streamed; None where Hydra was told to keep no config."""
    path = folder / ".hydra" / "config.yaml"
    if not path.is_file():
        return None
    try:
        config = OmegaConf.load(path)
        trainer = TrainerConfig.model_validate(OmegaConf.to_container(config.trainer, resolve=True))
        return trainer, bool(config.data.streaming)
    except (OSError, ValueError, AttributeError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError.single(str(path), f"cannot be read: {' '.join(str(error).split())}") from error
