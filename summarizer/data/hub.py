"""A data set of the Hugging Face hub, or of a folder that `datasets` can load, as a stream of raw rows."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import datasets
import huggingface_hub.utils
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from summarizer.config.schema import Columns, DataConfig
from summarizer.console.progress import library_bars
from summarizer.data.columns import are_named, names_of, recognized
from summarizer.data.rows import BadRow, RawRow, require_columns
from summarizer.errors import ConfigError

log = logging.getLogger(__name__)


def load_hub_split(
    spec: DataConfig, split: str, split_name: str
) -> datasets.Dataset | datasets.IterableDataset:
    """The hub's rows of one split: on disk, or streamed where `spec.streaming` says so.

    split: this project's name for it, for messages.  split_name: the data set's own.
    Raises ConfigError where the hub is out of reach or has no such data set, configuration or split.
    """
    log.info("loading %s%s, split %s", spec.path, f" {spec.config}" if spec.config else "", split_name)
    try:
        with library_bars(f"downloading {spec.path}", huggingface_hub.utils, datasets):
            return datasets.load_dataset(
                spec.path, spec.config, split=split_name, revision=spec.revision, streaming=spec.streaming
            )
    except (OfflineModeIsEnabled, ConnectionError, TimeoutError) as error:
        raise ConfigError.single(
            "data.path",
            f"{spec.path}: the hub is out of reach ({_first_line(error)})",
            "offline, use files: data=files data.train=PATH data.validation=PATH",
        ) from error
    except (
        datasets.exceptions.DatasetsError,
        HfHubHTTPError,
        HFValidationError,
        OSError,
        ValueError,
        RuntimeError,
    ) as error:
        raise ConfigError.single(_key_of(error, split), f"{spec.path}: {_first_line(error)}") from error


def hub_columns(
    dataset: datasets.Dataset | datasets.IterableDataset, spec: DataConfig, split_name: str
) -> Columns:
    """What a row's fields are called in a data set. Raises ConfigError where that cannot be told."""
    if are_named(spec.columns):
        return spec.columns
    place = f"{spec.path} {split_name}"
    names = dataset.column_names or list(next((raw for _, raw in _numbered(dataset, place)), {}))
    return recognized(spec.columns, names, place) if names else spec.columns


def read_hub(
    dataset: datasets.Dataset | datasets.IterableDataset, columns: Columns, place: str
) -> Iterator[RawRow | BadRow]:
    """Every row with where it lies ("abisee/cnn_dailymail train row 17"), numbered from 1.

    place: what a message calls the data set.
    Raises ConfigError for a column that the data set does not have, and where a stream breaks off.
    """
    wanted = names_of(columns)
    if dataset.column_names and wanted <= set(dataset.column_names):
        dataset = dataset.select_columns(sorted(wanted))
    return require_columns(_numbered(dataset, place), columns)


def _numbered(dataset: datasets.Dataset | datasets.IterableDataset, name: str) -> Iterator[RawRow]:
    rows = iter(dataset)
    number = 0
    while True:
        number += 1
        try:
            raw: dict[str, Any] | None = next(rows, None)
        except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
            raise ConfigError.single(
                "data.path", f"{name}: reading broke off at row {number}: {_first_line(error)}"
            ) from error
        if raw is None:
            return
        yield f"{name} row {number}", raw


def _key_of(error: Exception, split: str) -> str:
    text = str(error)
    if "split" in text.lower() and ("Unknown" in text or "Bad" in text):
        return f"data.{split}"
    return "data.config" if "config" in text.lower() else "data.path"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
