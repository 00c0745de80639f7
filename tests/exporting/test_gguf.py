"""What is written for llama.cpp, read by llama.cpp itself: the same greedy text, and what it does not take."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from trained_runs import ARTICLE, opened, save_run

from summarizer.exporting.export import export
from summarizer.exporting.request import ExportFlags, requested
from summarizer.generation.summarizer import Summarizer

gguf = pytest.importorskip("gguf")
with_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed"
)


def exported(run: Path, format_name: str, **more: Any) -> Path:
    arguments: dict[str, Any] = {"dtype": None, "output": None, "weights": None, "model": None}
    arguments |= {"device": "cpu", "with_base": False} | more
    list(export(requested(ExportFlags(run=run, format=format_name, **arguments))))
    return Path(arguments["output"] or run / "export" / format_name)


@contextmanager
def served(model: Path, adapter: Path | None = None) -> Iterator[Any]:
    """llama.cpp's own server over a file."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx, params.n_parallel, params.port = 256, 1, 0
    params.cpuparams.n_threads = 2
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.warmup = False
    if adapter is not None:
        info = xllamacpp.CommonAdapterLoraInfo()
        info.path, info.scale = str(adapter), 1.0
        params.lora_adapters = [info]
    yield xllamacpp.Server(params)


def by_the_card(folder: Path, url: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What the card's own Python prints for ARTICLE, asking the server at `url`."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    capsys.readouterr()
    code = code.replace('"The text of an article."', repr(ARTICLE)).replace("http://127.0.0.1:8080", url)
    exec(compile(code, "card", "exec"), {})
    return capsys.readouterr().out.strip()


def summary_of(run: Path) -> str:
    own = opened(run)
    summarizer = Summarizer(own, own.spec.generation, batch_size=1)
    ((_, (text,)),) = summarizer.summaries([summarizer.prepare(ARTICLE)])
    assert text
    return text


@with_llama_cpp
@pytest.mark.parametrize("kind", ["llama_tied", "llama_untied", "qwen2", "qwen3"])
def test_the_merged_model(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = save_run(kind, tmp_path)
    folder = exported(run, "gguf", dtype="fp32")
    with served(folder / "model.gguf") as server:
        assert by_the_card(folder, server.listening_address, capsys) == summary_of(run)
