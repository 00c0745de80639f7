"""The line before the model: bounded, told of, and left by clients that go."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from served import ARTICLE, Client, Gated, served, until

from summarizer.config.schema import GenerationConfig
from summarizer.generation.summarizer import Prepared, Summarizer
from summarizer.runs.loaded_run import LoadedRun

ONE = {"article": ARTICLE, "runs": ["0"]}


@pytest.fixture
def gated(loaded: LoadedRun) -> Iterator[Client]:
    with served(loaded, lambda spec: Gated(loaded, spec, batch_size=1), most_waiting=2) as client:
        yield client


def test_a_full_line_says_503_and_when_to_come_again(gated: Client) -> None:
    asked = [gated.ask(ONE)]
    until(lambda: gated.writer.busy)
    asked += [gated.ask(ONE), gated.ask(ONE)]
    assert [json.loads(response.readline())["ahead"] for _, response in asked] == [0, 1, 2]
    connection, response = gated.ask(ONE)
    assert response.status == 503
    assert 1 <= int(response.headers["Retry-After"]) <= 120
    assert json.loads(response.read())["error"].startswith("2 requests wait already")
    connection.close()

    leaves, _ = asked.pop(1)
    leaves.close()
    until(lambda: gated.writer.waiting == 1)
    assert json.loads(asked[1][1].readline()) == {"event": "queued", "ahead": 1}, "it moved up"
    for _ in range(100):
        Gated.gate.release()
    for connection, response in asked:
        assert json.loads(response.read().splitlines()[-1]) == {"event": "done"}
        connection.close()


def test_a_client_that_leaves_is_left_off_between_tokens(gated: Client) -> None:
    before = Gated.closed
    connection, response = gated.ask({"article": ARTICLE})  # three variants
    Gated.gate.release()
    while json.loads(response.readline())["event"] != "text":
        pass
    response.close()
    connection.close()
    until(lambda: bool(gated.writer._now and gated.writer._now.dropped.is_set()))
    Gated.gate.release()
    until(lambda: not gated.writer.busy)
    assert Gated.closed == before + 1, "the first variant's stream was closed, the others never begun"
    for _ in range(100):
        Gated.gate.release()
    assert gated.events(ONE)[-1] == {"event": "done"}, "the model is as it was"


def test_beams_are_left_off_between_steps(loaded: LoadedRun) -> None:
    steps: list[int] = []

    class Counting(Summarizer):
        def prepare(self, article: str) -> Prepared:
            Gated.gate.acquire()
            return super().prepare(article)

        def answers(self, articles, *, trials, on_step=None):  # type: ignore[no-untyped-def]
            def counted(read: int, written: int) -> None:
                steps.append(written)
                if len(steps) == 3:
                    client.writer._now.dropped.set()
                on_step(read, written)

            return super().answers(articles, trials=trials, on_step=counted)

    with served(loaded, lambda spec: Counting(loaded, spec, batch_size=1)) as client:
        asked = ONE | {"settings": {"num_beams": 2, "min_new_tokens": 12}}
        connection, _ = client.ask(asked)
        Gated.gate.release()
        until(lambda: len(steps) >= 3 and not client.writer.busy)
        connection.close()
        assert len(steps) == 3


def test_a_failure_is_said_and_the_next_request_goes_well(
    loaded: LoadedRun, caplog: pytest.LogCaptureFixture
) -> None:
    def build(spec: GenerationConfig) -> Summarizer:
        if spec.max_new_tokens == 1:
            raise RuntimeError("out of something")
        return Summarizer(loaded, spec, batch_size=1)

    with served(loaded, build) as client:
        last = client.events(ONE | {"settings": {"max_new_tokens": 1}})[-1]
        assert last["event"] == "error"
        assert "log" in last["message"]
        assert "out of something" not in last["message"]
        assert "out of something" in caplog.text
        assert client.events(ONE)[-1] == {"event": "done"}


def test_a_stop_tells_those_who_wait(loaded: LoadedRun) -> None:
    with served(loaded, lambda spec: Gated(loaded, spec, batch_size=1)) as client:
        asked = [client.ask(ONE)]
        until(lambda: client.writer.busy)
        asked.append(client.ask(ONE))
        until(lambda: client.writer.waiting == 1)
    for connection, response in asked:
        last = json.loads(response.read().splitlines()[-1])
        assert last == {"event": "error", "message": "The server was stopped before this was done."}
        connection.close()
