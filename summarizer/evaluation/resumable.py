"""The summaries and losses of an evaluation's models, kept on disk so that it resumes where it stopped."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from summarizer.config.paths import shown
from summarizer.config.shared_flags import GENERATION_KEYS, GenerationFlags
from summarizer.console.progress import bar
from summarizer.data.articles import Item
from summarizer.errors import ConfigError
from summarizer.evaluation.metrics import RowLosses
from summarizer.generation.summarizer import Rate, Summarizer, texts_as_done
from summarizer.generation.summary_file import Summary, SummaryFile, open_summaries
from summarizer.json_files import FiniteOrNull, Part, read_part, write_part

if TYPE_CHECKING:
    from summarizer.data.order import EncodedRow
    from summarizer.evaluation.evaluator import Evaluator

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredModel:
    """A language model whose summaries are scored: a run's adapter over the base model, or the base model alone."""

    name: str
    trial: int | None
    """The number of the run among those that are loaded together; None for the base model."""
    file: Path
    """Where its summaries are kept."""
    settings: Mapping[str, Any]
    """Everything besides the article that decides on a summary's words."""
    inside: Path | None = None
    """The folder of `file` by a path that stays with it (`held_folder`); None where a person named that folder."""

    @property
    def path(self) -> Path:
        """What `file` is read and written by."""
        return self.file if self.inside is None else self.inside / self.file.name


# ---- summaries ---------------------------------------------------------------------------------------------------


@contextmanager
def open_files(models: Sequence[ScoredModel], items: Sequence[Item]) -> Iterator[dict[str, SummaryFile]]:
    """For the block, each model's file of summaries by the model's name, with those that it holds already.

    Raises ConfigError where another process writes one of them, or where it was made with other settings or from
    other rows.
    """
    with ExitStack() as stack:
        yield {
            model.name: stack.enter_context(
                open_summaries(
                    model.path,
                    items,
                    model.settings,
                    elsewhere="name another folder by --output",
                    name=None if model.inside is None else model.file,
                )
            )
            for model in models
        }


def write_missing(
    models: Sequence[ScoredModel], files: Mapping[str, SummaryFile], summarizer: Callable[[], Summarizer]
) -> None:
    """Write the summaries that the files do not hold yet, and put each file into the rows' order.

    summarizer: loads the models; called only where a summary is missing.
    Runs are written side by side where the same rows are missing.
    """
    for trials, missing in _missing(models, files):
        writing = [model for model in models if model.trial in trials]
        loaded = summarizer()
        label = "summaries of the base" if trials == (None,) else "summaries"
        held = min(files[model.name].held for model in writing)
        if held:
            log.info("%s: going on, %d of them are there already", label, held)
        with bar(label, len(missing) + held, done=held) as progress:
            adapters = [trial for trial in trials if trial is not None] or None
            for index, article, texts in texts_as_done(loaded, missing, adapters, Rate(progress)):
                for model, text in zip(writing, texts, strict=True):
                    files[model.name].append(
                        Summary(missing[index], text, article.article_tokens, article.cut_tokens)
                    )
    for file in files.values():
        file.put_in_order()


def read_summaries(file: SummaryFile) -> list[str]:
    """The summaries in a finished file, in the rows' order. Raises ConfigError for a line without one."""
    texts = []
    for number, line in enumerate(file.path.read_text(encoding="utf-8").split("\n")[:-1], start=1):
        text = json.loads(line).get("prediction")
        if not isinstance(text, str):
            raise ConfigError.single(f"{file.name}:{number}", "no text under prediction; delete the line")
        texts.append(text)
    return texts


def _missing(
    models: Sequence[ScoredModel], files: Mapping[str, SummaryFile]
) -> list[tuple[tuple[int | None, ...], list[Item]]]:
    """The items without a summary, grouped by the trials that lack them; the base model is a group of its own."""
    lacking: dict[Item, list[int]] = {}
    for model in models:
        if model.trial is not None:
            for item in files[model.name].left:
                lacking.setdefault(item, []).append(model.trial)
    groups: dict[tuple[int | None, ...], list[Item]] = {}
    for item, trials in lacking.items():
        groups.setdefault(tuple(trials), []).append(item)
    for model in models:
        if model.trial is None and files[model.name].left:
            groups[(None,)] = list(files[model.name].left)
    return list(groups.items())


# ---- losses ------------------------------------------------------------------------------------------------------


class KeptLoss(Part):
    """A measured loss in nats per summary token, null where it is not finite, and what it was measured with."""

    settings: dict[str, Any]
    texts_sha256: str
    loss: FiniteOrNull
    nats: tuple[FiniteOrNull, ...] | None = None
    """Of each row, summed over its summary tokens; earlier versions kept the mean alone."""
    tokens: tuple[int, ...] | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any], texts_sha256: str, rows: RowLosses) -> KeptLoss:
        return cls(
            settings=dict(settings),
            texts_sha256=texts_sha256,
            loss=rows.mean,
            nats=tuple(rows.nats.tolist()),
            tokens=tuple(rows.tokens.tolist()),
        )

    @property
    def by_row(self) -> RowLosses | None:
        """What was measured of each row, where that was kept; not a number where it was not finite."""
        if self.nats is None or self.tokens is None:
            return None
        nats = (math.nan if one is None else one for one in self.nats)
        return RowLosses.of(list(zip(nats, self.tokens, strict=True)))


def measure_losses(
    models: Sequence[ScoredModel],
    rows: Callable[[], Sequence[EncodedRow]],
    texts_sha256: str,
    evaluator: Callable[[], Evaluator],
) -> dict[str, float | None]:
    """Each model's mean loss over the rows by its name. Losses that were measured before are read from their files.

    rows, evaluator: called only where a loss is missing.
    Raises ConfigError where a file of a loss is broken.
    """
    kept = _kept_losses(models, rows, texts_sha256, evaluator, by_row=False)
    return {name: one.loss for name, one in kept.items()}


def measure_row_losses(
    models: Sequence[ScoredModel],
    rows: Callable[[], Sequence[EncodedRow]],
    texts_sha256: str,
    evaluator: Callable[[], Evaluator],
) -> dict[str, RowLosses]:
    """The same by row."""
    kept = _kept_losses(models, rows, texts_sha256, evaluator, by_row=True)
    return {name: losses for name, one in kept.items() if (losses := one.by_row) is not None}


def _kept_losses(
    models: Sequence[ScoredModel],
    rows: Callable[[], Sequence[EncodedRow]],
    texts_sha256: str,
    evaluator: Callable[[], Evaluator],
    *,
    by_row: bool,
) -> dict[str, KeptLoss]:
    found: dict[str, KeptLoss] = {}
    missing = []
    for model in models:
        path, name = loss_path(model.path), shown(loss_path(model.file))
        kept = read_part(path, KeptLoss, "loss", name) if path.is_file() else None
        if (
            kept is None
            or (kept.settings, kept.texts_sha256) != (_of_loss(model.settings), texts_sha256)
            or (by_row and kept.by_row is None)
        ):
            missing.append(model)
        else:
            found[model.name] = kept
    encoded = rows() if missing else []
    runs = [model for model in missing if model.trial is not None]
    for group in (runs, [model for model in missing if model.trial is None]):
        if not group:
            continue
        trials = [model.trial for model in group if model.trial is not None] or None
        for model, losses in zip(group, evaluator().row_losses(encoded, trials), strict=True):
            found[model.name] = KeptLoss.of(_of_loss(model.settings), texts_sha256, losses)
            write_part(loss_path(model.path), found[model.name])
    return found


def loss_path(predictions: Path) -> Path:
    """Where a model's loss is kept: `predictions.loss.json` beside `predictions.jsonl`."""
    return predictions.with_suffix(".loss.json")


def _of_loss(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide on a loss: how a summary is searched for has no part in it."""
    of_generation = {GenerationFlags.flag(key) for key in GENERATION_KEYS}
    return {key: value for key, value in settings.items() if key not in of_generation}
