"""What a person may want to type after a run, made from that run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from summarizer.config.paths import own_python, shown
from summarizer.config.schema import RunConfig
from summarizer.tracking.names import redact

OWN_TO_THE_RUN = ("hydra.", "resume=", "adapter.start_from=", "tracking.name=")
"""Overrides that a sweep does not take over, beside those that it sweeps."""
SWEPT_APART = {"adapter.dim": 4.0, "optimizer.lr": 10.0}
"""How far apart the two values of a key are: near enough for both to train, far enough to differ."""
HIGH_RATE = 1e-3
"""From here on the other rate is a lower one."""


def next_commands(spec: RunConfig, overrides: Sequence[str], folder: Path) -> list[tuple[str, str]]:
    """What each is for, and the command. overrides: those that the run was started with."""
    summarize = f"{own_python()} -m summarizer.summarize {shlex.quote(shown(folder))} article.txt"
    return [
        ("Summarize an article of your own, a text file:", summarize),
        (
            "Ask which dimension and learning rate do better, in four runs that train together:",
            _sweep(spec, overrides),
        ),
    ]


def _sweep(spec: RunConfig, overrides: Sequence[str]) -> str:
    swept: dict[str, str] = {}
    dim, lr = getattr(spec.adapter, "dim", None), spec.optimizer.arguments.get("lr")
    if isinstance(dim, int):
        swept["adapter.dim"] = f"{dim},{round(dim * SWEPT_APART['adapter.dim'])}"
    if isinstance(lr, int | float):
        other = lr * SWEPT_APART["optimizer.lr"] ** (1 if lr < HIGH_RATE else -1)
        swept["optimizer.lr"] = ",".join(rate_text(rate) for rate in sorted((lr, other)))
    kept = [
        redact(override)
        for override in overrides
        if not override.lstrip("+~").startswith((*OWN_TO_THE_RUN, *(f"{key}=" for key in swept)))
    ]
    words = [*kept, *(f"{key}={values}" for key, values in swept.items())]
    return " ".join([f"{own_python()} -m summarizer.run -m", *map(shlex.quote, words)])


def rate_text(rate: float) -> str:
    """`1e-4` rather than 0.0001, as rates are written; 0.02 as it is."""
    if rate >= 0.01:
        return f"{rate:g}"
    return re.sub(r"\.?0*e-0*", "e-", f"{rate:.3e}")
