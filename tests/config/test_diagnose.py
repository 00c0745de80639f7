"""Command lines that Hydra refuses to compose: what a person is told instead of Hydra's own words."""

from __future__ import annotations

import pytest
from composing import composed
from hydra.errors import HydraException

from summarizer.config.diagnose import _command_line, diagnose
from summarizer.runs.preflight import preflight

pytestmark = pytest.mark.versions


def lines(*arguments: str) -> list[str]:
    return [
        str(issue) for issue in diagnose(arguments, HydraException("what Hydra said\nand more"), preflight)
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["adapter.dmi=4"], ["adapter.dmi: unknown key; did you mean 'dim'?"]),
        (["++adapter.dmi=4"], ["adapter.dmi: unknown key; did you mean 'dim'?"]),
        (["~adapter.dmi"], ["adapter.dmi: unknown key; did you mean 'dim'?"]),
        (["trainer.epochs.x=4"], ["trainer.epochs: {'x': 4} is not a number above 0"]),
        (["adaptor=lora"], ["adaptor: unknown key; did you mean 'adapter'?"]),
        (["modle/x=hf"], ["modle/x: unknown key; did you mean 'model'?"]),
        (["model@foo=hf"], ["model@foo: unknown key"]),
        (["hydra.run.dirr=5"], ["hydra.run.dirr: unknown key"]),
        (
            ["-m", "seed=0,1", "hydra.launcher.over=joblib"],
            ["hydra.launcher.over: now hydra.launcher.delegate"],
        ),
        (["data.rows={train: 5, vali: 6}"], ["data.rows.vali: unknown key; did you mean 'validation'?"]),
        (["+adapter.dim=3"], ["adapter.dim: is there already; leave out the + to change it"]),
        (["+model=hf"], ["model: is there already; leave out the + to change it"]),
        (["tracking=null"], ["tracking: null is not one of none, tensorboard, wandb"]),
        (["adapter.dim=1,2"], ["adapter.dim: 1,2 is a sweep; add -m to run each of its values"]),
        (["=3"], ["'=3' has no key; write KEY=VALUE, such as adapter.dim=2"]),
        (
            ["model=tiny_gtpj", "adapter.dim=0"],
            [
                "model: 'tiny_gtpj' is not one of gptj_6b, hf, phi_2, smollm2, tiny_gptj; "
                "did you mean 'tiny_gptj'?",
                "adapter.dim: 0 is not a number of at least 1",
            ],
        ),
        (
            ["a", "foo=3", "seed=-1"],
            [
                "'a' is not an override such as adapter.dim=2 (missing EQUAL at '<EOF>')",
                "foo: unknown key; valid names: adapter, data, evaluation, experiment, generation, model, "
                "optimizer, plan, plan_tokens_per_s, preview, prompt, quantization, resume, seed, sweep, tracking, "
                "trainer",
                "seed: -1 is not a whole number from 0 to 9223372036854775807",
            ],
        ),
    ],
)
def test_lines(arguments: list[str], expected: list[str]) -> None:
    assert lines(*arguments) == expected


def test_options_that_are_not_in_conf_are_named_too() -> None:
    """Hydra's own and this package's are always there; plugins may be."""
    (line,) = lines("hydra/launcher=foo")
    said, _, listed = line.partition(" is not one of ")
    assert said == "hydra/launcher: 'foo'"
    assert {"basic", "fused"} <= set(listed.split(", "))


def test_the_example_of_the_issue_without_its_plus() -> None:
    found = lines(
        "adapter.dmi=4", "adapter.dim=eight", "optimizer.lr=-1", "data=files", "data.train=/nowhere/x.jsonl"
    )
    assert [line.partition(":")[0] for line in found] == [
        "adapter.dim",
        "adapter.dmi",
        "optimizer.lr",
        "data.train",
    ]


def test_each_value_of_a_sweep_is_looked_at_once() -> None:
    found = lines("-m", "adapter.dim=1,eight,0", "optimizer.lr=1e-4,-1", "foo=3")
    assert [line.partition(":")[0] for line in found] == ["foo", "adapter.dim", "adapter.dim", "optimizer.lr"]
    assert lines("-m", "foo=1,2") == lines("foo=1")


def test_a_special_character_is_to_be_quoted() -> None:
    (line,) = lines("prompt.completion_token=<|x|>")
    assert "quote a value of special characters: 'KEY=\"VALUE\"'" in line
    assert composed('prompt.completion_token="<|x|>"').prompt.completion_token == "<|x|>"


def test_without_a_mistake_to_find_it_is_what_hydra_said() -> None:
    assert lines("adapter.dim=3") == ["what Hydra said"]


@pytest.mark.parametrize(
    "line",
    [
        "seed=1 adapter.dim=2",
        "-m seed=1,2 adapter.dim=2",
        "--multirun seed=1,2",
        "--config-name config seed=1",
        "-cn config --config-dir here seed=1 +adapter.dim=3 ~optimizer",
        "--config-path=there -cd here seed=1",
        "--cfg job --resolve -p adapter seed=1",
        "-cp there seed=1 --info",
        "--experimental-rerun a.pickle seed=1",
    ],
)
def test_a_command_line_is_read_as_hydra_reads_it(line: str) -> None:
    from hydra._internal.utils import get_args_parser

    by_hydra = get_args_parser().parse_args(line.split())
    assert _command_line(line.split()) == (by_hydra.overrides, by_hydra.multirun)


def test_overrides_on_both_sides_of_a_flag() -> None:
    assert _command_line(["seed=1", "-m", "adapter.dim=1,2"]) == (["seed=1", "adapter.dim=1,2"], True)
