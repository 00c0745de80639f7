"""The summaries of each system, in files that grow as they are written and are continued after any end."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from summarizer.config.paths import shown
from summarizer.console.progress import bar
from summarizer.data.articles import Item
from summarizer.errors import ConfigError, Issue
from summarizer.summaries.output import Summary, SummaryFile, continued

if TYPE_CHECKING:
    from summarizer.runs.summarizer import Prepared, Summarizer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Writer:
    """A language model that summarizes: a run's adapter over the base, or the base model."""

    name: str
    trial: int | None
    """Among the runs that are opened together; None is the base model."""
    file: Path
    settings: Mapping[str, Any]
    """Everything but the article that decides on its words."""


@contextmanager
def opened_files(writers: Sequence[Writer], items: Sequence[Item]) -> Iterator[dict[str, SummaryFile]]:
    """Each writer's file by the writer's name, for the block's time, as far as it came.

    Raises ConfigError where another process writes one, or it was made with other settings or from other rows.
    """
    with ExitStack() as stack:
        files = {}
        for writer in writers:
            try:
                files[writer.name] = stack.enter_context(continued(writer.file, items, writer.settings))
            except ConfigError as error:
                raise ConfigError(_of_a_folder(error.issues)) from error
        yield files


def fill(
    writers: Sequence[Writer],
    files: Mapping[str, SummaryFile],
    opened: Callable[[], Summarizer],
    prepare: Callable[[Summarizer, str], Prepared] | None,
) -> None:
    """Write what the files do not hold yet; the model is opened only where there is something.

    prepare: a protocol's own prompt in place of the runs'.
    Runs are written side by side where they lack the same rows. Lines are in the rows' order at the end.
    """
    from summarizer.summaries.writing import Rate, prepared_by_run, texts_as_done

    for trials, left in _left(writers, files):
        of_trials = [writer for writer in writers if writer.trial in trials]
        summarizer = opened()
        label = "summaries of the base" if trials == (None,) else "summaries"
        held = min(files[writer.name].held for writer in of_trials)
        if held:
            log.info("%s: going on, %d of them are there already", label, held)
        with bar(label, len(left) + held, done=held) as progress:
            adapters = [trial for trial in trials if trial is not None] or None
            for index, prepared, texts in texts_as_done(
                summarizer, left, adapters, Rate(progress), prepare or prepared_by_run
            ):
                for writer, text in zip(of_trials, texts, strict=True):
                    files[writer.name].append(
                        Summary(left[index], text, prepared.article_tokens, prepared.cut_tokens)
                    )
    for file in files.values():
        file.put_in_order()


def predictions(file: SummaryFile) -> list[str]:
    """The summaries in a finished file, in the rows' order. Raises ConfigError for a line without one."""
    texts = []
    for number, line in enumerate(file.path.read_text(encoding="utf-8").split("\n")[:-1], start=1):
        text = json.loads(line).get("prediction")
        if not isinstance(text, str):
            raise ConfigError.single(
                f"{shown(file.path)}:{number}", "no text under prediction; delete the line"
            )
        texts.append(text)
    return texts


def _left(
    writers: Sequence[Writer], files: Mapping[str, SummaryFile]
) -> list[tuple[tuple[int | None, ...], list[Item]]]:
    """The items to write, by the trials that lack them: runs together, the base by itself."""
    lacking: dict[Item, list[int]] = {}
    for writer in writers:
        if writer.trial is not None:
            for item in files[writer.name].left:
                lacking.setdefault(item, []).append(writer.trial)
    together: dict[tuple[int | None, ...], list[Item]] = {}
    for item, trials in lacking.items():
        together.setdefault(tuple(trials), []).append(item)
    for writer in writers:
        if writer.trial is None and files[writer.name].left:
            together[(None,)] = list(files[writer.name].left)
    return list(together.items())


def _of_a_folder(issues: Sequence[Issue]) -> list[Issue]:
    """Here a person names the folder that the file lies in."""
    return [
        Issue(issue.key, issue.message.replace("name another file", "name another folder by --output"))
        for issue in issues
    ]
