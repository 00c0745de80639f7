"""`resume=SWEEP optimizer.lr=1e-4,1e-3,3e-3`: only what the sweep has not is trained, and all is one sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from fused_sweeps import Sweeps
from omegaconf import OmegaConf
from small_runs import TINY, run_here
from test_resume_sweep import end

from summarizer.errors import ConfigError
from summarizer.runs.folder import claimed
from summarizer.runs.session import Session
from summarizer.runs.settings import sweep_axes
from summarizer.sweeps.candidates import default_values, setting_name
from summarizer.sweeps.record import read_sweep
from summarizer.sweeps.resume import resume

SWEEP = Path("sweep")


@pytest.fixture
def sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweeps:
    """A sweep of two finished runs, 0 and 1."""
    made = Sweeps.stood_in(tmp_path, monkeypatch)
    made.run("optimizer.lr=1e-4,1e-3", "trainer.max_steps=4")
    for run in "01":
        end(SWEEP / run, "completed", "max_steps")
    made.groups.clear()
    return made


def add(*overrides: str) -> None:
    resume(SWEEP, overrides, Session())


def trained(sweeps: Sweeps) -> Sequence[str]:
    """The runs of the last groups, those that were finished too."""
    names = [job.path.name for job in sweeps.jobs]
    sweeps.groups.clear()
    return names


def test_new_points_alone_are_planned_in_the_group_and_the_folder(
    sweeps: Sweeps, capfd: pytest.CaptureFixture[str]
) -> None:
    add("-m", "optimizer.lr=0.001,3e-3")
    said = capfd.readouterr().err
    assert "0 is kept, which this grid does not have: optimizer.lr=0.0001 trainer.max_steps=4" in said
    assert "1 new point beside the 2 runs" in said
    runs = read_sweep(SWEEP).runs
    assert [(run.folder, run.overrides[0], run.group) for run in runs] == [
        ("0", "optimizer.lr=0.0001", 0),
        ("1", "optimizer.lr=0.001", 0),
        ("2", "optimizer.lr=0.003", 0),
    ]
    (group,) = sweeps.groups
    assert [(job.path.name, job.config["optimizer"]["lr"], job.sweep) for job in group] == [
        ("0", 1e-4, "sweep"),
        ("1", 1e-3, "sweep"),
        ("2", 3e-3, "sweep"),
    ]
    assert {job.config["trainer"]["max_steps"] for job in group} == {4}
    overrides = OmegaConf.load(SWEEP / "multirun.yaml").hydra.overrides.task
    assert list(overrides) == ["optimizer.lr=0.001,3e-3", "trainer.max_steps=4"]


def test_what_was_not_swept_may_be_from_now_on(sweeps: Sweeps) -> None:
    """Runs of the sweep have the key's default, or what its command said."""
    add("seed=0,1")
    assert trained(sweeps) == ["0", "1", "2", "3"]
    add("trainer.max_steps=4,8")
    assert trained(sweeps) == [str(number) for number in range(8)]
    assert [run.overrides for run in read_sweep(SWEEP).runs][2:4] == [
        ("optimizer.lr=0.0001", "trainer.max_steps=4", "seed=1"),
        ("optimizer.lr=0.001", "trainer.max_steps=4", "seed=1"),
    ]


def test_one_value_of_what_is_of_a_trial_is_a_point_of_its_own(sweeps: Sweeps) -> None:
    """Kinds want rates of their own, and dims, which the first command may have had one of."""
    add("adapter=miss", "adapter.dim=8", "optimizer.lr=3e-4")
    default = default_values(SWEEP, ["adapter", "adapter.dim", "optimizer.lr"])
    assert [value.text for value in default.values()] == ["lora", "2", "0.001"], "as without what is swept"
    add("optimizer=adamw", "seed=1")
    add(
        "optimizer.lr=1e-4,1e-3",
        "trainer.max_steps=4",
        "adapter=lora",
        "adapter.dim=2",
        "optimizer=adam8bit",
        "seed=0",
    )
    assert [run.overrides for run in read_sweep(SWEEP).runs][2:] == [
        ("optimizer.lr=0.0003", "trainer.max_steps=4", "adapter=miss", "adapter.dim=8"),
        (
            "optimizer.lr=0.0003",
            "trainer.max_steps=4",
            "adapter=miss",
            "adapter.dim=8",
            "optimizer=adamw",
            "seed=1",
        ),
    ]


def test_kinds_without_a_swept_key_join_by_leaving_it_out(sweeps: Sweeps) -> None:
    """ia3 has no dim: `~adapter.dim` takes the key out of the grid, and its runs are named without it."""
    add("adapter=lora,dora", "adapter.dim=2,8")
    assert trained(sweeps) == [str(number) for number in range(8)]
    add("adapter=ia3", "~adapter.dim", "optimizer.lr=1e-3,3e-3")
    assert trained(sweeps) == [str(number) for number in range(10)]
    record = read_sweep(SWEEP)
    assert [run.overrides for run in record.runs][8:] == [
        ("optimizer.lr=0.001", "trainer.max_steps=4", "adapter=ia3"),
        ("optimizer.lr=0.003", "trainer.max_steps=4", "adapter=ia3"),
    ]
    swept = sweep_axes(record.runs)
    assert [swept.describe(run) for run in record.runs][7:] == [
        "optimizer.lr=0.001 adapter=dora adapter.dim=8",
        "optimizer.lr=0.001 adapter=ia3",
        "optimizer.lr=0.003 adapter=ia3",
    ]
    assert setting_name(swept.of["9"]) == "ia3 at 3e-3"
    # The next points are of the kinds that the last command had, and of any that is named.
    add("optimizer.lr=1e-2")
    add("adapter=vera", "adapter.dim=256", "optimizer.lr=1e-2")
    assert [run.overrides for run in read_sweep(SWEEP).runs][10:] == [
        ("optimizer.lr=0.01", "trainer.max_steps=4", "adapter=ia3"),
        ("optimizer.lr=0.01", "trainer.max_steps=4", "adapter=vera", "adapter.dim=256"),
    ]


def test_a_grid_that_the_sweep_has_trains_nothing(sweeps: Sweeps, capfd: pytest.CaptureFixture[str]) -> None:
    before = (SWEEP / "sweep.json").read_bytes()
    add("optimizer.lr=1e-3,1e-4", "trainer.max_steps=4", "trainer.batch_size=2")
    assert trained(sweeps) == []
    assert (SWEEP / "sweep.json").read_bytes() == before
    assert "the sweep has all 2 points of this grid" in capfd.readouterr().err


REFUSED = [
    (["trainer.max_steps=8"], r"trainer.max_steps: is 4 for every run of the sweep, and cannot be 8 for"),
    (["optimizer.lr=3e-3", "prompt.max_tokens=99"], r"prompt.max_tokens: is \d+ for every run of the sweep"),
    (["data=cnn_dailymail"], r"data: is sample for every run"),
    (["hydra.sweep.dir=x"], r"leave out hydra.sweep.dir=x"),
    (["optimizer.lr=-1,2"], r"optimizer.lr: -1 is not a number above 0 \(in 1 of 2 combinations"),
    (["optimizer.rl=1,2"], r"optimizer.rl: unknown key"),
    (["optimizer.lr"], r"is not an override such as"),
    (["~adapter.dim"], r"~adapter.dim: is not swept; this sweep sweeps over optimizer.lr"),
    (["~hydra.sweep.dir"], r"leave out ~hydra.sweep.dir"),
]


def test_what_cannot_be_ranked_beside_the_others_is_refused(
    sweeps: Sweeps, subtests: pytest.Subtests
) -> None:
    """9 grids for one sweep, which none of them changes."""
    assert len(REFUSED) == 9
    before = files_of_the_sweep()
    for overrides, words in REFUSED:
        with subtests.test(overrides=overrides):
            with pytest.raises(ConfigError, match=words):
                add(*overrides)
            assert files_of_the_sweep() == before
            assert not sweeps.groups


def files_of_the_sweep() -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for path in SWEEP.rglob("*")
        if path.is_file() and path.name not in (".lock", "run.log")
    }


def test_a_default_that_was_changed_since_is_refused(sweeps: Sweeps) -> None:
    for run in "01":
        config = SWEEP / run / ".hydra" / "config.yaml"
        config.write_text(config.read_text().replace("batch_size: 2", "batch_size: 3"))
    with pytest.raises(ConfigError, match=r"trainer.batch_size: was 3 .*and is 2 by conf/ now"):
        add("optimizer.lr=3e-3")


def test_a_command_from_elsewhere_calls_nothing(sweeps: Sweeps) -> None:
    file = SWEEP / "multirun.yaml"
    file.write_text(file.read_text().replace("trainer.max_steps=4", "tracking.project=${oc.env:HOME}"))
    with pytest.raises(ConfigError, match="cannot be typed again"):
        add("optimizer.lr=3e-3")


def test_another_process_at_work_is_left_alone(sweeps: Sweeps) -> None:
    (SWEEP / "1" / "summary.json").unlink()
    with claimed(SWEEP / "1"), pytest.raises(ConfigError, match="another process"):
        add("optimizer.lr=3e-3")
    assert len(read_sweep(SWEEP).runs) == 2


@pytest.mark.slow
def test_an_added_point_is_the_run_that_it_is_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = [*TINY, "trainer.max_steps=3", "evaluation.rows=2", "evaluation.base=false"]
    run_here(["-m", *few, "optimizer.lr=1e-4,1e-3", "hydra.sweep.dir=sweep"])
    file = "adapter/adapter_model.safetensors"
    before = (SWEEP / "0" / file).read_bytes()
    run_here(["resume=sweep", "optimizer.lr=1e-4,1e-3,3e-3"])
    run_here([*few, "optimizer.lr=3e-3", "hydra.run.dir=alone"])
    assert (SWEEP / "2" / file).read_bytes() == (Path("alone") / file).read_bytes()
    assert (SWEEP / "0" / file).read_bytes() == before
    assert {run.rank for run in read_sweep(SWEEP).runs} == {1, 2, 3}
    assert "3e-3" in (SWEEP / "sweep.md").read_text()
