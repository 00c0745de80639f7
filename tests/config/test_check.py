"""Every mistake of a config at once, with key, value, bound and nearest name, before anything is loaded."""

from __future__ import annotations

import math
import socket
from pathlib import Path

import pytest
from composing import composed, mistakes
from omegaconf import OmegaConf

from summarizer.config import schema
from summarizer.config.check import check
from summarizer.config.plain import to_plain
from summarizer.config.targets import OptimizerConfig
from summarizer.errors import ConfigError
from summarizer.models import load
from summarizer.runs.preflight import preflight


@pytest.fixture(autouse=True)
def _nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the check reached for weights or the network")

    monkeypatch.setattr(load, "load_base", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_the_example_of_the_issue() -> None:
    assert mistakes(
        "+adapter.dmi=4", "adapter.dim=eight", "optimizer.lr=-1", "data=files", "data.train=/nowhere/x.jsonl"
    ) == [
        "adapter.dim: 'eight' is not a whole number of at least 1",
        "adapter.dmi: unknown key; did you mean 'dim'?",
        "optimizer.lr: -1 is not a number above 0",
        "data.train: no such file: /nowhere/x.jsonl",
    ]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("optimizer.lr=0", "optimizer.lr: 0 is not a number above 0"),
        ("optimizer.lr=fast", "optimizer.lr: 'fast' is not a number above 0"),
        ("optimizer.lr=nan", "optimizer.lr: nan is not a finite number above 0"),
        ("optimizer.lr=inf", "optimizer.lr: inf is not a finite number"),
        ("optimizer.lr=null", "optimizer.lr: null is not a number above 0"),
        ("optimizer.betas=[0.9]", "optimizer.betas: [0.9] is not a list of 2 values"),
        ("optimizer.betas=[0.9,1.0]", "optimizer.betas: 1.0 is not a number below 1"),
        ("+optimizer.betta=3", "optimizer.betta: unknown key; did you mean 'betas'?"),
        ("+optimizer.amsgrad=true", "optimizer: bitsandbytes.optim.Adam8bit refuses these arguments"),
        (
            "optimizer._target_=os.system",
            "optimizer._target_: 'os.system' is not allowed; it must be a class of",
        ),
        ("optimizer._target_=torch.optim.Adma", "optimizer._target_: 'torch.optim.Adma' cannot be imported"),
        (
            "optimizer._target_=torch.optim.lr_scheduler.LRScheduler",
            "optimizer._target_: 'torch.optim.lr_sched",
        ),
        ("adapter._target_=builtins.dict", "adapter._target_: 'builtins.dict' is not allowed"),
        (
            "adapter._target_=summarizer.adapters.lora.torch.load",
            "adapter._target_: 'summarizer.adapters.lora.to",
        ),
        ("adapter._target_=3", "adapter._target_: 3 is not allowed"),
        ("~adapter._target_", "adapter._target_: null is not allowed"),
        ("adapter.dim=", "adapter.dim: '' is not a whole number of at least 1"),
        ("adapter.dim=2.5", "adapter.dim: 2.5 is not a whole number of at least 1"),
        ("adapter.dim=true", "adapter.dim: true is not a whole number of at least 1"),
        ("~adapter.dim", "adapter.dim: is required"),
        ("adapter.alpha=x", "adapter.alpha: 'x' is not a number above 0"),
        ("adapter.targets=linear", "adapter.targets: 'linear' is not a list"),
        (
            "adapter.targets=[linaer]",
            "adapter.targets: 'linaer' is not one of linear, head, embedding; did you mean 'linear'?",
        ),
        ("adapter.start_from=/nowhere", "adapter.start_from: no such folder: /nowhere"),
        ("~adapter", "adapter: null is not a group of keys; choose one, such as adapter=..."),
        ("trainer.epochs=null", "trainer.epochs: null, and so is trainer.max_steps; give one of them"),
        (
            "trainer.precision=bf18",
            "trainer.precision: 'bf18' is not one of auto, fp32, bf16, fp16; did you mean 'bf16'?",
        ),
        ("trainer.schedule=fast", "trainer.schedule: 'fast' is not a group of keys"),
        (
            "trainer.schedule.warmup_steps=-1",
            "trainer.schedule.warmup_steps: -1 is not a number of at least 0",
        ),
        (
            "trainer.schedule.final_fraction=1.5",
            "trainer.schedule.final_fraction: 1.5 is not a number of at most 1",
        ),
        ("+trainer.schedule.warmup=1", "trainer.schedule.warmup: unknown key; did you mean 'warmup_steps'?"),
        ("trainer.max_grad_norm=inf", "trainer.max_grad_norm: inf is not a finite number above 0"),
        ("trainer.processes=3", "trainer.batch_size: 2 examples do not divide over trainer.processes=3"),
        ("trainer.shuffle=yes", "trainer.shuffle: 'yes' is not true or false"),
        ("data.train=[]", "data.train: [] is not a list of at least one value"),
        ("data.train=[a,5]", "data.train: 5 is not text"),
        ("data.rows.train=x", "data.rows.train: 'x' is not a whole number of at least 1"),
        ("data.columns=5", "data.columns: 5 is not a group of keys"),
        ("data.validation=null", "data.validation: is required; give it as data.validation=..."),
        ("data.streaming=true", "trainer.max_steps: is required with data.streaming"),
        ("prompt.template=hello", "prompt.template: 'hello' must have {article} in it exactly once"),
        ("prompt.template='{article} '", "prompt.template: something must mark where the summary starts"),
        ("prompt.max_tokens=64", "generation.max_new_tokens: 64 leaves no room"),
        (
            "generation.min_new_tokens=65",
            "generation.min_new_tokens: 65 is above generation.max_new_tokens=64",
        ),
        ("model.name_or_path=embedded:tiny", "model.name_or_path: 'embedded:tiny' is not in the package"),
        ("seed=-1", "seed: -1 is not a whole number from 0 to"),
        ("seed=18446744073709551616", "seed: 18446744073709551616 is not a whole number from 0 to"),
        ("resume=x", "resume: stands alone"),
        ("+lr=3", "lr: unknown key; did you mean 'optimizer.lr'?"),
        ("+adaptor=3", "adaptor: unknown key; did you mean 'adapter'?"),
        ("+foo=3", "foo: unknown key; valid names: adapter, data, evaluation"),
        (
            "adapter.dim=${nothing.here}",
            "adapter.dim: '${nothing.here}' cannot be resolved: Interpolation key",
        ),
        (
            "adapter.dim=${foo:3}",
            "adapter.dim: '${foo:3}' cannot be resolved: Unsupported interpolation type foo",
        ),
        ("adapter.dim=${adapter.dim}", "adapter.dim: '${adapter.dim}' cannot be resolved: Recursive"),
        ("adapter.targets=[linear,${model.no}]", "adapter.targets: '${model.no}' cannot be resolved"),
    ],
)
def test_one_mistake_is_one_line(override: str, line: str) -> None:
    found = mistakes(override)
    assert found[0].startswith(line)
    assert len(found) == (2 if override.startswith("prompt.template") else 1), found
    assert all(len(text) < 200 for text in found)


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        # Mistaken values do not hide what the sound ones beside them break.
        (["trainer.max_steps=0", "trainer.processes=2", "trainer.batch_size=3"], ["max_steps", "batch_size"]),
        (
            ["data=files", "data.train=/no/x.jsonl", "data.validation=/no/v.jsonl", "data.rows.train=-1"],
            ["rows.train", "train", "validation"],
        ),
        (["adapter.dim=0", "adapter.start_from=/nowhere"], ["dim", "start_from"]),
        (["data=cnn_dailymail", "data.train=[a,b]", "data.path=null"], ["path", "train"]),
        # A value that is missing hides nothing either, and is not found fault with twice.
        (["model=hf", "data=files", "seed=-1"], ["name_or_path", "train", "seed", "validation"]),
        (["model=hf", "prompt.completion_token=${model.name_or_path}"], ["name_or_path"]),
        (["adapter.dim=${nothing.here}", "optimizer.lr=-1"], ["dim", "lr"]),
        (["data.streaming=true", "data.rows_seed=3", "data.rows.train=4"], ["max_steps", "rows_seed"]),
        (["data.streaming=true", "trainer.max_steps=3", "evaluation.split=train"], ["rows.train"]),
        # Who mistyped the first path is not told yet that the second is to be given.
        (["data=files", "data.train=/no/x.jsonl"], ["train"]),
        (["data=files", "data.train=embedded:sample/train.jsonl"], ["validation"]),
        (
            ["data=files", "data.train=embedded:sample/train.jsonl", "evaluation.split=test"],
            ["validation", "test"],
        ),
    ],
)
def test_all_at_once(overrides: list[str], keys: list[str]) -> None:
    found = [line.partition(": ")[0] for line in mistakes(*overrides)]
    assert len(found) == len(keys)
    for key, end in zip(found, keys, strict=True):
        assert key == end or key.endswith(f".{end}")


def test_the_rules_allow_what_works() -> None:
    """The neighbors of what is refused."""
    for overrides in (
        ["data.streaming=true", "trainer.max_steps=3", "data.rows_seed=3"],
        ["data.streaming=true", "trainer.max_steps=3", "data.rows.train=3", "evaluation.split=train"],
        ["data.streaming=true", "trainer.max_steps=3", "trainer.group_by_length=true"],
        ["trainer.epochs=null", "trainer.max_steps=3"],
        ["trainer.processes=2", "trainer.batch_size=4"],
        ["optimizer=sgd", "+optimizer.nesterov=true"],
        ["optimizer.lr=1"],
        ["adapter.dim=${trainer.batch_size}"],
        ["data.train=[embedded:sample/train.jsonl,embedded:sample/test.jsonl]"],
        ["seed=0"],
    ):
        preflight(composed(*overrides))


def test_a_sound_config_keeps_its_values() -> None:
    config = composed("adapter.dim=3", "optimizer.lr=1", "trainer.schedule.warmup_steps=7")
    spec = check(config)
    assert isinstance(spec.optimizer, OptimizerConfig)
    assert (spec.adapter.dim, spec.optimizer.lr, spec.trainer.schedule.warmup_steps) == (3, 1, 7)
    assert spec.prompt.completion_token == config.model.completion_token  # an interpolation, resolved
    plain = OmegaConf.to_container(config, resolve=True)
    assert to_plain(config) == plain
    for group in ("data", "trainer", "generation"):
        assert getattr(spec, group).model_dump() == plain[group]  # type: ignore[index,call-overload]


def test_what_cannot_be_resolved_stays_as_it_is_written() -> None:
    plain = to_plain(composed("model=hf", "adapter.dim=${nothing.here}", "optimizer.lr=3"))
    assert (plain["model"]["name_or_path"], plain["adapter"]["dim"]) == ("???", "${nothing.here}")
    assert plain["optimizer"]["lr"] == 3
    with pytest.raises(ConfigError) as caught:
        preflight(OmegaConf.create(plain))
    assert [issue.key for issue in caught.value.issues] == ["model.name_or_path", "adapter.dim"]


def test_a_start_folder_is_looked_into(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    assert mistakes(f"adapter.start_from={tmp_path}") == [
        f"adapter.start_from: {tmp_path} has no adapter_model.safetensors"
    ]


def test_no_float_of_any_group_may_be_infinite() -> None:
    floats = [
        (spec, name)
        for spec in schema.Section.__subclasses__()
        for name, field in spec.model_fields.items()
        if "float" in str(field.annotation)
    ]
    assert len(floats) >= 5
    assert all(spec.model_config["allow_inf_nan"] is False for spec, _ in floats)
    assert math.isinf(OmegaConf.create("a: .inf").a)


def test_a_space_alone_marks_no_start_of_the_summary() -> None:
    (mistake,) = mistakes("prompt.template='{article} {completion}'", "prompt.completion_token=null")
    assert (
        mistake
        == "prompt.completion_token: null, so that nothing in prompt.template marks where the summary starts"
    )


ABSURD = {
    "adapter.dim": (1_000_000_000_000, "of at most 65536"),
    "generation.num_beams": (1_000_000, "of at most 1000"),
    "generation.length_penalty": (1e9, "of at most 50"),
    "evaluation.bootstrap_samples": (1_000_000_000, "of at most 100000"),
    "evaluation.batch_size": (10**9, "of at most 1048576"),
    "trainer.batch_size": (10**9, "of at most 1048576"),
    "trainer.epochs": (1e300, "of at most 1000000"),
    "trainer.max_steps": (10**30, "of at most 1000000000000"),
    "trainer.processes": (10**6, "of at most 1024"),
    "data.processes": (10**6, "of at most 1024"),
    "data.shuffle_buffer_rows": (10**12, "of at most 100000000"),
    "data.rows.train": (10**19, "of at most 1000000000000"),
    "prompt.max_tokens": (10**9, "of at most 16777216"),
}


def test_absurd_numbers_are_refused_all_at_once() -> None:
    lines = mistakes(*(f"{key}={value}" for key, (value, _) in ABSURD.items()))
    found = {line.partition(":")[0]: line for line in lines}
    assert len(ABSURD) == 13
    for key, (_, bound) in ABSURD.items():
        assert found[key].endswith(bound), found
