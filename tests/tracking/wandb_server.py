"""A server on this machine that speaks as much of wandb's protocol as a run, its resumption and an agent ask for.

What it takes was read off wandb 0.31's own requests. It keeps what wandb's server keeps of it, in the form that it
arrives in, and never makes up for what a client leaves out: a question that it does not know is answered with an
error and remembered in `unknown`, for the tests to fail on.
"""

# ruff: noqa: N802 - the names of its answers are those of wandb's operations

from __future__ import annotations

import itertools
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

ENTITY = "team"
KEY = "k" * 40
OPERATION = re.compile(r"\b(?:query|mutation)\s+(\w+)")
FILE_STREAM = re.compile(r"/files/[^/]+/(?P<project>[^/]+)/(?P<run>[^/]+)/file_stream")

Variables = dict[str, Any]


@dataclass
class ServedRun:
    """One run as the server has it."""

    name: str
    project: str
    told: Variables = field(default_factory=dict)
    """The last that an upsert said of each of its fields, where it said anything."""
    lines: dict[str, list[str]] = field(default_factory=dict)
    """Of each streamed file, in its order."""
    uploads: dict[str, bytes] = field(default_factory=dict)
    exit_codes: list[int] = field(default_factory=list)
    joined: int = 0
    """How many times a client asked whether the run is there, and it was."""

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines.get("wandb-history.jsonl", [])]

    @property
    def summary(self) -> dict[str, Any]:
        lines = self.lines.get("wandb-summary.json", [])
        found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        return found

    @property
    def config(self) -> dict[str, Any]:
        return {key: item["value"] for key, item in json.loads(self.told.get("config", "{}")).items()}

    def stream(self, name: str, offset: int, content: list[str]) -> None:
        lines = self.lines.setdefault(name, [])
        if name == "wandb-summary.json":  # one document, sent whole each time
            offset = 0
            lines.clear()
        if offset > len(lines):
            raise ValueError(f"{self.name}: {name} has {len(lines)} lines, and more come at {offset}")
        lines[offset : offset + len(content)] = content

    def bucket(self) -> dict[str, Any]:
        """For a client that wants to go on with it."""
        tails = {
            key: json.dumps(self.lines.get(file, [])[-1:])
            for key, file in {
                "historyTail": "wandb-history.jsonl",
                "eventsTail": "wandb-events.jsonl",
            }.items()
        }
        counts = {
            f"{key}LineCount": len(self.lines.get(file, []))
            for key, file in {
                "history": "wandb-history.jsonl",
                "events": "wandb-events.jsonl",
                "log": "output.log",
            }.items()
        }
        return {
            "id": f"id-{self.name}",
            "name": self.name,
            "displayName": self.told.get("displayName"),
            "summaryMetrics": json.dumps(self.summary),
            "config": self.told.get("config", "{}"),
            "tags": self.told.get("tags", []),
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
            **counts,
            **tails,
        }


@dataclass
class ServedArtifact:
    type: str
    collection: str
    run: str
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False


@dataclass
class ServedSweep:
    name: str
    config: dict[str, Any]
    text: str
    pending: list[dict[str, Any]]
    """The grid's points that no agent has yet."""
    heard: list[dict[str, bool]] = field(default_factory=list)
    """Which runs go on, as the agent says in each heartbeat."""


@dataclass
class WandbServer:
    url: str = ""
    runs: dict[str, ServedRun] = field(default_factory=dict)
    sweeps: dict[str, ServedSweep] = field(default_factory=dict)
    artifacts: dict[str, ServedArtifact] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    """Of the clients, as they came."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    # ---- questions ---------------------------------------------------------------------------------------------

    def answer(self, query: str, variables: Variables) -> dict[str, Any]:
        found = OPERATION.search(query)
        ask = getattr(self, f"on_{found.group(1)}", None) if found else None
        if ask is None:
            self.unknown.append(query)
            return {"errors": [{"message": f"not known here: {query[:80]}"}]}
        return {"data": ask(variables)}

    def on_Viewer(self, _: Variables) -> Variables:
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        return {"viewer": {"id": "me", "entity": ENTITY, "username": "me", "flags": "{}", "teams": teams}}

    def on_ServerFeaturesQuery(self, _: Variables) -> Variables:
        return {"serverInfo": {"features": []}}

    def on_RunResumeStatus(self, asked: Variables) -> Variables:
        run = self.runs.get(asked["name"])
        if run is not None:
            run.joined += 1
        model = {"id": "project", "name": asked["project"], "entity": {"id": "team", "name": ENTITY}}
        return {"model": model | {"bucket": run.bucket() if run else None}}

    def on_UpsertBucket(self, told: Variables) -> Variables:
        run, new = self.runs.get(told["name"]), told["name"] not in self.runs
        if run is None:
            run = self.runs[told["name"]] = ServedRun(told["name"], told["project"])
        run.told |= {key: value for key, value in told.items() if value is not None}
        project = {"id": "project", "name": run.project, "entity": {"id": "team", "name": ENTITY}}
        bucket = run.bucket() | {"description": "", "project": project, "sweepName": run.told.get("sweep")}
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def on_CreateRunFiles(self, told: Variables) -> Variables:
        places = [
            {"name": name, "uploadUrl": f"{self.url}/upload/{told['run']}/{name}"} for name in told["files"]
        ]
        return {
            "createRunFiles": {"runID": f"id-{told['run']}", "uploadHeaders": [], "files": places},
        }

    # ---- artifacts ---------------------------------------------------------------------------------------------

    def on_ArtifactType(self, _: Variables) -> Variables:
        return {"project": {"artifact": None}}

    def on_FetchArtifactDigestAlgorithm(self, _: Variables) -> Variables:
        return {"project": None}

    def on_CreateArtifact(self, told: Variables) -> Variables:
        asked, identity = told["input"], f"artifact{len(self.artifacts)}"
        self.artifacts[identity] = ServedArtifact(
            asked["artifactTypeName"], asked["artifactCollectionName"], asked["runName"]
        )
        artifact = {"id": identity, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def on_CreateArtifactManifest(self, told: Variables) -> Variables:
        return {"createArtifactManifest": {"artifactManifest": self._manifest(told["artifactID"])}}

    def on_UpdateArtifactManifest(self, told: Variables) -> Variables:
        return {"updateArtifactManifest": {"artifactManifest": self._manifest(told["artifactManifestID"])}}

    def _manifest(self, identity: str) -> Variables:
        place = f"{self.url}/artifact/{identity}/wandb_manifest.json"
        return {"id": identity, "file": {"id": identity, "uploadUrl": place, "uploadHeaders": []}}

    def on_CreateArtifactFiles(self, told: Variables) -> Variables:
        edges = []
        for file in told["input"]["artifactFiles"]:
            identity, name = file["artifactID"], file["name"]
            told_of = {"id": name, "name": name, "displayName": name, "uploadHeaders": []}
            told_of |= {"uploadUrl": f"{self.url}/artifact/{identity}/{name}", "storagePath": name}
            told_of |= {"uploadMultipartUrls": None, "artifact": {"id": identity}}
            edges.append({"node": told_of})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def on_CommitArtifact(self, told: Variables) -> Variables:
        artifact = self.artifacts[told["artifactID"]]
        artifact.committed = True
        return {"commitArtifact": {"artifact": {"id": told["artifactID"], "digest": ""}}}

    # ---- sweeps: a grid, point after point ---------------------------------------------------------------------

    def on_UpsertSweep(self, told: Variables) -> Variables:
        config = yaml.safe_load(told["config"])
        name = f"sweep{len(self.sweeps)}"
        parameters = config["parameters"]
        points = [
            {key: {"value": value} for key, value in zip(parameters, point, strict=True)}
            for point in itertools.product(
                *(item.get("values", [item.get("value")]) for item in parameters.values())
            )
        ]
        self.sweeps[name] = ServedSweep(name, config, told["config"], points)
        project = {"id": "project", "name": told["projectName"], "entity": {"id": "team", "name": ENTITY}}
        return {
            "upsertSweep": {
                "sweep": {"name": name, "id": name, "project": project},
                "configValidationWarnings": [],
            }
        }

    def on_SweepWithRuns(self, asked: Variables) -> Variables:
        sweep = self.sweeps[asked["sweep"]]
        told = {"id": sweep.name, "name": sweep.name, "method": sweep.config["method"], "state": "RUNNING"}
        return {"project": {"sweep": told | {"config": sweep.text, "runs": {"edges": []}}}}

    def on_CreateAgent(self, told: Variables) -> Variables:
        return {"createAgent": {"agent": {"id": told["sweep"]}}}

    def on_Heartbeat(self, told: Variables) -> Variables:
        sweep, going_on = self.sweeps[told["id"]], json.loads(told["runState"])
        sweep.heard.append(going_on)
        commands: list[dict[str, Any]] = []
        if not going_on:
            if sweep.pending:
                point = sweep.pending.pop(0)
                name = f"{sweep.name}point{len(sweep.heard)}"
                commands = [
                    {"type": "run", "run_id": name, "args": point, "program": sweep.config["program"]}
                ]
            else:
                commands = [{"type": "exit"}]
        return {"agentHeartbeat": {"agent": {"id": told["id"]}, "commands": json.dumps(commands)}}


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that ends, or is killed, just goes
            super().handle_error(request, client_address)


@contextmanager
def serving() -> Iterator[WandbServer]:
    """A server of its own for the block, on a free port of 127.0.0.1."""
    state = WandbServer()

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            return

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with state.lock:
                state.keys.add(self.headers.get("Authorization", ""))
                self._reply(self._answer(body))

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            _, kind, owner, name = self.path.split("/", 3)
            with state.lock:
                files = state.runs[owner].uploads if kind == "upload" else state.artifacts[owner].files
                files[name] = body
            self._reply({})

        def _answer(self, body: bytes) -> dict[str, Any]:
            if self.path == "/graphql":
                asked = json.loads(body)
                return state.answer(asked["query"], asked.get("variables") or {})
            if found := FILE_STREAM.fullmatch(self.path):
                told, run = json.loads(body), state.runs[found["run"]]
                for name, part in told.get("files", {}).items():
                    run.stream(name, part["offset"], part["content"])
                if told.get("complete"):
                    run.exit_codes.append(told["exitcode"])
                return {"exitcode": None, "limits": {}}
            if not self.path.startswith("/sdk/otel/"):  # wandb's telemetry of itself
                state.unknown.append(self.path)
            return {}

        def _reply(self, answer: dict[str, Any]) -> None:
            data = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with QuietServer(("127.0.0.1", 0), Answers) as server:
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
