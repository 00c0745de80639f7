"""Where a group's processes come from: this one alone, those of a launcher, or torch's elastic launcher.

`trainer.processes=N` starts N processes of this machine by `torch.distributed.launcher`; `torchrun` and
`accelerate launch` bring theirs. The main process (rank 0) composes, checks and writes; the workers train along.

How a run ends: a signal to the main process is passed on to every worker once, all save and leave together, and the
exit code is 128 + the signal's number. A worker that is killed ends the run as a failure that names the signal. A
worker whose parent is killed stops as by SIGTERM: it saves and leaves.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from summarizer.errors import ConfigError, RunsFailed, StopRequested, is_full_disk
from summarizer.runs.folder import write_prompt
from summarizer.runs.mistakes import say_failed
from summarizer.runs.record import RunRecord, read_record, records_from_json, records_to_json
from summarizer.runs.session import Session, announce_runs, raise_alone

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

    from summarizer.config.schema import PromptConfig, RunConfig

WAIT_FOR_GROUP = timedelta(days=7)
"""Workers wait while the main process runs whatever comes before their next group."""
GRACE_S = 60
"""How long the others may take to save and stop once one process has failed, before they are killed."""
ORPHANED_AFTER_S = 0.5
"""How often a worker looks whether its parent still lives."""

Train = Callable[[], list[RunRecord]]

log = logging.getLogger(__name__)


# ---- starting ----------------------------------------------------------------------------------------------------


def prepare_process() -> None:
    """Set what a process that trains needs before it imports torch."""
    # Threads that wait for work spin for a moment only, then sleep: two runs that share two cores lose less to
    # each other, one alone nothing (measured on the embedded model, steps of 800 tokens: two at once 540 ms each
    # instead of 930, one alone 229 ms instead of 240; sleeping at once costs one alone 100 ms). Writing a token is
    # hundreds of short products: ten times the moment saves GPT-J-6B a tenth of its 0.37 s on idle cores, and makes
    # SmolLM2-135M take 0.55 s for 0.14 s on busy ones.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns, at import, of an optional package


def prepare_training(records: Sequence[RunRecord], session: Session) -> Train:
    """Check runs that train as one group and import what they need; returns what trains them.

    That runs in as many processes as there are, or as the configs ask for, and returns what became of each run. It
    raises what kept all of them from beginning, and StopRequested once they are saved.
    """
    from summarizer.runs.preflight import preflight

    session.begin_group()
    spec = preflight(OmegaConf.create(records[0].config))
    announce_runs(records)
    records = with_resolved_prompt(records, spec)
    if records[0].only_shown:
        return partial(_shown, records, spec)
    wanted = spec.trainer.processes
    _require_all_launched()
    launched = int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else None
    if launched is None and wanted is not None and wanted > 1:
        return partial(train_in_processes, records, wanted)
    with _importing(records):
        from summarizer.runs.experiment import run_group

    session.startup.lap("imports")
    session.hand_over(records)
    return partial(run_group, records, session.startup)


def start(records: Sequence[RunRecord], session: Session) -> list[RunRecord]:
    """Train runs as one group, as `prepare_training` has it."""
    return prepare_training(records, session)()


def train_group(records: Sequence[RunRecord], session: Session) -> list[RunRecord]:
    """Train the runs of a group, and say which failed; what stops the group as a whole fails each of them.

    Raises StopRequested, the runs being saved, and the error of a full disk that ended every run: it would end
    those of the next group too.
    """
    try:
        ended = {run.folder: run for run in start(records, session)}
    except Exception as error:
        ended = {record.folder: record.model_copy(update={"cause": error}) for record in records}
    not_logged: dict[int, tuple[Exception, list[str]]] = {}
    for run in ended.values():
        if run.cause is not None and not run.logged:
            not_logged.setdefault(id(run.cause), (run.cause, []))[1].append(run.folder)
    for why, folders in not_logged.values():
        say_failed(why, folders)
    causes = [run.cause for run in ended.values()]
    if causes[0] is not None and all(map(is_full_disk, causes)):
        raise causes[0]
    asked = [ended.pop(record.folder) for record in records]
    return [*asked, *ended.values()]  # clones, which began while these trained


def _shown(records: Sequence[RunRecord], spec: RunConfig) -> list[RunRecord]:
    """What `preview` and `plan` ask for, in place of training."""
    if spec.preview is not None:
        from summarizer.runs.preview import show_preview

        show_preview(records)
    if spec.plan:
        with _importing(records):
            from summarizer.runs.plan import show_plan

        show_plan(records)
    return list(records)


def warn_of_escapes(prompt: PromptConfig) -> None:
    """Say where a text has `\\n` in it, as two characters: that is what a shell makes of a line break in quotes."""
    for key in ("template", "system"):
        if "\\n" in (getattr(prompt, key) or ""):
            log.warning(
                "prompt.%s holds a backslash and an n, as a shell leaves them; a line break is written "
                '$\'prompt.%s="...\\n..."\' in bash (with the $), or "...\\n..." in a YAML of conf/prompt',
                *(key, key),
            )


def with_resolved_prompt(records: Sequence[RunRecord], spec: RunConfig) -> list[RunRecord]:
    """The runs of a group with the prompt that their config comes to with the model, recorded in their folders too.

    Raises ConfigError where the config asks for what the model does not have.
    """
    warn_of_escapes(spec.prompt)
    if spec.prompt.kind == "text" or spec.prompt.rendered is not None:
        return list(records)
    from summarizer.console.progress import working
    from summarizer.models.source import model_folder

    folder = model_folder(spec.model, weights=False)
    with working("importing transformers"):
        from summarizer.data.chat import resolved_prompt
        from summarizer.models.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(folder)
    prompt = resolved_prompt(spec.prompt, tokenizer).model_dump(exclude_defaults=True)
    for record in records:
        write_prompt(record.path, prompt)
    return [record.model_copy(update={"config": {**record.config, "prompt": prompt}}) for record in records]


@contextmanager
def _importing(records: Sequence[RunRecord]) -> Iterator[None]:
    """Show that the block's imports are under way, and those of the optimizers that the runs' configs name.

    Raises ConfigError where one of those cannot be imported here.
    """
    from summarizer.config.targets import resolve_target
    from summarizer.console.progress import working

    if "transformers" in sys.modules:
        yield
        return
    with working("importing torch, transformers"):
        for optimizer in {str(record.config["optimizer"]["_target_"]): None for record in records}:
            resolve_target("optimizer", optimizer)
        yield


# ---- processes of a launcher -------------------------------------------------------------------------------------


def is_worker() -> bool:
    """Whether this process is a launcher's rank above 0, which composes nothing and is told what to train."""
    return int(os.environ.get("RANK", 0)) > 0 and "WORLD_SIZE" in os.environ


@contextmanager
def main_process() -> Iterator[Session]:
    """The session of a command, in the process that composes. At its end a launcher's workers are let go.

    Before that the session's sweeps are reported, and the failures that it kept are raised.
    """
    session = Session(workers=_rendezvous() if int(os.environ.get("WORLD_SIZE", 1)) > 1 else None)
    try:
        with session.reporting():
            yield session
        session.raise_failures()
    finally:
        session.release_workers()


def work() -> None:
    """Train each group that the main process hands over, until there is none."""
    from summarizer.runs.experiment import run_group

    store, number, startup = _rendezvous(), 0, Session().startup
    while True:
        store.wait([f"group/{number}"], WAIT_FOR_GROUP)
        records = records_from_json(store.get(f"group/{number}").decode())
        if not records:
            return
        startup.restart()
        raise_alone(run_group(records, startup))
        number += 1


def _rendezvous() -> Store:
    from torch.distributed.rendezvous import rendezvous

    store: Store = next(iter(rendezvous("env://")))[0]
    return store


def _require_all_launched() -> None:
    """On a CPU `accelerate launch` starts one process, whatever its flags and config file say, without a word."""
    if "ACCELERATE_MIXED_PRECISION" not in os.environ or "WORLD_SIZE" in os.environ:
        return
    import psutil

    count = _requested_of_accelerate(psutil.Process(os.getppid()).cmdline())
    if count > 1:
        raise ConfigError.single(
            "trainer.processes",
            f"accelerate was asked for {count} processes but started one; use torchrun, or "
            f"trainer.processes={count} without a launcher",
        )


def _requested_of_accelerate(words: Sequence[str]) -> int:
    """How many processes the command line of `accelerate launch` asks for, by a flag or by its config file."""
    flags = {"__num_processes": "", "__config_file": ""}
    for i, word in enumerate(words):
        name, _, value = word.partition("=")
        if (name := name.replace("-", "_")) in flags:
            flags[name] = value or (words[i + 1] if i + 1 < len(words) else "")
    if flags["__num_processes"].isdigit():
        return int(flags["__num_processes"])
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file

    file = flags["__config_file"] or str(default_config_file)
    return int(load_config_from_file(file).num_processes or 1) if Path(file).is_file() else 1


# ---- processes of our own, by torch's elastic launcher -----------------------------------------------------------


def train_in_processes(records: Sequence[RunRecord], count: int) -> list[RunRecord]:
    """Train a group in `count` processes of this machine; signals reach all of them."""
    from summarizer.console.progress import working

    with working(f"importing torch for {count} processes"):
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import elastic_launch

    from summarizer.training.stopping import listening

    for name in ("distributed.elastic.multiprocessing.api", "distributed.elastic.agent.server.api"):
        # They repeat what the runs themselves say.
        logging.getLogger(f"torch.{name}").setLevel(logging.CRITICAL)
    with listening(also=_pass_on) as stop, tempfile.TemporaryDirectory() as logs:
        try:
            # As bytes: the launcher takes text for a template.
            codes = elastic_launch(_launch_config(count, logs), _worker)(
                records_to_json(records).encode(), count
            )
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            # By itself once it listens; by the signal while it still starts.
            if stop.number is not None and failure.exitcode in (128 + signal.SIGTERM, -signal.SIGTERM):
                raise StopRequested(stop.number) from None
            if failure.exitcode < 0:  # it could not say so itself
                raise RunsFailed(
                    f"process {rank} of the run was ended by {failure.signal_name()}; SIGKILL mostly "
                    "means that the machine ran out of memory",
                    1,
                ) from None
            raise RunsFailed("", failure.exitcode) from None
        if any(codes.values()):
            raise StopRequested(stop.number or max(codes.values()) - 128)
    return [_read_end(record) for record in records]


def _launch_config(count: int, logs: str) -> Any:
    """One node, no restarts, and SIGINT and SIGTERM left to `listening`."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    wanted: dict[str, Any] = {
        "run_id": f"summarizer-{os.getpid()}",
        "rdzv_backend": "c10d",
        "rdzv_endpoint": "127.0.0.1:0",
        "local_addr": "127.0.0.1",
        "max_restarts": 0,
        "start_method": "spawn",
        "logs_specs": DefaultLogsSpecs(log_dir=logs),
        "signals_to_handle": "SIGHUP,SIGQUIT",
        "shutdown_timeout": GRACE_S,
    }
    known = {field.name for field in dataclasses.fields(LaunchConfig)}
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        **{name: value for name, value in wanted.items() if name in known},
    )


def _pass_on(number: int) -> None:
    """Ask every worker to save and stop, always by SIGTERM: a terminal sends SIGINT to all, so they ignore it."""
    import psutil

    for process in psutil.Process().children():
        process.terminate()


def _worker(text: bytes, count: int) -> int:
    """One of the processes: returns 0, or 128 + the signal that stopped it. It exits with any other code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent passes it on, once
    threading.Thread(target=_stop_when_orphaned, args=(os.getppid(),), daemon=True).start()
    prepare_process()
    from summarizer.runs.logs import folder_logs
    from summarizer.runs.mistakes import report_mistakes

    startup = Session().startup
    records = records_from_json(text.decode())

    def run() -> None:
        with _importing(records):
            import torch

            from summarizer.runs.experiment import run_group

        startup.lap("imports")
        torch.set_num_threads(max(1, (os.cpu_count() or count) // count))
        raise_alone(run_group(records, startup))

    try:
        if int(os.environ["RANK"]) == 0:
            with folder_logs([record.folder for record in records]):
                code = report_mistakes(run, ())
        else:
            sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - for the life of the process; rank 0 says it all
            code = report_mistakes(run, ())
    except BaseException:
        traceback.print_exc()
        code = 1
    from summarizer.processes import leave_processes

    leave_processes()
    if 0 < code <= 128:
        sys.exit(code)  # by which the launcher ends the others
    return code


def _stop_when_orphaned(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(ORPHANED_AFTER_S)
    os.kill(os.getpid(), signal.SIGTERM)


def _read_end(record: RunRecord) -> RunRecord:
    """What became of a run of other processes, which said so themselves."""
    ended = read_record(record.path, record)
    cause = RunsFailed(ended.error or "", 1) if ended.status == "failed" else None
    return ended.model_copy(update={"cause": cause, "logged": cause is not None})
