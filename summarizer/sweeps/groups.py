"""The groups of a sweep: which runs train together, and training them whatever ends one."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from summarizer.errors import is_full_disk
from summarizer.runs import launch
from summarizer.runs.mistakes import say_failed
from summarizer.runs.record import RunRecord
from summarizer.runs.session import Session

OWN_GROUPS = ("optimizer", "seed", "tracking")
"""Keys that each trial of a group has for itself; of `adapter` it is all but the `_target_`."""
OWN_OF_TRAINER = ("schedule", "max_grad_norm", "epochs", "max_steps", "early_stopping")


def group_key(config: Mapping[str, Any]) -> str:
    """What the runs of a group have in common, of a plain composed config."""
    shared = {name: value for name, value in config.items() if name not in OWN_GROUPS}
    shared["adapter"] = config["adapter"]["_target_"]
    shared["trainer"] = {
        name: value for name, value in config["trainer"].items() if name not in OWN_OF_TRAINER
    }
    return json.dumps(shared, sort_keys=True)


def grouped(keys: Sequence[Hashable]) -> list[list[int]]:
    """The indices of equal keys, in the order of each key's first index."""
    groups: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def train_group(records: Sequence[RunRecord], session: Session) -> list[RunRecord]:
    """Train the runs of a group, and say which failed; what stops the group as a whole fails each of them.

    Raises StopRequested, the runs being saved, and the error of a full disk that ended every run: it would end
    those of the next group too.
    """
    try:
        ended = {run.folder: run for run in launch.start(records, session)}
    except Exception as error:
        ended = {record.folder: record.model_copy(update={"cause": error}) for record in records}
    unsaid: dict[int, tuple[Exception, list[str]]] = {}
    for run in ended.values():
        if run.cause is not None and not run.said:
            unsaid.setdefault(id(run.cause), (run.cause, []))[1].append(run.folder)
    for why, folders in unsaid.values():
        say_failed(why, folders)
    causes = [run.cause for run in ended.values()]
    if causes[0] is not None and all(map(is_full_disk, causes)):
        raise causes[0]
    return [ended[record.folder] for record in records]
