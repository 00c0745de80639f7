"""The kinds of adapters that conf/adapter has, each as a tiny base can carry it."""

from __future__ import annotations

from functools import cache

from training_groups import spec_of

from summarizer.adapters.protocol import Adapter
from summarizer.config.paths import conf_folder

KINDS = sorted(path.stem for path in (conf_folder() / "adapter").glob("*.yaml"))
DIM = 3


@cache
def adapter_of(kind: str, *more: str) -> Adapter:
    """As `adapter=KIND` composes it."""
    return spec_of(f"adapter={kind}", *more).adapter


def small(kind: str, *more: str) -> Adapter:
    """At a dim that these bases can have, where the kind has one, and at a scale that is not 1."""
    options = [f"adapter.dim={DIM}"] if "dim" in adapter_of(kind).model_fields_set else []
    if "alpha" in adapter_of(kind).model_fields_set:
        options.append("adapter.alpha=6.0")
    return adapter_of(kind, *options, *more)
