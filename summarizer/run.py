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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig, OmegaConf

from summarizer.config.overrides import without_quoted_keys, without_secrets
from summarizer.config.paths import conf_folder

TEXT_FLAGS = {"--cfg", "-c", "--info", "-i", "--hydra-help", "--version", "--shell-completion", "-sc"}
"""Hydra's flags for which it prints, and runs nothing."""

if TYPE_CHECKING:
    from summarizer.runs.session import Session


def main() -> None:
    """The command. Heavy imports wait until a config is composed, so that --help and --cfg answer at once."""
    # Hydra's parser takes no override before its flag: `adapter.dim=2 -m seed=1,2` would get a bare usage line.
    words = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))
    sys.argv[1:] = [without_secrets(without_quoted_keys(word)) for word in words]
    sys.exit(command(sys.argv[1:]))


def command(arguments: Sequence[str]) -> int:
    """Run the command with these arguments and return its exit code."""
    from summarizer.runs.mistakes import ExitCode

    with ExitCode(arguments) as code:
        _dispatch(arguments)
    return code.value


def _answer(arguments: Sequence[str]) -> bool:
    """Answer a command line that asks for text alone: help, the composed config, completion. Else False."""
    if not any(word.startswith("-") for word in arguments):
        return False
    from summarizer.config.help import BASH, asks_for_completion, asks_for_help, help_text

    if asks_for_completion(arguments):
        print(BASH)
    elif asks_for_help(arguments):
        print(help_text([word for word in arguments if not word.startswith("-")]))
    elif TEXT_FLAGS & {word.partition("=")[0] for word in arguments}:
        hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(_no_task)()
    else:
        return False
    return True


def _is_answered_here() -> bool:
    """Whether this process is the first of a launcher's, or alone: text is printed once."""
    return int(os.environ.get("RANK", 0)) == 0 or "WORLD_SIZE" not in os.environ


def _no_task(config: DictConfig) -> None:
    """What Hydra is given to run where it only prints."""


def _dispatch(arguments: Sequence[str]) -> None:
    if _is_answered_here() and _answer(arguments):
        return

    from summarizer.config.synonyms import require_no_flags
    from summarizer.runs.folder import check_unused
    from summarizer.runs.launch import is_worker, main_process, prepare_process, work

    prepare_process()
    if is_worker():
        work()
        return
    folder = [argument.removeprefix("resume=") for argument in arguments if argument.startswith("resume=")]
    if folder and folder[0] not in ("", "null"):
        from summarizer.sweeps.resume import resume

        others = [argument for argument in arguments if argument != f"resume={folder[0]}"]
        with main_process() as session:
            resume(Path(folder[0]), others, session)
        return
    require_no_flags(arguments)
    check_unused(arguments)
    with main_process() as session:
        hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(Task(session))()


@dataclass
class Task:
    """What Hydra calls with each config that it composes; the fused launcher takes the session from it."""

    session: Session

    def __call__(self, config: DictConfig) -> float | None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from summarizer.errors import ConfigError, RunsFailed, WriteError
        from summarizer.runs.folder import mask_written, take_back, write_configs
        from summarizer.runs.launch import prepare_training
        from summarizer.runs.mistakes import MISTAKE
        from summarizer.runs.record import composed_run
        from summarizer.runs.session import raise_alone

        hydra_config = HydraConfig.get()
        sweeping = hydra_config.mode == RunMode.MULTIRUN
        folder = hydra_config.runtime.output_dir
        # A sweeper that optimizes must hear of a failure, and what is kept in another launcher's process is lost.
        # Hydra's own sweeper would only end with it, after a line of its own.
        in_this_process = not sweeping or hydra_config.launcher._target_.endswith(".BasicLauncher")
        optimizing = sweeping and not hydra_config.sweeper._target_.endswith(".BasicSweeper")
        keep = in_this_process and not optimizing
        with self.session.keeping_failure(folder, keep=keep, say=sweeping):
            try:
                if sweeping:
                    mask_written(Path(hydra_config.sweep.dir))
                write_configs(Path(folder), config, OmegaConf.create({"hydra": hydra_config}))
                record = composed_run(
                    config, hydra_config, Path(hydra_config.sweep.dir).name if sweeping else None
                )
                train = prepare_training([record], self.session)
                value = raise_alone(train())
                if record.only_shown and not sweeping:
                    take_back(Path(folder))
                return value
            except (ConfigError, RunsFailed, WriteError) as error:
                # Other processes said their mistake themselves; what is left is their exit code.
                if not sweeping and not (isinstance(error, RunsFailed) and error.exit_code != MISTAKE):
                    take_back(Path(folder))
                raise


if __name__ == "__main__":
    main()
