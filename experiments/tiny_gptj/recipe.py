"""What is trained and how: a YAML file, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from summarizer.errors import ConfigError, Issue

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TokenizerPart(Part):
    entries: Annotated[int, Field(ge=257)]
    """All bytes and the end token at least."""
    spare: Annotated[int, Field(ge=0)]

    @property
    def size(self) -> int:
        return self.entries + self.spare


class TextPart(Part):
    document_characters: Count
    held_out_tokens: Count


class ModelPart(Part):
    layers: Count
    width: Count
    heads: Count
    rotary: Count
    positions: Count
    dropout: Share


class TrainingPart(Part):
    steps: Count
    batch: Count
    context: Annotated[int, Field(ge=2)]
    lr: Annotated[float, Field(gt=0)]
    warmup_steps: Annotated[int, Field(ge=0)]
    final_fraction: Annotated[float, Field(ge=0, le=1)]
    betas: tuple[Share, Share]
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    evaluate_every_steps: Count
    checkpoint_every_steps: Count


class Recipe(Part):
    seed: Annotated[int, Field(ge=0)]
    tokenizer: TokenizerPart
    text: TextPart
    model: ModelPart
    training: TrainingPart

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        model = self.model
        if model.width % model.heads:
            raise ValueError(f"model.width {model.width} is not a multiple of model.heads {model.heads}")
        if model.rotary > model.width // model.heads or model.rotary % 2:
            raise ValueError(
                f"model.rotary {model.rotary} is not an even number of a head's {model.width // model.heads}"
            )
        if self.training.context > model.positions:
            raise ValueError(
                f"training.context {self.training.context} is more than model.positions {model.positions}"
            )
        return self


def read_recipe(path: Path) -> Recipe:
    """Raises ConfigError with every mistake in the file."""
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError.single(str(path), f"no recipe can be read here: {error}") from error
    except ValidationError as error:
        raise ConfigError(
            Issue(f"{path}: {'.'.join(map(str, mistake['loc']))}".rstrip(": "), mistake["msg"])
            for mistake in error.errors()
        ) from error
