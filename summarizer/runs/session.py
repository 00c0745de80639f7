"""One `summarizer.run` command: what it says before it begins, what its runs share, and what became of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from summarizer.config.paths import shown
from summarizer.console.safe_text import without_controls
from summarizer.console.secrets import redact
from summarizer.errors import ConfigError, RunsFailed
from summarizer.runs.mistakes import ended_by_sigterm, say_failed
from summarizer.runs.record import RunRecord, records_to_json
from summarizer.tracking.startup import Stopwatch, since_process_start

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

    from summarizer.config.schema import TrackingConfig

NAMED = 4
"""Values of a swept key that are named one by one; of more, the first and the last number."""

log = logging.getLogger(__name__)


# ---- what its runs share, and what became of them ----------------------------------------------------------------


@dataclass
class Session:
    """The main process's view of a command, from its first word to its exit code."""

    startup: Stopwatch = field(default_factory=since_process_start)
    workers: Store | None = None
    """Where the other processes of a launcher hear what to train; None where there are none."""
    runs: int = 0
    """Runs that were begun, handed over or not."""
    failed: list[tuple[str, Exception]] = field(default_factory=list)
    """The folders of runs that failed, and why."""
    sweeps: dict[Path, TrackingConfig] = field(default_factory=dict)
    """The sweeps that `reporting` is to report, and where wandb is to hear of them."""
    _groups: int = 0
    _begun: bool = False

    def __getstate__(self) -> dict[str, object]:
        """For a launcher's other processes, each of which begins a session of its own."""
        return {}

    def __setstate__(self, state: dict[str, object]) -> None:
        Session.__init__(self)

    def begin_group(self) -> None:
        """The process's first group took it from the command to here; a sweep's later ones begin here."""
        if self._begun:
            self.startup.restart()
        else:
            self.startup.lap("compose")
            self._begun = True

    def hand_over(self, records: Sequence[RunRecord]) -> None:
        """Have the workers train these runs as a group too."""
        if self.workers is not None:
            self.workers.set(f"group/{self._groups}", records_to_json(records))
            self._groups += 1

    def release_workers(self) -> None:
        """Tell the workers, by a group without runs, that no other comes."""
        self.hand_over(())

    def keep(self, ended: Sequence[RunRecord]) -> None:
        """Count a sweep's runs, and keep their failures for `raise_failures`."""
        self.runs += len(ended)
        self.failed += [(run.folder, run.cause) for run in ended if run.cause is not None]

    @contextmanager
    def keeping_failure(self, folder: str, *, keep: bool, say: bool) -> Iterator[None]:
        """Within the block, what a run raises is kept for `raise_failures`, so that the runs after it still come.

        With `keep` False it passes.  say: whether what is kept is said at once, too.
        """
        self.runs += 1
        try:
            yield
        except Exception as error:
            if not keep:
                raise
            if say:
                say_failed(error, [folder])
            self.failed.append((folder, error))

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Confirm and report each of `sweeps` once, when the block ends: a sweeper may launch batch after batch."""
        try:
            yield
            for sweep in self.sweeps:
                _confirm(sweep)
        except BaseException:
            for sweep, tracking in self.sweeps.items():
                try:
                    _report(sweep, tracking)
                except (
                    ConfigError,
                    OSError,
                ) as failure:  # what ended the sweep is what its user must hear of
                    log.error("the sweep's report could not be written: %s", failure)
                log.info("resume with resume=%s", shown(sweep))
            raise
        for sweep, tracking in self.sweeps.items():
            _report(sweep, tracking)

    def raise_failures(self) -> None:
        """Raise what a single run raised; of a sweep, name the runs that failed and why. Nothing without any."""
        if not self.failed:
            return
        if len(self.failed) == 1 and self.runs == 1:
            raise self.failed[0][1]
        lines = [f"{len(self.failed)} of the sweep's {self.runs} runs failed:"]
        by_error: dict[int, list[str]] = {}
        for folder, error in self.failed:
            by_error.setdefault(id(error), []).append(shown(Path(folder)))
        errors = {id(error): error for _, error in self.failed}
        for key, folders in by_error.items():
            lines += [f"  {', '.join(folders)}:"] + [f"    {line}" for line in str(errors[key]).splitlines()]
        only_mistakes = all(isinstance(error, ConfigError) for _, error in self.failed)
        raise RunsFailed("\n".join(lines), 2 if only_mistakes else 1)


def raise_alone(ended: Sequence[RunRecord]) -> float | None:
    """The best value of a run that was started alone. Raises what ended it; of several runs nothing is raised."""
    if len(ended) > 1:
        return None
    if ended[0].cause is not None:
        raise ended[0].cause
    return None if ended[0].best is None else ended[0].best.value


def _confirm(sweep: Path) -> None:

    from summarizer.sweeps.confirm import confirm  # it loads a model again

    with ended_by_sigterm():
        confirm(sweep)


def _report(sweep: Path, tracking: TrackingConfig) -> None:
    from summarizer.reports.sweep_report import report_sweep  # it draws, which most commands never do

    report_sweep(sweep, tracking)


# ---- a command's first words, said before anything that takes seconds is imported --------------------------------


def announce_runs(records: Sequence[RunRecord]) -> None:
    """Say in two lines what runs that train as one group will do, and where their results go."""
    configs = [record.config for record in records]
    log.info("%s", without_controls(f"{_count(records)}: {described(configs)}"))
    data = _values([config["data"]["path"] or config["data"]["train"] for config in configs])
    # A plan or a preview leaves nothing; a sweep has named its folder, which is around those of its runs.
    folder = f" to {shown(records[0].path)}" if len(records) == 1 and not records[0].only_shown else ""
    log.info("%s", without_controls(f"from {data}{folder}"))


def announce_sweep(overrides: Sequence[str]) -> None:
    """Say what is swept, as it was typed: composing and checking every combination may take seconds."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = zip(overrides, OverridesParser.create().parse_overrides(list(overrides)), strict=True)
    swept = " ".join(redact(typed) for typed, override in parsed if override.is_sweep_override())
    log.info("%s", without_controls(f"sweep{f' over {swept}' if swept else ''}: checking each combination"))


def described(configs: Sequence[Mapping[str, Any]]) -> str:
    """`LoRA dim=2 on embedded:tiny_gptj in int8, Adam8bit lr=0.001`; what differs has several values."""
    from summarizer.config.schema import QuantizationConfig

    def part(group: str, key: str) -> str:
        return _values([config[group][key] for config in configs])

    def kind(group: str) -> str:
        return _values([config[group]["_target_"].rpartition(".")[2] for config in configs])

    adapter = _values([_adapter_kind(config["adapter"]) for config in configs])
    if all("dim" in config["adapter"] for config in configs):  # a kind of one's own may have none
        adapter += f" dim={part('adapter', 'dim')}"
    formats = [QuantizationConfig.model_validate(config["quantization"]).name for config in configs]
    base = f"{part('model', 'name_or_path')} in {_values(formats)}"
    return f"{adapter} on {base}, {kind('optimizer')} lr={part('optimizer', 'lr')}"


def _adapter_kind(adapter: Mapping[str, Any]) -> str:
    """What papers call it: LoRA's relatives are settings of one class."""
    init = str(adapter.get("init_lora_weights", ""))
    settings = {
        "rsLoRA": adapter.get("use_rslora", False),
        "LoRA+": adapter.get("loraplus_lr_ratio", 1) != 1,
        "LoRA-FA": not adapter.get("train_a", True),
        "PiSSA": init.startswith("pissa"),
        "OLoRA": init == "olora",
        "DoRA": adapter.get("use_dora", False),
    }
    own: str = adapter["_target_"].rpartition(".")[2]
    return " ".join(name for name, is_on in settings.items() if is_on) or own


def _count(records: Sequence[RunRecord]) -> str:
    if records[0].only_shown:
        return "plan" if records[0].config["plan"] else "preview"
    return "run" if len(records) == 1 else f"{len(records)} runs"


def _values(values: Sequence[object]) -> str:
    texts = list(dict.fromkeys(_text(value) for value in values))
    if len(texts) <= NAMED:
        return ",".join(texts)
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(numbers) == len(values):
        return f"{_text(min(numbers))}..{_text(max(numbers))}"
    return f"({len(texts)} values)"


def _text(value: object) -> str:
    if isinstance(value, list):
        return str(value[0]) if len(value) == 1 else f"{value[0]} and {len(value) - 1} more"
    return f"{value:g}" if isinstance(value, float) else str(value)
