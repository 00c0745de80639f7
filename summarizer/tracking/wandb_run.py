"""wandb beside metrics.jsonl: the same numbers, side by side with other runs.

wandb is never the only place of anything, so its failure during a run is said once, in the log, and the run
goes on without it. Being unable to open it as the config asks is an error.
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from summarizer.atomic import write_text
from summarizer.config.paths import shown
from summarizer.config.specs import TrackingSpec
from summarizer.errors import ConfigError
from summarizer.tracking.login import check_tracking
from summarizer.tracking.names import MAX_CHARACTERS
from summarizer.tracking.summary import RougeScores
from summarizer.tracking.tracker import NoTracker, Outcome, SampleSummary, Tracker

__all__ = ["NoTracker", "SampleSummary", "Tracker", "WandbTracker", "check_tracking", "open_tracker"]

ID_FILE = "wandb_id.txt"
ROUGE_VARIANTS = tuple(RougeScores.model_fields)

log = logging.getLogger(__name__)


def open_tracker(
    spec: TrackingSpec,
    folder: Path,
    *,
    name: str,
    group: str | None,
    config: Mapping[str, Any],
    resumed: bool,
) -> Tracker:
    """The run's tracker: wandb's files go below `folder`, and a resumed run goes on in its old wandb run.

    `spec.name` and `spec.group` win over `name` and `group`. `config` is uploaded as it is: no secrets in it.
    Several trackers may be open at once. Raises ConfigError if wandb cannot be opened in the mode asked for.
    """
    if spec.mode == "disabled":
        return NoTracker()
    import wandb

    identity = run_id(folder / ID_FILE, resumed)
    try:
        run = wandb.init(
            mode=spec.mode,
            dir=folder,
            project=spec.project,
            entity=spec.entity,
            name=(spec.name or name)[:MAX_CHARACTERS],
            group=spec.group or group,
            tags=spec.tags,
            config=dict(config),
            id=identity,
            resume="allow",
            reinit="create_new",
            settings=private_settings(),
        )
    except (wandb.Error, OSError) as error:
        raise ConfigError.single(
            "tracking.mode",
            f"{spec.mode}: wandb cannot open a run ({error}); tracking.mode=offline keeps it on disk for "
            "`wandb sync`, tracking.mode=disabled goes without",
        ) from error
    return WandbTracker(run, Path(run.settings.sync_dir), spec)


def private_settings() -> Any:
    """wandb's settings for runs that tell nothing of the machine and print nothing."""
    import wandb

    return wandb.Settings(
        console="off",
        silent=True,
        symlink=False,  # no links to the latest run: a run folder has one
        save_code=False,
        disable_git=True,  # summary.json has the commit; wandb would add the diff
        x_disable_meta=True,  # host, user and command line
        x_save_requirements=False,
    )


class WandbTracker:
    """One open wandb run. Its step is the optimizer step, so what a resumed run logs again is not doubled."""

    def __init__(self, run: Any, run_folder: Path, spec: TrackingSpec) -> None:
        self._run, self._run_folder, self._spec = run, run_folder, spec
        self._step = 0
        self._broken = False
        self._guarded(self._define_metrics)
        if spec.mode == "offline":
            log.info("wandb is offline: `wandb sync %s` uploads this run", shown(run_folder))
        else:
            log.info("wandb: %s", run.url)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Raises ValueError for a step before the last one, which wandb would drop without a word."""
        row = {**metrics, "step": self._advance(step)}
        self._guarded(lambda: self._run.log(row, step=step))

    def log_samples(self, step: int, rows: Sequence[SampleSummary]) -> None:
        self._advance(step)
        columns = ["id", "article", "reference", "base", "prediction"]
        data = [[getattr(row, column) for column in columns] for row in rows]

        def write() -> None:
            import wandb

            self._run.log({"samples": wandb.Table(columns=columns, data=data), "step": step}, step=step)

        self._guarded(write)

    def log_adapter(self, folder: Path) -> None:
        if self._spec.log_adapter:
            self._guarded(lambda: self._log_artifact(folder))

    def finish(self, status: Outcome, summary: Mapping[str, Any]) -> None:
        """Close the run. A failed one ends with exit code 1, by which wandb marks it failed."""

        def write() -> None:
            self._run.summary.update({**summary, "status": status})
            self._run.finish(exit_code=int(status == "failed"))

        self._guarded(write)

    def _define_metrics(self) -> None:
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self._run.define_metric("val/loss", step_metric="step", summary="min")
        for variant in ROUGE_VARIANTS:  # each by name: of two patterns that fit, wandb takes the first
            self._run.define_metric(f"val/{variant}", step_metric="step", summary="max")

    def _log_artifact(self, folder: Path) -> None:
        import wandb

        artifact = wandb.Artifact(f"adapter-{self._run.id}", type="adapter")
        # By reference: offline, wandb would otherwise keep a second copy in the user's home.
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = file.relative_to(folder).as_posix()
            artifact.add_file(str(file), name=name, skip_cache=True, policy="immutable")
        self._run.log_artifact(artifact)

    def _advance(self, step: int) -> int:
        if step < self._step:
            raise ValueError(f"step {step} after step {self._step}")
        self._step = step
        return step

    def _guarded(self, call: Callable[[], None]) -> None:
        if self._broken:
            return
        try:
            call()
        except Exception as error:
            # Its service may die, its disk fill up, its server change: none of that is worth the run.
            self._broken = True
            log.warning(
                "wandb failed and gets nothing more of this run (%s: %s); what it got is in %s, "
                "everything is in metrics.jsonl and summary.json",
                type(error).__name__,
                error,
                self._run_folder,
            )
            if isinstance(error, ConnectionError):
                _drop_dead_service()


def _drop_dead_service() -> None:
    """Let the next run of this process start a new wandb service; the dead one served every open run."""
    import wandb

    with contextlib.suppress(ConnectionError):  # it also tries to say goodbye to the dead one
        wandb.teardown()


def run_id(file: Path, resumed: bool) -> str:
    """The id in `file` for a resumed run, else a new one, kept there."""
    if resumed and file.exists():
        kept = file.read_text(encoding="utf-8").strip()
        if not re.fullmatch(r"[0-9a-z]{1,64}", kept):
            raise ConfigError.single(
                str(file), f"{kept[:80]!r} is not a wandb run id; delete the file for a new wandb run"
            )
        return kept
    # From the system, not from `random`: a run's random state is the same with and without wandb.
    fresh = secrets.token_hex(4)
    write_text(file, fresh + "\n")
    return fresh
