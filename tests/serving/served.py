"""What the tests of the server share: runs of the embedded model, a real server, and a model that waits."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from summarizer.adapters.attach import attach
from summarizer.adapters.peft_format import save_adapter
from summarizer.config.check import check
from summarizer.config.paths import conf_folder
from summarizer.config.schema import GenerationConfig
from summarizer.generation.summarizer import Prepared, Summarizer
from summarizer.models.load import load_base
from summarizer.runs.loaded_run import LoadedRun, load_runs
from summarizer.runs.trained_run import ADAPTER_FOLDER, read_trained_run
from summarizer.serving.application import build_application
from summarizer.serving.listening import Server, allowed_hosts, bind
from summarizer.serving.writer import Writer

ARTICLE = (
    "Pupils at Dunmarch Primary will have no homework for a whole year. The trial has split parents in the "
    "village. The head teacher said that children should read for twenty minutes each night instead.\n"
) * 4
REFERENCE = "Dunmarch Primary will have no homework for a year."

SummarizerOf = Callable[[GenerationConfig], Summarizer]


def run_folders(root: Path, *dims: int) -> list[Path]:
    """Run folders as training leaves them, with adapters that are random instead of trained."""
    folders = []
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        for dim in dims:
            overrides = [f"adapter.dim={dim}", "prompt.max_tokens=64", "generation.max_new_tokens=12"]
            config = compose("config", overrides)
            folder = root / f"dim{dim}"
            (folder / ".hydra").mkdir(parents=True)
            OmegaConf.save(config, folder / ".hydra" / "config.yaml")
            OmegaConf.save(OmegaConf.create(overrides), folder / ".hydra" / "overrides.yaml")
            spec = check(config, imported=True)
            base = load_base(spec.model, spec.quantization, torch.device("cpu"))
            adapted = attach(base.model, [spec.adapter], seeds=[dim])
            torch.manual_seed(dim)
            with torch.no_grad():
                for layer in adapted.layers.values():
                    for parameter in layer.trials[0].values():
                        parameter.add_(0.05 * torch.randn_like(parameter))
            save_adapter(adapted, 0, folder / ADAPTER_FOLDER, spec.model.name_or_path)
            folders.append(folder)
    return folders


def loaded_runs(root: Path) -> LoadedRun:
    return load_runs(
        [read_trained_run(folder) for folder in run_folders(root, 2, 4)], device="cpu", precision="fp32"
    )


class Gated(Summarizer):
    """Writes a piece each time that the gate lets one through."""

    gate = threading.Semaphore(0)
    closed = 0

    def streams(self, article: Prepared, **options: Any) -> Iterator[tuple[int, str]]:
        try:
            for piece in super().streams(article, **options):
                self.gate.acquire()
                yield piece
        finally:
            type(self).closed += 1


class Client:
    """A server's address, and requests to it as any program would send them."""

    def __init__(self, port: int, writer: Writer) -> None:
        self.port, self.writer = port, writer
        self.address = f"http://127.0.0.1:{port}"

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """The response as soon as its head is there; closing the connection leaves."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, headers or {})
        return connection, connection.getresponse()

    def get(
        self, path: str, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection, response = self.send("GET", path, headers=headers)
        with connection_closed(connection):
            return response.status, response.headers, response.read()

    def ask(
        self, asked: Any, headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
        return self.send(
            "POST", "/api/summaries", body, {"Content-Type": "application/json"} | (headers or {})
        )

    def refused(self, asked: Any, headers: dict[str, str] | None = None) -> tuple[int, str]:
        """Status and message of a request that is refused."""
        connection, response = self.ask(asked, headers)
        with connection_closed(connection):
            message: str = json.loads(response.read())["error"]
            return response.status, message

    def events(self, asked: Any) -> list[dict[str, Any]]:
        connection, response = self.ask(asked)
        with connection_closed(connection):
            assert response.status == 200, response.read()
            return [json.loads(line) for line in response]


@contextmanager
def connection_closed(connection: http.client.HTTPConnection) -> Iterator[None]:
    try:
        yield
    finally:
        connection.close()


@contextmanager
def served(
    loaded: LoadedRun, summarizer_of: SummarizerOf | None = None, *, most_waiting: int = 8
) -> Iterator[Client]:
    """A real server on a free port of loopback for the block."""
    writer = Writer(
        summarizer_of or (lambda spec: Summarizer(loaded, spec, batch_size=1)),
        most_waiting=most_waiting,
    )
    with bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        server = Server(build_application(loaded, writer, allowed_hosts(bound, [])), writer)
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        try:
            yield Client(port, writer)
        finally:
            server.should_exit = True
            until(lambda: writer._stopping)  # a gate that opens sooner would let summaries end after all
            for _ in range(1000):
                Gated.gate.release()
            thread.join(30)
            writer.join()
            assert not thread.is_alive()
    Gated.gate = threading.Semaphore(0)


def until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait for what another thread brings about."""
    end_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end_s, "it did not come about"
        time.sleep(0.01)
