"""The README's table of config groups, from `conf/`. Run as a script it prints the table."""

from __future__ import annotations

import yaml

from summarizer.config.paths import conf_folder

GROUPS = (
    "model",
    "quantization",
    "adapter",
    "optimizer",
    "data",
    "prompt",
    "trainer",
    "evaluation",
    "generation",
    "sweep",
    "tracking",
    "experiment",
)


def _content(group: str, option: str) -> dict[str, object]:
    """An option's keys, those first that it shares with others."""
    own = yaml.safe_load((conf_folder() / group / f"{option}.yaml").read_text())
    shared: dict[str, object] = {}
    for base in own.get("defaults", ()):
        shared |= _content(group, base)
    return shared | own


def groups_table() -> str:
    """Each group with its options, the default in bold, and its keys."""
    defaults = {}
    for entry in yaml.safe_load((conf_folder() / "config.yaml").read_text())["defaults"]:
        if isinstance(entry, dict):
            defaults.update(entry)
    lines = ["| group | options (default in bold) | keys |", "|---|---|---|"]
    shared = yaml.safe_load((conf_folder() / "config.yaml").read_text())
    for group in GROUPS:
        options = sorted(path.stem for path in (conf_folder() / group).glob("[!_]*.yaml"))
        named = ", ".join(f"**{name}**" if name == defaults[group] else name for name in options)
        keys: dict[str, None] = {}
        if group != "experiment":
            content = _content(group, defaults[group]) | shared.get(group, {})
            keys = dict.fromkeys(f"`{key}`" for key in content if key not in ("_target_", "defaults"))
        lines.append(f"| `{group}` | {named} | {', '.join(keys)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(groups_table())
