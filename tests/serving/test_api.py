"""The HTTP API through a real server on loopback."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from dataclasses import replace
from typing import Any

import pytest
from rouge_score.rouge_scorer import RougeScorer
from served import ARTICLE, Client, served, until

from summarizer.evaluation.sentences import split_sentences
from summarizer.generation.summarizer import Summarizer
from summarizer.runs.loaded_run import LoadedRun
from summarizer.serving import listening
from summarizer.serving.request import MOST_ARTICLE_CHARACTERS, MOST_BODY_BYTES, MOST_REFERENCE_CHARACTERS

pytestmark = pytest.mark.versions


def test_two_adapters_and_the_base_write_what_the_summarizer_writes(
    client: Client, loaded: LoadedRun
) -> None:
    events = client.events({"article": ARTICLE})
    summarizer = Summarizer(loaded, loaded.spec.generation, batch_size=1)
    article = summarizer.prepare(ARTICLE)
    trials = {"0": [0], "1": [1], "base": None}
    expected = {
        run: next(summarizer.summaries([article], trials=trial))[1][0] for run, trial in trials.items()
    }
    assert len(set(expected.values())) == 3, "the variants must differ for this test to tell them apart"
    streamed = {
        run: "".join(event["text"] for event in events if event["event"] == "text" and event["run"] == run)
        for run in trials
    }
    assert streamed == expected
    done = {event["run"]: event for event in events if event["event"] == "summary"}
    assert {run: event["summary"] for run, event in done.items()} == expected
    assert all(event["rouge"] is None for event in done.values())
    assert sum(event["event"] == "text" for event in events) > 10, "it comes in pieces"
    assert [event["event"] for event in events if event["event"] not in ("text", "started", "summary")] == [
        "queued",
        "article",
        "done",
    ]


@pytest.mark.parametrize("beams", [1, 3])
def test_settings_are_followed(client: Client, loaded: LoadedRun, beams: int) -> None:
    settings = {"max_new_tokens": 7, "min_new_tokens": 7, "num_beams": beams, "no_repeat_ngram_size": 2}
    events = client.events({"article": ARTICLE, "runs": ["1"], "settings": settings})
    summarizer = Summarizer(loaded, loaded.spec.generation.model_copy(update=settings), batch_size=1)
    article = summarizer.prepare(ARTICLE)
    ((_, (expected,)),) = summarizer.summaries([article], trials=[1])
    (done,) = [event for event in events if event["event"] == "summary"]
    assert (done["run"], done["summary"]) == ("1", expected)
    ((_, (tokens,)),) = summarizer.answers([article], trials=[1])
    assert (done["summary_tokens"], done["cut"]) == (len(tokens), len(tokens) == 7)
    assert done["summary_tokens"] <= 7, "as many as were written, however the text's own tokens are counted"
    assert done["total_s"] >= done["first_text_s"] > 0
    assert done["tokens_per_s"] == pytest.approx(done["summary_tokens"] / done["total_s"])
    (read,) = [event for event in events if event["event"] == "article"]
    assert read["article_tokens"] == len(loaded.prompt.encode_article(ARTICLE))
    prompt = loaded.prompt
    assert read["article_tokens"] - read["cut_tokens"] == 64 - 7 - len(prompt.before) - len(prompt.after)


def test_a_summary_that_came_to_its_end_is_not_cut(client: Client, loaded: LoadedRun) -> None:
    """A later token that it would write is made the end token."""
    ask: dict[str, Any] = {
        "article": ARTICLE,
        "runs": ["0"],
        "settings": {"max_new_tokens": 7, "min_new_tokens": 1},
    }
    generation = loaded.spec.generation.model_copy(update=ask["settings"])
    summarizer = Summarizer(loaded, generation, batch_size=1)
    ((_, (tokens,)),) = summarizer.answers([summarizer.prepare(ARTICLE)], trials=[0])
    end = next(token for token in tokens[1:] if token != tokens[0])
    written = tokens.index(end)
    (whole,) = [event for event in client.events(ask) if event["event"] == "summary"]
    assert (whole["summary_tokens"], whole["cut"]) == (7, True)
    with served(replace(loaded, prompt=replace(loaded.prompt, end_id=end))) as other:
        (ended,) = [event for event in other.events(ask) if event["event"] == "summary"]
    assert (ended["summary_tokens"], ended["cut"]) == (written, False)


def test_rouge_is_that_of_the_library_under_its_own_names(client: Client) -> None:
    reference = "Pupils have no homework. Parents are split in the village."
    events = client.events({"article": ARTICLE, "reference": reference, "runs": ["base"]})
    (done,) = [event for event in events if event["event"] == "summary"]
    variants = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scores = RougeScorer(variants, use_stemmer=True).score(
        "\n".join(split_sentences(reference)), "\n".join(split_sentences(done["summary"]))
    )
    assert done["rouge"] == pytest.approx({name: 100 * scores[name].fmeasure for name in variants})
    assert list(done["rouge"]) == variants


def test_runs_are_told_without_a_path(client: Client, loaded: LoadedRun) -> None:
    _, _, body = client.get("/api/runs")
    about = json.loads(body)
    assert [(run["id"], run["detail"]) for run in about["runs"]] == [
        ("0", "adapter.dim=2"),
        ("1", "adapter.dim=4"),
        ("base", "without an adapter"),
    ]
    assert [run["name"].split("/")[-1] for run in about["runs"]] == ["dim2", "dim4", "base model"]
    assert str(loaded.runs[0].folder.parent.parent) not in body.decode()
    assert about["settings"]["max_new_tokens"]["default"] == 12
    until(lambda: not client.writer.busy)  # the last test's request was answered a moment before it ended
    status, _, health = client.get("/api/health")
    assert (status, json.loads(health)) == (200, {"status": "ok", "busy": False, "waiting": 0})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "article: missing; give a text"),
        ({"article": " \n"}, "article: empty; paste the text of an article"),
        ({"article": 3}, "article: a number; give a text"),
        ({"article": "x" * (MOST_ARTICLE_CHARACTERS + 1)}, "article: 100,001 characters; at most 100,000"),
        ({"article": "a \ud800"}, "article: holds half of a character (a lone surrogate), which no text has"),
        ({"article": "a", "reference": []}, "reference: a list; give a text"),
        ({"article": "a", "runs": []}, "runs: none chosen; give a list of 0, 1, base"),
        ({"article": "a", "runs": ["/etc"]}, "runs: '/etc' is not loaded here; choose among 0, 1, base"),
        ({"article": "a", "runs": ["0", "0"]}, "runs: '0' twice; once is enough"),
        ({"article": "a", "runs": [[]]}, "runs: a list is not loaded here; choose among 0, 1, base"),
        ({"article": "a", "run": "0"}, "request: 'run' is no key of one; did you mean 'runs'?"),
        ({"article": "a", "runs": ["0"] * 200_000}, "runs: 200,000 of them; give a list of 0, 1, base"),
        ({"article": "a", "settings": {"num_beams": 9}}, "num_beams: 9; at least 1, at most 8"),
        (
            {"article": "a", "settings": {"num_beams": True}},
            "num_beams: true; give a whole number from 1 to 8",
        ),
        ({"article": "a", "settings": {"num_beams": 2.5}}, "num_beams: 2.5; give a whole number from 1 to 8"),
        (
            {"article": "a", "settings": {"num_beams": 10**4000}},
            "num_beams: a number of over twelve digits; at least 1, at most 8",
        ),
        (
            {"article": "a", "settings": {"beams": 2}},
            "settings: 'beams' cannot be set; did you mean 'num_beams'?",
        ),
        (
            {"article": "a", "settings": {"min_new_tokens": 9, "max_new_tokens": 5}},
            "min_new_tokens: 9 is above max_new_tokens=5",
        ),
    ],
)
def test_what_is_out_of_bounds_is_refused_with_key_value_and_bound(
    client: Client, asked: object, message: str
) -> None:
    assert client.refused(asked) == (422, message)


def test_all_mistakes_come_in_one_message(client: Client) -> None:
    status, message = client.refused({"article": "", "runs": ["7"], "settings": {"num_beams": 0}})
    assert status == 422
    assert message.count("; ") >= 2
    assert all(key in message for key in ("article:", "runs:", "num_beams:"))


def test_the_longest_summary_leaves_the_article_a_token(client: Client) -> None:
    longest = json.loads(client.get("/api/runs")[2])["settings"]["max_new_tokens"]["high"]
    settings = {"max_new_tokens": longest + 1}
    assert client.refused({"article": "a", "settings": settings})[0] == 422
    events = client.events({"article": ARTICLE, "runs": ["0"], "settings": {"max_new_tokens": longest}})
    assert events[-1] == {"event": "done"}
    assert events[1]["article_tokens"] - events[1]["cut_tokens"] == 1


def test_what_no_answer_could_repeat_is_refused_all_the_same(client: Client) -> None:
    status, message = client.refused({"article": "a", "\ud800": 1, "x" * 500_000: 1})
    assert status == 422
    assert "request: '\\ud800' is no key" in message
    many = {f"k{number}": 1 for number in range(40_000)}
    status, message = client.refused({"article": "a", "settings": many} | many)
    assert status == 422
    assert len(message) < 10_000


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b"[]", b"1" * 5000])
def test_a_body_that_is_no_json_object(client: Client, body: bytes) -> None:
    status, message = client.refused(body)
    assert status == 400
    assert message.startswith("the body is no JSON")


def test_a_body_that_is_too_long(client: Client) -> None:
    assert client.refused(b" " * (MOST_BODY_BYTES + 1))[0] == 413
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as raw:  # its length not said ahead
        raw.sendall(
            b"POST /api/summaries HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(MOST_BODY_BYTES // 0x10000 + 1):
            raw.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        assert b" 413 " in raw.recv(100)


def test_the_longest_texts_may_come_in_escapes(client: Client) -> None:
    asked = {
        "article": "\N{PARROT}" * MOST_ARTICLE_CHARACTERS,
        "reference": "\N{PARROT}" * MOST_REFERENCE_CHARACTERS,
        "runs": ["9"],
    }
    body = json.dumps(asked).encode()
    assert len(body) > 12 * MOST_ARTICLE_CHARACTERS
    assert client.refused(body) == (422, "runs: '9' is not loaded here; choose among 0, 1, base")


def test_another_sites_page_is_refused(client: Client) -> None:
    asked = {"article": "a"}
    assert client.refused(asked, {"Host": f"rebound.example:{client.port}"})[0] == 403
    assert client.refused(asked, {"Host": "192.168.1.4"})[0] == 403
    assert client.refused(asked, {"Origin": "https://rebound.example"})[0] == 403
    assert client.refused(asked, {"Origin": "null"})[0] == 403
    assert client.refused(asked, {"Origin": f"http://127.0.0.1:{client.port + 1}"})[0] == 403
    assert client.refused(asked, {"Content-Type": "text/plain"})[0] == 415
    assert (
        client.get(
            "/api/runs", {"Host": f"localhost:{client.port}", "Origin": f"http://localhost:{client.port}"}
        )[0]
        == 200
    )
    assert client.get("/api/runs", {"Host": "[::1]:9"})[0] == 200, "as through a forwarded port"


@pytest.mark.parametrize("path", ["/", "/page.js", "/style.css", "/favicon.svg", "/api/runs", "/nothing"])
def test_every_answer_tells_the_browser_what_to_allow(client: Client, path: str) -> None:
    status, headers, body = client.get(path)
    assert status == (404 if path == "/nothing" else 200)
    assert "script-src 'self'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "server" not in headers
    assert body


@pytest.mark.parametrize(
    "path", ["/../request.py", "/%2e%2e/request.py", "/page/../../serve.py", "//etc/passwd"]
)
def test_no_other_file_is_served(client: Client, path: str) -> None:
    assert client.get(path)[0] == 404


def test_a_reference_of_blanks_is_none(client: Client) -> None:
    events = client.events({"article": ARTICLE, "reference": " \n", "runs": ["0"]})
    assert next(event for event in events if event["event"] == "summary")["rouge"] is None


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
def test_headers_that_do_not_end_are_not_waited_for(
    sent: bytes, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "HEADERS_WITHIN_S", 0.5)
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as connection:
        connection.sendall(sent)
        start_s = time.monotonic()
        answer = connection.recv(1000)
        assert time.monotonic() - start_s < 15
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout")


def test_one_byte_at_a_time_is_not_waited_for_either(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte resets no clock; and so on a connection that has had an answer."""
    monkeypatch.setattr(listening, "HEADERS_WITHIN_S", 0.5)
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as connection:
        connection.sendall(b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(10_000).startswith(b"HTTP/1.1 200")
        start_s = time.monotonic()
        received = b""
        connection.settimeout(0.1)
        while b"408" not in received:
            assert time.monotonic() - start_s < 15
            with contextlib.suppress(TimeoutError):
                connection.sendall(b"G")
                received += connection.recv(10_000)


def test_an_answer_may_take_longer_than_its_headers(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "HEADERS_WITHIN_S", 0.05)
    events = client.events({"article": ARTICLE})
    assert events[-1]["event"] == "done"
