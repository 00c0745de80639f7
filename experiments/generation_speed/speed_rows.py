"""From times to a table and a picture. Nothing here knows how anything was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

GIB = 2**30
CACHED_BYTES = 1 << 30
"""Weights smaller than this lie in a processor's caches for a part, so that memory's rate is no floor."""


@dataclass(frozen=True)
class Reading:
    """A batch of prompts, read for their first tokens."""

    articles: int
    tokens: int
    """Of each prompt."""
    seconds: float
    """Until all have their first token; median."""


@dataclass(frozen=True)
class Row:
    """One contender."""

    contender: str
    load_s: float | None = None
    """From the start of its process until it could answer; median over turns, as all times."""
    warm_up_s: float | None = None
    """A first answer of two tokens to a short prompt, after loading."""
    first_token_s: float | None = None
    """From the prompt to the first token of the answer."""
    token_s: float | None = None
    """Of each further token."""
    token_s_p10: float | None = None
    token_s_p90: float | None = None
    resident_bytes: int | None = None
    """The most that was resident at once, loading and mapped files included."""
    anonymous_bytes: int | None = None
    """The process's own memory at the end."""
    gpu_bytes: int | None = None
    """The most that torch held on a GPU."""
    stored_bytes: int | None = None
    read_bytes: int | None = None
    """Of the weights that each token needs."""
    floor_s: float | None = None
    """How long reading those takes, at the rate that memory had beside the tokens."""
    floor_share: float | None = None
    """Of each token's own floor in its time; None where caches hold a part, or no rate was measured beside it."""
    same: float | None = None
    """Of the first contender's tokens, how many this one's answers begin with; None for random weights."""
    same_answers: int | None = None
    """Answers that are the same to the end."""
    kl_first: float | None = None
    """KL divergence, in nats, of the first token's probabilities from those of the same weights in fp32; the mean
    over prompts."""
    kl_further: float | None = None
    """The same of further tokens, where the engine is given fp32's own."""
    same_best: float | None = None
    """Share of all these tokens at which both think the same token likeliest."""
    articles_per_s: float | None = None
    articles_problem: str | None = None
    conversion_s: float | None = None
    conversion_bytes: int | None = None
    """The converter's own memory at its most."""
    readings: tuple[Reading, ...] = ()
    turns: int = 0
    tokens: tuple[tuple[int, ...], ...] = ()
    about: str = ""
    problem: str | None = None
    """Why nothing was measured."""


def row_of(contender: str, answers: Sequence[dict[str, Any]]) -> Row:
    """One contender's turns in one row."""
    token_s = [second for answer in answers for second in answer["token_s"]]
    first = answers[0]
    floors_s = [first["read_bytes"] / rate for answer in answers for rate in answer["memory_rates"]]
    if first["read_bytes"] < CACHED_BYTES:
        floors_s = []
    return Row(
        contender,
        load_s=median([answer["load_s"] for answer in answers]),
        warm_up_s=median([answer["warm_up_s"] for answer in answers]),
        first_token_s=median([second for answer in answers for second in answer["first_token_s"]]),
        token_s=median(token_s),
        token_s_p10=percentile(token_s, 10),
        token_s_p90=percentile(token_s, 90),
        resident_bytes=max(answer["resident_bytes"] for answer in answers),
        anonymous_bytes=max(answer["anonymous_bytes"] for answer in answers),
        gpu_bytes=first.get("gpu_bytes"),
        stored_bytes=first["stored_bytes"],
        read_bytes=first["read_bytes"],
        floor_s=median(floors_s) if floors_s else None,
        floor_share=median([floor_s / second for floor_s, second in zip(floors_s, token_s, strict=True)])
        if floors_s
        else None,
        **nearness_of(first),
        articles_per_s=first.get("articles_per_s"),
        articles_problem=first.get("articles_problem"),
        readings=readings_of(answers),
        turns=len(answers),
        tokens=tuple(tuple(tokens) for tokens in first["tokens"]),
        about=first["about"],
    )


def nearness_of(answer: dict[str, Any]) -> dict[str, float]:
    """The means over what `nearness.nearness` gave; nothing where it was not asked for."""
    if "kl" not in answer:
        return {}
    kl = np.array(answer["kl"])
    means = {"kl_first": float(kl[:, 0].mean()), "same_best": float(np.mean(answer["same_best"]))}
    if kl.shape[1] > 1:
        means["kl_further"] = float(kl[:, 1:].mean())
    return means


def readings_of(answers: Sequence[dict[str, Any]]) -> tuple[Reading, ...]:
    """Each batch, all turns together."""
    turns = [answer.get("readings", []) for answer in answers]
    return tuple(
        Reading(
            same[0]["articles"],
            same[0]["tokens"],
            median([second for one in same for second in one["seconds"]]),
        )
        for same in zip(*turns, strict=True)
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """Interpolated between the two nearest values, as numpy does it by default."""
    return float(np.percentile(values, percent))


def median(values: Sequence[float]) -> float:
    return percentile(values, 50)


def agreement(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> tuple[float, int]:
    """Share of our tokens ahead of each answer's first difference, after which nothing compares; and how many
    answers have none."""
    ahead = [
        sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(own, other, strict=True)))
        for own, other in zip(ours, theirs, strict=True)
    ]
    whole = sum(count == len(own) for count, own in zip(ahead, ours, strict=True))
    return sum(ahead) / sum(map(len, ours)), whole


def table(rows: Sequence[Row], prompt_tokens: int) -> str:
    """Markdown; columns that no row fills are left out."""
    cells = {
        "contender": [row.contender for row in rows],
        "load": [_number(row.load_s, ".1f", " s") for row in rows],
        "resident, most": [_gib(row.resident_bytes) for row in rows],
        "on the GPU": [_gib(row.gpu_bytes) for row in rows],
        f"first token ({prompt_tokens} in the prompt)": [_seconds(row.first_token_s) for row in rows],
        "s/token, median (p10-p90)": [
            f"{_seconds(row.token_s)} ({_seconds(row.token_s_p10)}-{_seconds(row.token_s_p90)})"
            if row.token_s is not None
            else ""
            for row in rows
        ],
        "tokens/s": [_number(1 / row.token_s, ".1f") if row.token_s else "" for row in rows],
        "weights a token reads": [
            _number(row.read_bytes and row.read_bytes / 1e9, ".2f", " GB") for row in rows
        ],
        "floor": [_seconds(row.floor_s) for row in rows],
        "share of the floor": [_number(row.floor_share, ".0%") for row in rows],
        "same tokens as the first": [_same(row) for row in rows],
        "KL to fp32: first token, further ones": [_nearness(row) for row in rows],
        "same best token": [_number(row.same_best, ".1%") for row in rows],
        "articles/s": [row.articles_problem or _number(row.articles_per_s, ".2f") for row in rows],
        "conversion": [_conversion(row) for row in rows],
    }
    for at, row in enumerate(rows):
        if row.problem is not None:
            cells["load"][at] = row.problem
    return _markdown({name: column for name, column in cells.items() if any(column)})


def reading_table(rows: Sequence[Row]) -> str:
    """Markdown: a line for each batch of prompts, a column for each contender; empty where nothing was read."""
    read = [row for row in rows if row.readings]
    if not read:
        return ""
    batches = read[0].readings
    cells = {
        "prompt": [str(batch.tokens) for batch in batches],
        "articles": [str(batch.articles) for batch in batches],
    }
    cells |= {row.contender: [_seconds(batch.seconds) for batch in row.readings] for row in read}
    return _markdown(cells)


def _markdown(cells: Mapping[str, Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |", "|" + "---|" * len(cells)]
    lines += ["| " + " | ".join(line) + " |" for line in zip(*cells.values(), strict=True)]
    return "\n".join(lines)


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def _gib(value: int | None) -> str:
    return "" if value is None else f"{value / GIB:.2f} GiB"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{1e3 * value:.1f} ms" if value < 0.1 else f"{value:.3g} s"


def _same(row: Row) -> str:
    if row.same is None:
        return ""
    return f"{row.same:.0%}, {row.same_answers} of {len(row.tokens)} answers whole"


def _nearness(row: Row) -> str:
    if row.kl_first is None:
        return ""
    return f"{row.kl_first:.2g}" + (f", {row.kl_further:.2g}" if row.kl_further is not None else "")


def _conversion(row: Row) -> str:
    if row.conversion_s is None:
        return ""
    return f"{row.conversion_s:.0f} s, {_gib(row.conversion_bytes)}"


def write(rows: Sequence[Row], about: dict[str, Any], prompt_tokens: int, folder: Path) -> None:
    """results.json, table.md and results.png; after every turn, so that a stopped command leaves them."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {"about": about, "rows": [asdict(row) for row in rows]}
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    named = "\n".join(
        f"- {key}: {value}" for key, value in about.items() if not isinstance(value, list | dict)
    )
    used = "\n".join(f"- {row.contender}: {row.about}" for row in rows if row.about)
    tables = [text for text in (table(rows, prompt_tokens), reading_table(rows)) if text]
    text = "\n\n".join([named, *tables, used]) + "\n"
    (folder / "table.md").write_text(text, encoding="utf-8")
    draw(rows, prompt_tokens, folder / "results.png")


def draw(rows: Sequence[Row], prompt_tokens: int, picture: Path) -> None:
    """Seconds of each token with memory's floor, and seconds to the first token."""
    measured = [row for row in rows if row.token_s is not None]
    if not measured:
        return
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, 2, figsize=(12, 0.45 * len(measured) + 1.6), layout="constrained", sharey=True
    )
    titles = ("s/token", f"s to the first token of {prompt_tokens}")
    for axis, values, title in zip(
        axes,
        ([row.token_s for row in measured], [row.first_token_s for row in measured]),
        titles,
        strict=True,
    ):
        colors = ["C0" if row.contender.startswith("ours") else "C7" for row in measured]
        bars = axis.barh(range(len(measured)), values, color=colors)
        axis.bar_label(bars, [f" {_seconds(value)}" for value in values])
        axis.set(xlabel=title)
        axis.margins(x=0.2)
    for place, row in enumerate(measured):
        if row.floor_s is not None:
            axes[0].plot(
                [row.floor_s] * 2, [place - 0.4, place + 0.4], "k-", label="reading the weights once"
            )
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        axes[0].legend(handles[:1], labels[:1], fontsize="small")
    axes[0].set_yticks(range(len(measured)), [row.contender for row in measured])
    axes[0].invert_yaxis()
    figure.savefig(picture, dpi=150)
    plt.close(figure)
