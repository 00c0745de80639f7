"""`--help` of the run: every key of every option, with its value and what it is for."""

from __future__ import annotations

import pytest
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from summarizer.config.help import WIDTH, help_text, meanings
from summarizer.config.paths import conf_folder

OPTIONS = sorted(
    (file.parent.name, file.stem)
    for file in conf_folder().glob("*/*.yaml")
    if file.parent.name != "experiment" and not file.stem.startswith("_")
)


def test_it_is_readable_at_80_columns() -> None:
    told = help_text([])
    assert told.startswith("python -m summarizer.run: train low-rank adapters")
    long = [line for line in told.splitlines() if len(line) > WIDTH]
    assert long == []
    for line in (
        "  adapter.dim: 2                the adapter's rank r",
        "  trainer.max_grad_norm: 1.0    null does not clip",
        "  data            cnn_dailymail, files, sample",
        "seed: 0                         adapter initialization, data order, dropout",
    ):
        assert f"\n{line}\n" in told


def test_it_is_of_the_config_that_is_typed() -> None:
    told = help_text(["adapter.dim=4", "optimizer=sgd"])
    assert "adapter.dim: 4 " in told
    assert "optimizer=sgd  (adam8bit, adamw, adamw8bit, lion8bit, sgd)\n" in told
    assert "optimizer.momentum: 0.9 " in told
    with pytest.raises(MissingConfigException):
        help_text(["optimizer=sgdd"])


def test_one_group_alone() -> None:
    told = help_text(["trainer", "trainer.batch_size=4"])
    assert told.startswith("trainer=default  (default)\n  trainer.batch_size: 4 ")
    assert "adapter." not in told


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_key_is_explained(group: str, option: str) -> None:
    assert len(OPTIONS) > 20
    known = meanings(group, option)
    file = OmegaConf.load(conf_folder() / group / f"{option}.yaml")
    node = OmegaConf.to_container(file, resolve=False)
    assert isinstance(node, dict)
    unexplained = [key for key in _leaves(node, "") if not known.get(key)]
    assert unexplained == []


def _leaves(node: dict[object, object], path: str) -> list[str]:
    found: list[str] = []
    for name, value in node.items():
        key = f"{path}{name}"
        if key != "defaults":
            found += _leaves(value, f"{key}.") if isinstance(value, dict) and value else [key]
    return found
