"""The cache of quantized bases: made once, keyed by its origin, never half there."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
import torch
from damage import DAMAGE
from model_folders import load, logits, tiny_model
from safetensors.torch import load_file, save_file

from summarizer.errors import ConfigError
from summarizer.models import load as load_module
from summarizer.models import stored_base
from summarizer.quantization import weight_format


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SUMMARIZER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bases"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model("gptj").save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def quantized(*_: object, **more: object) -> None:
        raise AssertionError("quantized again")

    monkeypatch.setattr(load_module, "quantized", quantized)


@pytest.mark.parametrize("name", ["int8", "blockwise8", "nf4", "fp8", "nf4+int8"])
def test_the_second_load_reads_the_cache(
    name: str, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = logits(load(folder, name).model)
    assert not cache.exists()
    first = logits(load(folder, name, cache=True).model)
    (entry,) = cache.iterdir()
    assert entry.name.startswith(f"mine-{name}-")
    forbid(monkeypatch)
    second = logits(load(folder, name, cache=True).model)
    assert torch.equal(without, first)
    assert torch.equal(first, second)
    with pytest.raises(AssertionError, match="quantized again"):
        load(folder, name)


def test_the_key_changes_with_file_config_and_format(folder: Path, cache: Path) -> None:
    load(folder, "int8", cache=True)
    load(folder, "nf4+int8", cache=True)
    assert len(list(cache.iterdir())) == 2
    before = logits(load(folder, "int8", cache=True).model)
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.ln_f.bias"] = tensors["transformer.ln_f.bias"] + 1
    size = (folder / "model.safetensors").stat().st_size
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert (folder / "model.safetensors").stat().st_size == size
    assert not torch.equal(logits(load(folder, "int8", cache=True).model), before)
    assert len(list(cache.iterdir())) == 3
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"n_positions": 64', '"n_positions": 32'))
    load(folder, "int8", cache=True)
    assert len(list(cache.iterdir())) == 4


def test_the_key_changes_with_the_format_s_version(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(folder, "int8", cache=True)
    load(folder, "nf4+int8", cache=True)
    monkeypatch.setattr(weight_format("int8"), "version", 2)
    load(folder, "int8", cache=True)
    load(folder, "nf4+int8", cache=True)
    assert len(list(cache.iterdir())) == 4


def test_a_stored_base_says_both_formats(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder of the cache is a model folder: as it is stored, or from dense weights in another format."""
    first = logits(load(folder, "nf4+int8", cache=True).model)
    (entry,) = cache.iterdir()
    assert stored_base.read_manifest(entry).format == "nf4+int8"
    stored = shutil.copytree(entry, folder.parent / "stored")
    shutil.copy(folder / "config.json", stored)
    torch.testing.assert_close(logits(load(stored, "none").model), first, rtol=1e-5, atol=1e-5)
    forbid(monkeypatch)
    assert torch.equal(logits(load(stored, "nf4+int8").model), first)
    with caplog.at_level("INFO"), pytest.raises(AssertionError, match="quantized again"):
        load(stored, "nf4")
    assert "is stored in nf4+int8, and nf4 is made of it" in caplog.text
    assert "quantization.embedding_format=int8 takes it as it is" in caplog.text


@pytest.mark.parametrize("what", [*DAMAGE, "emptied of all but its manifest", "of an earlier version"])
@pytest.mark.parametrize("name", ["base-00001.safetensors", "base.json"])
def test_a_damaged_entry_is_made_anew(
    name: str, what: str, folder: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    expected = logits(load(folder, "int8", cache=True).model)
    (entry,) = cache.iterdir()
    before = {file.name: file.read_bytes() for file in entry.iterdir()}
    if what in DAMAGE:
        DAMAGE[what](entry / name)
    else:
        (entry / "digests.json").unlink()
        if what != "of an earlier version":
            (entry / "base-00001.safetensors").unlink()
    caplog.clear()
    assert torch.equal(logits(load(folder, "int8", cache=True).model), expected)
    said = f"{name} is " if what in DAMAGE else "has no digests yet"
    (line,) = (line for line in caplog.messages if "made anew" in line)
    assert str(entry) in line
    assert said in line
    assert {file.name: file.read_bytes() for file in entry.iterdir()} == before
    assert list(cache.iterdir()) == [entry]
    caplog.clear()
    load(folder, "int8", cache=True)
    assert "anew" not in caplog.text


@pytest.fixture
def stored(folder: Path, cache: Path) -> Path:
    """A folder of one's own with a base that is stored in int8, as the package holds its model."""
    load(folder, "int8", cache=True)
    (entry,) = cache.iterdir()
    for file in entry.iterdir():
        shutil.copy(file, folder)
    (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("format_name", ["int8", "nf4"])
def test_a_damaged_stored_base_is_refused_by_name(what: str, format_name: str, stored: Path) -> None:
    load(stored, format_name)
    DAMAGE[what](stored / "base-00001.safetensors")
    with pytest.raises(ConfigError, match=r"base-00001\.safetensors is (damaged|missing)"):
        load(stored, format_name)
    with pytest.raises(ConfigError, match=r"base-00001\.safetensors is (damaged|missing)"):
        load(stored, format_name, cache=True)


def test_a_stored_base_without_one_part_of_a_weight_is_a_mistake(stored: Path) -> None:
    tensors = load_file(stored / "base-00001.safetensors")
    del tensors["lm_head.weight.scale"]
    save_file(tensors, stored / "base-00001.safetensors")
    (stored / "digests.json").unlink()  # it comes from elsewhere
    with pytest.raises(ConfigError, match=r"lacks 1 tensors, such as lm_head\.weight\.scale"):
        load(stored, "int8")


def test_a_base_of_several_shards(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_base, "SHARD_BYTES", 4000)
    expected = logits(load(folder, "int8").model)
    for _ in range(2):
        assert torch.equal(logits(load(folder, "int8", cache=True).model), expected)
    (entry,) = cache.iterdir()
    assert len(list(entry.glob("*.safetensors"))) > 3


def test_a_full_disk_leaves_nothing_behind(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(stored_base, "write_tensors", full)
    with pytest.raises(OSError, match="No space left"):
        load(folder, "int8", cache=True)
    assert list(cache.iterdir()) == []
    monkeypatch.undo()


def test_a_broken_checkpoint_leaves_nothing_behind(folder: Path, cache: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"][0, 0] = float("inf")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ConfigError):
        load(folder, "int8", cache=True)
    assert list(cache.iterdir()) == []


def _load_in_process(
    folder: Path, barrier: multiprocessing.synchronize.Barrier, answers: multiprocessing.Queue
) -> None:  # type: ignore[type-arg]
    torch.set_num_threads(1)
    barrier.wait()
    answers.put(logits(load(folder, "int8", cache=True).model).tolist())


def test_two_processes_at_once(folder: Path, cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_load_in_process, args=(folder, barrier, answers)) for _ in range(2)]
    for worker in workers:
        worker.start()
    first, second = answers.get(timeout=60), answers.get(timeout=60)
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    # Near, not equal: the same weights at other addresses may be summed in another order.
    own = logits(load(folder, "int8", cache=True).model)
    for theirs in (first, second):
        torch.testing.assert_close(own, torch.tensor(theirs))
    assert len(list(cache.iterdir())) == 1


def test_a_manifest_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "base.json").write_text(
        '{"format": "int8", "format_version": 1, "source": "x", "files": ["../../etc/passwd"]}'
    )
    assert stored_base.read_manifest(tmp_path).files == ("passwd",)


@pytest.mark.parametrize("version", ["[" * 100_000, "1e999", "9" * 400, "null", '"x"'])
def test_a_manifest_that_is_none(version: str, tmp_path: Path) -> None:
    (tmp_path / "base.json").write_text(
        f'{{"format": "int8", "source": "x", "files": [], "format_version": {version}}}'
    )
    with pytest.raises(ConfigError, match="not a stored base's manifest"):
        stored_base.read_manifest(tmp_path)


@pytest.mark.parametrize(("base_format", "unknown"), [("int4", "int4"), ("nf4+int4", "int4"), ("+int8", "")])
def test_a_manifest_of_an_unknown_format(base_format: str, unknown: str, tmp_path: Path) -> None:
    (tmp_path / "base.json").write_text(
        f'{{"format": "{base_format}", "format_version": 1, "source": "x", "files": []}}'
    )
    with pytest.raises(ConfigError, match=f"format '{unknown}' is not one of int8"):
        stored_base.read_manifest(tmp_path)
