"""Every YAML of conf/, found by itself: it composes with the defaults, is sound, and tab offers it."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from config.composing import composed
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import DictConfig

from summarizer.config.check import SCALARS, check
from summarizer.config.help import BASH
from summarizer.config.paths import conf_folder
from summarizer.config.schema import RunConfig
from summarizer.runs.preflight import preflight

GROUPS_AND_LEAST_OPTIONS = {
    "model": 4,
    "quantization": 4,
    "adapter": 1,
    "optimizer": 5,
    "data": 3,
    "prompt": 2,
    "trainer": 1,
    "evaluation": 2,
    "generation": 2,
    "sweep": 1,
    "tracking": 2,
    "experiment": 3,
}
NEEDED = {
    "model=hf": ["model.name_or_path=embedded:tiny_gptj"],
    "data=files": ["data.train=embedded:sample/train.jsonl", "data.validation=embedded:sample/test.jsonl"],
    "prompt=completion_token": ["model=tiny_gptj"],
}
"""What the options that leave something to the person are given here."""


def options(folder: Path) -> list[str]:
    """Those to choose from; a file whose name begins with _ is what some of them share."""
    return sorted(
        f"{path.parent.name}={path.stem}"
        for path in folder.glob("*/*.yaml")
        if path.parent.name != "hydra" and not path.stem.startswith("_")
    )


def test_every_group_and_option_is_found() -> None:
    found = options(conf_folder())
    for group, least in GROUPS_AND_LEAST_OPTIONS.items():
        assert sum(option.startswith(f"{group}=") for option in found) >= least, group
    assert {option.partition("=")[0] for option in found} == GROUPS_AND_LEAST_OPTIONS.keys()
    assert GROUPS_AND_LEAST_OPTIONS.keys() - {"experiment"} == RunConfig.model_fields.keys() - set(SCALARS)


@pytest.mark.parametrize("option", options(conf_folder()))
def test_every_option_is_sound(option: str) -> None:
    group, _, name = option.partition("=")
    config = composed(option, *NEEDED.get(option, []))
    spec = preflight(config)
    if group != "experiment":
        assert config[group] == composed(option, *NEEDED.get(option, []), "seed=1")[group]
        assert getattr(spec, group) is not None, name


def hydras(*overrides: str) -> DictConfig:
    """What Hydra itself is told."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config: DictConfig = compose("config", list(overrides), return_hydra_config=True).hydra
    return config


def test_sweeps_train_fused_unless_told() -> None:
    assert get_class(hydras().launcher._target_).__name__ == "FusedLauncher"
    assert get_class(hydras("hydra/launcher=basic").launcher._target_).__name__ == "BasicLauncher"


def test_every_value_that_an_experiment_sweeps_over_is_sound() -> None:
    swept = hydras("experiment=dim_lr_sweep").sweeper.params
    dims, rates = swept["adapter.dim"].split(","), swept["optimizer.lr"].split(",")
    assert len(swept) == 2
    for dim, rate in zip(dims, itertools.cycle(rates), strict=False):
        spec = preflight(composed("experiment=dim_lr_sweep", f"adapter.dim={dim}", f"optimizer.lr={rate}"))
        assert (spec.adapter.dim, spec.optimizer.lr) == (int(dim), float(rate))
    assert len(dims) >= len(rates) > 1


def test_a_new_yaml_is_found_by_itself(tmp_path: Path) -> None:
    folder = tmp_path / "conf"
    shutil.copytree(conf_folder(), folder)
    text = (folder / "optimizer" / "adamw.yaml").read_text()
    (folder / "optimizer" / "nadam.yaml").write_text(text.replace("torch.optim.AdamW", "torch.optim.NAdam"))
    assert set(options(folder)) - set(options(conf_folder())) == {"optimizer=nadam"}
    spec = check(composed("optimizer=nadam", folder=folder))
    assert spec.optimizer.target == "torch.optim.NAdam"


def test_the_defaults_are_the_reference_experiment_but_for_the_rate() -> None:
    spec = preflight(composed())
    assert (spec.adapter.dim, spec.adapter.alpha, spec.adapter.exclude) == (2, None, [])
    assert sorted(spec.adapter.targets) == ["embedding", "head", "linear"]
    assert (spec.optimizer.target, spec.optimizer.lr) == ("bitsandbytes.optim.Adam8bit", 1e-3)
    assert (spec.trainer.batch_size, spec.trainer.epochs, spec.trainer.shuffle) == (2, 3.0, True)
    assert (spec.trainer.max_steps, spec.quantization.format) == (None, "int8")
    assert (spec.model.name_or_path, spec.tracking.mode) == ("embedded:tiny_gptj", "offline")


def test_the_reference_experiment_in_full() -> None:
    spec, default = preflight(composed("experiment=gptj_cnn_dailymail")), preflight(composed())
    assert spec.model.name_or_path == "EleutherAI/gpt-j-6b"
    assert (spec.data.source, spec.data.path, spec.data.config) == ("hub", "abisee/cnn_dailymail", "3.0.0")
    assert (spec.data.train, spec.data.validation, spec.data.test) == ("train", "validation", "test")
    assert spec.data.rows.train is None
    assert spec.quantization.format == "blockwise8"
    assert (spec.adapter, spec.trainer.epochs) == (default.adapter, 3.0)
    assert (spec.optimizer.target, spec.optimizer.lr) == (default.optimizer.target, 1e-4)
    assert (spec.trainer.batch_size, spec.trainer.shuffle) == (2, True)


def test_an_override_beats_the_experiment() -> None:
    spec = preflight(composed("experiment=gptj_cnn_dailymail", "trainer.batch_size=4", "quantization=nf4"))
    assert (spec.trainer.batch_size, spec.quantization.format) == (4, "nf4")


WORDBREAKS = "COMP_WORDBREAKS=$' \\t\\n\"\\'><=;|&(:'"
"""As bash has it at a terminal: readline replaces what follows the last of them."""


def suggestions(line: str, folder: Path, before: str = "") -> set[str]:
    """What bash offers for a line that ends where the cursor is. before: what the shell ran before ours."""
    script = (
        f"{WORDBREAKS}\n{before}\n{BASH}\n"
        'COMP_LINE="$1" COMP_POINT=${#1}\n_summarizer_run python\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    # The first word of the line is what the function calls to ask.
    asked = str(Path(sys.executable).parent / line) if line.startswith("summarizer ") else None
    answer = subprocess.run(
        ["bash", "-c", script, "bash", asked or line.replace("python", sys.executable, 1)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(answer.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("adapter.d", {"adapter.dim=", "adapter.dropout="}),
        ("model=", {"gptj_6b", "hf", "phi_2", "smollm2", "tiny_gptj"}),
        ("-m adapter.dim=1,2 optimizer.l", {"optimizer.lr="}),
    ],
)
def test_tab_completion(typed: str, offered: set[str], tmp_path: Path) -> None:
    assert suggestions(f"python -m summarizer.run {typed}", tmp_path) == offered
    assert suggestions(f"summarizer run {typed}", tmp_path) == offered


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_completion_leaves_other_commands_alone(tmp_path: Path) -> None:
    assert suggestions("python -m summarizer.compare adapter.d", tmp_path) == set()
    theirs = "_theirs() { COMPREPLY=(theirs $1); }\ncomplete -o nosort -F _theirs python"
    twice = f"{theirs}\n{BASH}"
    for before in (theirs, twice):
        assert suggestions("python -m http.ser", tmp_path, before) == {"theirs", "python"}
    shown = subprocess.run(
        ["bash", "-c", f'{WORDBREAKS}\n{BASH}\necho "$COMP_WORDBREAKS"\ncomplete -p python'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "=" in shown.partition("complete")[0], "where words break is the shell's own matter"
    assert "nospace" not in shown, "a file's name ends with a space, as ever"


def test_the_config_check_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, summarizer.config.check, summarizer.config.diagnose, summarizer.runs.preflight\n"
        "import summarizer.runs.record, summarizer.runs.mistakes, summarizer.runs.folder\n"
        "sys.exit(sorted({'torch', 'transformers', 'datasets', 'wandb'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stderr.strip() == "[]"
