"""A blind test by people: pairs, votes that are kept, and the page, by keyboard alone in a real browser."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from invented_runs import make_run, texts
from omegaconf import OmegaConf
from served import Client, until

from summarizer.config.plain import read_option
from summarizer.errors import ConfigError
from summarizer.evaluation.predictions import Prediction, read_predictions, write_predictions
from summarizer.evaluation.statistics import share_interval, sign_test
from summarizer.serve import command
from summarizer.serving.blind import Ballot, Pairs, Vote, default_file, read_pairs, sentences
from summarizer.serving.blind_application import build_blind_application
from summarizer.serving.listening import Server, allowed_hosts, bind

ROWS = 12


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs that were scored on the same rows, whose first row both summarized alike."""
    rows = [
        {"id": f"row{i}", "article": f"Article {i}, all of it.", "highlights": text}
        for i, text in enumerate(texts(0, ROWS))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {
        **read_option("data", "files"),
        "train": "gone.jsonl",
        "validation": str(tmp_path / "rows.jsonl"),
        "columns": {"article": "article", "summary": "highlights", "id": "id"},
    }
    folders = []
    for dim in (2, 8):
        folder = make_run(tmp_path / str(dim), [f"adapter.dim={dim}"], seed=dim)
        config = folder / ".hydra" / "config.yaml"
        OmegaConf.save(
            OmegaConf.merge(OmegaConf.load(config), {"data": data, "tracking": {"name": None}}), config
        )
        file = folder / "predictions" / "validation.jsonl"
        first, *others = read_predictions(file)
        write_predictions(file, [Prediction(first.id, "The same.", first.reference), *others])
        folders.append(folder)
    return folders


@pytest.fixture
def pairs(runs: list[Path]) -> Pairs:
    return read_pairs(runs)


def test_pairs_are_what_differs_with_the_articles_of_the_data(runs: list[Path], pairs: Pairs) -> None:
    assert (pairs.names, pairs.alike, pairs.without_article) == (("dim=2", "dim=8"), 1, 0)
    assert set(pairs.pairs) == {f"row{i}" for i in range(1, ROWS)}
    for number, folder in enumerate(runs):
        for row in read_predictions(folder / "predictions" / "validation.jsonl")[1:]:
            pair = pairs.pairs[row.id]
            assert pair.summaries[number] == row.prediction
            assert pair.article == f"Article {row.id[3:]}, all of it."
            assert pair.words[number] == len(row.prediction.split())


def test_what_cannot_be_asked_about_is_refused(runs: list[Path], tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", ["adapter.dim=4"], references=9)
    with pytest.raises(ConfigError, match="different rows"):
        read_pairs([runs[0], other])
    with pytest.raises(ConfigError, match="two runs, not 1"):
        read_pairs(runs[:1])
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"articles of .* are not at hand"):
        read_pairs(runs)
    (runs[1] / "predictions" / "validation.jsonl").unlink()
    with pytest.raises(ConfigError, match="has no summaries"):
        read_pairs(runs)


def answer(ballot: Ballot, *votes: Vote) -> None:
    for vote in votes:
        assert ballot.vote(ballot.state()["id"], vote) is not None


def test_a_test_that_was_left_goes_on_where_it_was(pairs: Pairs, tmp_path: Path) -> None:
    file = tmp_path / "votes.jsonl"
    ballot = Ballot(pairs, file)
    answer(ballot, "left", "right", "tie", "skip")
    again = Ballot(pairs, file)
    assert again.answers == ballot.answers
    assert again.order == ballot.order != sorted(ballot.order)
    assert again.state()["id"] == ballot.order[4]
    assert [again.on_the_left(row) for row in again.order] == [
        ballot.on_the_left(row) for row in ballot.order
    ]
    header, *lines = map(json.loads, file.read_text().splitlines())
    assert [line["vote"] for line in lines] == ["left", "right", "tie", "skip"]
    for line in lines:
        expected = {"left": line["left"], "right": 1 - line["left"]}.get(line["vote"])
        assert line["preferred"] == expected
        assert tuple(line["words"]) == pairs.pairs[line["id"]].words
    assert header["pairs"] == ROWS - 1
    file.write_text(file.read_text()[:-7])  # a kill cut the last vote short
    cut = Ballot(pairs, file)
    assert list(cut.answers) == ballot.order[:3]
    answer(cut, "tie")
    assert len(Ballot(pairs, file).answers) == 4


def test_both_sides_are_drawn(pairs: Pairs, tmp_path: Path) -> None:
    sides = [
        Ballot(pairs, tmp_path / f"{i}.jsonl").on_the_left(row) for i in range(20) for row in pairs.pairs
    ]
    assert 0.35 < sum(sides) / len(sides) < 0.65  # of 220: five standard deviations


def test_nothing_tells_the_runs_apart_before_the_end(pairs: Pairs, tmp_path: Path) -> None:
    ballot = Ballot(pairs, tmp_path / "votes.jsonl")
    state = ballot.state()
    assert set(state) == {"done", "of", "ended", "id", "article", "summaries"}
    said = json.dumps({**state, "summaries": None})
    assert not any(word in said for word in (*pairs.names, *pairs.folders, "words"))
    first = ballot.on_the_left(state["id"])
    assert state["summaries"] == [pairs.pairs[state["id"]].summaries[run] for run in (first, 1 - first)]
    assert ballot.vote(state["id"], "left") is not None
    assert ballot.vote(state["id"], "left") is None, "a key that is pressed twice is one vote"
    ballot.end()
    assert ballot.state()["result"]["votes"][0]["preferred"] == pairs.names[first]
    assert ballot.vote(ballot.order[1], "left") is None
    assert Ballot(pairs, tmp_path / "votes.jsonl").ended


def test_votes_on_other_summaries_are_not_taken_over(runs: list[Path], pairs: Pairs, tmp_path: Path) -> None:
    file = tmp_path / "votes.jsonl"
    Ballot(pairs, file)
    with pytest.raises(ConfigError, match="other order"):
        Ballot(read_pairs(runs[::-1]), file)
    path = runs[0] / "predictions" / "validation.jsonl"
    write_predictions(
        path, [Prediction(row.id, row.reference, row.reference) for row in read_predictions(path)]
    )
    with pytest.raises(ConfigError, match="on other summaries"):
        Ballot(read_pairs(runs), file)
    assert default_file(read_pairs(runs)) != default_file(pairs)
    for text in ("no JSON\n", '{"blind": 2}\n', '{"a": 1}\n', "[]\n", ""):
        file.write_text(text)
        with pytest.raises(ConfigError, match="holds no votes"):
            Ballot(pairs, file)


def prefer(ballot: Ballot, run: int, times: int) -> None:
    for _ in range(times):
        answer(ballot, "left" if ballot.on_the_left(ballot.state()["id"]) == run else "right")


def test_the_result_has_the_sign_test_and_its_interval(pairs: Pairs, tmp_path: Path) -> None:
    ballot = Ballot(pairs, tmp_path / "votes.jsonl")
    prefer(ballot, 1, 8)
    prefer(ballot, 0, 1)
    answer(ballot, "tie", "skip")
    first, second, asked, *_ = sentences(ballot)
    share = share_interval(8, 9)
    assert first == (
        f"dim=8 was preferred to dim=2 in 8 of 9 decided pairs: 89 % (95 % interval {share.low:.0f} to "
        f"{share.high:.0f} %)."
    )
    assert second == f"By the exact sign test p = {sign_test(8, 1):.3f}: significant (p < 0.05)."
    assert asked.startswith("11 pairs of 11 voted on, 1 as equal, 1 skipped; the left one was chosen in ")
    even = Ballot(pairs, tmp_path / "even.jsonl")
    prefer(even, 0, 2)
    prefer(even, 1, 2)
    assert sentences(even)[0].startswith(
        "dim=2 and dim=8 were preferred equally often, in 2 of 4 decided pairs: 50 %"
    )
    assert "No pair was decided" in sentences(Ballot(pairs, tmp_path / "none.jsonl"))[0]


@pytest.fixture
def ballot(pairs: Pairs, tmp_path: Path) -> Ballot:
    return Ballot(pairs, tmp_path / "votes.jsonl")


@pytest.fixture
def client(ballot: Ballot) -> Iterator[Client]:
    with bind("127.0.0.1", 0) as bound:
        server = Server(build_blind_application(ballot, allowed_hosts(bound, [])), None)
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        try:
            yield Client(bound.getsockname()[1], None)  # type: ignore[arg-type]  # there is no writer
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def test_votes_come_as_json_from_the_own_page_alone(client: Client, ballot: Ballot) -> None:
    def post(body: bytes, **headers: str) -> int:
        connection, response = client.send("POST", "/api/votes", body, headers)
        connection.close()
        return response.status

    kind = {"Content-Type": "application/json"}
    row_id = ballot.state()["id"]
    good = json.dumps({"id": row_id, "vote": "left"}).encode()
    assert post(good) == 415
    assert post(good, **kind, Origin="http://elsewhere.example") == 403
    assert post(b"{", **kind) == 400
    assert post(b'{"id": "row1", "vote": "best"}', **kind) == 422
    assert post(b" " * 70_000, **kind) == 413
    assert ballot.answers == {}
    assert post(good, **kind) == 200
    assert list(ballot.answers) == [row_id]


def test_the_keyboard_is_enough(browser: Any, client: Client, ballot: Ballot) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def text(selector: str) -> str:
        return str(browser.find_element("css selector", selector).text)

    def type_(key: str, then: str) -> None:
        ActionChains(browser).send_keys(key).perform()
        until(lambda: text("#progress") == then)

    browser.get(client.address)
    until(lambda: text("#progress") == f"1 of {ROWS - 1}")
    state = ballot.state()
    assert [text("#article"), text("#left"), text("#right")] == [state["article"], *state["summaries"]]
    assert "word" not in text("main"), "no length before the vote"
    type_("1", "2 of 11")
    pair, first = ballot.pairs.pairs[ballot.order[0]], ballot.on_the_left(ballot.order[0])
    assert text("#said") == (
        f"Pair 1: the left one. The left has {pair.words[first]} words, the right {pair.words[1 - first]}."
    )
    for count, key in enumerate(["2", "=", "s"], start=3):
        type_(key, f"{count} of 11")
    assert [one.vote for one in ballot.answers.values()] == ["left", "right", "tie", "skip"]
    for _ in range(2):
        ActionChains(browser).send_keys(Keys.TAB).perform()
    focused = browser.switch_to.active_element
    assert focused.get_attribute("data-vote") == "left"
    assert browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    type_(Keys.ENTER, "6 of 11")
    for _ in range(4):
        ActionChains(browser).send_keys(Keys.TAB).perform()
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    assert text("#end").startswith("Press again"), "which run wrote which is not told by one slip"
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    until(lambda: len(browser.find_elements("css selector", "#list tr")) == 5)
    assert text("#headline") == sentences(ballot)[0]
    assert browser.switch_to.active_element.get_attribute("id") == "result"
    assert ballot.ended


def test_mistakes_cost_no_model(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert command([str(runs[0]), "--blind"]) == 2
    assert "two runs, not 1" in capsys.readouterr().err
    assert command([str(runs[0]), "--votes", "x.jsonl"]) == 2
    assert "--votes: keeps the votes of --blind" in capsys.readouterr().err
    code = (
        "import sys, summarizer.serving.blind_application\n"
        "sys.exit(sorted({'torch', 'transformers', 'datasets', 'wandb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "[]"
