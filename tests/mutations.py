"""Damage what commands read, one seeded change at a time, and see what each command makes of it.

    python tests/mutations.py --mutations 500 --work SCRATCH [--first SEED]

A mutation changes one file of a run, a checkpoint, the cache, a model folder or the data, or one key of a config,
and a public command reads it: the same `command()` that `python -m summarizer.NAME` calls, in a process forked from
one that has imported everything, since 500 starts would take an hour. What may come of it is the right result (a
damaged cache is made anew) or one clear message with exit code 2. Never a traceback, a hang, a crash or, where the
content has a digest, another result.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from small_runs import TINY

from summarizer.config.paths import resolve_path

HANG_S = 120
"""A command takes about two seconds alone; more than this is no slow machine."""
CONFIG = (
    *TINY,
    "data=files",
    "data.train=rows.jsonl",
    "data.validation=rows.jsonl",
    "data.columns.summary=summary",
    "model=hf",
    "model.name_or_path=base",
    "prompt=tldr",
    "trainer.max_steps=3",
    "trainer.checkpoint_every_steps=1",
    "trainer.device=cpu",
    "evaluation.base=false",
    "evaluation.rows_during_training=0",
    "evaluation.rows=1",
)
PARTLY = "as said above; the rest was compared"
"""How `compare` ends, with exit code 1, where it left something out."""
NESTED = 100_000
"""Brackets around a value: deeper than any parser's stack."""


# ---- what is damaged ---------------------------------------------------------------------------------------------

Change = Callable[[bytes, random.Random], bytes | None]
"""A file's new content from its old one; None deletes the file."""


def _flip(data: bytes, draw: random.Random, count: int) -> bytes:
    changed = bytearray(data)
    start = draw.randrange(len(data)) if data else 0
    for place in range(start, min(start + count, len(data))):
        changed[place] ^= draw.randrange(1, 256)
    return bytes(changed)


def _other_line(data: bytes, draw: random.Random, change: Callable[[list[bytes], int], None]) -> bytes:
    lines = data.splitlines(keepends=True)
    if lines:
        change(lines, draw.randrange(len(lines)))
    return b"".join(lines)


def _other_value(data: bytes, draw: random.Random) -> bytes:
    """A JSON or YAML scalar becomes one of another kind."""
    marks = [place for place, byte in enumerate(data) if byte == ord(":")]
    if not marks:
        return data + b"?"
    place = draw.choice(marks) + 1
    end = next((at for at in range(place, len(data)) if data[at] in b",}\n"), len(data))
    other = draw.choice(
        [b" -1", b" 1e999", b" null", b" true", b' "text"', b" [[]]", b" {}", b" " + b"9" * 400]
    )
    return data[:place] + other + data[end:]


def _nested(data: bytes, draw: random.Random) -> bytes:
    place = data.find(b":") + 1
    return data[:place] + b"[" * NESTED + data[place:]


BYTES: dict[str, Change] = {
    "one byte flipped": lambda data, draw: _flip(data, draw, 1),
    "4 kB flipped": lambda data, draw: _flip(data, draw, 4096),
    "cut in half": lambda data, draw: data[: len(data) // 2],
    "last byte lost": lambda data, draw: data[:-1],
    "zeroed": lambda data, draw: bytes(len(data)),
    "emptied": lambda data, draw: b"",
    "deleted": lambda data, draw: None,
    "more behind": lambda data, draw: data + draw.randbytes(100),
}
TEXT: dict[str, Change] = BYTES | {
    "a line twice": lambda data, draw: _other_line(data, draw, lambda lines, i: lines.insert(i, lines[i])),
    "a line lost": lambda data, draw: _other_line(data, draw, lambda lines, i: lines.pop(i) and None),
    "another kind of value": _other_value,
    "nested without end": _nested,
    "not UTF-8": lambda data, draw: data[: len(data) // 2] + b"\xff\xfe" + data[len(data) // 2 :],
}
OVERRIDES = (
    "{key}=",
    "{key}=-1",
    "{key}=null",
    "{key}=[]",
    "{key}={{}}",
    "{key}=1e308",
    "{key}=999999999999999999999",
    "{key}=text",
    "{key}='a b'",
    "{key}=../..",
    "{key}=${{oc.env:HOME}}",
    "{key}=${{seed}}",
    "{key}=nan",
    "{key}=true",
    "~{key}",
    "+{key}.more=1",
)
KEYS = (
    "adapter.dim",
    "adapter.alpha",
    "adapter.dropout",
    "adapter.targets",
    "adapter.exclude",
    "adapter.start_from",
    "optimizer.lr",
    "trainer.batch_size",
    "trainer.epochs",
    "trainer.max_steps",
    "trainer.max_grad_norm",
    "trainer.evaluate_every_steps",
    "trainer.checkpoint_every_steps",
    "trainer.schedule.warmup_steps",
    "trainer.precision",
    "seed",
    "prompt.template",
    "prompt.max_tokens",
    "prompt.end_token",
    "data.train",
    "data.rows.train",
    "data.columns.article",
    "data.columns.summary",
    "generation.num_beams",
    "generation.max_new_tokens",
    "generation.temperature",
    "evaluation.rows",
    "evaluation.bootstrap_samples",
    "model.name_or_path",
    "quantization.format",
)


@dataclass(frozen=True)
class Target:
    """What one kind of mutation damages, and which command reads it."""

    name: str
    folder: str
    """In the scratch folder: what is copied, and damaged in the copy."""
    pattern: str
    command: Sequence[str]
    """The name of a command and its arguments, run in the copy's parent."""
    same: bool
    """A result that differs is a fault: the content has a digest, or does not matter to the result."""
    heals: bool = False
    """A message is a fault too: what is only a cache is made anew."""


TRAIN = ("run", *CONFIG, "hydra.run.dir=new")
TARGETS = (
    Target("a cache", "cache", "**/*", TRAIN, same=True, heals=True),
    Target("a checkpoint", "killed", "checkpoints/**/*", ("run", "resume=killed"), same=True),
    Target("a run to resume", "killed", "*", ("run", "resume=killed"), same=False),
    Target("its config", "killed", ".hydra/*", ("run", "resume=killed"), same=False),
    Target("an adapter", "done", "adapter/*", ("summarize", "done", "article.txt"), same=True),
    Target("a run to write with", "done", ".hydra/*", ("summarize", "done", "article.txt"), same=False),
    Target("a run to compare", "done", "*.json*", ("compare", "done", "other"), same=False),
    Target("predictions", "done", "predictions/*", ("compare", "done", "other"), same=False),
    Target("a model", "base", "*", TRAIN, same=False),
    Target("data", ".", "rows.jsonl", TRAIN, same=False),
)


# ---- what comes of it --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a command came to."""

    verdict: str
    """`same`, `differs`, `message`, or a fault: `traceback`, `failure`, `crash`, `hang`."""
    said: str


@dataclass
class Laboratory:
    """A folder with everything whole, from which each mutation takes a copy."""

    whole: Path
    expected: dict[str, str]
    """What each command gives where nothing is damaged, by `_fingerprint`."""

    @classmethod
    def build(cls, whole: Path) -> Laboratory:
        """Train two runs and one that is killed in its midst, over a tiny Llama with a cache of its own."""
        whole.mkdir(parents=True)
        _save_model(whole / "base")
        rows = [
            {
                "id": f"row {i}",
                "article": f"Number {i} came. It stayed for {i} days.",
                "summary": f"{i} came.",
            }
            for i in range(12)
        ]
        (whole / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (whole / "article.txt").write_text("The bridge over the river was closed on Monday.")
        for name, more in (("done", ()), ("other", ("seed=5",)), ("killed", ())):
            code, said = in_fork(
                whole, ("run", *CONFIG, *more, f"hydra.run.dir={name}"), killed=name == "killed"
            )
            assert code == (-signal.SIGKILL if name == "killed" else 0), said
        made = cls(whole, {})
        for target in TARGETS:
            with made.copy(whole.parent / "try") as place:
                code, said = in_fork(place, target.command)
                assert code == 0, f"{target.command}: {said}"
                made.expected[target.name] = _fingerprint(place, target.command, said)
        assert made.expected["a checkpoint"] == made.expected["a cache"], "resumed exactly"
        return made

    def copy(self, place: Path) -> _Copy:
        return _Copy(self.whole, place)

    def mutate(self, seed: int, place: Path) -> tuple[str, Outcome]:
        """What was damaged, and what came of it."""
        draw = random.Random(seed)
        with self.copy(place):
            if draw.random() < 0.2:
                override = draw.choice(OVERRIDES).format(key=draw.choice(KEYS))
                command: Sequence[str] = (*TRAIN, override)
                return f"config: {override}", self._judge(place, command, None)
            target = draw.choice(TARGETS)
            files = sorted(file for file in (place / target.folder).glob(target.pattern) if file.is_file())
            file = draw.choice([file for file in files if not file.name.endswith((".lock", ".so"))])
            data = file.read_bytes()
            kinds = BYTES if b"\0" in data else TEXT
            kind = draw.choice(sorted(kinds))
            changed = kinds[kind](data, draw)
            if changed is None:
                file.unlink()
            else:
                file.write_bytes(changed)
            what = f"{target.name}: {file.relative_to(place)}: {kind}"
            return what, self._judge(place, target.command, target)

    def _judge(self, place: Path, command: Sequence[str], target: Target | None) -> Outcome:
        code, said = in_fork(place, command)
        if code is None:
            return Outcome("hang", said)
        if "Traceback (most recent call last)" in said:
            return Outcome("traceback", said)
        if code < 0:
            return Outcome("crash", f"signal {-code}: {said}")
        if code == 2 or (code == 1 and PARTLY in said):
            return Outcome("not made anew" if target and target.heals else "message", said)
        if code:
            return Outcome("failure", f"exit code {code}: {said}")
        if target is None or _fingerprint(place, command, said) == self.expected[target.name]:
            return Outcome("same", said)
        return Outcome("differs, silently" if target.same else "differs", said)


def _save_model(folder: Path) -> None:
    """A tiny Llama with the embedded model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(resolve_path("embedded:tiny_gptj", "models/embedded")).save_pretrained(
        folder
    )


@dataclass
class _Copy:
    whole: Path
    place: Path

    def __enter__(self) -> Path:
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.whole, self.place, symlinks=True)
        return self.place

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.place, ignore_errors=True)


def _fingerprint(place: Path, command: Sequence[str], said: str) -> str:
    """The result of a command, without what differs from time to time."""
    if command[0] == "run":
        folder = place / (command[1].removeprefix("resume=") if command[1].startswith("resume=") else "new")
        return hashlib.sha256((folder / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()
    return said.partition(OUT)[2] if command[0] == "summarize" else ""


OUT = "---- standard output ----\n"


def in_fork(place: Path, command: Sequence[str], *, killed: bool = False) -> tuple[int | None, str]:
    """Exit code (-n: by signal n, None: hung and killed) of a command in `place`, and what it wrote.

    killed: by SIGKILL, when it writes its second checkpoint.
    """
    errors, output = place / "stderr.txt", place / "stdout.txt"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _become_command(place, errors, output)
            if killed:
                _kill_in_second_checkpoint()
            sys.argv = [command[0], *command[1:]]
            code = importlib.import_module(f"summarizer.{command[0]}").command(list(command[1:]))
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    begun_s = time.monotonic()
    while time.monotonic() - begun_s < HANG_S:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            said = errors.read_text(errors="replace") + OUT + output.read_text(errors="replace")
            return os.waitstatus_to_exitcode(status), said
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None, errors.read_text(errors="replace")


def _become_command(place: Path, errors: Path, output: Path) -> None:
    os.chdir(place)
    os.environ["SUMMARIZER_CACHE"] = str(place / "cache")
    for number, file in ((1, output), (2, errors)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))


def _kill_in_second_checkpoint() -> None:
    from summarizer.training import checkpoint

    save, calls = checkpoint.save_checkpoint, 0

    def killing(*arguments: object, **more: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return save(*arguments, **more)  # type: ignore[arg-type]  # as it was called

    for module in [*sys.modules.values()]:
        if getattr(module, "save_checkpoint", None) is save:
            module.save_checkpoint = killing  # type: ignore[attr-defined]


def import_everything() -> None:
    """What the commands import, before the first fork; no thread is started, no product multiplied."""
    os.environ["OMP_NUM_THREADS"] = "1"
    names = ["peft", "transformers", "bitsandbytes", "datasets"]
    package = Path(importlib.import_module("summarizer").__file__ or "").parent
    for room in ("runs", "sweeps", "training", "evaluation", "generation", "reports", "adapters", "models"):
        names += [f"summarizer.{room}.{file.stem}" for file in sorted((package / room).glob("[a-z]*.py"))]
    for name in [*names, "summarizer.run", "summarizer.summarize", "summarizer.compare"]:
        importlib.import_module(name)


def faults(outcomes: Sequence[tuple[str, Outcome]]) -> Iterator[str]:
    """What must not be, with the end of what the command said."""
    for what, outcome in outcomes:
        if outcome.verdict not in ("same", "message", "differs"):
            yield f"{outcome.verdict}: {what}\n    " + "\n    ".join(outcome.said.splitlines()[-12:])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--mutations", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="seed of the first mutation")
    parser.add_argument("--work", type=Path, required=True, help="an empty folder, for some 50 MB")
    arguments = parser.parse_args()
    import_everything()
    laboratory = Laboratory.build(arguments.work.resolve() / "whole")
    outcomes = []
    for seed in range(arguments.first, arguments.first + arguments.mutations):
        outcomes.append(laboratory.mutate(seed, arguments.work.resolve() / "try"))
        what, outcome = outcomes[-1]
        print(f"{seed}: {outcome.verdict}: {what}", flush=True)
    print("\n" + "\n".join(faults(outcomes)))
    table = Counter((what.partition(":")[0], outcome.verdict) for what, outcome in outcomes)
    print(
        json.dumps(
            {f"{what}: {verdict}": count for (what, verdict), count in sorted(table.items())}, indent=2
        )
    )
    return 1 if any(True for _ in faults(outcomes)) else 0


if __name__ == "__main__":
    sys.exit(main())
