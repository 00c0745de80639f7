"""Names of what can be chosen: short, different, and without a path."""

from __future__ import annotations

from pathlib import Path

from summarizer.serving.request import short_names, telling_overrides


def test_names_are_as_long_as_it_takes() -> None:
    assert short_names([Path("/home/a/outputs/2026/10-15")]) == ["2026/10-15"]
    assert short_names([Path("/x/one/sweep/0"), Path("/x/two/sweep/0")]) == ["one/sweep/0", "two/sweep/0"]


def test_overrides_that_tell_runs_apart() -> None:
    shared = ["data=files", "data.train=/home/a/train.jsonl"]
    assert telling_overrides([[*shared, "adapter.dim=2"], [*shared, "adapter.dim=4", "seed=1"]]) == [
        "adapter.dim=2",
        "adapter.dim=4 seed=1",
    ]
    assert telling_overrides([[*shared, "adapter.dim=2"]]) == ["data=files adapter.dim=2"]
    assert telling_overrides([["adapter.dim=2"], []]) == ["adapter.dim=2", ""]
