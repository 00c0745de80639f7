"""TensorBoard beside `metrics.jsonl`: event files in the run folder, by accelerate's tracker.

Metrics have the same names there. The files of a sweep's runs lie below one folder, so that
`tensorboard --logdir SWEEP` shows the runs side by side. They are never the only place of anything: a failure
during a run is said once, in the log.
"""

from __future__ import annotations

import json
import logging
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from summarizer.config.paths import shown
from summarizer.console.secrets import masked, masked_text
from summarizer.errors import Issue
from summarizer.files import read_own
from summarizer.tracking.metrics import EndStatus, SampleSummary, UntilItFails

FOLDER = "tensorboard"
"""Below a run's folder. In it is one folder, named after the run: TensorBoard calls a run by its path."""
MOST_CHARACTERS = 100
MOST_BYTES = 2**30
"""Of an event file that is read back."""
WRITERS = ("tensorboard", "tensorboardX")
"""Packages that write event files, either of which is enough; the first is also what shows them."""

log = logging.getLogger(__name__)


def missing_package() -> Issue | None:
    """What is wrong where no package that writes event files is installed; it is not imported."""
    if any(find_spec(name) for name in WRITERS):
        return None
    return Issue(
        "tracking.tensorboard", "needs a package that is not installed: pip install 'tensorboard>=2.19'"
    )


class EventFiles:
    """A run's `Tracker` that writes event files, opened at the first number: by then it is known which are new.

    A resumed run appends: TensorBoard hides what a killed process wrote after the step that the run goes on from.
    """

    def __init__(
        self, folder: Path, *, name: str, config: Mapping[str, Any], alone: bool, resumed: bool
    ) -> None:
        """folder: the run's.  name: as TensorBoard shows it.  alone: whether it is a run by itself, of no sweep."""
        self._own = folder / FOLDER
        earlier = sorted(path.name for path in self._own.glob("*") if path.is_dir()) if resumed else []
        self._name = earlier[0] if earlier else folder_name(name)
        self._config, self._alone = masked(config), alone
        self._tracker: Any = None
        self._guarded = UntilItFails("tensorboard")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        # As plain numbers: accelerate's tracker takes no others, and says nothing of those that it leaves out.
        values = {name: float(value) for name, value in metrics.items() if name != "step"}
        self._guarded(lambda: self._opened().log(values, step=step))

    def replay(self, rows: Sequence[Mapping[str, Any]]) -> None:
        through = int(rows[-1]["step"]) if rows else -1
        recorded = last_event_step(self._own / self._name)
        self._guarded(lambda: self._opened(None if recorded is None else through + 1))
        for row in rows:
            if recorded is None or row["step"] > recorded:
                self.log({name: value for name, value in row.items() if value is not None}, int(row["step"]))

    def log_samples(self, step: int, rows: Sequence[SampleSummary]) -> None:
        texts = {f"samples/{row.id}": _sample(row) for row in rows}
        if texts:
            self._guarded(lambda: self._opened().log(texts, step=step))

    def log_adapter(self, folder: Path) -> None:
        """TensorBoard keeps no files."""

    def finish(self, status: EndStatus, summary: Mapping[str, Any]) -> None:
        def write() -> None:
            self._opened().log(
                {"summary": _code({**summary, "status": status})}, step=summary.get("steps") or 0
            )
            self._tracker.finish()

        self._guarded(write)

    def _opened(self, purge_step: int | None = None) -> Any:
        """Accelerate's tracker. purge_step: from which step on TensorBoard is to forget what earlier files hold."""
        if self._tracker is None:
            from accelerate.tracking import TensorBoardTracker

            self._tracker = TensorBoardTracker(self._name, self._own, purge_step=purge_step)
            self._tracker.start()
            if purge_step is None:
                self._tracker.log({"config": _code(self._config)}, step=0)
            if self._alone:
                log.info("tensorboard: `tensorboard --logdir %s` shows this run", shown(self._own.parent))
        return self._tracker


def folder_name(name: str) -> str:
    """A run's name as a folder can have it: `dim=2 lr=1e-4` as it is, the slashes of a path replaced."""
    kept = re.sub(r"[^\w.,=+\-\[\] ]", "_", masked_text(name), flags=re.ASCII)[:MOST_CHARACTERS].strip(" .")
    return kept or "run"


def _code(value: Any) -> str:
    """A value as a block of code, which TensorBoard shows as it is."""
    lines = json.dumps(value, indent=1, ensure_ascii=False, default=str).splitlines()
    return "\n".join(f"    {line}" for line in lines)


def _sample(row: SampleSummary) -> str:
    texts = {
        "prediction": row.prediction,
        "reference": row.reference,
        "base": row.base,
        "article": row.article,
    }
    return _code({name: text for name, text in texts.items() if text is not None})


# ---- how far event files go --------------------------------------------------------------------------------------


def last_event_step(folder: Path) -> int | None:
    """The last step in the event files of a folder; None without any. A file counts as far as it is whole."""
    last = None
    for file in sorted(folder.glob("events.out.tfevents.*")):
        for event in _events(read_own(file, MOST_BYTES)):
            last = max(last or 0, _step(event))
    return last


def _events(data: bytes) -> Iterator[bytes]:
    """The encoded events of a file: a length of eight bytes and its checksum before each, a checksum behind it.

    Source: TensorFlow's TFRecord format (tensorflow/core/lib/io/record_writer.h).
    """
    place = 0
    while place + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        end = place + 12 + length
        if end + 4 > len(data):
            return  # a kill cut it short
        yield data[place + 12 : end]
        place = end + 4


def _step(event: bytes) -> int:
    """The step of an encoded event, which is its field 2, a varint; the wall time before it takes nine bytes.

    Source: tensorflow/core/util/event.proto; protobuf writes fields in the order of their numbers.
    """
    if event[:1] == b"\x09":  # field 1, a double
        event = event[9:]
    if event[:1] != b"\x10":
        return 0  # a default is not written
    step = shift = 0
    for byte in event[1:11]:
        step |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return step
