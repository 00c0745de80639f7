"""A blind test by people: two runs' summaries of the same articles in pairs, and the votes on them.

Which run wrote which is hidden until the test ends: a pair's order is drawn by the test's own seed, and kept with
the vote. Votes are appended to a file, line by line, so that a test that was left goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import random
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError

from summarizer.atomic import write_text
from summarizer.config.paths import shown
from summarizer.config.schema import DataConfig
from summarizer.data.rows import BadRow, check_row
from summarizer.data.sources import open_source
from summarizer.errors import ConfigError, Issue
from summarizer.evaluation.record import SIGNIFICANCE_LEVEL
from summarizer.evaluation.statistics import share_interval, sign_test
from summarizer.files import append_line, read_own
from summarizer.json_files import parse_json
from summarizer.reports.sentences import counted, p_text
from summarizer.runs.read_runs import RunFiles, digest, from_files, read_run_files
from summarizer.runs.settings import flat, names

VERSION = 1
"""Of the votes' file."""
MOST_BYTES = 2**26
Vote = Literal["left", "right", "tie", "skip"]
VOTES: tuple[Vote, ...] = get_args(Vote)
SIDES = ("left", "right")


# ---- what is asked -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Two summaries of one article, in the order of the runs."""

    id: str
    article: str
    summaries: tuple[str, str]

    @property
    def words(self) -> tuple[int, int]:
        first, second = self.summaries
        return len(first.split()), len(second.split())


@dataclass(frozen=True)
class Pairs:
    """All that two runs can be asked about."""

    names: tuple[str, str]
    folders: tuple[str, str]
    split: str
    pairs: Mapping[str, Pair]
    """By row id."""
    alike: int
    """Rows of which both runs wrote the same, which nobody needs to be asked about."""
    without_article: int
    """Rows whose articles are not at hand."""
    digests: tuple[str, str]
    """Of each run's summaries, by which a file of votes knows them."""


def read_pairs(folders: Sequence[Path]) -> Pairs:
    """What two runs wrote for the rows that both were scored on. Raises ConfigError where that is nothing."""
    if len(folders) != 2:
        raise ConfigError.single("--blind", f"compares two runs, not {len(folders)}")
    runs: list[RunFiles] = []
    issues: list[Issue] = []
    for folder in folders:
        try:
            run = read_run_files(folder)
        except ConfigError as error:
            issues += error.issues
            continue
        runs.append(run)
        issues += [Issue(path, problem) for path, problem in run.problems.items()]
        if not run.predictions and not run.problems:
            issues.append(
                Issue(
                    run.source,
                    "has no summaries: it did not complete, or generated none (evaluation=loss_only)",
                )
            )
    if issues:
        raise ConfigError(issues)
    first, second = runs
    split = str(first.record.split)
    if split != second.record.split or digest(first.predictions) != digest(second.predictions):
        raise ConfigError.single(
            "--blind", f"{first.source} and {second.source} were scored on different rows"
        )
    others = {row.id: row.prediction for row in second.predictions}
    if len(others) < len(second.predictions):
        raise ConfigError.single(first.source, "row ids occur twice, so that its summaries cannot be paired")
    differing = {row.id: row for row in first.predictions if row.prediction.split() != others[row.id].split()}
    articles = _articles(runs, split, {row.id: row.reference for row in differing.values()})
    pairs = {
        row_id: Pair(row_id, articles[row_id], (row.prediction, others[row_id]))
        for row_id, row in differing.items()
        if row_id in articles
    }
    if not pairs:
        why = (
            f"the articles of {first.source} are not at hand: its data.{split} is not where it was"
            if differing
            else "both runs wrote the same summary of every article"
        )
        raise ConfigError.single("--blind", f"there is no pair to ask about; {why}")
    configs = [flat(run.record.config) for run in runs]
    of_runs = names([run.source for run in runs], [[0, 1]], configs, [run.record.overrides for run in runs])
    return Pairs(
        names=(of_runs[0], of_runs[1]),
        folders=(first.source, second.source),
        split=split,
        pairs=pairs,
        alike=len(first.predictions) - len(differing),
        without_article=len(differing) - len(pairs),
        digests=(_digest(first), _digest(second)),
    )


def _digest(run: RunFiles) -> str:
    texts = sorted((row.id, row.prediction) for row in run.predictions)
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def _articles(runs: Sequence[RunFiles], split: str, references: Mapping[str, str]) -> dict[str, str]:
    """Articles by row id, as far as the data that the first run's config names is still there."""
    config = runs[0].record.config
    found = {row_id: text for run in runs for row_id, text in run.articles.items() if row_id in references}
    return (
        found | from_files(config, split, references, most_rows=None) | _from_hub(config, split, references)
    )


def _from_hub(config: Mapping[str, Any], split: str, references: Mapping[str, str]) -> dict[str, str]:
    """As `from_files`, of a data set of the hub, which the run itself has fetched."""
    found: dict[str, str] = {}
    try:
        spec = DataConfig.model_validate(config.get("data"))
        if spec.source != "hub":
            return {}
        source = open_source(spec, split)  # type: ignore[arg-type]  # a split, as read_run_files has checked
        for index, raw in enumerate(source.read()):
            row = (
                raw
                if isinstance(raw, BadRow)
                else check_row(raw[1], spec.columns, raw[0], index, frozenset())
            )
            if not isinstance(row, BadRow) and references.get(row.id) == row.summary:
                found[row.id] = row.article
                if len(found) == len(references):
                    break
    except (ValidationError, ConfigError, OSError):
        return found  # what is known of it is asked about
    return found


# ---- what was answered -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """One vote, as a line of the file has it."""

    id: str
    left: int
    """Which of the two runs stood on the left."""
    vote: Vote
    preferred: int | None
    """The run that was chosen; None for a tie and a skip."""
    words: tuple[int, int]
    """How long the two runs' summaries are, in words."""
    seconds: float | None
    """From the pair's showing to the vote."""
    at: str


class Ballot:
    """A test: its pairs in their order, and the votes on them, in memory and on disk."""

    def __init__(self, pairs: Pairs, file: Path) -> None:
        """Begin a test, or go on with the one in `file`. Raises ConfigError where the file holds something else."""
        self.pairs, self.file = pairs, file
        self.answers: dict[str, Answer] = {}
        self.ended = False
        self._shown_s: tuple[str, float] | None = None
        if file.exists():
            self.seed = self._read()
        else:
            self.seed = secrets.randbits(32)
            header = {
                "blind": VERSION,
                "seed": self.seed,
                "split": pairs.split,
                "pairs": len(pairs.pairs),
                "runs": [
                    {"name": name, "folder": folder, "summaries_sha256": digest}
                    for name, folder, digest in zip(pairs.names, pairs.folders, pairs.digests, strict=True)
                ],
                "at": _now(),
            }
            write_text(file, json.dumps(header, ensure_ascii=False) + "\n")
        self.order = sorted(pairs.pairs)
        random.Random(self.seed).shuffle(self.order)

    def _read(self) -> int:
        """Take over the votes of the file and return its seed. A last line that a kill cut short is dropped."""
        try:
            text = read_own(self.file, MOST_BYTES, links=True).decode()
            whole = text[: text.rfind("\n") + 1]
            header, *lines = [parse_json(line) for line in whole.splitlines()]
            if header["blind"] != VERSION:
                raise ValueError
            theirs = tuple(run["summaries_sha256"] for run in header["runs"])
            seed = int(header["seed"])
        except OSError as error:
            raise ConfigError.single("--votes", f"{self.file} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError.single(
                "--votes", f"{self.file} holds no votes of a blind test; name another"
            ) from error
        if theirs != self.pairs.digests:
            hint = (
                "name the runs in the other order"
                if theirs == self.pairs.digests[::-1]
                else "name another file"
            )
            raise ConfigError.single("--votes", f"{shown(self.file)} holds votes on other summaries; {hint}")
        for number, line in enumerate(lines, start=2):
            try:
                if "ended" in line:
                    self.ended = True
                elif line["id"] in self.pairs.pairs:
                    answer = Answer(**{**line, "words": tuple(line["words"])})
                    if answer.vote not in VOTES or answer.left not in (0, 1):
                        raise ValueError
                    self.answers[answer.id] = answer
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError.single(f"{self.file}:{number}", "is no vote of a blind test") from error
        if whole != text:
            write_text(self.file, whole)
        return seed

    @property
    def left(self) -> list[str]:
        """The row ids that nobody has voted on."""
        return [row_id for row_id in self.order if row_id not in self.answers]

    def on_the_left(self, row_id: str) -> int:
        """Which run stands on the left of a pair, as the test's seed has it."""
        return random.Random(f"{self.seed} {row_id}").randrange(2)

    def state(self) -> dict[str, Any]:
        """What the page may know: the next pair without names and lengths, or the result once the test ended."""
        progress = {"done": len(self.answers), "of": len(self.order)}
        if self.ended or not self.left:
            self.end()
            return {**progress, "ended": True, "result": result(self)}
        pair = self.pairs.pairs[self.left[0]]
        first = self.on_the_left(pair.id)
        if self._shown_s is None or self._shown_s[0] != pair.id:
            self._shown_s = (pair.id, time.monotonic())
        texts = [pair.summaries[first], pair.summaries[1 - first]]
        return {**progress, "ended": False, "id": pair.id, "article": pair.article, "summaries": texts}

    def vote(self, row_id: str, vote: Vote) -> tuple[int, int] | None:
        """Keep a vote on the pair that is shown; its lengths in words, as they stand. None where it is not shown.

        So that a key that is pressed twice is one vote. Raises WriteError, the vote being no vote, on a full disk.
        """
        if self.ended or not self.left or row_id != self.left[0]:
            return None
        pair, first = self.pairs.pairs[row_id], self.on_the_left(row_id)
        seconds = None
        if self._shown_s is not None and self._shown_s[0] == row_id:
            seconds = round(time.monotonic() - self._shown_s[1], 1)
        preferred = (first if vote == "left" else 1 - first) if vote in SIDES else None
        answer = Answer(row_id, first, vote, preferred, pair.words, seconds, _now())
        append_line(self.file, json.dumps(asdict(answer), ensure_ascii=False))
        self.answers[row_id] = answer
        return pair.words[first], pair.words[1 - first]

    def end(self) -> None:
        """Reveal which run wrote which; no vote is taken after it."""
        if not self.ended:
            append_line(self.file, json.dumps({"ended": _now()}))
            self.ended = True


def default_file(pairs: Pairs) -> Path:
    """Where votes are kept unless a person says: the same for the same summaries, so that the command goes on."""
    return Path(f"blind-{hashlib.sha256(''.join(pairs.digests).encode()).hexdigest()[:8]}.jsonl")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# ---- what came of it ---------------------------------------------------------------------------------------------


def result(ballot: Ballot) -> dict[str, Any]:
    """The result as the page shows it: sentences, and each vote with the run behind each side."""
    answers = list(ballot.answers.values())
    return {
        "sentences": sentences(ballot),
        "votes": [
            {
                "id": one.id,
                "left": ballot.pairs.names[one.left],
                "right": ballot.pairs.names[1 - one.left],
                "vote": one.vote,
                "preferred": None if one.preferred is None else ballot.pairs.names[one.preferred],
                "words": [one.words[one.left], one.words[1 - one.left]],
            }
            for one in answers
        ],
        "file": shown(ballot.file),
    }


def sentences(ballot: Ballot) -> list[str]:
    """Which run was preferred, and how sure that is; then what the votes were made of."""
    pairs, answers = ballot.pairs, list(ballot.answers.values())
    wins = [sum(one.preferred == run for one in answers) for run in (0, 1)]
    decided = sum(wins)
    if not decided:
        lines = ["No pair was decided, so nothing is known of which run people prefer."]
    else:
        ahead = int(wins[1] > wins[0])
        share = share_interval(wins[ahead], decided)
        p = sign_test(*wins)
        verdict = (
            f"significant (p < {SIGNIFICANCE_LEVEL:g})"
            if p < SIGNIFICANCE_LEVEL
            else "not significant, so take the two as equal"
        )
        who = (
            f"{pairs.names[0]} and {pairs.names[1]} were preferred equally often,"
            if wins[0] == wins[1]
            else f"{pairs.names[ahead]} was preferred to {pairs.names[1 - ahead]}"
        )
        lines = [
            f"{who} in {wins[ahead]} of "
            f"{counted(decided, 'decided pair')}: {share.value:.0f} % (95 % interval {share.low:.0f} to "
            f"{share.high:.0f} %).",
            f"By the exact sign test p {p_text(p)}: {verdict}.",
        ]
    ties, skipped = (sum(one.vote == vote for one in answers) for vote in ("tie", "skip"))
    asked = (
        f"{counted(len(answers), 'pair')} of {len(pairs.pairs)} voted on, {ties} as equal, {skipped} skipped"
    )
    left = (
        f"; the left one was chosen in {sum(one.vote == 'left' for one in answers)} of {decided}"
        if decided
        else ""
    )
    lines.append(f"{asked}{left}.")
    if voted := [one for one in answers if one.vote != "skip"]:
        means = [sum(one.words[run] for one in voted) / len(voted) for run in (0, 1)]
        lines.append(
            "Mean length: "
            + ", ".join(f"{name} {mean:.0f} words" for name, mean in zip(pairs.names, means, strict=True))
            + "."
        )
    if pairs.alike:
        lines.append(f"{counted(pairs.alike, 'row')} with the same summary by both were not asked about.")
    if pairs.without_article:
        lines.append(f"{counted(pairs.without_article, 'row')} whose articles are not at hand were left out.")
    return lines
