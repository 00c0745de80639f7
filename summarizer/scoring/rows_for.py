"""The rows of an evaluation: one set for all its runs, checked against the base that is to read them."""

from __future__ import annotations

from dataclasses import replace

from summarizer.config.schema import RunConfig
from summarizer.errors import ConfigError, Issue
from summarizer.evaluation import mlperf
from summarizer.evaluation.rows import ScoredRows, data_of, mlperf_rows, own_rows
from summarizer.scoring.asked import EvaluationRequest
from summarizer.summaries.settings import require_room


def rows_for(ask: EvaluationRequest) -> ScoredRows:
    """The rows to score on. Nothing but the base's tokenizer and config is read of it.

    Raises ConfigError where they cannot be had, where runs have different ones, and where the generation settings
    leave no room for an article.
    """
    from summarizer.data.prompt import build_prompt
    from summarizer.models.load import load_config
    from summarizer.models.source import model_folder
    from summarizer.models.tokenizer import load_tokenizer

    spec = ask.runs[0].spec
    folder = model_folder(spec.model)
    if ask.protocol == "mlperf":
        needed = mlperf.MAX_PROMPT_TOKENS + ask.generation.max_new_tokens
        positions = getattr(load_config(folder).get_text_config(), "max_position_embeddings", None)
        if positions is not None and positions < needed:
            raise ConfigError.single(
                "--protocol",
                f"mlperf takes {needed:,} tokens; {spec.model.name_or_path} has {positions:,} positions",
            )
        rows = mlperf_rows(ask.choice)
        return replace(rows, notes=rows.notes + _mlperf_notes(spec))
    prompt = build_prompt(spec.prompt, load_tokenizer(folder))
    require_room(prompt, ask.generation)
    _require_same_rows(ask)
    return own_rows(spec.data, ask.split, ask.label, ask.choice, prompt)


def _require_same_rows(ask: EvaluationRequest) -> None:
    """Runs are compared on the same rows, so that what each calls its split has to be the same."""
    first, *others = (data_of(run.spec.data, ask.split, ask.choice) for run in ask.runs)
    issues = []
    for run, data in zip(ask.runs[1:], others, strict=True):
        differ = [
            key
            for key in (
                "source",
                "path",
                "config",
                "revision",
                ask.split,
                "columns",
                "rows_seed",
                "max_bad_rows",
            )
            if getattr(data, key) != getattr(first, key)
        ]
        if getattr(data.rows, ask.split) != getattr(first.rows, ask.split):
            differ.append(f"rows.{ask.split}")
        if differ:
            keys = ", ".join(f"data.{key}" for key in differ)
            issues.append(
                Issue(
                    "--split",
                    f"{run.name} and {ask.runs[0].name} have other {ask.split} rows ({keys} differ); name rows for "
                    "both by --data, or as many by --rows",
                )
            )
    if issues:
        raise ConfigError(issues)


def _mlperf_notes(spec: RunConfig) -> tuple[str, ...]:
    notes = [
        "the adapter was trained with the run's own prompt; the protocol reads articles with another one"
    ]
    if spec.model.name_or_path.lower() != mlperf.MODEL.lower():
        notes.append(
            f"the task's reference figures are of a fine-tuned {mlperf.MODEL}; this base is "
            f"{spec.model.name_or_path}"
        )
    return tuple(notes)
