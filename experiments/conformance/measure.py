"""Whether each causal architecture of transformers gives here what it gives there: a line of JSON for each.

    python experiments/conformance/measure.py --out lines.jsonl
    python experiments/conformance/measure.py --out lines.jsonl --only falcon,mixtral --again
    python experiments/conformance/measure.py --table lines.jsonl

Each model is tried in a process of its own, forked from this one, and within a time. What has a line already is not
tried again, so that a run that was interrupted goes on; `--shard 1/4` takes every fourth.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from conformance import FAILS, NOT_IN_TRANSFORMERS, REFUSED, WORKS, WRONG, Report, conformance
from tiny_configs import model_types
from transformers.utils.logging import disable_progress_bar

REPOSITORY = Path(__file__).resolve().parents[2]
TABLE = REPOSITORY / "docs" / "conformance.md"
LIMIT_S = 120


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="lines of JSON, one a model, appended to")
    parser.add_argument("--only", help="model types, with commas between")
    parser.add_argument("--again", action="store_true", help="what has a line is tried again")
    parser.add_argument("--shard", default="1/1", help="such as 2/4: the second of four parts")
    parser.add_argument("--limit", type=int, default=LIMIT_S, help="seconds for one model")
    parser.add_argument("--table", type=Path, help=f"write {TABLE.name} from such lines instead")
    arguments = parser.parse_args()
    disable_progress_bar()
    if arguments.table:
        TABLE.write_text(table(read(arguments.table), model_types()), encoding="utf-8")
        return
    part, parts = map(int, arguments.shard.split("/"))
    wanted = arguments.only.split(",") if arguments.only else model_types()[part - 1 :: parts]
    if unknown := sorted(set(wanted) - set(model_types())):
        parser.error(f"transformers has no causal {', '.join(unknown)}")
    done = set() if arguments.again or not arguments.out else set(read(arguments.out))
    for model_type in wanted:
        if model_type in done:
            continue
        begun_s = time.monotonic()
        report = in_a_process(model_type, arguments.limit)
        line = {**asdict(report), "seconds": round(time.monotonic() - begun_s, 1)}
        print(f"{report.model_type}: {report.outcome} {report.why}"[:400], flush=True)
        if arguments.out:
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def in_a_process(model_type: str, limit_s: float) -> Report:
    """The report of a process that is ended after limit_s, and that may die."""
    fork = multiprocessing.get_context("fork")  # libraries are imported once, here
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=_send_report, args=(model_type, theirs))
    process.start()
    theirs.close()
    report = Report(model_type, outcome=FAILS, why=f"not done within {limit_s} s")
    if ours.poll(limit_s):
        try:
            report = ours.recv()
        except EOFError:
            process.join()
            report.why = f"its process ended with {process.exitcode}"
    process.kill()
    process.join()
    return report


def _send_report(model_type: str, to: Connection) -> None:
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        to.send(conformance(model_type, Path(folder)))


def read(file: Path) -> dict[str, dict[str, Any]]:
    """The last line of each model."""
    if not file.is_file():
        return {}
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {line["model_type"]: line for line in lines}


MEANINGS = {
    WORKS: "everything below is as in transformers and peft",
    REFUSED: "one line says before training why not",
    WRONG: "a number or a text differs, silently",
    FAILS: "something ends in an error that is no one clear line",
    NOT_IN_TRANSFORMERS: "no tiny model of it runs in transformers itself, with the config that was tried",
}


def table(lines: dict[str, dict[str, Any]], known: Sequence[str] = ()) -> str:
    """A page of documentation: the counts, and a row for each architecture.  known: all that there are."""
    untried = [name for name in known if name not in lines]
    rest = f" Not tried yet: {', '.join(untried)}." if untried else ""
    counts = Counter(line["outcome"] for line in lines.values())
    tried = sum(counts.values()) - counts[NOT_IN_TRANSFORMERS]
    rows = "\n".join(_row(line) for _, line in sorted(lines.items()))
    counted = "\n".join(f"| {name} | {counts[name]} | {meaning} |" for name, meaning in MEANINGS.items())
    return f"""# Which models give here what they give in transformers?

A tiny random model of every causal architecture of transformers {version("transformers")}, saved by transformers,
was loaded here and there and compared, by `python experiments/conformance/measure.py`: the losses of three examples
of two trials in one batch beside each example alone, greedy texts, the plan of a step, the base in 8 bits, adapters
on every linear layer, head and embedding, three steps, activations kept and recomputed, and the adapter saved here,
loaded by peft {version("peft")} and loaded here again.

| | models | |
|---|---:|---|
{counted}

Of the {tried} that run in transformers, {100 * counts[WORKS] / max(tried, 1):.0f} % work.{rest}

*Rows* says how examples go through the model: by this project's own forward, packed, or padded. *Left* names
matrices that no adapter stands beside; a run says so too.

| model | class | outcome | rows | adapted | left |
|---|---|---|---|---:|---|
{rows}
"""


def _row(line: dict[str, Any]) -> str:
    why = f": {line['why'][:200]}" if line["outcome"] != WORKS else ""
    left = ", ".join(f"`{name}`" for name in line["left"])
    cells = (
        line["model_type"],
        line["architecture"],
        line["outcome"] + why,
        line["batches"],
        line["adapted"],
        left,
    )
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    main()
