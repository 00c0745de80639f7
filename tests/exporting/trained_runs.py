"""Run folders as training leaves them, over tiny random bases with the embedded model's tokenizer."""

from __future__ import annotations

import re
from contextlib import chdir
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from composing import composed
from model_folders import CONFIGS, LLAMA_LIKE
from omegaconf import DictConfig, OmegaConf
from tiny_bases import adapted, fill_randomly, load, lora
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from summarizer.adapters.peft_format import save_adapter
from summarizer.config.paths import resolve_path
from summarizer.evaluation.record import VARIANTS, Interval
from summarizer.exporting.export import export
from summarizer.exporting.measure import Example
from summarizer.exporting.request import ExportFlags, requested
from summarizer.generation.summarizer import Summarizer
from summarizer.models.causal_lm import CausalLM
from summarizer.runs.loaded_run import LoadedRun, load_runs
from summarizer.runs.record import BaseScores, RunRecord, write_summary
from summarizer.runs.trained_run import read_trained_run

__all__ = [
    "ARTICLE",
    "EMBEDDED",
    "example",
    "exported",
    "fill_randomly",
    "finished",
    "load",
    "logits",
    "lora",
    "opened",
    "save_run",
    "summary_of",
    "written_by_the_card",
]

EMBEDDED = resolve_path("embedded:tiny_gptj", "models/embedded")
MORE: dict[str, tuple[str, dict[str, Any]]] = {"olmo2": ("Olmo2Config", LLAMA_LIKE)}
"""That CTranslate2 does not know."""
ARTICLE = "The bridge over the river was closed on Monday. Engineers found cracks in two of its pillars."


def save_base(kind: str, folder: Path, seed: int = 0) -> Path:
    name, options = (CONFIGS | MORE)[kind]
    positions = "n_positions" if "n_positions" in options else "max_position_embeddings"
    config = getattr(transformers, name)(**(options | {"vocab_size": 8192, positions: 256}))
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(EMBEDDED).save_pretrained(folder)
    return folder


def save_run(kind: str, folder: Path, *overrides: str, summary: bool = True, **adapter: Any) -> Path:
    """`folder/run`, trained (in name only) over `folder/base`, unquantized unless the overrides say otherwise."""
    base = save_base(kind, folder / "base")
    run = folder / "run"
    everything = ["linear", "head"] if kind == "gemma3" else ["linear", "head", "embedding"]
    targets = adapter.get("targets", everything)  # Gemma's embedding computes more than a lookup
    own = (
        f"model.name_or_path={base}",
        "quantization.format=none",
        "quantization.cache=false",
        "prompt.max_tokens=160",
        "data.rows.validation=3",
        "adapter.dim=3",
        "adapter.alpha=6.0",
        f"adapter.targets=[{','.join(targets)}]",
        "generation.max_new_tokens=8",
        *overrides,
    )
    config = _composed().copy()
    OmegaConf.set_struct(config, False)  # a key that the composed prompt has not
    config.merge_with_dotlist(list(own))
    (run / ".hydra").mkdir(parents=True)
    OmegaConf.save(config, run / ".hydra" / "config.yaml")
    OmegaConf.save(OmegaConf.create(list(own)), run / ".hydra" / "overrides.yaml")
    model = adapted(base, [lora(3, alpha=6.0, targets=targets)])
    fill_randomly(model, 0)
    save_adapter(model, 0, run / "adapter", str(base))
    if summary:
        write_summary(run, finished(str(base)))
    return run


@lru_cache
def _composed() -> DictConfig:
    return composed("model=hf", "model.name_or_path=somewhere", "prompt=tldr", "data=sample", "tracking=none")


def finished(model: str) -> RunRecord:
    def scores(first: float) -> dict[str, Interval]:
        return {v: Interval(first + i, first - 1, first + 9) for i, v in enumerate(VARIANTS)}

    return RunRecord(
        status="completed",
        ended_by="epochs",
        overrides=[],
        seed=0,
        steps=12,
        best_step=8,
        epochs=1.0,
        tokens=9145,
        trainable_parameters=1234,
        val_loss=2.5,
        rouge=scores(30.0),
        baseline=scores(35.0),
        base=BaseScores(val_loss=2.9, rouge=scores(20.0)),
        split="validation",
        rows=50,
        model=model,
        quantization="int8",
        versions={"torch": "2.13.0"},
        data_fingerprint="f00d",
    )


def opened(run: Path) -> LoadedRun:
    return load_runs([read_trained_run(run)], device="cpu", precision="fp32")


def exported(run: Path, format_name: str, **more: Any) -> tuple[Path, list[str]]:
    """`run/export/FORMAT`, and the lines that a person sees."""
    arguments: dict[str, Any] = {"dtype": None, "output": None, "weights": None, "model": None}
    arguments |= {"device": "cpu", "with_base": False} | more
    flags = ExportFlags(run=run, format=format_name, **arguments)
    lines = list(export(requested(flags)))
    return Path(arguments["output"] or run / "export" / format_name), lines


def summary_of(run: Path) -> str:
    """What this project writes of ARTICLE."""
    own = opened(run)
    summarizer = Summarizer(own, own.spec.generation, batch_size=1)
    ((_, (text,)),) = summarizer.summaries([summarizer.prepare(ARTICLE)])
    assert text
    return text


LLAMA_SERVER = "http://127.0.0.1:8080"


def written_by_the_card(
    folder: Path, capsys: pytest.CaptureFixture[str], llama_server: str = LLAMA_SERVER
) -> str:
    """What the card's own code prints for ARTICLE, run in the folder; a few lines beside its imports."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line and not re.match("import|from", line)]) <= 8
    assert '"The text of an article."' in code
    code = code.replace('"The text of an article."', repr(ARTICLE)).replace(LLAMA_SERVER, llama_server)
    capsys.readouterr()
    with chdir(folder):
        exec(compile(code, "card", "exec"), {})
    return capsys.readouterr().out.strip()


def ids(rows: int = 2, length: int = 11) -> torch.Tensor:
    return torch.randint(1, 8192, (rows, length), generator=torch.Generator().manual_seed(3))


def logits(model: PreTrainedModel | CausalLM, of: torch.Tensor | None = None) -> torch.Tensor:
    given = ids() if of is None else of
    with torch.no_grad():
        answer = model.logits(given) if isinstance(model, CausalLM) else model(input_ids=given).logits
    return answer.float()


def example() -> Example:
    return Example(tuple(ids(1, 20)[0].tolist()), 12)
