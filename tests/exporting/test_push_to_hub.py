"""A push to the hub, against a server on this machine that speaks its protocol; what is said where it refuses."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, constants
from trained_runs import save_run

from summarizer.errors import ConfigError
from summarizer.exporting.export import export
from summarizer.exporting.hub import naming_issues
from summarizer.exporting.request import ExportFlags, requested

TOKEN = "hf_a_token_of_this_test"


@dataclass
class Hub:
    """What the server holds and is asked."""

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    """Large files, by the digest that they were announced with."""
    asked: list[str] = field(default_factory=list)
    refuse: dict[str, int] = field(default_factory=dict)
    """A status in place of an answer, by a part of the path."""
    private: bool | None = None

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/api/whoami-v2":
            return 200, {"type": "user", "name": "me", "orgs": []}
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            if name in self.repositories:
                return 409, {"error": "You already created this model repo", "url": f"{self.url}/{name}"}
            self.repositories[name] = {}
            self.private = bool(wanted.get("visibility") == "private" or wanted.get("private"))
            return 200, {"url": f"{self.url}/{name}", "name": name}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            files = json.loads(body)["files"]
            return 200, {"files": [self._mode(file) for file in files]}
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.url}/store/{one['oid']}"},
                                    "verify": {"href": f"{self.url}/verify"}}}
                for one in json.loads(body)["objects"]
            ]  # fmt: skip
            return 200, {"transfer": "basic", "objects": objects}
        if path.startswith("/store/"):
            self.stored[path.removeprefix("/store/")] = body
            return 200, {}
        if path == "/verify":
            one = json.loads(body)
            return (200 if len(self.stored[one["oid"]]) == one["size"] else 400), {}
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            return 200, self._commit(found[1], [json.loads(line) for line in body.splitlines()])
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/main)?", path):
            there = found[1] in self.repositories
            return (200, {"id": found[1], "siblings": []}) if there else (404, {"error": "not found"})
        return 404, {"error": path}

    @staticmethod
    def _mode(file: dict[str, Any]) -> dict[str, Any]:
        large = file["path"].endswith((".safetensors", ".gguf"))
        return {
            "path": file["path"],
            "uploadMode": "lfs" if large else "regular",
            "shouldIgnore": False,
            "oid": None,
        }

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                self.repositories[name][value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                self.repositories[name][value["path"]] = self.stored[value["oid"]]
        return {"success": True, "commitOid": "f00d", "commitUrl": f"{self.url}/{name}/commit/f00d"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            state.asked.append(f"{self.command} {self.path}")
            refused = [status for part, status in state.refuse.items() if part in self.path]
            if self.path.startswith("/api") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                refused = [401]
            status, answer = (refused[0], {"error": "no"}) if refused else state.answer(self.path, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_HEAD = respond  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", state.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # whose storage is no server of HTTP alone
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run("llama_tied", tmp_path_factory.mktemp("hub"))


def pushed(run: Path, output: Path, **more: Any) -> list[str]:
    arguments: dict[str, Any] = {"format": "peft", "push_to_hub": "summaries", "license": "apache-2.0"}
    arguments |= {"language": ("en",), "hub_base": "org/base", "device": "cpu", "output": output} | more
    return list(export(requested(ExportFlags(run=run, **arguments))))


def test_a_push(run: Path, hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    lines = pushed(run, tmp_path / "out", private=True)
    assert lines[-1] == f"pushed: {hub.url}/me/summaries"
    there = hub.repositories["me/summaries"]
    here = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert there == here
    assert len(there) >= 5
    weights = here["adapter_model.safetensors"]
    assert hub.stored == {hashlib.sha256(weights).hexdigest(): weights}
    assert hub.private is True
    steps = ["/api/repos/create", "/preupload/", "/objects/batch", "/store/", "/verify", "/commit/"]
    places = [next(i for i, line in enumerate(hub.asked) if step in line) for step in steps]
    assert places == sorted(places)
    assert any("/api/validate-yaml" in line for line in hub.asked)
    data = ModelCard(there["README.md"].decode()).data
    assert (data.license, data.language, data.base_model) == ("apache-2.0", ["en"], "org/base")
    assert data.model_name == "base-summarizer"
    assert (data.library_name, data.pipeline_tag) == ("peft", "summarization")
    assert not [line for line in caplog.messages if "HTTP" in line]
    (first, *_) = data.eval_results or []
    assert (first.metric_name, first.metric_value) == ("ROUGE-1 F1", 30.0)
    assert json.loads(here["adapter_config.json"])["base_model_name_or_path"] == "org/base"


def test_nothing_is_asked_unless_a_person_asked(run: Path, hub: Hub, tmp_path: Path) -> None:
    lines = pushed(run, tmp_path / "out", push_to_hub=None)
    assert not hub.asked
    assert lines[-1].startswith("how to load it")


@pytest.mark.parametrize(
    ("refuse", "said"),
    [
        ({"whoami": 401}, "the hub does not know the token; `hf auth login` with one that may write"),
        ({"/api/models": 418}, "the hub refused: no"),
    ],
)
def test_a_hub_that_refuses_is_known_before_anything_is_written(
    refuse: dict[str, int], said: str, run: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.refuse = refuse
    with pytest.raises(ConfigError) as caught:
        pushed(run, tmp_path / "out")
    assert str(caught.value) == f"--push-to-hub: {said}"
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_taken(run: Path, hub: Hub, tmp_path: Path) -> None:
    hub.repositories["me/summaries"] = {"theirs": b""}
    with pytest.raises(
        ConfigError, match="me/summaries is taken, and nothing of it is overwritten; name another"
    ):
        pushed(run, tmp_path / "out")
    assert hub.repositories == {"me/summaries": {"theirs": b""}}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("status", "said"),
    [(403, "the token may not write to me/summaries"), (409, "me/summaries is taken")],
)
def test_what_the_hub_refuses_at_the_end(status: int, said: str, run: Path, hub: Hub, tmp_path: Path) -> None:
    hub.refuse = {"/api/repos/create": status}
    with pytest.raises(ConfigError, match=f"{said}.*is whole, and `hf upload me/summaries"):
        pushed(run, tmp_path / "out")
    assert (tmp_path / "out" / "README.md").is_file()


def test_a_lost_network(run: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"^--push-to-hub: http://127.0.0.1:9 cannot be reached: "):
        pushed(run, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_is_seen_without_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Path) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    (name, token) = naming_issues("a/b/c")
    assert "'a/b/c' cannot be a repository's name" in str(name)
    assert (
        str(token)
        == "--push-to-hub: needs a token that may write: `hf auth login`, or HF_TOKEN in the environment"
    )
    with pytest.raises(ConfigError) as caught:
        pushed(run, tmp_path / "out", license=None, language=(), hub_base=None)
    assert [str(issue).partition(":")[0] for issue in caught.value.issues] == [
        "--push-to-hub",
        "--license",
        "--language",
        "--hub-base",
    ]
    with pytest.raises(ConfigError) as caught:
        pushed(run, tmp_path / "out", license="Apache 2", language=("en", "English"), push_to_hub=None)
    assert [str(issue) for issue in caught.value.issues] == [
        "--license: 'Apache 2' is no license's name as the hub has them, such as apache-2.0",
        "--language: 'English' is no language's code of two or three letters, such as en",
    ]
    with pytest.raises(ConfigError, match="--private: goes with --push-to-hub"):
        pushed(run, tmp_path / "out", push_to_hub=None, private=True)
