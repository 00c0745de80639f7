from __future__ import annotations

import mmap
import os
import platform
import subprocess
from pathlib import Path

import pytest
import torch

import summarizer
from summarizer.tracking.environment import git_state, peak_memory_bytes, reset_peak_memory, versions

CPU = torch.device("cpu")


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"]},  # not the repository of a hook that runs the tests
    )
    return done.stdout.strip()


def test_versions_are_the_packages_own() -> None:
    found = versions()
    assert list(found) == [
        *("python", "torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets", "summarizer")
    ]
    assert found["python"] == platform.python_version()
    assert found["torch"] is not None
    assert torch.__version__.split("+")[0] == found["torch"].split("+")[0]
    assert found["summarizer"] == summarizer.__version__


def test_git_state_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert git_state(package) is None  # no repository
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "another project")
    assert git_state(package) is None  # a repository that does not hold it
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as inside a hook of another repository
    state = git_state(package)
    monkeypatch.delenv("GIT_DIR")
    assert state is not None
    assert (state.commit, state.dirty) == (git(tmp_path, "rev-parse", "HEAD"), False)
    (package / "__init__.py").write_text("changed")
    changed = git_state(package)
    assert changed is not None
    assert changed.dirty


def test_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state() is None


def test_peak_memory_counts_what_was_freed_and_can_begin_anew() -> None:
    size_bytes = 200 * 2**20
    reset = reset_peak_memory(CPU)
    before = peak_memory_bytes(CPU)
    # Past malloc, which holds freed memory back once a test before this one has trained.
    with mmap.mmap(-1, size_bytes) as held:
        for page in range(0, size_bytes, mmap.PAGESIZE):
            held[page] = 1
    peak = peak_memory_bytes(CPU)
    if not reset:
        assert peak >= before
        pytest.skip("this system cannot reset the peak")
    assert peak - before == pytest.approx(size_bytes, rel=0.1)
    assert reset_peak_memory(CPU)
    assert peak_memory_bytes(CPU) < peak - size_bytes / 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_peak_memory_on_cuda() -> None:
    device = torch.device("cuda")
    reset_peak_memory(device)
    before = peak_memory_bytes(device)
    held = torch.ones(2**22, device=device)
    del held
    assert peak_memory_bytes(device) - before >= 4 * 2**22
