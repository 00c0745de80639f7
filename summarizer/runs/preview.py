"""`preview=3`: training examples as the model reads them, and how long they all are; no model is loaded for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from summarizer.config.schema import DataConfig, RowLimits
from summarizer.console.progress import console
from summarizer.console.safe_text import escaped, one_line
from summarizer.data.order import EncodedRow
from summarizer.data.prompt import Prompt, build_prompt
from summarizer.data.splits import Split, build_split
from summarizer.models.source import model_folder
from summarizer.models.tokenizer import load_tokenizer
from summarizer.runs.preflight import preflight
from summarizer.runs.record import RunRecord

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MEASURED_ROWS = 1_000
"""First rows of the train split whose lengths are shown: a second of tokenizing."""
STYLES = {"prompt": "cyan", "article": "", "cut": "dim strike", "summary": "green"}
CONTROL_STYLE = "bold magenta"
MARK_STYLE = "dim"
SHOWN_LINES = {"cut": (2, 1)}
LINES = (9, 4)
"""Of a longer part so many first and last lines are shown; between them it is left out."""
BARS = 12
"""At most so many bars; the last one has all that is longer."""

log = logging.getLogger(__name__)


# ---- an example --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A stretch of an example. pieces: its text, control tokens apart, and whether each is one."""

    name: str
    pieces: tuple[tuple[str, bool], ...]

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.pieces)


@dataclass(frozen=True)
class Example:
    """A row as it is trained on, read back from its tokens."""

    title: str
    parts: tuple[Part, ...]

    def lines(self) -> str:
        """Without colors and in full, for a log."""
        return "\n".join(
            [self.title, *(f"[{part.name}] {escaped(part.text, keep=_KEPT)}" for part in self.parts)]
        )


_KEPT = "\n\t"


def read_back(row: EncodedRow, prompt: Prompt, tokenizer: PreTrainedTokenizerFast) -> Example:
    """What a model reads of a row in training, and what of the article it does not."""
    ids, prompt_tokens = prompt.training_ids(row.article_ids, row.target_ids)
    start, end = len(prompt.before), prompt_tokens - len(prompt.after)
    kept = end - start
    cut = row.article_ids[kept - len(prompt.tail_ids) :] if kept < len(row.article_ids) else ()
    spans = (
        ("prompt", ids, range(start)),
        ("article", ids, range(start, end)),
        ("cut", cut, range(len(cut))),
        ("prompt", ids, range(end, prompt_tokens)),
        ("summary", ids, range(prompt_tokens, len(ids))),
    )
    counts = [
        f"{start + len(prompt.after):,} of prompt",
        f"{kept:,} of article" + (f" ({len(cut):,} more are cut)" if cut else ""),
        f"{len(row.target_ids):,} of summary",
    ]
    title = f"id {one_line(row.id)}: {len(ids):,} tokens, {', '.join(counts)}"
    parts = (Part(name, tuple(_pieces(own, places, prompt, tokenizer))) for name, own, places in spans)
    return Example(title, tuple(part for part in parts if part.pieces))


def _pieces(
    ids: Sequence[int], stretch: range, prompt: Prompt, tokenizer: PreTrainedTokenizerFast
) -> Iterator[tuple[str, bool]]:
    """The texts of a stretch of tokens, as they stand behind what comes before them."""

    def text_until(place: int) -> str:
        return str(tokenizer.decode(list(ids[:place]), clean_up_tokenization_spaces=False))

    for is_control, places in groupby(stretch, key=lambda place: ids[place] in prompt.control_ids):
        own = list(places)
        before, whole = text_until(own[0]), text_until(own[-1] + 1)
        alone = (
            whole[len(before) :] if whole.startswith(before) else prompt.text.decode([ids[i] for i in own])
        )
        yield alone, is_control


def log_example(split: Split, prompt: Prompt, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write a split's first example into run.log, and not to the terminal."""
    example = read_back(split.encoded([0])[0], prompt, tokenizer)
    log.info(
        "an example of %s, as the model reads it: %s", split.name, example.lines(), extra={"quiet": True}
    )


# ---- on a terminal -----------------------------------------------------------------------------------------------


def show_preview(records: Sequence[RunRecord]) -> None:
    """Print examples of the runs' train split, and the lengths of its first rows.

    Raises ConfigError as the runs would.
    """
    spec = preflight(OmegaConf.create(records[0].config))
    assert spec.preview is not None
    tokenizer = load_tokenizer(model_folder(spec.model, weights=False))
    prompt = build_prompt(spec.prompt, tokenizer)
    split = build_split(_first_rows(spec.data, max(spec.preview, MEASURED_ROWS)), "train", prompt)
    for note in split.notes:
        log.info("%s", note)
    target = console()
    shown = split.encoded(range(min(spec.preview, len(split))))
    for number, row in enumerate(shown, 1):
        example = read_back(row, prompt, tokenizer)
        target.print(f"\nexample {number} of {len(shown)}: {example.title}", style="bold", soft_wrap=False)
        target.print(drawn(example, target), soft_wrap=False)
    target.print()
    for line in lengths_drawn(Lengths.of(split, prompt), prompt.max_tokens, target.width):
        target.print(line, soft_wrap=False)


def _first_rows(data: DataConfig, most: int) -> DataConfig:
    limit = most if data.rows.train is None else min(most, data.rows.train)
    rows = RowLimits(train=limit, validation=None, test=None)
    return data.model_copy(update={"rows": rows, "rows_seed": None})


def drawn(example: Example, target: Console) -> Table:
    """An example with the names of its parts beside them, in colors where the terminal has them."""
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", style=MARK_STYLE, width=max(map(len, STYLES)))
    table.add_column()
    for part in example.parts:
        text = _colored(part)
        lines = list(text.wrap(target, max(target.width - max(map(len, STYLES)) - 2, 20)))
        first, last = SHOWN_LINES.get(part.name, LINES)
        if len(lines) > first + last + 1:
            gap = Text(f"[{len(lines) - first - last} more lines]", style=MARK_STYLE)
            lines = [*lines[:first], gap, *lines[-last:]]
        table.add_row(part.name, Text("\n").join(lines))
    return table


def _colored(part: Part) -> Text:
    """A part's text; spaces and line breaks at its ends, which decide on tokens and are not seen, are marked."""
    text = Text()
    for content, is_control in part.pieces:
        text.append(escaped(content, keep=_KEPT), CONTROL_STYLE if is_control else STYLES[part.name])
    plain = text.plain
    body = plain.strip(" \n")
    if not body:
        return Text(_marked(plain), style=MARK_STYLE)
    start = plain.index(body)
    end = start + len(body)
    return Text.assemble(
        (_marked(plain[:start]), MARK_STYLE), text[start:end], (_marked(plain[end:]), MARK_STYLE)
    )


def _marked(blank: str) -> str:
    return blank.replace(" ", "·").replace("\n", "↵")


# ---- lengths -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lengths:
    """Tokens of each example of a split, prompt and summary, with the article uncut."""

    described: str
    tokens: Sequence[int]
    """In rising order."""

    @classmethod
    def of(cls, split: Split, prompt: Prompt) -> Lengths:
        fixed = len(prompt.before) + len(prompt.after)
        rows = split.encoded(range(len(split)))
        tokens = sorted(fixed + len(row.article_ids) + len(row.target_ids) for row in rows)
        return cls(f"{'first ' * (len(tokens) >= MEASURED_ROWS)}{len(tokens):,} examples", tokens)

    def at(self, share: float) -> int:
        """The length that so large a share of the examples does not exceed."""
        return self.tokens[min(int(share * len(self.tokens)), len(self.tokens) - 1)]


def lengths_drawn(lengths: Lengths, max_tokens: int, width: int) -> Iterator[Text]:
    """A histogram, with what is cut told apart, and the share of it."""
    tokens, name = lengths.tokens, f"prompt.max_tokens={max_tokens:,}"
    yield Text(
        f"tokens of the {lengths.described} of train, prompt and summary together, before any cut: "
        f"half have at most {lengths.at(0.5):,}, 95 % at most {lengths.at(0.95):,}, the longest {tokens[-1]:,}"
    )
    step = _round_step(lengths.at(0.99) / BARS)
    bars = min(-(-(tokens[-1] + 1) // step), BARS)
    counts = [0] * bars
    for count in tokens:
        counts[min(count // step, bars - 1)] += 1
    names = [f"{i * step:,} - {(i + 1) * step - 1:,}" for i in range(bars)]
    if tokens[-1] >= bars * step:
        names[-1] = f"{(bars - 1) * step:,} or more"
    wide, digits = max(map(len, names)), len(f"{max(counts):,}")
    room = max(min(width, 100) - wide - digits - len(name) - 6, 5)
    first = next((i for i, count in enumerate(counts) if count), 0)
    for i in range(first, bars):
        is_over = i * step > max_tokens
        length = round(counts[i] / max(counts) * room)
        bar = ("▒" if is_over else "█") * max(length, counts[i] > 0)
        limit = f" <- {name}" if i == min(max_tokens // step, bars - 1) else ""
        yield Text.assemble(
            (f"{names[i]:>{wide}} ", MARK_STYLE),
            (bar, "yellow" if is_over else "green"),
            f" {counts[i]:,}{limit}",
        )
    over = [count - max_tokens for count in tokens if count > max_tokens]
    if over:
        yield Text(
            f"{len(over) / len(tokens):.1%} ({len(over):,} of {len(tokens):,}) are over {name}: "
            f"their articles are cut at the end, by {sum(over) / len(over):,.0f} tokens on average"
        )
    else:
        yield Text(f"none is over {name}")


def _round_step(least: float) -> int:
    """The smallest of 10, 20, 50, 100, ... that is no less."""
    step = 10
    for factor in (2, 2.5, 2) * 6:
        if step >= least:
            break
        step = int(step * factor)
    return step
