"""One frozen base with the adapters of one run, or of several side by side, ready to answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from summarizer.adapters.attach import AdaptedModel, attach, roles
from summarizer.adapters.peft_format import adapter_of_folder, load_adapter, require_matching
from summarizer.adapters.protocol import Adapter, Role
from summarizer.config.schema import GenerationConfig, RunConfig
from summarizer.data.prompt import Prompt, build_prompt
from summarizer.errors import ConfigError
from summarizer.evaluation.evaluator import Evaluator
from summarizer.generation.decoder import Decoder
from summarizer.generation.summarizer import require_room
from summarizer.models.load import Base, load_base, load_config
from summarizer.models.meta_model import build_meta_model
from summarizer.models.source import model_folder
from summarizer.models.tokenizer import check_context, load_tokenizer
from summarizer.processes import Processes, join_processes, keep_freed_memory
from summarizer.runs.trained_run import ADAPTER_FOLDER, KEY, TrainedRun, opening_issues
from summarizer.training.require_memory import require_generation_fits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedRun:
    """`runs[i]`'s adapter is trial i of `adapted`."""

    runs: tuple[TrainedRun, ...]
    tokenizer: PreTrainedTokenizerFast
    prompt: Prompt
    base: Base
    adapted: AdaptedModel
    processes: Processes
    int8_prefill: bool = False
    """Whether prompts are read by matmuls of 8 bits: about twice as fast on a CPU, and a little less exact."""

    @property
    def spec(self) -> RunConfig:
        """The first run's; in what its base and prompt are, the others' are alike."""
        return self.runs[0].spec

    @contextmanager
    def decoding(
        self,
        trials: Sequence[int] | None,
        generation: GenerationConfig,
        *,
        batch_size: int,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Iterator[Decoder]:
        """For the block, a decoder of these adapters, or of the base model where `trials` is None."""
        showing = self.adapted.base_alone() if trials is None else self.adapted.only(trials)
        with showing, self.processes.autocast():
            yield Decoder(
                self.adapted,
                generation,
                end_id=self.prompt.end_id,
                pad_id=self.prompt.pad_id,
                batch_size=batch_size,
                on_step=on_step,
                int8_prefill=self.int8_prefill,
            )

    def evaluator(self, generation: GenerationConfig, batch_size: int) -> Evaluator:
        """What measures the losses of the adapters and of the base model."""
        return Evaluator(
            adapted=self.adapted,
            prompt=self.prompt,
            generation=generation,
            batch_size=batch_size,
            processes=self.processes,
            between_batches=lambda: None,
        )


def load_runs(
    runs: Sequence[TrainedRun],
    *,
    device: str = "auto",
    precision: str = "auto",
    generation: GenerationConfig | None = None,
) -> LoadedRun:
    """Load the base that the runs share, once, with each one's adapter.

    device: auto, cpu or cuda.
    precision: of matmuls, as trainer.precision; or int8, which on a CPU reads articles by integer matmuls.
    generation: what will be asked for, to be refused before a base of gigabytes is loaded.
    Raises ConfigError where the runs differ in more than their adapters, or what they name cannot be had, or has no
    room for summaries as asked for.
    """
    if issues := list(opening_issues(runs, device=device, precision=precision)):
        raise ConfigError(issues)
    spec = runs[0].spec
    in_int8 = precision == "int8"
    processes = join_processes(device=device, precision="auto" if in_int8 else precision, wanted=1)
    if in_int8:
        log.info(
            "articles are read by integer matmuls, most of 8 bits; all else is computed in %s",
            processes.precision,
        )
    keep_freed_memory()
    folder = model_folder(spec.model, weights=False)
    config = load_config(folder)
    check_context(config, spec.prompt)
    tokenizer = load_tokenizer(folder)
    prompt = build_prompt(spec.prompt, tokenizer)
    if generation is not None:
        require_room(prompt, generation)
        require_generation_fits(generation, spec.prompt.max_tokens, config, processes.device, "--beams")
    meta = build_meta_model(config, spec.quantization.name)
    for run in runs:  # mistakes that show before any weight is read
        require_matching(run.adapter_folder, _adapter(run, roles(meta.model)), roles(meta.model), _key(run))
    base = load_base(spec.model, spec.quantization, processes.device, meta)
    base.model.module.eval()
    adapters = [_adapter(run, roles(base.model)) for run in runs]
    adapted = attach(base.model, adapters, seeds=[run.spec.seed for run in runs])
    for trial, run in enumerate(runs):
        load_adapter(adapted, trial, run.adapter_folder, _key(run))
    return LoadedRun(tuple(runs), tokenizer, prompt, base, adapted, processes, in_int8)


def _is_own(run: TrainedRun) -> bool:
    """Whether it writes by the adapter that it trained, and not by another folder's."""
    return run.adapter_folder == run.folder / ADAPTER_FOLDER


def _key(run: TrainedRun) -> str:
    """What a message names as the source of a run's adapter."""
    return KEY if _is_own(run) else "--adapter"


def _adapter(run: TrainedRun, layer_roles: dict[str, Role]) -> Adapter:
    """The config of a run's adapter, on a base with these layers."""
    if _is_own(run):
        return run.spec.imported().adapter
    return adapter_of_folder(run.adapter_folder, layer_roles, "--adapter")
