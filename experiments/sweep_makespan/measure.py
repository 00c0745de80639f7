"""How long a sweep takes: fused, one by one, and by transformers + peft with a process for each trial.

    python experiments/sweep_makespan/measure.py --quick          the CPU, two small trials, under a minute
    python experiments/sweep_makespan/measure.py --out FOLDER     a CPU: the default run; a GPU: GPT-J-6B's shapes
    python experiments/sweep_makespan/measure.py --model FOLDER --rows TRAIN VALIDATION --out FOLDER

Every sweep is timed from the command to its last summary. The systems take turns, sweep by sweep. All train on the
same tokens in the same order, and evaluate alike. Words after `--` are overrides of this project's config.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from contenders import FUSED, ONE_BY_ONE, PEER, PROCESSES, Machine, SweepError
from makespans import Row, disagreements, read_rows, table, write
from peer_work import BASES, read_work
from sweep_turns import Turns
from sweep_workload import EMBEDDED, GPTJ_6B, Setting, grid_of, prepare

from summarizer.console.progress import ConsoleHandler, bar
from summarizer.errors import ConfigError
from summarizer.tracking.environment import git_state, versions

NAMES = {name.replace(" ", "_"): name for name in (FUSED, ONE_BY_ONE, PROCESSES, PEER)}
QUICK = (
    "data.rows.train=4",
    "data.rows.validation=2",
    "prompt.max_tokens=160",
    "generation.max_new_tokens=6",
    "evaluation.rows_during_training=2",
    "evaluation.bootstrap_samples=50",
    "trainer.epochs=1",
    "tracking=none",
)
log = logging.getLogger("sweep_makespan")


def main() -> None:
    """Exit code 0; 1 where a system failed or did other work than the others; 2 for a mistake."""
    parser = build_parser()
    arguments = parser.parse_args()
    fill_in(arguments, on_gpu=arguments.device != "cpu" and torch.cuda.is_available())
    logging.basicConfig(level=logging.WARNING, handlers=[ConsoleHandler()], format="%(message)s")
    for name in ("sweep_makespan", "summarizer.console.progress"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        for trials in arguments.trials:
            grid_of(trials)
        if arguments.most_alone is not None and arguments.most_alone not in (2, 3, 4):
            raise ValueError(
                "--most-alone is 2, 3 or 4: a process's first trial pays for what the later ones share"
            )
        rows = read_rows(arguments.out) if arguments.add else []
        with tempfile.TemporaryDirectory() as scratch:
            rows = measure(arguments, rows, arguments.work or Path(scratch))
    except (ConfigError, SweepError, ValueError) as error:
        parser.error(str(error))
    print(table(rows))
    problems = [f"{row.system}, {row.trials} trials: {row.problem}" for row in rows if row.problem]
    problems += disagreements(rows)
    for problem in problems:
        log.error("%s", problem)
    if problems:
        sys.exit(1)


def measure(arguments: argparse.Namespace, rows: list[Row], work: Path) -> list[Row]:
    """The rows, and those of this command's sweeps after them. Raises as `main` catches."""
    about = describe(arguments)
    setting = Setting(
        arguments.model,
        None if arguments.rows is None else (arguments.rows[0], arguments.rows[1]),
        arguments.device,
        tuple(arguments.overrides),
    )
    systems = [NAMES[name] for name in arguments.systems]
    sweeps = len(arguments.tokens) * len(arguments.trials) * len(systems) * arguments.turns
    with bar("sweeps", sweeps) as progress:
        for tokens in arguments.tokens:
            progress.note("preparing")
            overrides, spec = prepare(setting, tokens, work.resolve())
            given = read_work(work)
            about |= {"device": given.device, "precision": given.precision, "tracking": given.wandb_mode}
            about["steps"] = f"{len(given.batches)} of {spec.trainer.batch_size} rows, for each trial"
            if given.device.startswith("cuda"):
                about["device"] = torch.cuda.get_device_name(given.device)
            with tempfile.TemporaryDirectory(dir=work) as runs:
                turns = Turns(
                    Machine(work.resolve(), Path(runs).resolve(), arguments.threads),
                    systems,
                    sorted(set(arguments.trials)),
                    arguments.turns,
                    overrides,
                    arguments.peer_base,
                    spec.seed,
                    tokens,
                    arguments.most_alone,
                )
                if not arguments.quick:
                    turns.warm()
                for row in turns.measured(progress):
                    rows = [*rows, row]
                    if arguments.out:
                        write(rows, about, arguments.out)
    return rows


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add(
        "--model",
        help=f"{EMBEDDED}, {GPTJ_6B} (true shapes, random weights), or a folder.\nDefault: by device",
    )
    add("--rows", nargs=2, metavar=("TRAIN", "VALIDATION"), help="files of articles and highlights")
    add(
        "--tokens",
        type=int,
        nargs="+",
        help="the longest example, several in turn; default: the prompt's own",
    )
    add("--trials", type=int, nargs="+", help="sizes of the sweeps (default 1 2 4 8 16)")
    add("--systems", nargs="+", choices=NAMES, default=["fused", "one_by_one", "peer"])
    add("--turns", type=int, default=1, help="how often everything is measured (default 1)")
    add(
        "--most-alone",
        type=int,
        help="trials that one_by_one, a_process_each and peer really run at the most;\n"
        "the others are counted as the mean of those after the first",
    )
    add("--peer-base", choices=BASES, help="weights of the peer; default int8 on a GPU, autocast elsewhere")
    add("--threads", type=int, help="OMP_NUM_THREADS of every process; default 2, on a GPU the machine's own")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--quick", action="store_true", help="the embedded model on the CPU, two trials of a few steps")
    add("--work", type=Path, help="folder to keep what is prepared in, such as 12 GB of random weights")
    add("--out", type=Path, help="folder for results.json, table.md and makespan.png")
    add("--add", action="store_true", help="to the rows that are in --out")
    add("overrides", nargs="*", help="of this project's config, for all systems")
    return parser


def fill_in(arguments: argparse.Namespace, *, on_gpu: bool) -> None:
    """Defaults, which depend on where it runs."""
    if arguments.quick:
        arguments.model, arguments.device, on_gpu = EMBEDDED, "cpu", False
        arguments.overrides = [*QUICK, *arguments.overrides]
        arguments.trials = arguments.trials or [2]
    gpu = {"model": GPTJ_6B, "tokens": [1024, 256], "most_alone": 2, "peer_base": "int8", "threads": None}
    processor = {
        "model": EMBEDDED,
        "tokens": [None],
        "most_alone": None,
        "peer_base": "autocast",
        "threads": 2,
    }
    for name, value in {**(gpu if on_gpu else processor), "trials": [1, 2, 4, 8, 16]}.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if arguments.model == GPTJ_6B and arguments.tokens == [None]:
        arguments.tokens = [256]  # made rows need a length


def describe(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a reader must know beside the numbers. No path of this machine."""
    state = git_state()
    model = Path(arguments.model)
    shown = [word for word in arguments.overrides if os.sep not in word]
    return {
        "model": model.name if model.is_dir() else arguments.model,
        "rows": "the package's sample"
        if arguments.rows is None
        else ", ".join(Path(f).name for f in arguments.rows),
        "overrides": " ".join(shown) or "none",
        "date": datetime.date.today().isoformat(),
        "processor": f"{platform.machine()}, {arguments.threads or os.cpu_count()} threads",
        "commit": None if state is None else state.commit + (" and changes" if state.dirty else ""),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items() if version),
        "turns": arguments.turns,
        "peer": f"{arguments.peer_base} weights",
    }


if __name__ == "__main__":
    main()
