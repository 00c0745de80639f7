"""The rows that an export is measured on: the run's own validation rows, or those inside the package."""

from __future__ import annotations

import logging
from pathlib import Path

from summarizer.config.schema import Columns, DataConfig, RowLimits, RunConfig
from summarizer.data.prompt import Prompt
from summarizer.data.splits import build_split
from summarizer.errors import ConfigError
from summarizer.exporting.measure import Example

MOST_ROWS = 8
MOST_TOKENS = 2048
"""Of all examples together: GPT-J-6B takes 12 GFLOP for each token and pass, half a minute on two cores for 400."""

SAMPLE = DataConfig(
    source="files",
    path=None,
    config=None,
    revision=None,
    train="embedded:sample/train.jsonl",
    validation="embedded:sample/validation.jsonl",
    test=None,
    columns=Columns(article="article", summary="highlights", id="id"),
    rows=RowLimits(train=None, validation=MOST_ROWS, test=None),
    rows_seed=None,
    streaming=False,
    shuffle_buffer_rows=1,
    max_bad_rows=0,
    processes=1,
)
"""The articles of conf/data/sample.yaml."""

log = logging.getLogger(__name__)


def examples_of(spec: RunConfig, prompt: Prompt) -> tuple[list[Example], str]:
    """A few validation rows as the run's training would see them, and what a person calls them."""
    if reason := _not_at_hand(spec.data):
        log.warning(
            "measured on the sample inside the package: the run's validation rows are not here (%s)", reason
        )
        return _cut(SAMPLE, prompt), "the sample inside the package"
    limits = RowLimits(
        train=None, validation=min(MOST_ROWS, spec.data.rows.validation or MOST_ROWS), test=None
    )
    own = spec.data.model_copy(update={"rows": limits, "processes": 1, "streaming": False})
    try:
        return _cut(own, prompt), "the run's validation rows"
    except ConfigError as error:
        log.warning(
            "measured on the sample inside the package: the run's validation rows cannot be read: %s", error
        )
        return _cut(SAMPLE, prompt), "the sample inside the package"


def _not_at_hand(data: DataConfig) -> str | None:
    """Why a run's validation rows would have to be fetched, as far as that is seen without trying."""
    if data.validation is None:
        return "it has none"
    if data.source == "files":
        return None  # looked for when they are read
    import datasets

    kept = Path(datasets.config.HF_DATASETS_CACHE) / str(data.path).replace("/", "___")
    if Path(str(data.path)).exists() or kept.is_dir():
        return None
    return f"{data.path} was never fetched to this machine"


def _cut(data: DataConfig, prompt: Prompt) -> list[Example]:
    split = build_split(data, "validation", prompt)
    examples: list[Example] = []
    for row in split.encoded(range(len(split))):
        ids, prompt_tokens = prompt.training_ids(row.article_ids, row.target_ids)
        if examples and sum(len(example.ids) for example in examples) + len(ids) > MOST_TOKENS:
            break
        examples.append(Example(tuple(ids), prompt_tokens))
    return examples
