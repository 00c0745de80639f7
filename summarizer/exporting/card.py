"""The model card of an exported folder: a README.md that says what it holds, and what is not known.

Source: https://huggingface.co/docs/hub/model-cards (the YAML ahead of the text)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePath

from huggingface_hub import EvalResult, ModelCardData

from summarizer.config.paths import EMBEDDED_SCHEME, resolve_path
from summarizer.config.schema import DataConfig, RunConfig
from summarizer.data.prompt import Prompt
from summarizer.exporting.card_sections import ROUGE, hyper_parameters, scores
from summarizer.models.source import EMBEDDED_ROOT
from summarizer.runs.record import SUMMARY, RunRecord, read_summary

LIBRARIES = {"peft": "peft", "merged": "transformers", "ctranslate2": "ctranslate2"}
RELATIONS = {"peft": "adapter", "merged": "finetune", "ctranslate2": "quantized"}
"""What the exported model is to its base, as the hub calls it."""
WHAT = {
    "peft": "A low-rank adapter for plain `peft`, to be loaded onto its base.",
    "merged": "A whole model for plain `transformers`: the base with the adapter merged into its weights.",
    "ctranslate2": "A whole model for CTranslate2: the base with the adapter merged into its weights, converted.",
}


def is_hub_name(name_or_path: str) -> bool:
    """Whether `model.name_or_path` names a model of the hub rather than a folder."""
    if name_or_path.startswith((EMBEDDED_SCHEME, "/", ".", "~")) or "\\" in name_or_path:
        return False
    return name_or_path.count("/") <= 1 and not resolve_path(name_or_path, EMBEDDED_ROOT).is_dir()


def last_part(path: str) -> str:
    """The end of a path, or of `embedded:NAME`: all of it that means something on another machine."""
    return PurePath(path.removeprefix(EMBEDDED_SCHEME).replace("\\", "/")).name or path


def base_name(name_or_path: str) -> str:
    """A hub name as it is, of anything else the last part."""
    return name_or_path if is_hub_name(name_or_path) else last_part(name_or_path)


@dataclass(frozen=True)
class Card:
    """What the card of one exported folder is written from."""

    format: str
    dtype: str | None
    """The type of the weights; None for an adapter alone, whose own are fp32."""
    spec: RunConfig
    run_folder: Path
    prompt: Prompt
    end_token: str
    """The prompt's end token, as the vocabulary writes it."""
    code: str
    """The lines that load the folder and summarize an article."""
    export: Sequence[str]
    """What the export took and what that cost, a line each."""
    limits: Sequence[str]
    """The limits of this format, beside those of all."""

    def text(self) -> str:
        """The whole file. Raises ConfigError where the run's summary.json is broken."""
        spec = self.spec
        summary = read_summary(self.run_folder) if (self.run_folder / SUMMARY).is_file() else None
        base = base_name(spec.model.name_or_path)
        parts = [
            f"---\n{self._front_matter(summary, base)}\n---",
            f"# {_inline(base)}, adapted to summarize",
            WHAT[self.format],
            f"- **Base**: {_base(spec, base)}",
            f"- **Run**: {_status(summary)}",
            f"- **Weights here**: {self.dtype or 'fp32, of the adapter alone'}",
            "## Load it",
            "In this folder:",
            fenced(self.code, "python"),
            "The numbers are the prompt's tokens; the article is cut at its end to fit, as in training.",
            "## Prompt",
            fenced(_prompt_text(spec), "text"),
            *_prompt_lines(spec, self.prompt, self.end_token),
            "## Data",
            *_data_lines(spec.data, summary),
            "## Scores",
            *scores(summary),
            "## Hyper-parameters",
            hyper_parameters(spec, summary),
            *(["## Export", *(f"- {line}" for line in self.export)] if self.export else []),
            "## Limits",
            *(f"- {line}" for line in (*self.limits, *_limits(spec))),
        ]
        return _joined(parts)

    def _front_matter(self, summary: RunRecord | None, base: str) -> str:
        data = self.spec.data
        on_hub = data.source == "hub" and data.path is not None and is_hub_name(data.path)
        measured = on_hub and summary is not None and summary.rouge is not None and summary.split is not None
        return str(
            ModelCardData(
                base_model=base,
                base_model_relation=RELATIONS[self.format],
                library_name=LIBRARIES[self.format],
                pipeline_tag="summarization",
                tags=["summarization", "text-generation", "lora", "summarizer"],
                datasets=[data.path] if on_hub and data.path else None,
                metrics=["rouge"],
                model_name=f"{base}-summarizer" if measured else None,
                eval_results=_results(data, summary) if measured and summary is not None else None,
            ).to_yaml()
        ).strip()


def fenced(text: str, language: str) -> str:
    """A code block that nothing in the text can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _inline(text: str) -> str:
    """Text of a run folder, which may come from elsewhere, inside a line."""
    return re.sub(r"[`\s<>|\[\]]+", " ", text).strip()


def _joined(parts: Sequence[str]) -> str:
    """Paragraphs, the items of a list close together."""
    text = parts[0]
    for before, part in pairwise(parts):
        text += ("\n" if before.startswith("- ") and part.startswith("- ") else "\n\n") + part
    return text + "\n"


def _base(spec: RunConfig, base: str) -> str:
    name = spec.model.name_or_path
    revision = f", revision `{_inline(spec.model.revision)}`" if spec.model.revision else ""
    where = "" if is_hub_name(name) else " (a folder of the one who trained it, not a name on the hub)"
    if name.startswith(EMBEDDED_SCHEME):
        where = " (it comes inside the package summarizer)"
    return f"`{_inline(base)}`{revision}{where}, frozen in training as `{spec.quantization.format}`"


def _status(summary: RunRecord | None) -> str:
    if summary is None:
        return "not finished: it has no summary.json, so its scores, steps and losses are not known"
    took = f"{summary.steps:,} steps" if summary.steps is not None else "an unknown number of steps"
    best = f"; the adapter is that of step {summary.best_step:,}" if summary.best_step is not None else ""
    ended = f" by {summary.ended_by}" if summary.ended_by else ""
    return f"{summary.status}{ended} after {took}{best}"


def _prompt_text(spec: RunConfig) -> str:
    """What stands around an article, and around a summary where a chat template says it."""
    rendered = spec.prompt.rendered
    return spec.prompt.template or "" if rendered is None else rendered.prompt + rendered.answer


def _prompt_lines(spec: RunConfig, prompt: Prompt, end_token: str) -> list[str]:
    completion = spec.prompt.completion_token
    return [
        "- `{article}` is the article, stripped; `{completion}` is the completion token"
        if completion is not None
        else "- `{article}` is the article, stripped; spaces at the end of the text belong to the word after it",
        f"- completion token: {_token(completion) if completion is not None else 'none'}",
        f"- end token: {_token(end_token)} (id {prompt.end_id})",
        f"- ahead of the article: {list(prompt.before)}; behind it: {list(prompt.after)}",
        f"- prompt and summary together: at most {prompt.max_tokens:,} tokens",
    ]


def _token(token: str) -> str:
    return f"`{token.replace('`', '')}`"


def _data_lines(data: DataConfig, summary: RunRecord | None) -> list[str]:
    if data.source == "hub":
        name = f"`{_inline(str(data.path))}`" + (f", `{_inline(data.config)}`" if data.config else "")
    else:
        files = [data.train] if isinstance(data.train, str) else data.train
        name = ", ".join(f"`{_inline(last_part(file))}`" for file in files) + " (files)"
    limit = data.rows.train
    drawn = "the first" if data.rows_seed is None else f"a random draw (seed {data.rows_seed}) of"
    fingerprint = summary.data_fingerprint if summary else None
    shown = _token(fingerprint) if fingerprint else "not known"
    return [
        f"- trained on {name}",
        f"- training rows: {f'{drawn} {limit:,}' if limit else 'all'}",
        f"- fingerprint (SHA-256 of ids and texts, in order): {shown}",
    ]


def _results(data: DataConfig, summary: RunRecord) -> list[EvalResult]:
    assert summary.rouge is not None
    return [
        EvalResult(
            task_type="summarization",
            dataset_type=str(data.path),
            dataset_name=str(data.path),
            dataset_config=data.config,
            dataset_split=summary.split,
            metric_type="rouge",
            metric_name=ROUGE[variant],
            metric_value=round(summary.rouge[variant].value, 4),
        )
        for variant in ROUGE
    ]


def _limits(spec: RunConfig) -> list[str]:
    return [
        "Summaries can state what an article does not say: check them before use.",
        f"Text beyond {spec.prompt.max_tokens:,} tokens of prompt and summary was never seen, and is cut.",
        "It was trained on the data above alone; other kinds of text and other languages were not tried.",
        "What the base learned in pre-training, with its errors and biases, is all still in it.",
    ]
