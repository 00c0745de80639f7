"""What an evaluation found out, at the terminal and as Markdown."""

from __future__ import annotations

from rich.console import Console

from summarizer.evaluation import mlperf
from summarizer.evaluation.pipeline import BEST_BY
from summarizer.evaluation.record import (
    FAITHFULNESS,
    LOSS,
    MEANING,
    VARIANTS,
    Evaluation,
    MlperfFigure,
    MlperfVerdict,
)
from summarizer.reports.sentences import about_the_differences, about_tokenizer, in_words
from summarizer.reports.tables import (
    NOTHING,
    Cell,
    Column,
    Table,
    escaped,
    loss_cell,
    markdown_table,
    print_line,
    print_table,
    scored,
)

REFERENCES = "references"


def tables(evaluation: Evaluation) -> list[Table]:
    """All tables of an evaluation. All systems in one are scored on the same rows by the same variants."""
    return [_scores(evaluation), *_faithfulness(evaluation), *_mlperf(evaluation), _statistics(evaluation)]


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print the tables, each above its notes, and what the differences show."""
    for table in tables(evaluation):
        print_table(console, table)
        console.print()
    for line in (*_comparisons(evaluation), *(f"Note: {note}." for note in evaluation.notes)):
        print_line(console, line)


def markdown(evaluation: Evaluation) -> str:
    """The text of scores.md, which has all of it, with intervals beside their values."""
    lines = ["# Scores", ""]
    for table in tables(evaluation):
        lines += [f"## {escaped(table.title)}", "", markdown_table(table)]
        lines += [*(f"- {escaped(note)}" for note in table.notes), ""]
    if evaluation.differences:
        lines += ["## Differences", "", *(f"- {escaped(line)}" for line in _comparisons(evaluation)), ""]
    if evaluation.notes:
        lines += ["## To know", "", *(f"- {escaped(note)}." for note in evaluation.notes), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _scores(evaluation: Evaluation) -> Table:
    systems = evaluation.systems
    columns = [Column("system", [Cell(system.name) for system in systems], numeric=False, folds=True)]
    has_loss = any(system.loss is not None for system in systems)
    if has_loss:
        losses = [loss_cell(system.loss, NOTHING) for system in systems]
        columns.append(Column(LOSS, losses))
    columns += [
        Column(variant, [scored(system.rouge[variant]) for system in systems]) for variant in VARIANTS
    ]
    if any(system.bertscore for system in systems):
        f1 = [scored(system.bertscore["f1"]) if system.bertscore else Cell(NOTHING) for system in systems]
        columns.append(Column("BERTScore", f1))
    notes = [f"{variant} is {MEANING[variant]}" for variant in VARIANTS]
    notes.append(
        f"ROUGE is F1 in percent by the tokenizer {about_tokenizer(evaluation.rouge_tokenizer)}; intervals are "
        f"95 %, by {evaluation.bootstrap_samples:,} bootstrap samples of the rows"
    )
    if has_loss:
        notes.append("loss: cross-entropy (nats per token) of the reference summaries")
    if evaluation.bertscore_by:
        notes.append(f"BERTScore: F1 by {evaluation.bertscore_by}, raw, without idf and baseline rescaling")
    return Table(columns, f"{evaluation.rows}", notes=notes)


def _faithfulness(evaluation: Evaluation) -> list[Table]:
    systems = evaluation.systems
    known = [name for name in FAITHFULNESS if any(name in system.faithfulness for system in systems)]
    if not known:
        return []
    columns = [Column("system", [Cell(system.name) for system in systems], numeric=False, folds=True)]
    for name in known:
        found = [system.faithfulness.get(name) for system in systems]
        columns.append(Column(name, [scored(one) if one else Cell(NOTHING) for one in found]))
    notes = [f"{name}: {', '.join(filter(None, FAITHFULNESS[name]))}" for name in known]
    if evaluation.entailment_by:
        notes.append(f"entailment is by {evaluation.entailment_by}")
    return [Table(columns, "What the articles say of the summaries", notes=notes)]


def _statistics(evaluation: Evaluation) -> Table:
    of_systems = {system.name: system.statistics for system in evaluation.systems}
    of_systems[REFERENCES] = evaluation.references
    names = list(evaluation.references)
    columns = [Column("mean", [Cell(name.replace("_", " ")) for name in names], numeric=False)]
    for system, statistics in of_systems.items():
        means = [statistics[name].mean for name in names]
        columns.append(
            Column(system, [Cell(NOTHING if mean is None else f"{mean.value:.2f}") for mean in means])
        )
    return Table(
        columns,
        "What the summaries are like",
        notes=[
            "coverage, novel n-grams and repeated trigrams are shares from 0 to 1; density is in words; "
            "compression is article words per summary word",
            "their intervals are in scores.json",
        ],
    )


def _mlperf(evaluation: Evaluation) -> list[Table]:
    judged = [(system.name, system.mlperf) for system in evaluation.systems if system.mlperf is not None]
    task = mlperf.TASKS.get(evaluation.protocol)
    if task is None or not judged:
        return []
    figures = [(name, verdict, figure) for name, verdict in judged for figure in verdict.figures]
    decimals = [0 if figure.name == mlperf.LENGTH else mlperf.DECIMALS for _, _, figure in figures]
    columns = [
        Column("system", [Cell(name) for name, _, _ in figures], numeric=False, folds=True),
        Column("figure", [Cell(figure.name) for _, _, figure in figures]),
    ]
    for heading in ("value", "reference"):
        values = [getattr(figure, heading) for _, _, figure in figures]
        texts = [f"{value:,.{n}f}" for value, n in zip(values, decimals, strict=True)]
        columns.append(Column(heading, [Cell(text) for text in texts]))
    columns.append(Column("share", [Cell(_share(verdict, figure)) for _, verdict, figure in figures]))
    for level in task.levels:
        passes = [
            NOTHING if verdict.refusal else "pass" if figure.passes[level] else "fail"
            for _, verdict, figure in figures
        ]
        columns.append(Column(f"at {level}", [Cell(text) for text in passes]))
    notes = [f"{name}: {_verdict(verdict)}" for name, verdict in judged]
    least, most = task.length_shares
    notes.append(
        f"sentences cut by {judged[-1][1].sentences_by}; gen_len is in characters, and passes from {least:.0%} of "
        f"the reference's{'' if most is None else f' to {most:.0%}'}"
    )
    return [Table(columns, task.title, notes=notes)]


def _share(verdict: MlperfVerdict, figure: MlperfFigure) -> str:
    """A figure's share of the reference's, whose length is a total over all rows."""
    if figure.name == mlperf.LENGTH and verdict.refusal is not None:
        return NOTHING
    return f"{100 * figure.value / figure.reference:.1f} %"


def _verdict(verdict: MlperfVerdict) -> str:
    return verdict.refusal or ", ".join(
        f"{level}: {'passed' if passed else 'failed'}" for level, passed in verdict.passed.items()
    )


def _about_faithfulness(evaluation: Evaluation) -> list[str]:
    count = len(evaluation.faithfulness_differences)
    if not count:
        return []
    return [f"The {count} differences of what the articles say are adjusted by Holm by themselves."]


def _comparisons(evaluation: Evaluation) -> list[str]:
    differences = evaluation.differences
    several = sum(system.folder is not None for system in evaluation.systems) > 1
    chosen = f"{differences[0].first}, the best run by {BEST_BY}," if differences and several else None
    return [
        *in_words(differences),
        *in_words(evaluation.faithfulness_differences),
        *about_the_differences(differences, chosen),
        *_about_faithfulness(evaluation),
    ]
