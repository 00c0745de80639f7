"""Logging of a group as Hydra would set it up for each of its runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from omegaconf import OmegaConf

from summarizer.runs.logs import logged_together
from summarizer.sweeps.compose import Combination, composed_for


@contextmanager
def group_logs(combinations: Sequence[Combination]) -> Iterator[None]:
    """Log as each combination's `hydra.job_logging` says, together."""
    logging_of: dict[str, Any] = {}
    for one in combinations:
        with composed_for(one.config):
            logging_of[one.job.folder] = OmegaConf.to_container(one.config.hydra.job_logging, resolve=True)
    with logged_together(logging_of, combinations[0].config.hydra.verbose):
        yield
