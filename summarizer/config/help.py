"""`--help` of `python -m summarizer.run`: Hydra's own text, in half the time.

Hydra lists the config groups by asking its loader about each of them again and again, and each time the loader
copies every config that Hydra and its plugins have registered. The options of this project are files in a folder.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from summarizer.config.paths import conf_folder

FLAGS = ("--help", "-h")


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for help beside overrides alone; with any other flag the answer is Hydra's."""
    flags = [word for word in arguments if word.startswith("-")]
    return bool(flags) and all(flag in FLAGS for flag in flags)


def help_text(overrides: Sequence[str]) -> str | None:
    """Hydra's template for help, filled in; None where it has a place that only Hydra fills.

    Raises what Hydra raises for overrides that do not compose.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf, open_dict

    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config: Any = compose("config", list(overrides), return_hydra_config=True)
    template = string.Template(config.hydra.help.template)
    with open_dict(config):
        del config["hydra"]
    places = {
        "APP_CONFIG_GROUPS": "\n".join([*_groups(conf_folder(), ""), ""]),
        "CONFIG": OmegaConf.to_yaml(config),
    }
    if not set(template.get_identifiers()) <= places.keys():
        return None
    return template.substitute(places)


def _groups(folder: Path, group: str) -> Iterator[str]:
    """A line for each group of the config tree, with its options; Hydra's own settings are none."""
    inner = sorted(path for path in folder.iterdir() if path.is_dir())
    for path in inner:
        name = f"{group}{path.name}"
        if name == "hydra":
            continue
        if options := sorted(file.stem for file in path.glob("*.yaml")):
            yield f"{name}: {', '.join(options)}"
        yield from _groups(path, f"{name}/")
