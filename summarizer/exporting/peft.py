"""`--format peft`: a run's adapter in PEFT's own form, with tokenizer and generation settings beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from summarizer.config.paths import EMBEDDED_SCHEME
from summarizer.exporting.card_code import peft_code
from summarizer.exporting.folders import SavedAdapter, generation_config
from summarizer.exporting.merge import Merge
from summarizer.exporting.request import ExportRequest, require_room
from summarizer.exporting.steps import (
    WITH_BASE,
    Words,
    base_limits,
    merged_model,
    new_folder,
    opened,
    write_card,
)
from summarizer.exporting.vllm import require_taken, serving
from summarizer.models.load import load_config
from summarizer.models.source import model_folder
from summarizer.models.tokenizer import load_tokenizer

TIED = (
    "The base's head and embedding are one tensor, and this adapter gives each its own. `merge_and_unload()` of "
    "peft adds both to that one tensor, which makes another model without a word. --format merged unties them "
    "first; with peft: `head = model.get_output_embeddings()`, "
    "`head.weight = torch.nn.Parameter(head.weight.detach().clone())` and "
    "`model.config.tie_word_embeddings = False` before `PeftModel.from_pretrained`. Unmerged it answers right."
)


def write(request: ExportRequest) -> list[str]:
    """Write the adapter, and the base as it was trained on if that is asked for."""
    run, spec = request.run, request.run.spec
    folder = model_folder(spec.model, weights=False)
    words = Words.of(spec, load_tokenizer(folder))
    if spec.model.name_or_path.startswith(EMBEDDED_SCHEME):  # nowhere else, and small
        request = replace(request, with_base=True)
    base = f"./{WITH_BASE}" if request.with_base else request.base
    adapter = SavedAdapter.read(run.adapter_folder, folder)
    if request.target == "vllm":
        require_taken(request, adapter, load_config(folder), folder)
    limits = _limits(request, folder)
    with new_folder(request.output) as scratch:
        adapter.write(scratch, base)
        words.tokenizer.save_pretrained(scratch)
        generation_config(spec.generation, words.prompt, words.tokenizer).save_pretrained(scratch)
        if request.with_base:
            _write_base(request, scratch / WITH_BASE)
        code = peft_code(words, spec.generation, base)
        if request.target == "vllm":
            code += f"\n\n{serving(request, words, base)}"
        write_card(scratch, request, words, code, [], limits)
    return limits


def _write_base(request: ExportRequest, folder: Path) -> None:
    loaded = opened(request)
    model = merged_model(loaded, Merge(loaded.adapted, None))
    require_room(request.output, model.nbytes(request.dtype))
    folder.mkdir()
    model.write(folder, request.dtype)


def _limits(request: ExportRequest, base: Path) -> list[str]:
    """What whoever loads the adapter onto its base must know."""
    tied = getattr(load_config(base).get_text_config(), "tie_word_embeddings", False)
    adapted = {"head", "embedding"} & set(request.run.spec.adapter.targets)
    return [*base_limits(request, base), *([TIED] if tied and adapted else [])]
