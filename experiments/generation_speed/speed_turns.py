"""Contenders taking turns, each turn a whole process: nobody's memory or threads are in another's way."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from materials import STUDY, Materials, embedding_weights, environment, last_line
from memory_rate import memory_rate
from speed_contenders import ELSEWHERE, EXACT, Contender, Work, request

from summarizer.console.progress import Bar

WORKER = STUDY / "answering.py"


@dataclass(frozen=True)
class Machine:
    device: str
    threads: int
    peer_python: str

    def python(self, contender: Contender) -> str:
        return self.peer_python if contender.engine in ELSEWHERE else sys.executable


@dataclass
class Found:
    """Everything that was measured."""

    answers: dict[Contender, list[dict[str, Any]]] = field(default_factory=dict)
    """Of each turn, as `answering.measure` gives it."""
    problems: dict[Contender, str] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    """Of memory, bytes/s, ahead of each turn."""


def take_turns(
    contenders: Sequence[Contender],
    materials: Materials,
    work: Work,
    machine: Machine,
    turns: int,
    progress: Bar,
) -> Iterator[Found]:
    """What was found so far, after each turn of each contender. One that failed gets no further turn."""
    found = Found()
    embedding = embedding_weights(materials.merged)
    reference = reference_of(materials, work, machine, progress) if work.kl_tokens else None
    for turn in range(turns):
        for contender in contenders:
            if contender not in found.problems:
                progress.note(f"{contender}, turn {turn + 1}")
                found.rates.append(memory_rate(machine.device, machine.threads))
                asked = request(
                    contender,
                    materials.converted(contender),
                    materials.adapter,
                    work if turn == 0 else replace(work, articles=()),
                    machine.device,
                    machine.threads,
                    embedding,
                    reference if turn == 0 else None,
                )
                answer = ask(asked, machine.python(contender), materials.folder)
                if "problem" in answer:
                    found.problems[contender] = answer["problem"]
                else:
                    found.answers.setdefault(contender, []).append(answer)
                yield found
            progress.advance()


def reference_of(materials: Materials, work: Work, machine: Machine, progress: Bar) -> Path:
    """The file of fp32's probabilities for these prompts, which is made where it is not there yet.

    Raises RuntimeError where transformers cannot compute them.
    """
    of_prompts = json.dumps([[list(prompt) for prompt in work.prompts], work.end_id, work.kl_tokens])
    file = materials.folder / f"reference-{hashlib.sha256(of_prompts.encode()).hexdigest()[:16]}.safetensors"
    if not file.is_file():
        progress.note(f"probabilities of {EXACT}")
        own = replace(work, new_tokens=1, articles=(), readings=())
        asked = request(
            EXACT, materials.merged, materials.adapter, own, machine.device, machine.threads, 0, file
        )
        answer = ask(asked, sys.executable, materials.folder)
        if "problem" in answer:
            raise RuntimeError(f"{EXACT}: {answer['problem']}")
    return file


def ask(asked: Mapping[str, Any], python: str, folder: Path) -> dict[str, Any]:
    """Let a process of its own answer a request. `problem` says why there is no answer.

    folder: of the materials; what the process wrote is kept in its `logs`.
    """
    log = folder / "logs" / f"{asked['engine']}-{asked['variant']}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    threads = str(asked["threads"])
    with log.open("w", encoding="utf-8") as stream:
        ended = subprocess.run(
            [python, WORKER],
            input=json.dumps(asked),
            stdout=subprocess.PIPE,
            stderr=stream,
            env=environment(folder) | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            text=True,
        )
    if ended.returncode == -9:
        return {"problem": "killed, probably for memory"}
    if ended.returncode != 0 or not ended.stdout:
        return {"problem": last_line(log) or f"its process ended with code {ended.returncode}"}
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer
