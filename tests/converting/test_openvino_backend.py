"""Runs answered for by OpenVINO, against `transformers.generate` on merged weights rounded as the graph's are."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

sys.path.append(str(Path(__file__).resolve().parents[1] / "exporting"))
from trained_runs import ARTICLE, opened, save_run

from summarizer.config.schema import GenerationConfig
from summarizer.converting import openvino as backend
from summarizer.converting.openvino import open_converted
from summarizer.errors import ConfigError
from summarizer.exporting.merge import Merge
from summarizer.exporting.model_folder import MergedModel
from summarizer.quantization import int8
from summarizer.runs.summarizer import Summarizer
from summarizer.runs.trained_run import TrainedRun, read_run

NO_OPENVINO = "openvino is not installed: pip install '.[openvino]'"
KINDS = ("gptj", "llama_tied", "llama_untied")
ARTICLES = [
    ARTICLE,
    "Rain fell.",
    ARTICLE + " Nobody was hurt, the mayor said, and the bridge will open in May.",
]
SEARCHES: list[dict[str, Any]] = [
    {},
    {"num_beams": 3, "length_penalty": 2.0},
    {"num_beams": 2, "early_stopping": True, "min_new_tokens": 4},
    {"no_repeat_ngram_size": 1, "min_new_tokens": 8},
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save_run(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def rounded(model: PreTrainedModel, bits: str) -> PreTrainedModel:
    """In place: embedding and head with a step a row, all other matrices with one a group."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("lm_head.weight", "wte.weight", "embed_tokens.weight")):
                parameter.copy_(int8.dequantize(*int8.quantize(parameter), torch.float32))
            elif parameter.dim() > 1:
                sizes = (64, 32, 16) if bits == "int8" else (128, 64, 32, 16)
                group = next(size for size in sizes if parameter.shape[1] % size == 0)
                grouped = parameter.reshape(-1, group)
                furthest = grouped.gather(1, grouped.abs().argmax(dim=1, keepdim=True))
                step = furthest / (127 if bits == "int8" else -8)
                whole = (
                    (grouped / step)
                    .round()
                    .clamp(-127 if bits == "int8" else -8, 127 if bits == "int8" else 7)
                )
                parameter.copy_((whole * step).reshape(parameter.shape))
    return model


def reference(run: Path, folder: Path, *, trial: int | None = 0, bits: str = "int8") -> PreTrainedModel:
    """The run as a dense model of transformers, by way of the exported folder."""
    of_run = opened(run)
    config = AutoModelForCausalLM.from_pretrained(run.parent / "base").config
    merged = MergedModel(
        Merge(of_run.adapted, trial), config, of_run.tokenizer, of_run.prompt, of_run.spec.generation
    )
    folder.mkdir()
    merged.write(folder, "fp32")
    return rounded(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), bits)


def asked(run: TrainedRun, **changes: Any) -> GenerationConfig:
    return run.spec.generation.model_copy(update=changes)


def by_transformers(model: PreTrainedModel, summarizer: Summarizer, spec: GenerationConfig) -> list[str]:
    from summarizer.generation.transformers_generate import generate

    prompt = summarizer.opened.prompt
    return [
        prompt.decode(
            generate(
                model,
                [summarizer.prepare(article).prompt_ids],
                spec,
                trials=1,
                end_id=prompt.end_id,
                pad_id=prompt.pad_id,
                device=torch.device("cpu"),
            )[0][0]
        )
        for article in ARTICLES
    ]


def summaries(summarizer: Summarizer, trials: list[int] | None) -> list[str]:
    done = dict(summarizer.summaries([summarizer.prepare(one) for one in ARTICLES], trials=trials))
    return [done[index][0] for index in range(len(ARTICLES))]


@pytest.mark.versions
@pytest.mark.parametrize("kind", KINDS)
def test_summaries_are_those_of_the_merged_and_rounded_weights(
    kind: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("openvino", reason=NO_OPENVINO)
    run = read_run(runs[kind])
    converted = open_converted([run], "openvino", precision="fp32")
    model = reference(runs[kind], tmp_path / "merged")
    for changes in SEARCHES:
        spec = asked(run, **changes)
        summarizer = Summarizer(converted, spec, articles_at_once=4)
        found = summaries(summarizer, [0])
        assert found == by_transformers(model, summarizer, spec), changes
        assert len(set(found)) > 1
        pieces = list(summarizer.stream(summarizer.prepare(ARTICLE)))
        assert "".join(pieces) == found[0]
        assert len(pieces) > 1 or spec.num_beams > 1
    base = Summarizer(converted, asked(run), articles_at_once=1)
    alone = reference(runs[kind], tmp_path / "base", trial=None)
    assert summaries(base, None) == by_transformers(alone, base, asked(run)) != summaries(base, [0])


def test_four_bits_are_rounded_as_said(runs: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason=NO_OPENVINO)
    run = read_run(runs["gptj"])
    summarizer = Summarizer(
        open_converted([run], "openvino_int4", precision="fp32"), asked(run), articles_at_once=1
    )
    model = reference(runs["gptj"], tmp_path / "merged", bits="int4")
    assert summaries(summarizer, [0]) == by_transformers(model, summarizer, asked(run))


def test_draws_are_those_of_the_own_decoder(runs: dict[str, Path]) -> None:
    """By the seed and the prompt, whatever computes; with so small a temperature they are the likeliest tokens."""
    pytest.importorskip("openvino", reason=NO_OPENVINO)
    run = read_run(runs["gptj"])
    converted = open_converted([run], "openvino", precision="fp32")

    def drawn(**changes: Any) -> list[str]:
        spec = asked(run, do_sample=True, **changes)
        return summaries(Summarizer(converted, spec, articles_at_once=1), [0])

    greedy = summaries(Summarizer(converted, asked(run), articles_at_once=1), [0])
    assert drawn(temperature=1e-4) == greedy
    assert drawn(temperature=3.0, seed=1) == drawn(temperature=3.0, seed=1) != drawn(temperature=3.0, seed=2)


def test_it_is_converted_once_and_by_content(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("openvino", reason=NO_OPENVINO)
    monkeypatch.setenv("SUMMARIZER_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.INFO)

    def conversions(folder: Path, weights: str = "openvino") -> int:
        caplog.clear()
        open_converted([read_run(folder)], weights).running(base_alone=False)
        return sum("converted in" in line for line in caplog.messages)

    assert conversions(runs["gptj"]) == 1
    assert conversions(runs["gptj"]) == 0
    shutil.copytree(runs["gptj"], tmp_path / "moved")
    assert conversions(tmp_path / "moved") == 0
    assert conversions(tmp_path / "moved", "openvino_int4") == 1
    (weights,) = (tmp_path / "cache" / "openvino").glob("*-int8-*/entry/openvino_model.bin")
    weights.write_bytes(weights.read_bytes()[:-100])
    assert conversions(runs["gptj"]) == 1
    assert "is damaged and made anew: openvino_model.bin has" in caplog.text
    monkeypatch.setattr(TrainedRun, "adapter_digest", lambda self: "another")
    assert conversions(runs["gptj"]) == 1


def test_the_command_drives_it(runs: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason=NO_OPENVINO)
    for number, article in enumerate(ARTICLES):
        (tmp_path / f"{number}.txt").write_text(article)
    run = runs["llama_tied"]
    flags = ["--backend", "openvino", "--precision", "fp32", "--beams", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "summarizer.summarize", run, "0.txt", "1.txt", "2.txt", *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    spec = asked(read_run(run), num_beams=2)
    summarizer = Summarizer(
        open_converted([read_run(run)], "openvino", precision="fp32"), spec, articles_at_once=1
    )
    texts = summaries(summarizer, [0])
    assert done.stdout == "\n".join(f"==> {i}.txt <==\n{text}\n" for i, text in enumerate(texts))
    assert "openvino: the adapter merged into the base, weights in int8" in done.stderr


def refused(runs: list[TrainedRun], **more: str) -> str:
    with pytest.raises(ConfigError) as error:
        open_converted(runs, "openvino", **more)
    return str(error.value)


def test_what_speaks_against_it_is_said_at_once(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = read_run(runs["gptj"])
    monkeypatch.setattr(backend, "find_spec", lambda _: None)
    text = refused([run, run], device="cuda", precision="fp16")
    assert len(text.splitlines()) == 4
    assert "--backend: openvino needs a package that is not installed: pip install '.[openvino]'" in text
    assert "--backend: openvino has one adapter merged into its weights; take several runs one by one" in text
    assert "--backend: openvino runs on the CPU; leave --device out" in text
    assert "--precision: fp16 is none of openvino's; it has auto, fp32, bf16" in text


def test_a_model_without_a_graph_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "find_spec", lambda _: True)
    text = refused([read_run(save_run("qwen2", tmp_path))])
    assert "no graph is written for qwen2 models, only for gptj and llama; use torch" in text


def test_no_use_is_told_of() -> None:
    """OpenVINO's own telemetry is not even imported."""
    pytest.importorskip("openvino", reason=NO_OPENVINO)
    code = (
        "import sys, summarizer.generation.openvino.runtime as r;"
        "print(r.ov.__version__, 'openvino_telemetry' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"
