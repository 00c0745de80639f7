"""Loss on the summary tokens, kept beside the predictions so that it is measured once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from summarizer.config.shared_flags import GENERATION_KEYS, GenerationFlags
from summarizer.data.order import EncodedRow
from summarizer.json_files import Measured, Part, read_part, write_part
from summarizer.scoring.predicting import Writer

if TYPE_CHECKING:
    from summarizer.runs.summarizer import Summarizer


class KeptLoss(Part):
    """In nats per summary token, and what it was measured with; null is one that is not finite."""

    settings: dict[str, Any]
    texts_sha256: str
    loss: Measured


def losses(
    writers: Sequence[Writer],
    rows: Callable[[], Sequence[EncodedRow]],
    texts_sha256: str,
    opened: Callable[[], Summarizer],
) -> dict[str, float | None]:
    """Each writer's mean loss by its name; the model is opened only where one was not measured before.

    Raises ConfigError where a file of a loss is broken.
    """
    found: dict[str, float | None] = {}
    missing = []
    for writer in writers:
        kept = _kept(loss_path(writer.file))
        if kept is None or (kept.settings, kept.texts_sha256) != (_decisive(writer.settings), texts_sha256):
            missing.append(writer)
        else:
            found[writer.name] = kept.loss
    runs = [writer for writer in missing if writer.trial is not None]
    encoded = rows() if missing else []
    for together in (runs, [writer for writer in missing if writer.trial is None]):
        if not together:
            continue
        trials = [writer.trial for writer in together if writer.trial is not None] or None
        for writer, loss in zip(together, _measure(opened(), encoded, trials), strict=True):
            kept = KeptLoss(settings=_decisive(writer.settings), texts_sha256=texts_sha256, loss=loss)
            write_part(loss_path(writer.file), kept)
            found[writer.name] = kept.loss
    return found


def loss_path(predictions: Path) -> Path:
    """Beside `predictions.jsonl`: `predictions.loss.json`."""
    return predictions.with_suffix(".loss.json")


def _measure(summarizer: Summarizer, rows: Sequence[EncodedRow], trials: Sequence[int] | None) -> list[float]:
    from summarizer.evaluation.evaluator import Evaluator
    from summarizer.runs.loaded_run import LoadedRun

    opened = summarizer.opened
    assert isinstance(opened, LoadedRun), "torch measures losses, whatever writes the summaries"
    evaluator = Evaluator(
        adapted=opened.adapted,
        prompt=opened.prompt,
        generation=summarizer.generation,
        rows_at_once=summarizer.articles_at_once,
        processes=opened.processes,
        between_batches=lambda: None,
    )
    return evaluator.losses(rows, trials)


def _kept(path: Path) -> KeptLoss | None:
    if not path.is_file():
        return None
    return read_part(path, KeptLoss, "loss")


def _decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    """How a summary is searched for has no part in a loss."""
    of_generation = {GenerationFlags.flag(key) for key in GENERATION_KEYS}
    return {key: value for key, value in settings.items() if key not in of_generation}
