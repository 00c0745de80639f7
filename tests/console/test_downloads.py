"""Downloads by the real libraries, from a hub on this machine and from a folder: what a person sees of them."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from terminal import run_in_terminal

pytestmark = pytest.mark.versions

COMMIT = "0" * 39 + "1"
FILES = {
    "config.json": b"{}",
    "model-00001-of-00002.safetensors": bytes(3_000_000),
    "model-00002-of-00002.safetensors": bytes(2_000_000),
    "README.md": bytes(9_000_000),
}


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download asks for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        listed = [
            {"type": "file", "path": name, "rfilename": name, "size": len(content), "oid": _digest(content)}
            for name, content in FILES.items()
        ]
        headers = {"Content-Type": "application/json"}
        if "/tree/" in path:
            body = json.dumps(listed).encode()
        elif path.startswith("/api/models/"):
            body = json.dumps({"id": "a/model", "sha": COMMIT, "siblings": listed}).encode()
        else:
            body = FILES.get(path.rpartition("/")[2])
            if body is None:
                self.send_error(404)
                return
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_digest(body)}"'}
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            for start in range(0, len(body), 1_000_000):
                self.wfile.write(body[start : start + 1_000_000])
                time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        """Standard error belongs to the test."""


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


DOWNLOAD = """
import logging, os
os.environ.update(HF_ENDPOINT={hub!r}, HF_HOME={home!r}, HF_HUB_OFFLINE="0", RANK={rank!r})
from summarizer.console import progress
progress.PLAIN_LINE_EVERY_S = {every!r}
logging.basicConfig(level="INFO", handlers=[progress.ConsoleHandler()])
logging.getLogger("httpx").setLevel("WARNING")
from summarizer.config.schema import ModelConfig
from summarizer.models.source import model_folder
folder = model_folder(ModelConfig(name_or_path="a/model", revision=None, completion_token=None))
print("DONE", sorted(path.name for path in folder.iterdir()))
"""


def test_a_download_at_a_terminal(hub: str, tmp_path: Path) -> None:
    script = DOWNLOAD.format(hub=hub, home=str(tmp_path), every=10.0, rank="0")
    screen, code = run_in_terminal(script, 140, 30)
    text = "\n".join(screen.lines)
    assert code == 0, text
    assert (
        "DONE ['config.json', 'model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']" in text
    )
    assert re.search(r"100%.*5\.00M", text), "the library's own bar"


def test_a_download_in_a_pipe_and_on_another_process(
    hub: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for rank, every, expected in (("0", 0.05, True), ("0", 10.0, False), ("1", 0.05, False)):
        home = tmp_path / f"{rank}-{every}"
        script = DOWNLOAD.format(hub=hub, home=str(home), every=every, rank=rank)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert ("downloading a/model: under way" in done.stderr) is expected, done.stderr
        assert "%|" not in done.stderr, "tqdm's own bar"
