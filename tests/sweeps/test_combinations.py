"""Not one combination of a sweep is dropped, duplicated or renamed, and each has the folder that Hydra makes."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest
from fused_sweeps import Sweeps
from hydra.core.utils import JobStatus
from omegaconf import OmegaConf

from summarizer.errors import ConfigError
from summarizer.sweeps.record import read_sweep


@pytest.fixture
def sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweeps:
    return Sweeps.stood_in(tmp_path, monkeypatch)


def overrides_of(sweeps: Sweeps) -> list[str]:
    """Each run's overrides, in the order of the run numbers."""
    return [" ".join(job.overrides) for job in sorted(sweeps.jobs, key=lambda job: int(job.path.name))]


def grid(*keys: tuple[str, list[str]]) -> list[str]:
    """A slow count of what a sweep stands for: the last key turns fastest."""
    return [
        " ".join(f"{name}={value}" for (name, _), value in zip(keys, values, strict=True))
        for values in itertools.product(*(values for _, values in keys))
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["adapter.dim=2,4", "optimizer.lr=1e-4,3e-4,1e-3"],
            grid(("adapter.dim", ["2", "4"]), ("optimizer.lr", ["0.0001", "0.0003", "0.001"])),
        ),
        (["seed=range(0,4)"], grid(("seed", ["0", "1", "2", "3"]))),
        (
            ["seed=choice(7,3)", "optimizer=glob(adam*)"],
            grid(("seed", ["7", "3"]), ("optimizer", ["adam8bit", "adamw", "adamw8bit"])),
        ),
        (
            ["adapter.targets=[linear],[linear,head]"],
            grid(("adapter.targets", ["[linear]", "[linear,head]"])),
        ),
        (
            ["adapter.dim=2,4,8,16,32", "hydra.sweeper.max_batch_size=2"],
            grid(("adapter.dim", ["2", "4", "8", "16", "32"])),
        ),
        (["adapter.dim=2"], ["adapter.dim=2"]),
        (["seed=3,3"], ["seed=3", "seed=3"]),
    ],
)
def test_every_combination_runs_once(sweeps: Sweeps, arguments: list[str], expected: list[str]) -> None:
    sweeps.run(*arguments)
    assert overrides_of(sweeps) == expected
    assert Counter(job.path.name for job in sweeps.jobs) == Counter(map(str, range(len(expected))))
    assert all(job.sweep == "sweep" and not job.resumed for job in sweeps.jobs)
    assert [" ".join(run.overrides) for run in read_sweep(Path("sweep")).runs] == expected
    assert sweeps.reports == [Path("sweep").resolve()]
    assert [result.return_value for result in sweeps.returns] == list(range(len(expected)))
    assert all(result.status == JobStatus.COMPLETED for result in sweeps.returns)


def test_runs_that_are_configured_alike_are_named(sweeps: Sweeps, capfd: pytest.CaptureFixture[str]) -> None:
    sweeps.run("optimizer.lr=1e-4,1e-3,0.0001", "adapter.dim=2,4")
    said = [line for line in capfd.readouterr().err.splitlines() if "configured alike" in line]
    assert [[Path(folder).name for folder in line.rpartition(": ")[2].split(", ")] for line in said] == [
        ["0", "4"],
        ["1", "5"],
    ]


def test_a_sweep_that_a_config_describes(sweeps: Sweeps, tmp_path: Path) -> None:
    file = tmp_path / "mine" / "experiment" / "swept.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(
        "# @package _global_\nhydra: {sweeper: {params: {seed: '1,2', adapter.dim: 'range(2,4)'}}}\n"
    )
    sweeps.run("experiment=swept", "--config-dir", str(tmp_path / "mine"))
    swept = grid(("seed", ["1", "2"]), ("adapter.dim", ["2", "3"]), ("experiment", ["swept"]))
    assert overrides_of(sweeps) == swept


def test_mixed_groups_hold_every_combination(sweeps: Sweeps) -> None:
    sweeps.run("adapter.dim=2,4", "quantization=int8,nf4", "optimizer=adamw,sgd")
    assert len(sweeps.groups) == 2
    for group in sweeps.groups:
        assert len({job.config["quantization"]["format"] for job in group}) == 1
        assert (
            len({(job.config["adapter"]["dim"], job.config["optimizer"]["_target_"]) for job in group}) == 4
        )
    assert sorted(int(job.path.name) for job in sweeps.jobs) == list(range(8))
    record = read_sweep(Path("sweep"))
    assert [run.group for run in record.runs] == [0, 0, 1, 1] * 2
    # The returns are in the order of the batch, not in that of the groups.
    assert [result.return_value for result in sweeps.returns] == list(range(8))
    assert [" ".join(result.overrides or ()) for result in sweeps.returns] == overrides_of(sweeps)


def test_folders_are_called_as_asked(sweeps: Sweeps) -> None:
    sweeps.run(
        "adapter.dim=2,4", "seed=0,1", "hydra.sweep.subdir=dim${adapter.dim}/${hydra.job.override_dirname}"
    )
    assert sorted(str(job.path.relative_to(Path("sweep").resolve())) for job in sweeps.jobs) == [
        "dim2/adapter.dim=2,seed=0",
        "dim2/adapter.dim=2,seed=1",
        "dim4/adapter.dim=4,seed=0",
        "dim4/adapter.dim=4,seed=1",
    ]
    assert all((job.path / ".hydra" / "config.yaml").is_file() for job in sweeps.jobs)


def test_one_folder_for_two_runs_is_refused(sweeps: Sweeps) -> None:
    with pytest.raises(
        ConfigError,
        match=r"sweep/2 is the folder of more than one run.*\(in 2 of 4 combinations: adapter.dim=2\)",
    ):
        sweeps.run("adapter.dim=2,4", "seed=0,1", "hydra.sweep.subdir=${adapter.dim}")
    with pytest.raises(ConfigError, match="no folder below the sweep's"):
        sweeps.run("adapter.dim=2", "hydra.sweep.subdir=../elsewhere")
    assert not sweeps.groups
    assert not list(Path().iterdir())


def test_batches_of_a_sweeper_number_their_groups_on(sweeps: Sweeps) -> None:
    sweeps.run("quantization=int8,nf4,int8", "seed=0", "hydra.sweeper.max_batch_size=2")
    assert [run.group for run in read_sweep(Path("sweep")).runs] == [0, 1, 2]


def test_hydras_own_files_are_what_its_launcher_writes(
    sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the same sweep launched by BasicLauncher."""
    import sys

    import hydra

    from summarizer.config.paths import conf_folder
    from summarizer.config.plain import to_plain

    arguments = [
        "adapter.dim=2,4",
        "tracking.name=run ${hydra:job.num} of ${now:%Y}",
        "prompt.end_token='${seed} = \"x\"'",
    ]
    sweeps.run(*arguments)
    ours = {job.path.name: job.config for job in sweeps.jobs}
    theirs = {}

    @hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")
    def task(config: object) -> None:
        theirs[str(len(theirs))] = to_plain(config)  # type: ignore[arg-type]

    command = ["summarizer", "-m", "hydra/launcher=basic", "hydra.sweep.dir=basic", *arguments]
    command.append("hydra.output_subdir=.hydra")  # where Hydra writes by default
    monkeypatch.setattr(sys, "argv", command)
    task()
    assert ours == theirs
    assert ours["1"]["tracking"]["name"].startswith("run 1 of 20")
    for run in ("0", "1"):
        for file in ("config.yaml", "overrides.yaml"):
            assert (
                Path("sweep", run, ".hydra", file).read_bytes()
                == Path("basic", run, ".hydra", file).read_bytes()
            )
        hydras = [
            OmegaConf.to_container(OmegaConf.load(Path(s, run, ".hydra", "hydra.yaml")))
            for s in ("sweep", "basic")
        ]
        differing = {key for key in hydras[0]["hydra"] if hydras[0]["hydra"][key] != hydras[1]["hydra"][key]}
        assert differing == {"launcher", "output_subdir", "overrides", "runtime", "sweep"}
        assert {h["hydra"]["job"]["num"] for h in hydras} == {int(run)}
