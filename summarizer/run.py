"""`python -m summarizer.run`: compose a config, train and evaluate what it describes, save the results.

    python -m summarizer.run adapter.dim=2
    python -m summarizer.run -m adapter.dim=2,4 optimizer.lr=1e-4,3e-4
    python -m summarizer.run resume=outputs/2026-11-22/10-15-30-123456

Exit code 0 on success, 2 for a user's mistake, 1 for a failure, 128 + the signal's number when it was stopped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from summarizer.config.paths import conf_folder

TEXT_FLAGS = {"--cfg", "-c", "--info", "-i", "--hydra-help", "--version", "--shell-completion", "-sc"}
"""Hydra's flags for which it prints, and runs nothing."""


def main() -> None:
    """The command. Heavy imports wait until a config is composed, so that --help and --cfg answer at once."""
    # Hydra's parser takes no override before its flag: `adapter.dim=2 -m seed=1,2` would get a bare usage line.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))
    sys.exit(command(sys.argv[1:]))


def command(arguments: Sequence[str]) -> int:
    """Run the command with these arguments and return its exit code."""
    from summarizer.runs.mistakes import report_mistakes

    return report_mistakes(lambda: _dispatch(arguments), arguments)


def _answer(arguments: Sequence[str]) -> bool:
    """Answer a command line that asks for text alone: help, the composed config, completion. Else False."""
    from summarizer.config.completion import BASH, asks_for_completion
    from summarizer.config.help import asks_for_help, help_text

    if (
        int(os.environ.get("RANK", 0)) > 0 and "WORLD_SIZE" in os.environ
    ):  # a worker, which is told what to do
        return False
    if asks_for_completion(arguments):
        print(BASH)
    elif asks_for_help(arguments):
        print(help_text([word for word in arguments if not word.startswith("-")]))
    elif TEXT_FLAGS & {word.partition("=")[0] for word in arguments}:
        _compose_and_run()
    else:
        return False
    return True


def _dispatch(arguments: Sequence[str]) -> None:
    if _answer(arguments):
        return

    from summarizer.runs.folder import check_unused
    from summarizer.runs.launch import follow, is_follower, lead, prepare_process, raise_failures, resume
    from summarizer.sweeps.closing import reported

    prepare_process()
    if is_follower():
        follow()
        return
    folder = [argument.removeprefix("resume=") for argument in arguments if argument.startswith("resume=")]
    if folder and folder[0] not in ("", "null"):
        from summarizer.sweeps.resume import is_sweep, resume_sweep

        others = [argument for argument in arguments if argument != f"resume={folder[0]}"]
        with lead():
            if is_sweep(Path(folder[0])):
                resume_sweep(Path(folder[0]), others)
            else:
                resume(Path(folder[0]), others)
            raise_failures()
        return
    check_unused(arguments)
    with lead():
        with reported():
            _compose_and_run()
        raise_failures()


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")
def _compose_and_run(config: DictConfig) -> float | None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from summarizer.config.plain import to_plain
    from summarizer.errors import ConfigError
    from summarizer.runs.folder import take_back
    from summarizer.runs.launch import FailuresKept, raise_alone, start
    from summarizer.runs.record import RunRecord

    hydra_config = HydraConfig.get()
    sweeping = hydra_config.mode == RunMode.MULTIRUN
    folder = hydra_config.runtime.output_dir
    # Not resolved: an interpolation in an override may stand for what no file should hold.
    as_typed = OmegaConf.to_container(hydra_config.overrides.task, resolve=False)
    assert isinstance(as_typed, list)
    # A sweeper that optimizes must hear of a failure, and what is kept in another launcher's process is lost.
    # Hydra's own sweeper would only end with it, after a line of its own.
    in_this_process = not sweeping or hydra_config.launcher._target_.endswith(".BasicLauncher")
    optimizing = sweeping and not hydra_config.sweeper._target_.endswith(".BasicSweeper")
    with FailuresKept(folder, keep=in_this_process and not optimizing, sweeping=sweeping):
        record = RunRecord(
            config=to_plain(config),
            folder=folder,
            overrides=tuple(as_typed),
            sweep=Path(hydra_config.sweep.dir).name if sweeping else None,
        )
        try:
            value = raise_alone(start([record]))
            if record.config["plan"] and not sweeping:
                take_back(Path(folder))
            return value
        except ConfigError:
            if not sweeping:
                take_back(Path(folder))
            raise
    return None  # what the run raised is kept


if __name__ == "__main__":
    main()
