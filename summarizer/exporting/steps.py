"""What the formats have in common: a run opened, its merged model, a new folder, the card in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from summarizer import atomic
from summarizer.config.schema import RunConfig
from summarizer.data.control_tokens import sets_start
from summarizer.data.prompt import Prompt, build_prompt
from summarizer.errors import ConfigError
from summarizer.exporting.card import Card
from summarizer.exporting.folders import MergedModel
from summarizer.exporting.formats import FORMATS
from summarizer.exporting.merge import Merge
from summarizer.exporting.request import ExportRequest, output_issues
from summarizer.models.load import load_config
from summarizer.models.source import model_folder
from summarizer.models.stored_base import is_stored_base
from summarizer.runs.loaded_run import LoadedRun, load_runs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CARD = "README.md"
WITH_BASE = "base"
"""What a copy of the base is called beside an exported adapter."""


@dataclass(frozen=True)
class Words:
    """A run's tokenizer and prompt."""

    tokenizer: PreTrainedTokenizerFast
    prompt: Prompt

    @classmethod
    def of(cls, spec: RunConfig, tokenizer: PreTrainedTokenizerFast) -> Words:
        """Of a run whose base's tokenizer this is; from here on it calls the run's end token its own."""
        words = cls(tokenizer, build_prompt(spec.prompt, tokenizer))
        end_as_prompted(tokenizer, words.prompt)
        return words

    @property
    def end_token(self) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(self.prompt.end_id))

    @property
    def added_start(self) -> int:
        """How many of the prompt's tokens a server sets ahead of a text by itself: the start token, or none."""
        return int(
            sets_start(self.tokenizer) and list(self.prompt.before[:1]) == [self.tokenizer.bos_token_id]
        )


def end_as_prompted(tokenizer: PreTrainedTokenizerFast, prompt: Prompt) -> None:
    """Let the tokenizer call the run's end token its own, so that whoever decodes with it drops it.

    Its chat template makes the prompt of a chat, whatever the day and whoever asks.
    """
    if tokenizer.eos_token_id != prompt.end_id:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(prompt.end_id)
    if prompt.chat is not None and prompt.chat.template is not None:
        tokenizer.chat_template = prompt.chat.template


def opened(request: ExportRequest) -> LoadedRun:
    """The run over its base in fp32, with a tokenizer that ends as the run does."""
    loaded = load_runs([request.run], device=request.device, precision="fp32")
    end_as_prompted(loaded.tokenizer, loaded.prompt)
    return loaded


def merged_model(loaded: LoadedRun, merge: Merge) -> MergedModel:
    """The base with a merge's weights, and everything that a folder of it holds."""
    spec = loaded.spec
    config = load_config(model_folder(spec.model, weights=False))
    return MergedModel(merge, config, loaded.tokenizer, loaded.prompt, spec.generation)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A new folder by `atomic.new_folder`, which would replace what someone put there in the meantime."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic.new_folder(folder) as scratch:
        yield scratch
        if issues := list(output_issues(folder)):
            raise ConfigError(issues)


def write_card(
    folder: Path, request: ExportRequest, words: Words, code: str, lines: Sequence[str], limits: Sequence[str]
) -> None:
    """Write the model card.

    code: how the folder is loaded, and an article summarized, in Markdown.  lines: what the export took and cost.
    limits: those of this format.
    """
    alone = FORMATS[request.format].adapter_alone and not request.with_base
    card = Card(
        format=request.format,
        dtype=None if alone else request.dtype,
        spec=request.run.spec,
        run_folder=request.run.folder,
        prompt=words.prompt,
        end_token=words.end_token,
        code=code,
        export=lines,
        limits=limits,
        facts=request.facts,
    )
    (folder / CARD).write_text(card.text(), encoding="utf-8")


def base_limits(request: ExportRequest, base: Path) -> list[str]:
    """What whoever loads an adapter must know of the base that it was trained on, which lies in `base`."""
    name, own_format = request.base, request.run.spec.quantization.name
    if request.with_base:
        return [f"`{WITH_BASE}` is the base as the adapter was trained on it ({own_format}), dequantized."]
    if is_stored_base(base):
        return [
            f"The base, {name}, is kept in this project's own quantized form, which no other program reads: the "
            "adapter needs a dense copy of it (export again with --with-base and another --output), or --format "
            "merged, which needs no base."
        ]
    if own_format != "none":
        return [
            f"The adapter was trained beside weights in {own_format}; on the checkpoint's own its answers differ a "
            "little. --format merged measures by how much, and --with-base puts the trained ones beside it."
        ]
    return []
