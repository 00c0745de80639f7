"""Trained runs opened again, against the runs' own predictions and against plain transformers + peft."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from small_runs import TINY, run_here

from summarizer.errors import ConfigError
from summarizer.evaluation.predictions import read_predictions
from summarizer.generation.summarizer import Summarizer
from summarizer.runs.loaded_run import LoadedRun, load_runs
from summarizer.runs.trained_run import TrainedRun, read_trained_run


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs over one base, at rates at which their adapters say different things."""
    folder = tmp_path_factory.mktemp("trained") / "sweep"
    arguments = ["-m", "adapter.dim=1,3", "optimizer.lr=0.02", "trainer.max_steps=2", *TINY]
    arguments.remove("evaluation.rows_during_training=2")
    arguments += ["evaluation.rows_during_training=0", f"hydra.sweep.dir={folder}"]
    run_here(arguments)
    return folder


@pytest.fixture(scope="module")
def opened(sweep: Path) -> LoadedRun:
    return load_runs(
        [read_trained_run(sweep / "0"), read_trained_run(sweep / "1")], device="cpu", precision="fp32"
    )


def articles(opened: LoadedRun) -> tuple[list[str], list[str]]:
    """Ids and texts of the rows that the runs were scored on."""
    from summarizer.data.splits import build_split

    rows = build_split(opened.spec.data, "validation", opened.prompt).rows
    return list(rows["id"]), list(rows["article"])


@pytest.mark.slow
def test_several_runs_side_by_side_say_what_each_said_in_training(sweep: Path, opened: LoadedRun) -> None:
    summarizer = Summarizer(opened, opened.spec.generation, batch_size=2)
    ids, texts = articles(opened)
    prepared = [summarizer.prepare(text) for text in texts]
    written = dict(summarizer.summaries(prepared, trials=[0, 1]))
    base = dict(summarizer.summaries(prepared, trials=None))
    for trial in range(2):
        own = {
            row.id: row.prediction
            for row in read_predictions(sweep / str(trial) / "predictions/validation.jsonl")
        }
        assert {ids[index]: texts[trial] for index, texts in written.items()} == own
    alone = {
        row.id: row.prediction for row in read_predictions(sweep / "0/predictions/validation.base.jsonl")
    }
    assert {ids[index]: text for index, (text,) in base.items()} == alone
    assert written != base


def test_a_stream_s_pieces_are_the_summary(opened: LoadedRun) -> None:
    summarizer = Summarizer(opened, opened.spec.generation, batch_size=1)
    article = summarizer.prepare(articles(opened)[1][0])
    whole = dict(summarizer.summaries([article], trials=[0, 1]))[0]
    pieces: list[list[str]] = [[], []]
    for trial, piece in summarizer.streams(article, trials=[0, 1]):
        pieces[trial].append(piece)
    assert ["".join(own) for own in pieces] == whole
    assert "".join(summarizer.stream(article, trial=1)) == whole[1]
    assert max(map(len, pieces)) > 1


def test_an_article_is_cut_as_in_training_and_the_cut_is_counted(opened: LoadedRun) -> None:
    summarizer = Summarizer(opened, opened.spec.generation, batch_size=1)
    short, long = summarizer.prepare("One sentence."), summarizer.prepare("One sentence. " * 300)
    assert short.cut_tokens == 0
    assert len(long.prompt_ids) + opened.spec.generation.max_new_tokens == opened.spec.prompt.max_tokens
    kept = len(long.prompt_ids) - len(opened.prompt.before) - len(opened.prompt.after)
    assert kept + long.cut_tokens == long.article_tokens
    with pytest.raises(ValueError, match="empty"):
        summarizer.prepare(" \n")


def test_any_peft_folder_stands_in_for_the_run_s_adapter(
    sweep: Path, opened: LoadedRun, tmp_path: Path
) -> None:
    """Run 1's adapter, which has another dim, beside run 0's config."""
    shutil.copytree(sweep / "1" / "adapter", tmp_path / "elsewhere")
    foreign = load_runs(
        [read_trained_run(sweep / "0", adapter=tmp_path / "elsewhere")], device="cpu", precision="fp32"
    )
    ids = torch.arange(20).reshape(1, -1)
    with torch.no_grad(), opened.adapted.only([1]):
        wanted = opened.adapted.model.logits(ids)
    with torch.no_grad():
        got = foreign.adapted.model.logits(ids)
    assert torch.allclose(got, wanted, atol=1e-5)


@pytest.mark.slow
def test_whole_numbers_are_for_int8_and_nf4_on_a_cpu_and_stay_near(
    sweep: Path, opened: LoadedRun, caplog: pytest.LogCaptureFixture
) -> None:
    run = read_trained_run(sweep / "0")
    caplog.set_level("INFO")
    fast = load_runs([run], device="cpu", precision="int8")
    (said,) = [line for line in caplog.messages if "8 bits" in line]
    assert said.startswith("articles are read by integer matmuls")
    assert fast.int8_prefill
    assert not opened.int8_prefill
    summarizer = Summarizer(fast, run.spec.generation, batch_size=2)
    written = dict(
        summarizer.summaries([summarizer.prepare(text) for text in articles(opened)[1]], trials=[0])
    )
    assert len(written) == 4
    other = run.spec.model_copy(
        update={"quantization": run.spec.quantization.model_copy(update={"format": "none"})}
    )
    with pytest.raises(ConfigError, match="--precision: int8 is for bases"):
        load_runs([TrainedRun(run.folder, other, (), run.adapter_folder)], device="cpu", precision="int8")


def test_mistakes_are_said_before_anything_loads(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a sweep; name one of its runs, such as .*/[01]$"):
        read_trained_run(sweep)
    with pytest.raises(ConfigError, match=r"RUN: .*no such folder"):
        read_trained_run(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no run folder"):
        read_trained_run(tmp_path / "empty")
    shutil.copytree(sweep / "0" / ".hydra", tmp_path / "unfinished" / ".hydra")
    with pytest.raises(ConfigError, match="has no adapter: it was never trained to an end"):
        read_trained_run(tmp_path / "unfinished")
    with pytest.raises(ConfigError, match="--adapter: no such folder"):
        read_trained_run(sweep / "0", adapter=tmp_path / "none")
    with pytest.raises(ConfigError, match="--model says where the base lies now"):
        read_trained_run(sweep / "0", model="/nowhere/model")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_a_gpu_that_is_not_there_is_no_cpu(sweep: Path) -> None:
    with pytest.raises(ConfigError, match="--device: cuda, but PyTorch sees no CUDA device"):
        load_runs([read_trained_run(sweep / "0")], device="cuda")


def test_runs_over_different_bases_are_not_opened_together(sweep: Path) -> None:
    first, second = read_trained_run(sweep / "0"), read_trained_run(sweep / "1")
    spec = second.spec.model_copy(
        update={"prompt": second.spec.prompt.model_copy(update={"max_tokens": 100})}
    )
    with pytest.raises(ConfigError, match=r"differs from .* in prompt"):
        load_runs([first, TrainedRun(second.folder, spec, (), second.adapter_folder)])
