"""A trained run as its folder describes it, which may come from elsewhere: data, checked like any other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from summarizer.adapters.peft_config import read_adapter_config, require_as_written
from summarizer.config.check import check
from summarizer.config.paths import shown
from summarizer.config.schema import GenerationConfig, RunConfig
from summarizer.config.shared_flags import generation_by_flag
from summarizer.errors import ConfigError, Issue
from summarizer.runs.folder import require_own
from summarizer.runs.record import SUMMARY, read_configured

if TYPE_CHECKING:
    from summarizer.config.schema import ModelConfig

ADAPTER_FOLDER = "adapter"
KEY = "RUN"
SHARED = ("model", "quantization", "prompt")
"""Config groups in which runs over one base must agree."""
READ_IN_INT8 = ("int8", "nf4")
"""Formats of bases whose prompts are read with activations in int8 where that is asked for."""


@dataclass(frozen=True)
class TrainedRun:
    """What a run was trained as, and where its adapter lies."""

    folder: Path
    spec: RunConfig
    overrides: tuple[str, ...]
    adapter_folder: Path

    @property
    def name(self) -> str:
        """As a person tells it from others: its folder as they see it."""
        return shown(self.folder)

    def adapter_digest(self) -> str:
        """Of the adapter's content, so that a run that moved is still the same."""
        digest = hashlib.sha256()
        for file in sorted(self.adapter_folder.glob("adapter_*")):
            digest.update(file.name.encode())
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        return digest.hexdigest()[:16]

    def summary_settings(self, generation: GenerationConfig, *, base: bool, precision: str) -> dict[str, Any]:
        """Everything besides the article that decides on a summary's words, as flat JSON.

        base: whether the base model writes alone.
        The adapter is named by its content, so that a run that moved is still the same.
        """
        spec = self.spec
        return {
            "adapter": None if base else self.adapter_digest(),
            "model": spec.model.name_or_path,
            "revision": spec.model.revision,
            "quantization": spec.quantization.name,
            **{
                f"prompt.{key}": value for key, value in spec.prompt.model_dump(exclude_defaults=True).items()
            },
            **generation_by_flag(generation),
            "--precision": precision,
        }


def read_trained_run(folder: Path, *, model: str | None = None, adapter: Path | None = None) -> TrainedRun:
    """A run from its folder.

    model: where its base lies now, if that is not where it lay in training.
    adapter: a PEFT folder to use in place of the run's own adapter.
    What only training needs, such as the files of its rows, may be gone.
    Raises ConfigError where the folder is none, holds links, its config is broken, or it has no adapter yet.
    """
    from summarizer.models.source import check_model_path

    require_own(folder, KEY)
    if not (folder / ".hydra" / "config.yaml").is_file() and (hint := _any_run_below(folder)):
        raise ConfigError.single(KEY, f"{folder} is a sweep; name one of its runs, such as {hint}")
    record = read_configured(folder.resolve(), KEY)
    config = OmegaConf.create(record.config)
    OmegaConf.update(config, "resume", None)
    OmegaConf.update(config, "adapter.start_from", None)  # its values are in the adapter that was saved
    if model is not None:
        OmegaConf.update(config, "model.name_or_path", model)

    def base_is_there(spec: ModelConfig) -> Iterator[Issue]:
        for issue in check_model_path(spec.name_or_path):
            yield Issue(issue.key, f"{issue.message}; --model says where the base lies now")

    spec = check(config, [(("model",), base_is_there)])
    found = adapter or folder / ADAPTER_FOLDER
    if not found.is_dir():
        raise ConfigError.single(
            KEY if adapter is None else "--adapter",
            f"{folder} has no adapter: it was never trained to an end; resume with "
            f"`python -m summarizer.run resume={folder}`"
            if adapter is None
            else f"no such folder: {adapter}",
        )
    if adapter is None:
        again = f"delete {folder / SUMMARY} and `python -m summarizer.run resume={folder}` saves it anew"
        require_as_written(found, KEY, f"{again} from its checkpoint")
    read_adapter_config(found, KEY if adapter is None else "--adapter")
    return TrainedRun(folder, spec, record.overrides, found)


def base_differences(runs: Sequence[TrainedRun]) -> list[Issue]:
    """Where the runs are not over one base and prompt, so that they can be neither opened nor compared together."""
    return [
        Issue(KEY, f"{run.name} differs from {runs[0].name} in {group}; take them one by one")
        for run in runs[1:]
        for group in SHARED
        if getattr(run.spec, group) != getattr(runs[0].spec, group)
    ]


def best_of_sweep(folder: Path) -> Path | None:
    """The folder of a sweep's best run; None where the folder is no sweep's, or none of its runs has a rank yet.

    Raises ConfigError where the sweep's record is broken.
    """
    from summarizer.sweeps.record import FILE_NAME, read_sweep

    winner = read_sweep(folder).winner if (folder / FILE_NAME).is_file() else None
    return None if winner is None else folder / str(winner.folder)


def _any_run_below(folder: Path) -> Path | None:
    """The best run of a sweep, or any of its runs; None where there is none."""
    runs = sorted(path.parent.parent for path in folder.glob("*/.hydra/config.yaml"))
    return best_of_sweep(folder) or (runs[0] if runs else None)


def opening_issues(runs: Sequence[TrainedRun], *, device: str, precision: str) -> Iterator[Issue]:
    """What speaks against opening these runs so, as far as that is seen without reading anything of their base."""
    yield from base_differences(runs)
    on_gpu = False
    if device == "cuda" or (device == "auto" and precision == "int8"):
        import torch  # seconds, where nothing else would tell

        on_gpu = torch.cuda.is_available()
    if device == "cuda" and not on_gpu:
        yield Issue("--device", "cuda, but PyTorch sees no CUDA device here; use auto or cpu")
    if precision == "int8" and (on_gpu or runs[0].spec.quantization.format not in READ_IN_INT8):
        yield Issue(
            "--precision",
            "int8 is for bases that are quantized to int8 or nf4, on a CPU; leave it out for the best there is",
        )
