"""`requests.jsonl` of a sweep's folder: what was asked of it while it ran, and what became of that, line by line.

It is only ever appended to, under a lock, and a line is there whole or not at all. It may come from elsewhere: no
link is followed, its size is bounded, and a line that is neither a request nor an outcome is passed over.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from pydantic import Field, TypeAdapter, ValidationError

from summarizer.atomic import writing
from summarizer.errors import ConfigError, Issue, nearest
from summarizer.files import open_own, read_own
from summarizer.json_files import Part

REQUESTS = "requests.jsonl"
MOST_BYTES = 2**20
CLONE_SETTINGS = (
    *(
        "optimizer.lr",
        "seed",
        "adapter.dropout",
        "trainer.epochs",
        "trainer.max_steps",
        "trainer.max_grad_norm",
    ),
    *("trainer.schedule.name", "trainer.schedule.warmup_steps", "trainer.schedule.final_fraction"),
    *("trainer.early_stopping.patience", "trainer.early_stopping.min_change"),
)
"""What a clone may have otherwise: all that the weights and the optimizer's state do not depend on."""

Text = Annotated[str, Field(max_length=1000)]
Folder = Annotated[str, Field(pattern=r"^[^/\\\x00-\x1f.][^/\\\x00-\x1f]{0,99}$")]


class Request(Part):
    """What a person asked of a run of the sweep."""

    id: int
    kind: Literal["stop", "clone"]
    run: Text
    """Its folder below the sweep's."""
    overrides: Annotated[tuple[Text, ...], Field(max_length=20)] = ()
    """Of CLONE_SETTINGS."""
    folder: Folder | None = None
    """The clone's, below the sweep's: a number that was free."""


class Outcome(Part):
    """What became of a request."""

    done: int
    """Its id."""
    step: int | None = None
    """The run's optimizer step at which it was stopped or cloned; None where it was refused."""
    refused: Text | None = None


@dataclass
class Requests:
    """All of a sweep, in the order in which they were asked."""

    asked: list[Request] = field(default_factory=list)
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    @property
    def pending(self) -> list[Request]:
        return [request for request in self.asked if request.id not in self.outcomes]


def read_requests(sweep: Path) -> Requests:
    """Raises ConfigError where the file is a link or too large."""
    path = sweep / REQUESTS
    try:
        content = read_own(path, MOST_BYTES) if os.path.lexists(path) else b""
    except OSError as error:
        raise ConfigError.single(str(path), f"cannot be read: {error.strerror}") from error
    return _parsed(content)


def _parsed(content: bytes) -> Requests:
    found = Requests()
    reader: TypeAdapter[Request | Outcome] = TypeAdapter(Request | Outcome)
    for line in content.split(b"\n")[:-1]:  # one that a power cut left short has no end
        try:
            one = reader.validate_json(line)
        except ValidationError:
            continue
        if isinstance(one, Request):
            if all(one.id != other.id for other in found.asked):
                found.asked.append(one)
        else:
            found.outcomes.setdefault(one.done, one)
    return found


def ask(sweep: Path, kind: Literal["stop", "clone"], run: str, overrides: Sequence[str] = ()) -> Request:
    """Append a request. Raises ConfigError where the same was asked before, WriteError on a full disk."""
    with _locked(sweep) as file:
        known = _parsed(file.read())
        for other in known.asked:
            outcome = known.outcomes.get(other.id)
            same = (other.kind, other.run, set(other.overrides)) == (kind, run, set(overrides))
            if same and not (outcome and outcome.refused):
                what = "" if other.folder is None else f", as {other.folder}"
                raise ConfigError.single(kind, f"{' '.join([run, *overrides])} was asked for already{what}")
        folder = None
        if kind == "clone":
            taken = [int(path.name) for path in sweep.iterdir() if path.name.isdecimal()]
            taken += [int(other.folder) for other in known.asked if other.folder and other.folder.isdecimal()]
            folder = str(max(taken, default=-1) + 1)
        number = max((other.id for other in known.asked), default=0) + 1
        request = Request(id=number, kind=kind, run=run, overrides=tuple(overrides), folder=folder)
        _append(file, request)
    return request


def answer(sweep: Path, outcome: Outcome) -> None:
    """Append what became of a request. Raises WriteError on a full disk."""
    with _locked(sweep) as file:
        _append(file, outcome)


def _locked(sweep: Path) -> Any:
    """The file, held against others until it is closed; at its beginning."""
    path = sweep / REQUESTS
    with writing(path):
        file = os.fdopen(open_own(path, os.O_RDWR | os.O_APPEND | os.O_CREAT), "r+b", buffering=0)
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_size > MOST_BYTES - 4096:
            file.close()
            raise ConfigError.single(str(path), f"is full: it holds {MOST_BYTES // 2**20} MB")
    return file


def _append(file: Any, line: Part) -> None:
    with writing(Path(file.name) if isinstance(file.name, str) else Path(REQUESTS)):
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        torn = size > 0 and file.read(1) != b"\n"
        file.write((b"\n" if torn else b"") + line.model_dump_json(exclude_defaults=True).encode() + b"\n")
        os.fsync(file.fileno())


# ---- what a clone has otherwise ----------------------------------------------------------------------------------


def changed(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A run's config with the settings of a clone. Raises ConfigError for what is none of CLONE_SETTINGS."""
    import copy

    found: dict[str, Any] = copy.deepcopy(dict(config))
    issues = []
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
            key, value = override.key_or_group, override.value()
        except HydraException:
            issues.append(Issue("clone", f"{text!r} is not an override such as optimizer.lr=5e-4"))
            continue
        if key not in CLONE_SETTINGS or override.is_sweep_override() or override.is_delete():
            near = nearest(key, CLONE_SETTINGS)
            hint = f"; did you mean {near}?" if near and key not in CLONE_SETTINGS else ""
            one = "one value each" if key in CLONE_SETTINGS else f"{', '.join(CLONE_SETTINGS)} alone"
            issues.append(Issue(key, f"a clone takes {one}{hint}"))
            continue
        *groups, name = key.split(".")
        node = found
        for group in groups:
            node = node[group]
        if node.get(name) == value:
            issues.append(Issue(key, f"is {value} in the run itself"))
        node[name] = value
    if issues:
        raise ConfigError(issues)
    return found


def clone_overrides(of_source: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    """All overrides of a clone: its source's, and its own in the place of those of the same keys."""
    keys = {text.partition("=")[0] for text in own}
    return (*(text for text in of_source if text.lstrip("+").partition("=")[0] not in keys), *own)
