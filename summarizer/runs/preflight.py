"""All that can be known to be wrong before anything loads: the config, and the input that it names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING, DictConfig

from summarizer.config import schema
from summarizer.config.check import check
from summarizer.config.rules import Rule, splits_are_named
from summarizer.errors import ConfigError, Issue

if TYPE_CHECKING:
    from summarizer.adapters.protocol import Adapter


def preflight(config: DictConfig, *, imported: bool = False) -> schema.RunConfig:
    """The typed run that a composed config describes. Raises ConfigError with a line for each mistake.

    imported: hear also what the classes that it names say themselves, as `check` has it.
    """
    from summarizer.models.source import check_model_path
    from summarizer.tracking.login import check_tracking

    # Which takes no validation rows.
    only_shown = config.get("plan") is True or config.get("preview") is not None
    input_rules: tuple[Rule, ...] = (
        (("model",), lambda model: check_model_path(model.name_or_path)),
        (("model", "prompt"), _completion_token_is_there),
        (("adapter",), _start_is_there),
        (("data",), _files_are_there),
        *(() if only_shown else ((("data", "evaluation"), _splits_are_there),)),
        (("data", "evaluation"), _columns_are_there),
        (("trainer",), _device_is_there),
        (("tracking",), check_tracking),
    )
    return check(config, input_rules, imported=imported)


def _completion_token_is_there(model: schema.ModelConfig, prompt: schema.PromptConfig) -> Iterator[Issue]:
    from summarizer.models.source import check_completion_token

    if model.completion_token == prompt.completion_token:  # one of a person's own is looked up with its like
        yield from check_completion_token(model.name_or_path, prompt.completion_token)


def _files_are_there(data: schema.DataConfig) -> Iterator[Issue]:
    from summarizer.data.files import check_data_files

    yield from check_data_files(data)


def _splits_are_there(data: schema.DataConfig, evaluation: schema.EvaluationConfig) -> Iterator[Issue]:
    from summarizer.data.files import check_data_files

    # Who mistyped the first path has one thing to mend; what is left to name comes after it.
    if data.train == MISSING or all(issue.key != "data.train" for issue in check_data_files(data)):
        yield from splits_are_named(data, evaluation)


def _columns_are_there(data: schema.DataConfig, evaluation: schema.EvaluationConfig) -> Iterator[Issue]:
    from summarizer.data.files import check_columns

    if data.source != "files":
        return  # a hub's columns are known once it has been loaded
    found: dict[str, Issue] = {}
    for split in dict.fromkeys(("train", "validation", evaluation.split)):
        named: str | list[str] | int | float | None = getattr(data, split)
        if named != MISSING and isinstance(named, str | list):
            for issue in check_columns(f"data.{split}", named, data.columns):
                found.setdefault(issue.key, issue)
    yield from found.values()


def _start_is_there(adapter: Adapter) -> Iterator[Issue]:
    if adapter.start_from is None:
        return
    from summarizer.adapters.peft_config import WEIGHTS_FILE, read_adapter_config

    folder = Path(adapter.start_from)
    if not folder.is_dir():
        yield Issue("adapter.start_from", f"no such folder: {folder}")
        return
    try:
        read_adapter_config(folder)
    except ConfigError as error:
        yield from error.issues
        return
    if not (folder / WEIGHTS_FILE).is_file():
        yield Issue("adapter.start_from", f"{folder} has no {WEIGHTS_FILE}")


def _device_is_there(trainer: schema.TrainerConfig) -> Iterator[Issue]:
    if trainer.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            yield Issue("trainer.device", "'cuda', but PyTorch sees no CUDA device here; use auto or cpu")
