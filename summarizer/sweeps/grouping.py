"""Which runs of a sweep train together: those that differ in nothing but what each trial has of its own."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

OWN_GROUPS = ("optimizer", "seed", "tracking")
"""Keys that each trial of a group has for itself; of `adapter` it is all but the `_target_`."""
OWN_OF_TRAINER = ("schedule", "max_grad_norm", "epochs", "max_steps", "early_stopping")


def group_key(config: Mapping[str, Any]) -> str:
    """What the runs of a group have in common, of a plain composed config."""
    shared = {name: value for name, value in config.items() if name not in OWN_GROUPS}
    shared["adapter"] = config["adapter"]["_target_"]
    shared["trainer"] = {
        name: value for name, value in config["trainer"].items() if name not in OWN_OF_TRAINER
    }
    return json.dumps(shared, sort_keys=True)


def grouped(keys: Sequence[Hashable]) -> list[list[int]]:
    """The places of equal keys, in the order of each key's first place."""
    groups: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    return list(groups.values())
