"""All that can be known to be wrong before anything loads: the config, and the input that it names."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig

from summarizer.config import specs
from summarizer.config.check import check
from summarizer.config.rules import Rule
from summarizer.errors import Issue


def preflight(config: DictConfig) -> specs.RunSpec:
    """The typed run that a composed config describes. Raises ConfigError with a line for each mistake."""
    from summarizer.data.files import check_data_files
    from summarizer.model.source import check_model_path
    from summarizer.tracking.wandb_run import check_tracking

    input_rules: tuple[Rule, ...] = (
        (("model",), lambda model: check_model_path(model.name_or_path)),
        (("data",), lambda data: check_data_files(data) if data.source == "files" else ()),
        (("trainer",), _device_is_there),
        (("tracking",), check_tracking),
    )
    return check(config, input_rules)


def _device_is_there(trainer: specs.TrainerSpec) -> Iterator[Issue]:
    if trainer.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            yield Issue("trainer.device", "PyTorch sees no CUDA device on this machine; use auto or cpu")
