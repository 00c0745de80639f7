"""What other tools call things: each name of the table through the check, at the top and inside the group."""

from __future__ import annotations

from pathlib import Path

import pytest
from composing import composed, mistakes
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from test_diagnose import lines

from summarizer.config.paths import conf_folder
from summarizer.config.synonyms import NOT_SPREAD, SYNONYMS, did_you_mean, require_no_flags
from summarizer.errors import ConfigError


def test_every_name_is_told_its_key() -> None:
    assert len(SYNONYMS) > 250
    told = dict(line.split(": ", 1) for line in mistakes(*(f"+{name}=seven" for name in SYNONYMS)))
    for name, meant in SYNONYMS.items():
        shown = meant.format("seven") if "=" in meant else repr(meant)
        assert told[name] == f"unknown key; did you mean {shown}?"


def test_every_name_is_told_its_key_inside_the_group_too() -> None:
    config = composed()
    inside: dict[str, str] = {}
    for name, meant in SYNONYMS.items():
        group, _, key = meant.partition(".")
        if key and "=" not in meant and name not in config[group]:
            inside[f"{group}.{name}"] = key
    assert len(inside) > 150
    told = dict(line.split(": ", 1) for line in mistakes(*(f"+{name}=7" for name in inside)))
    for name, key in inside.items():
        assert told[name] == f"unknown key; did you mean {key!r}?"
    assert mistakes("+trainer.learning_rate=1") == [
        "trainer.learning_rate: unknown key; did you mean 'optimizer.lr'?"
    ]


@pytest.mark.parametrize(
    "key", ["device_map", "model.device_map", "trainer.fsdp", "trainer.tensor-parallel-size"]
)
def test_a_base_spread_over_gpus_is_refused_in_one_line(key: str) -> None:
    assert mistakes(f"+{key}=auto") == [f"{key}: unknown key{NOT_SPREAD}"]


def test_every_key_that_a_name_stands_for_is_there() -> None:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config: DictConfig = compose("config", return_hydra_config=True)
    for meant in SYNONYMS.values():
        for part in meant.split():
            key = part.partition("=")[0]
            group, _, name = key.rpartition(".")
            assert name in OmegaConf.select(config, group or "."), key


def test_the_same_without_a_plus_and_by_flags() -> None:
    names = (
        "learning_rate",
        "rank",
        "r",
        "lora_alpha",
        "epochs",
        "batch_size",
        "max_length",
        "dataset",
        "warmup",
    )
    found = dict(line.split(": ", 1) for line in lines(*(f"{name}=1" for name in names)))
    assert found == {name: f"unknown key; did you mean {SYNONYMS[name]!r}?" for name in names}
    with pytest.raises(ConfigError) as caught:
        require_no_flags(
            ["--learning_rate", "3e-4", "--output-dir=out", "--adapter.dim=4", "-m", "--multirun", "seed=1"]
        )
    assert [str(issue) for issue in caught.value.issues] == [
        "--learning_rate: is no flag; settings are typed as KEY=VALUE; did you mean 'optimizer.lr'?",
        "--output-dir: is no flag; settings are typed as KEY=VALUE; did you mean hydra.run.dir=out?",
        "--adapter.dim: is no flag; settings are typed as KEY=VALUE",
    ]


def test_a_value_is_repeated_within_bounds() -> None:
    assert did_you_mean("model_name", "a" * 1000) == "; did you mean model=hf model.name_or_path=...?"
    assert did_you_mean("Model-Name", {"a": 1}) == "; did you mean model=hf model.name_or_path=...?"
    assert did_you_mean("nothing_of_the_kind") == ""


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("model=path/to/model", "for one of your own: model=hf model.name_or_path=path/to/model"),
        ("model=/a/model", "for one of your own: model=hf model.name_or_path=/a/model"),
        ("model=gpt2", "for one of your own: model=hf model.name_or_path=gpt2"),
        ("data=mine.csv", "for one of your own: data=files data.train=mine.csv data.validation=0.1"),
        ("data=../mine.csv", "for one of your own: data=files data.train=../mine.csv data.validation=0.1"),
        ("data=abisee/cnn_dailymail", "did you mean 'cnn_dailymail'?"),
        ("optimizer=adamq", "did you mean 'adamw'?"),
    ],
)
def test_a_path_in_the_place_of_an_option(override: str, hint: str) -> None:
    (line,) = lines(override)
    key, _, value = override.partition("=")
    assert line.startswith(f"{key}: {value!r} is not one of ")
    assert line.endswith(hint)


def test_what_is_given_as_a_base_model_and_is_none(tmp_path: Path) -> None:
    base = composed().model.name_or_path
    for name, files in {
        "adapter": {
            "adapter_config.json": f'{{"base_model_name_or_path": "{base}"}}',
            "adapter_model.safetensors": "",
        },
        "run": {".hydra/config.yaml": "", "adapter/adapter_config.json": "{}"},
        "quants": {"model.Q4_K_M.gguf": ""},
        "nothing": {"readme.txt": ""},
        "model": {"config.json": "{}", "model.safetensors": "", "tokenizer.json": '{"<|endoftext|>": 0}'},
    }.items():
        for file, text in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(text)

    def said(path: str, *more: str) -> str:
        (line,) = mistakes("model=hf", f"model.name_or_path={tmp_path / path}", "prompt=tldr", *more)
        return line.removeprefix(f"model.name_or_path: '{tmp_path / path}' is ")

    assert said("adapter") == (
        f"an adapter, no model; give its base model ({base}), and to go on from it "
        f"adapter.start_from={tmp_path}/adapter"
    )
    assert said("run") == (
        "the folder of a run; give its base model, and to go on from its adapter "
        f"adapter.start_from={tmp_path}/run/adapter"
    )
    assert said("quants").startswith(
        "a folder of GGUF files, which is llama.cpp's form and is not read here; give the"
    )
    assert said("quants/model.Q4_K_M.gguf").startswith(
        "a GGUF file, which is llama.cpp's form and is not read here"
    )
    assert said("nothing") == "a folder without config.json; a model folder has one"
    assert said("model/model.safetensors") == (
        f"a file; give the folder that holds it: model.name_or_path={tmp_path}/model"
    )
    # Without model=hf the prompt asks for a token of the model that was there before.
    (line,) = mistakes(f"model.name_or_path={tmp_path}/model")
    assert line == (
        f"prompt.completion_token: '<|extratoken_1|>' is no token of {tmp_path}/model; a model of your own takes "
        f"model=hf model.name_or_path={tmp_path}/model"
    )
