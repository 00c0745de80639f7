"""What the tests of the data layer share: real tokenizers, a prompt, small files, a cache of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import transformers

from summarizer.config.paths import PACKAGE
from summarizer.config.schema import Columns, DataConfig, PromptConfig, RowLimits
from summarizer.data import tokenize as tokenize
from summarizer.data.prompt import Prompt, build_prompt

COMPLETION = PromptConfig(
    template="Article: {article}\n\nSummary: {completion}",
    completion_token="<|extratoken_1|>",
    end_token=None,
    max_tokens=128,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SUMMARIZER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    return transformers.AutoTokenizer.from_pretrained(PACKAGE / "models" / "embedded" / "tiny_gptj")


@pytest.fixture(scope="session")
def prompt(tokenizer: transformers.PreTrainedTokenizerFast) -> Prompt:
    return build_prompt(COMPLETION, tokenizer)


@pytest.fixture
def data_spec() -> Callable[..., DataConfig]:
    def build(train: Any, **changes: Any) -> DataConfig:
        limits = {"train": None, "validation": None, "test": None} | changes.pop("rows", {})
        columns = {"article": "article", "summary": "highlights", "id": "id"} | changes.pop("columns", {})
        fields: dict[str, Any] = {
            "source": "files",
            "path": None,
            "config": None,
            "revision": None,
            "train": train,
            "validation": None,
            "test": None,
            "columns": Columns(**columns),
            "rows": RowLimits(**limits),
            "rows_seed": None,
            "streaming": False,
            "shuffle_buffer_rows": 10,
            "max_bad_rows": 0,
            "processes": None,
        }
        return DataConfig(**(fields | changes))

    return build


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., str]:
    def write(rows: Iterable[object], name: str = "train.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of rows, each time rows are tokenized in this process."""
    counted: list[int] = []
    original = tokenize._encode

    def counting(rows: Any, prompt: Prompt) -> Any:
        counted.append(len(rows))
        return original(rows, prompt)

    monkeypatch.setattr(tokenize, "_encode", counting)
    return counted
