"""All mistakes of all combinations, each once, before anything is written or begun."""

from __future__ import annotations

from pathlib import Path

import pytest
from fused_sweeps import Sweeps

from summarizer.errors import ConfigError, Issue
from summarizer.sweeps.compose import merged


@pytest.fixture
def sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweeps:
    return Sweeps.stood_in(tmp_path, monkeypatch)


def refused(sweeps: Sweeps, *arguments: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        sweeps.run(*arguments)
    assert not sweeps.groups
    assert not sweeps.reports
    assert not list(Path().iterdir()), "nothing is left behind"
    return [str(issue) for issue in caught.value.issues]


def test_each_mistake_once_and_where_it_occurs(sweeps: Sweeps) -> None:
    lines = refused(
        sweeps, "adapter.dim=2,4,0", "optimizer.lr=1e-4,-1", "data=files", "data.train=/nowhere/x.jsonl"
    )
    assert lines == [
        "data.train: no such file: /nowhere/x.jsonl",
        "optimizer.lr: -1 is not a number above 0 (in 3 of 6 combinations: optimizer.lr=-1)",
        "adapter.dim: 0 is not a number of at least 1 (in 2 of 6 combinations: adapter.dim=0)",
    ]


def test_a_mistake_of_two_values_together(sweeps: Sweeps) -> None:
    lines = refused(sweeps, "generation.max_new_tokens=6,200", "prompt.max_tokens=160,400", "seed=0,1")
    assert lines == [
        "generation.max_new_tokens: 200 leaves no room for an article in prompt.max_tokens=160 "
        "(in 2 of 8 combinations: generation.max_new_tokens=200 prompt.max_tokens=160)"
    ]


def test_a_combination_that_hydra_refuses_is_diagnosed(sweeps: Sweeps) -> None:
    """As from a sweeper that, unlike Hydra's own, composes nothing itself."""
    lines = refused(sweeps, "model=tiny_gptj,tiny_gtpj", "adapter.dim=2,0")
    assert lines == [
        "adapter.dim: 0 is not a number of at least 1 (in 2 of 4 combinations: adapter.dim=0)",
        "model: 'tiny_gtpj' is not one of gptj_6b, hf, phi_2, smollm2, tiny_gptj; did you mean 'tiny_gptj'? "
        "(in 2 of 4 combinations: model=tiny_gtpj)",
    ]


def test_other_files_of_the_sweep_folder_stay(sweeps: Sweeps) -> None:
    Path("sweep").mkdir()
    Path("sweep", "mine.txt").write_text("kept")
    with pytest.raises(ConfigError):
        sweeps.run("adapter.dim=0,-1")
    assert [path.name for path in Path("sweep").iterdir()] == ["mine.txt"]


def test_a_folder_that_holds_a_run_is_refused(sweeps: Sweeps) -> None:
    run = Path("sweep", "dim", "4")
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"holds a run already.*\(in 1 of 2 combinations: adapter.dim=4\)"):
        sweeps.run("adapter.dim=2,4", "hydra.sweep.subdir=dim/${adapter.dim}")
    assert not sweeps.groups


@pytest.mark.parametrize(
    ("places", "named"),
    [
        ([0, 1, 2], "a=1"),
        ([4], "a=2 b=y"),
        ([0, 2, 3, 5], "b=x,z"),
        ([0, 4], "a=1 b=x; a=2 b=y"),
        ([0, 1, 2, 3], "a=1 b=x; a=1 b=y; a=1 b=z; and 1 more"),
    ],
)
def test_combinations_are_named_as_a_sweep_where_they_are_one(places: list[int], named: str) -> None:
    batch = [[f"a={a}", f"b={b}", "c=0"] for a in (1, 2) for b in "xyz"]
    issue = Issue("key", "wrong")
    found = [[issue, issue] if place in places else [] for place in range(6)]
    assert merged(found, batch) == [Issue("key", f"wrong (in {len(places)} of 6 combinations: {named})")]
    assert merged([[issue]] * 6, batch) == [issue]
    assert merged([[]] * 6, batch) == []
