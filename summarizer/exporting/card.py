"""The model card of an exported folder: a README.md that says what it holds, and what is not known.

Source: https://huggingface.co/docs/hub/model-cards (the YAML ahead of the text)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from summarizer.config.paths import EMBEDDED_SCHEME
from summarizer.config.schema import DataConfig, RunConfig
from summarizer.data.prompt import Prompt
from summarizer.exporting.base_model import CardFacts, base_name, is_hub_name, last_part
from summarizer.exporting.card_sections import ROUGE, fenced, hyper_parameters, scores
from summarizer.exporting.formats import FORMATS
from summarizer.runs.record import SUMMARY, RunRecord, read_summary


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
    """How the folder is loaded and an article summarized, in Markdown."""
    export: Sequence[str]
    """What the export took and what that cost, a line each."""
    limits: Sequence[str]
    """The limits of this format, beside those of all."""
    facts: CardFacts = field(default_factory=CardFacts)

    def text(self) -> str:
        """The whole file. Raises ConfigError where the run's summary.json is broken."""
        spec = self.spec
        summary = read_summary(self.run_folder) if (self.run_folder / SUMMARY).is_file() else None
        base = self.facts.base or base_name(spec.model.name_or_path)
        parts = [
            f"---\n{self._front_matter(summary, base)}\n---",
            f"# {_inline(base)}, adapted to summarize",
            FORMATS[self.format].what,
            f"- **Base**: {_base(spec, base, self.facts)}",
            f"- **Run**: {_status(summary)}",
            f"- **Weights here**: {self.dtype or 'fp32, of the adapter alone'}",
            "## Load it",
            "In this folder:",
            self.code,
            "The article is cut at its end to fit, as in training.",
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
        on_hub = _on_hub(data)
        measured = summary is not None and summary.rouge is not None and summary.split is not None
        return str(
            ModelCardData(
                license=self.facts.license,
                language=list(self.facts.language) or None,
                base_model=base,
                base_model_relation=FORMATS[self.format].relation,
                library_name=FORMATS[self.format].library,
                pipeline_tag="summarization",
                tags=["summarization", "text-generation", "lora", "summarizer"],
                datasets=[data.path] if on_hub and data.path else None,
                metrics=["rouge"],
                model_name=f"{last_part(base)}-summarizer" if measured else None,
                eval_results=_results(data, summary) if measured and summary is not None else None,
            ).to_yaml()
        ).strip()


def _inline(text: str) -> str:
    """Text of a run folder, which may come from elsewhere, inside a line."""
    return re.sub(r"[`\s<>|\[\]]+", " ", text).strip()


def _joined(parts: Sequence[str]) -> str:
    """Paragraphs, the items of a list close together."""
    text = parts[0]
    for before, part in pairwise(parts):
        text += ("\n" if before.startswith("- ") and part.startswith("- ") else "\n\n") + part
    return text + "\n"


def _base(spec: RunConfig, base: str, facts: CardFacts) -> str:
    name = spec.model.name_or_path
    revision = f", revision `{_inline(spec.model.revision)}`" if spec.model.revision else ""
    known = is_hub_name(name) or facts.base is not None
    where = "" if known else " (a folder of the one who trained it, not a name on the hub)"
    if name.startswith(EMBEDDED_SCHEME):
        where = " (it comes inside the package summarizer)"
    return f"`{_inline(base)}`{revision}{where}, frozen in training as `{spec.quantization.name}`"


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
    explained = (
        "`{article}` is the article, stripped; spaces at the end of the text belong to the word after it"
    )
    if completion is not None:
        explained = "`{article}` is the article, stripped; `{completion}` is the completion token"
    if prompt.chat is not None:
        explained = (
            "the base model's chat template; `{article}` is the article, stripped, `{summary}` the summary"
        )
    return [
        f"- {explained}",
        f"- completion token: {_token(completion) if completion is not None else 'none'}",
        f"- end token: {_token(end_token)} (id {prompt.end_id})",
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


def _on_hub(data: DataConfig) -> bool:
    return data.source == "hub" and data.path is not None and is_hub_name(data.path)


def _files(data: DataConfig) -> str:
    """The names of the files that were trained on, as far as they mean something elsewhere."""
    files = [data.train] if isinstance(data.train, str) else data.train
    return ", ".join(last_part(str(file)) for file in files)


def _results(data: DataConfig, summary: RunRecord) -> list[EvalResult]:
    assert summary.rouge is not None
    on_hub = _on_hub(data)
    return [
        EvalResult(
            task_type="summarization",
            dataset_type=str(data.path) if on_hub else "files",
            dataset_name=str(data.path) if on_hub else _files(data),
            dataset_config=data.config if on_hub else None,
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
