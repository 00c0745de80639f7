"""From a run's folder to one that other programs load, whole or not at all."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from summarizer import atomic
from summarizer.config.paths import EMBEDDED_SCHEME, shown
from summarizer.console.progress import bar
from summarizer.data.prompt import Prompt, build_prompt
from summarizer.errors import ConfigError
from summarizer.exporting.card import Card, base_name
from summarizer.exporting.card_sections import ctranslate2_code, merged_code, peft_code
from summarizer.exporting.converted import convert, log_probs_of_converted, require_convertible
from summarizer.exporting.folders import MergedModel, write_adapter
from summarizer.exporting.measure import Reference, choose
from summarizer.exporting.merge import Merge
from summarizer.exporting.request import CTRANSLATE2_DTYPES, ExportRequest, output_issues, require_room
from summarizer.models.load import load_config
from summarizer.models.source import model_folder
from summarizer.models.stored_base import is_stored_base
from summarizer.models.tokenizer import load_tokenizer
from summarizer.runs.loaded_run import LoadedRun, load_runs
from summarizer.runs.trained_run import TrainedRun

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CARD = "README.md"
WITH_BASE = "base"
"""Where a dense copy of the base lies below an exported adapter."""

SHARE_OF_FP32 = {
    "int8": 0.25,
    "int8_float16": 0.25,
    "int8_bfloat16": 0.25,
    "int8_float32": 0.25,
    "bf16": 0.5,
    "fp16": 0.5,
    "fp32": 1.0,
}
"""What a converted model takes on disk."""
MOST_CONVERSION_KL = 1.0
"""Nats per summary token. int8 cost 0.002 of the embedded model and 0.37 of SmolLM2-135M (rounding merged
weights anew with one step a row costs it 0.355 by itself); a converter that misreads a model would cost several."""


def export(request: ExportRequest) -> Iterator[str]:
    """Do what was asked for, and say what came of it, a line at a time.

    Raises ConfigError for a user's mistake and OSError for a full disk; the output folder is then not there.
    """
    start_s = time.monotonic()
    flow = {"peft": _peft, "merged": _merged, "ctranslate2": _ctranslate2}[request.format]
    lines = flow(request)
    size = sum(file.stat().st_size for file in request.output.rglob("*") if file.is_file())
    yield from lines
    yield (
        f"exported: {shown(request.output)} ({request.format}, {size / 1e6:.1f} MB) "
        f"in {time.monotonic() - start_s:.1f} s"
    )
    yield f"how to load it, and what it is: {shown(request.output / CARD)}"


def _peft(request: ExportRequest) -> list[str]:
    run, spec = request.run, request.run.spec
    folder = model_folder(spec.model, weights=False)
    tokenizer = load_tokenizer(folder)
    prompt = build_prompt(spec.prompt, tokenizer)
    end_as_prompted(tokenizer, prompt)
    name = base_name(spec.model.name_or_path)
    if spec.model.name_or_path.startswith(EMBEDDED_SCHEME):  # nowhere else, and small
        request = replace(request, with_base=True)
    limits = _peft_limits(run, folder, with_base=request.with_base)
    with _new(request.output) as scratch:
        write_adapter(
            run.adapter_folder,
            scratch,
            base_folder=folder,
            base_name=f"./{WITH_BASE}" if request.with_base else name,
            tokenizer=tokenizer,
            prompt=prompt,
            generation=spec.generation,
        )
        if request.with_base:
            loaded = load_runs([run], device=request.device, precision="fp32")
            end_as_prompted(loaded.tokenizer, loaded.prompt)
            base = _model(loaded, Merge(loaded.adapted, None))
            require_room(request.output, base.nbytes(request.dtype))
            (scratch / WITH_BASE).mkdir()
            base.write(scratch / WITH_BASE, request.dtype)
        code = peft_code(prompt, spec.generation, f"./{WITH_BASE}" if request.with_base else name)
        _write_card(scratch, request, Words(tokenizer, prompt), code, [], limits)
    return limits


def _merged(request: ExportRequest) -> list[str]:
    loaded = load_runs([request.run], device=request.device, precision="fp32")
    end_as_prompted(loaded.tokenizer, loaded.prompt)
    model = _model(loaded, Merge(loaded.adapted, 0))
    require_room(request.output, model.nbytes(request.dtype))
    choice = choose(loaded, request.weights, request.dtype)
    with _new(request.output) as scratch:
        _model(loaded, choice.merge).write(scratch, request.dtype)
        code = merged_code(loaded.prompt, request.run.spec.generation)
        words = Words(loaded.tokenizer, loaded.prompt)
        _write_card(scratch, request, words, code, choice.lines(), [])
    return choice.lines()


def _ctranslate2(request: ExportRequest) -> list[str]:
    spec = request.run.spec
    require_convertible(load_config(model_folder(spec.model, weights=False)))
    parent = request.output.parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=atomic.SCRATCH_PREFIX, dir=parent) as merged:
        source = _merged_to_convert(request, Path(merged))
        gc.collect()  # of the base: the converter needs the memory
        with _new(request.output) as scratch:
            converted = scratch / "converted"
            convert(Path(merged), converted, request.dtype, source.words.end_token)
            lines = [*source.lines, _cost_of_conversion(source.reference, converted, request)]
            for file in converted.iterdir():
                file.rename(scratch / file.name)
            converted.rmdir()
            code = ctranslate2_code(source.words.prompt, spec.generation)
            _write_card(scratch, request, source.words, code, lines, [])
    return lines


@dataclass(frozen=True)
class Words:
    """A run's tokenizer and prompt."""

    tokenizer: PreTrainedTokenizerFast
    prompt: Prompt

    @property
    def end_token(self) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(self.prompt.end_id))


@dataclass(frozen=True)
class _ToConvert:
    """What is left of a merged model once it is on disk and out of memory."""

    words: Words
    reference: Reference
    lines: list[str]


def _merged_to_convert(request: ExportRequest, folder: Path) -> _ToConvert:
    loaded = load_runs([request.run], device=request.device, precision="fp32")
    end_as_prompted(loaded.tokenizer, loaded.prompt)
    dtype = CTRANSLATE2_DTYPES[request.dtype]
    model = _model(loaded, Merge(loaded.adapted, 0))
    require_room(
        request.output, model.nbytes(dtype) + int(model.nbytes("fp32") * SHARE_OF_FP32[request.dtype])
    )
    choice = choose(loaded, request.weights, dtype)
    _model(loaded, choice.merge).write(folder, dtype)
    return _ToConvert(Words(loaded.tokenizer, loaded.prompt), choice.reference, choice.lines())


def _cost_of_conversion(reference: Reference, folder: Path, request: ExportRequest) -> str:
    """Raises ConfigError where the converted model answers something else altogether."""
    with bar("measuring the converted model", len(reference.examples)) as progress:
        answer = log_probs_of_converted(folder)
        cost = reference.divergence(answer, progress)
    if not cost.kl < MOST_CONVERSION_KL:
        raise ConfigError.single(
            "--format",
            f"the model that ctranslate2 made answers something else: {cost.kl:.2g} nats of KL per summary token "
            f"from the unmerged one, at most {MOST_CONVERSION_KL:g} is accepted; nothing was kept. Its converter "
            f"misreads this model, or {request.dtype} is too coarse for it, which --dtype fp32 would show",
        )
    advice = (
        "; in int8 it rounds merged weights and activations, in bf16 and fp32 neither"
        if request.dtype.startswith("int8")
        else ""
    )
    return (
        f"as CTranslate2 computes it, in {request.dtype} on a CPU: KL {cost.kl:.2g} nats per summary token, "
        f"summary loss {cost.loss:.4f}{advice}"
    )


def _model(loaded: LoadedRun, merge: Merge) -> MergedModel:
    spec = loaded.spec
    config = load_config(model_folder(spec.model, weights=False))
    return MergedModel(merge, config, loaded.tokenizer, loaded.prompt, spec.generation)


@contextmanager
def _new(folder: Path) -> Iterator[Path]:
    """A new folder by `atomic.new_folder`, which would replace what someone put there in the meantime."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic.new_folder(folder) as scratch:
        yield scratch
        if issues := list(output_issues(folder)):
            raise ConfigError(issues)


def _write_card(
    folder: Path,
    request: ExportRequest,
    words: Words,
    code: str,
    lines: Sequence[str],
    limits: Sequence[str],
) -> None:
    alone = request.format == "peft" and not request.with_base
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
    )
    (folder / CARD).write_text(card.text(), encoding="utf-8")


TIED = (
    "The base's head and embedding are one tensor, and this adapter gives each its own. `merge_and_unload()` of "
    "peft adds both to that one tensor, which makes another model without a word. --format merged unties them "
    "first; with peft: `head = model.get_output_embeddings()`, "
    "`head.weight = torch.nn.Parameter(head.weight.detach().clone())` and "
    "`model.config.tie_word_embeddings = False` before `PeftModel.from_pretrained`. Unmerged it answers right."
)


def _peft_limits(run: TrainedRun, base: Path, *, with_base: bool) -> list[str]:
    """What whoever loads the adapter onto its base must know."""
    tied = getattr(load_config(base).get_text_config(), "tie_word_embeddings", False)
    adapted = {"head", "embedding"} & set(run.spec.adapter.targets)
    return [*_base_limits(run, base, with_base=with_base), *([TIED] if tied and adapted else [])]


def _base_limits(run: TrainedRun, base: Path, *, with_base: bool) -> list[str]:
    spec = run.spec
    name, own_format = base_name(spec.model.name_or_path), spec.quantization.format
    if with_base:
        return [f"`{WITH_BASE}/` is the base as the adapter was trained on it ({own_format}), dequantized."]
    if is_stored_base(base):
        return [
            f"The base, {name}, is kept in this project's own quantized form, which transformers does not read: "
            "plain peft needs a dense copy of it (export again with --with-base and another --output), or "
            "--format merged, which needs no base."
        ]
    if own_format != "none":
        return [
            f"The adapter was trained beside weights in {own_format}; on the checkpoint's own its answers differ a "
            "little. --format merged measures by how much, and --with-base puts the trained ones beside it."
        ]
    return []


def end_as_prompted(tokenizer: PreTrainedTokenizerFast, prompt: Prompt) -> None:
    """Let the tokenizer call the run's end token its own, so that whoever decodes with it drops it.

    The prompt of a chat is what its chat template makes, whatever the day and whoever asks.
    """
    if tokenizer.eos_token_id != prompt.end_id:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(prompt.end_id)
    if prompt.chat is not None and prompt.chat.template is not None:
        tokenizer.chat_template = prompt.chat.template
