"""Commands of this project one after another, each in a process forked from one that has imported everything.

    python forked_commands.py < calls.json

A call is `{"command": "run", "arguments": [...], "folder": "where", "limit": bytes that a file may have, or null}`.
What comes out is, for each, `{"code": exit code, "said": what it printed}`.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Call:
    command: str
    arguments: Sequence[str]
    folder: str
    limit: int | None = None
    """No file may become larger, in bytes (`ulimit -f`): a write that would is refused, as by a full disk."""
    cache: str | None = None


@dataclass(frozen=True)
class Ended:
    code: int
    said: str


def ended(calls: Sequence[Call], timeout_s: float = 600) -> list[Ended]:
    """How each call ended."""
    text = json.dumps([asdict(call) for call in calls])
    done = subprocess.run(
        [sys.executable, __file__], input=text, capture_output=True, text=True, timeout=timeout_s
    )
    assert done.returncode == 0, done.stderr
    return [Ended(**one) for one in json.loads(done.stdout)]


def _call(call: Call) -> Ended:
    read, write = os.pipe()
    if (process := os.fork()) == 0:
        _become(call, write)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode("utf-8", "replace")
    return Ended(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), said)


def _become(call: Call, output: int) -> None:
    """Never returns."""
    code: Any = 70
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(call.folder)
        if call.cache is not None:
            os.environ["SUMMARIZER_CACHE"] = call.cache
        if call.limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (call.limit, call.limit))
        sys.argv = [call.command, *call.arguments]
        try:
            importlib.import_module(f"summarizer.{call.command}").main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]
    for name in (
        "run",
        "evaluate",
        "export",
        "compare",
        "runs.experiment",
        "runs.loaded_run",
        "exporting.export",
    ):
        importlib.import_module(f"summarizer.{name}")
    calls = [Call(**one) for one in json.load(sys.stdin)]
    print(json.dumps([asdict(_call(call)) for call in calls]))
