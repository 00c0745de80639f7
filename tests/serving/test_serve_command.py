"""`python -m summarizer.serve` as a person types it: what is refused before a weight loads, and how it ends."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from served import ARTICLE, run_folders

from summarizer import serve
from summarizer.runs import loaded_run
from summarizer.serving.listening import bind


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return run_folders(tmp_path_factory.mktemp("runs"), 2, 4)


@pytest.fixture
def loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the base was loaded")

    monkeypatch.setattr(loaded_run, "load_runs", refuse)


@pytest.mark.usefixtures("loads_nothing")
def test_mistakes_cost_no_load(folders: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = str(folders[0])
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        mistakes = {
            (run, "--port", str(port)): (
                f"--port: {port} is taken by another program; name a free one, such as --port {port + 1}"
            ),
            (run, "--port", "70000"): "--port: 70000 is not a number of at most 65535",
            (run, "--host", "192.0.2.1"): "--host: '192.0.2.1' cannot be listened on",
            (run, "--host", "no host"): "--host: 'no host' is no address of this machine",
            (run, "--queue", "-1"): "--queue: -1 is not a number of at least 0",
            (run, run + "/."): "RUN: the same folder is named twice; once is enough",
            (run + "x",): f"RUN: {run}x: no such folder",
        }
        for arguments, message in mistakes.items():
            assert serve.command(arguments) == 2
            assert message in capsys.readouterr().err


@pytest.mark.usefixtures("loads_nothing")
def test_missing_packages_are_named_with_the_line_that_installs_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    assert serve.command(["anything"]) == 2
    assert "pip install 'starlette>=1.0' 'uvicorn>=0.40'" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_in_the_middle_of_a_summary_ends_it_cleanly(folders: list[Path], tmp_path: Path) -> None:
    # With room for a summary that takes seconds: the signal is to come before its end on a busy machine too.
    runs = [str(shutil.copytree(folder, tmp_path / folder.name)) for folder in folders]
    for run in runs:
        config = Path(run, ".hydra", "config.yaml")
        assert "max_tokens: 64\n" in config.read_text()
        config.write_text(config.read_text().replace("max_tokens: 64\n", "max_tokens: 640\n"))
    process = subprocess.Popen(
        [sys.executable, "-m", "summarizer.serve", *runs, "--host", "0.0.0.0", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    said = ""
    while "serving at" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    assert "there is no password" in said
    port = int(said.rpartition("http://")[2].split()[0].rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    settings = {"max_new_tokens": 500, "min_new_tokens": 500}
    connection.request(
        "POST",
        "/api/summaries",
        json.dumps({"article": ARTICLE, "settings": settings}),
        {"Content-Type": "application/json"},
    )
    response = connection.getresponse()
    while json.loads(response.readline())["event"] != "text":
        pass
    process.send_signal(signal.SIGINT)
    assert json.loads(response.read().splitlines()[-1])["event"] == "error"
    assert process.wait(30) == 130
    rest = process.stderr.read()
    assert "Traceback" not in rest, rest
