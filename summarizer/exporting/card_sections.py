"""Sections of a model card: scores beside the base model's, hyper-parameters; and code blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from summarizer.config.schema import RunConfig
from summarizer.evaluation.pipeline import LEAD
from summarizer.evaluation.record import ROUGE_SCORE, Interval
from summarizer.reports.sentences import about_tokenizer
from summarizer.reports.tables import Cell, Column, Table, markdown_table, scored
from summarizer.runs.record import RunRecord

ROUGE = {
    "rouge1": "ROUGE-1 F1",
    "rouge2": "ROUGE-2 F1",
    "rougeL": "ROUGE-L F1 (whole texts, rougeL)",
    "rougeLsum": "ROUGE-L F1 (sentence by sentence, rougeLsum)",
}
LOSS = "cross-entropy (nats per token) of the reference summaries"
NONE = "not known"


def fenced(text: str, language: str) -> str:
    """A code block that nothing in the text can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def scores(summary: RunRecord | None) -> list[str]:
    """The section of the final scores, in paragraphs: the table, and what its numbers are."""
    if summary is None or summary.rouge is None:
        return ["Not known: the run did not come as far as its final scores."]
    systems: dict[str, tuple[dict[str, Interval] | None, str]] = {
        "this adapter": (summary.rouge, _number(summary.val_loss, 4)),
        "the base model": (
            summary.base.rouge if summary.base else None,
            _number(summary.base.val_loss if summary.base else None, 4),
        ),
        LEAD: (summary.baseline, "-"),
    }
    names = Column("", [*map(Cell, ROUGE.values()), Cell(LOSS)], numeric=False)
    columns = [
        Column(system, [*(_score(rouge, variant) for variant in ROUGE), Cell(loss)])
        for system, (rouge, loss) in systems.items()
    ]
    tokenizer = about_tokenizer(summary.rouge_tokenizer or ROUGE_SCORE)
    count = f"{summary.rows:,} rows" if summary.rows is not None else "an unknown number of rows"
    return [
        markdown_table(Table([names, *columns])).rstrip("\n"),
        f"Split: `{summary.split or NONE}`, {count}, the same for all three columns. ROUGE in percent, mean over "
        f"rows and 95 % bootstrap interval, by the rouge-score package and the tokenizer {tokenizer}, texts split "
        "into sentences. What papers call ROUGE-L of summaries is mostly rougeLsum. Lead-3 is the article's first "
        "three sentences.",
        "Scored in training's precision with the adapter unmerged.",
    ]


def hyper_parameters(spec: RunConfig, summary: RunRecord | None) -> str:
    """The table of what the run was trained with."""
    trainer, schedule = spec.trainer, spec.trainer.schedule
    adapter = spec.adapter.model_dump(exclude={"start_from"})
    if adapter.get("alpha", 0) is None:  # which stands for dim
        adapter["alpha"] = adapter["dim"]
    known = {
        **dict(_of_class("adapter", type(spec.adapter).__name__, adapter)),
        "trainable parameters": _count(summary.trainable_parameters if summary else None),
        **dict(_of_class("optimizer", spec.optimizer.target.rpartition(".")[2], spec.optimizer.arguments)),
        "schedule": f"{schedule.name}, {schedule.warmup_steps:,} steps of warm-up",
        "batch size": f"{trainer.batch_size}",
        "epochs": _number(summary.epochs if summary else None, 2),
        "steps": _count(summary.steps if summary else None),
        "tokens": _count(summary.tokens if summary else None),
        "gradient clipping": "none" if trainer.max_grad_norm is None else f"{trainer.max_grad_norm:g}",
        "precision": trainer.precision,
        "base in training": spec.quantization.name,
        "adapter kept by": trainer.best_metric,
        "seed": f"{spec.seed}",
    }
    known |= {f"generation: {name}": f"{value}" for name, value in spec.generation.model_dump().items()}
    if summary is not None:
        known |= {f"version: {name}": version or "none" for name, version in summary.versions.items()}
    return markdown_table(
        Table(
            [
                Column("", [Cell(name) for name in known], numeric=False),
                Column("", [Cell(value) for value in known.values()], numeric=False),
            ]
        )
    ).rstrip("\n")


def _of_class(group: str, name: str, arguments: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield group, name
    for key, value in arguments.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else f"{value}"
        yield f"{group}: {key}", "none" if value is None else shown or "none"


def _score(rouge: dict[str, Interval] | None, variant: str) -> Cell:
    return Cell(NONE) if rouge is None else scored(rouge[variant])


def _number(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def _count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"
