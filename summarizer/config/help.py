"""What `python -m summarizer.run` says of itself: `--help`, and what a shell completes on tab.

Help lists the groups and their options, and every key with what it is for. That stands beside the key in the YAML;
where it does not, the docstring of its field says it, which is read from source, so that help imports neither
pydantic nor torch. `--help trainer` shows that group alone.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from summarizer.config.paths import PACKAGE, conf_folder

FLAGS = ("--help", "-h")
WIDTH = 80
MEANING_AT = 32
"""The column of what a key is for, unless the key and its value reach further."""
COMMENT = re.compile(r"^(\s*)([\w.]+):(?:\s+(.*?))?(?:\s#\s+(.*))?$")
"""A line of YAML: indentation, key, value, comment."""
OPTIMIZER_MEANINGS = {
    "_target_": "the optimizer's class; any argument of it may be given as +optimizer.NAME=VALUE",
    "lr": "the learning rate, which trainer.schedule multiplies",
    "weight_decay": "how much of the parameters a step of the learning rate takes off",
}
"""What optimizer arguments are for that libraries do not explain."""

HEAD = """\
{program}: train low-rank adapters over a frozen
language model to summarize, and score them.

  KEY=VALUE GROUP=OPTION ...    one run, with these in place of the defaults
  -m KEY=VALUE,VALUE ...        a sweep: a run for each combination
  resume=FOLDER                 go on with a run or a sweep
  --help GROUP                  the keys of one group
  --cfg job KEY=VALUE ...       the config as composed, without a run

Groups and their options (GROUP=OPTION):
"""
FOOT = "Composed by Hydra (https://hydra.cc); --hydra-help lists its own flags."


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for help beside overrides and groups; with any other flag Hydra answers."""
    flags = [word for word in arguments if word.startswith("-")]
    return bool(flags) and all(flag in FLAGS for flag in flags)


def help_text(words: Sequence[str]) -> str:
    """The help on a config with these overrides; of the groups alone that stand among the words by name.

    Raises what Hydra raises for overrides that do not compose.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf, open_dict

    options = dict(_options(conf_folder(), ""))
    wanted = [word for word in words if word in options]
    overrides = [word for word in words if word not in options]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        composed: Any = compose("config", overrides, return_hydra_config=True)
    program, chosen = composed.hydra.help.app_name, composed.hydra.runtime.choices
    with open_dict(composed):
        del composed["hydra"]
    config: Any = OmegaConf.to_container(composed, resolve=False)
    lines = [] if wanted else [HEAD.format(program=program), *_groups(options), "", "Keys (KEY=VALUE):", ""]
    for name, value in config.items():
        if not wanted and not isinstance(value, dict):
            lines += _key_lines(name, value, _comments(conf_folder() / "config.yaml").get(name, ""), "")
    for name, value in config.items():
        if isinstance(value, dict) and (name in wanted or not wanted):
            known = meanings(name, str(chosen.get(name)))
            head = f"{name}={chosen.get(name)}  ("
            listed = f"{head}{', '.join(options.get(name, ()))})"
            lines += ["", *textwrap.wrap(listed, WIDTH, subsequent_indent=" " * len(head))]
            lines += _node_lines(value, known, f"{name}.", "")
    return "\n".join([*lines, "", *([] if wanted else [FOOT])]).strip("\n")


def meanings(group: str, option: str) -> dict[str, str]:
    """What each key of a group is for, by its path below the group."""
    said = _docstrings(PACKAGE / "config" / "schema.py", f"{group.capitalize()}Config")
    if group == "optimizer":
        said = OPTIMIZER_MEANINGS
    if group == "adapter":
        adapters = PACKAGE / "adapters"
        said = _docstrings(adapters / "protocol.py", "Adapter") | {"_target_": "the adapter's class"}
    return {**said, **_comments(conf_folder() / group / f"{option}.yaml")}


def _node_lines(node: Mapping[str, Any], known: Mapping[str, str], prefix: str, path: str) -> Iterator[str]:
    for name, value in node.items():
        key = f"{path}{name}"
        if isinstance(value, dict) and value:
            yield from _node_lines(value, known, prefix, f"{key}.")
        else:
            yield from _key_lines(f"{prefix}{key}", value, known.get(key, ""), "  ")


def _key_lines(key: str, value: Any, meaning: str, indent: str) -> list[str]:
    """A key with its value, and what it is for beside or below it, within WIDTH columns."""
    head = f"{indent}{key}: {_shown(value)}"
    if not meaning:
        return [head]
    column = " " * MEANING_AT
    said = textwrap.wrap(meaning, WIDTH - MEANING_AT)
    if len(head) <= MEANING_AT - 2:
        return [f"{head:<{MEANING_AT}}{said[0]}", *(column + line for line in said[1:])]
    return [head, *(column + line for line in said)]


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value.encode("unicode_escape").decode() or "''"
    if isinstance(value, list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return {"None": "null", "True": "true", "False": "false"}.get(repr(value), repr(value))


def _groups(options: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for name, names in options.items():
        first, *others = textwrap.wrap(", ".join(names), WIDTH - 18)
        yield f"  {name:<16}{first}"
        yield from (" " * 18 + line for line in others)


def _options(folder: Path, group: str) -> Iterator[tuple[str, list[str]]]:
    """Each group of the config tree with its options; Hydra's own groups are left out."""
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        name = f"{group}{path.name}"
        if name == "hydra":
            continue
        if options := sorted(file.stem for file in path.glob("*.yaml") if not file.stem.startswith("_")):
            yield name, options
        yield from _options(path, f"{name}/")


def _comments(file: Path) -> dict[str, str]:
    """The comment beside each key of a YAML, and of those that it is made of, by the key's dotted path."""
    if not file.is_file():
        return {}
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    defaults = False
    for line in file.read_text(encoding="utf-8").splitlines():
        if defaults and (base := re.match(r"\s+- (\w+)$", line)):
            found |= _comments(file.with_name(f"{base[1]}.yaml"))
            continue
        if not (match := COMMENT.match(line)):
            continue
        indent, key, _, comment = match.groups()
        defaults = key == "defaults" and not indent
        path = [(depth, name) for depth, name in path if depth < len(indent)] + [(len(indent), key)]
        if comment:
            found[".".join(name for _, name in path)] = comment
    return found


def _docstrings(file: Path, name: str) -> dict[str, str]:
    """The docstring under each field of a class in a source file, and of the classes there that its fields are."""
    classes = {
        node.name: node
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    found: dict[str, str] = {}
    body = classes[name].body if name in classes else []
    for node, after in zip(body, [*body[1:], None], strict=False):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        field = node.target.id
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[field] = " ".join(str(after.value.value).split())
        if (inner := ast.unparse(node.annotation)) in classes:
            found |= {f"{field}.{key}": said for key, said in _docstrings(file, inner).items()}
    return found


# ---- tab completion ----------------------------------------------------------------------------------------------

INSTALL = (["-sc", "install=bash"], ["--shell-completion", "install=bash"])

BASH = r"""_summarizer_run()
{
    local words=($COMP_LINE)
    local line="${COMP_LINE:0:$COMP_POINT}" command
    if [[ "${words[1]}" == "-m" && "${words[2]}" == "summarizer.run" ]]; then
        command="${words[0]} -m summarizer.run"
        line="${line#*summarizer.run}"
    elif [[ "${words[0]##*/}" == "summarizer" && "${words[1]}" == "run" ]]; then
        command="${words[0]} run"
        line="${line#*"${words[0]}"}"
        line="${line#*run}"
    else
        _summarizer_others "$@"
        return
    fi
    compopt -o nospace 2> /dev/null
    local choices=$(COMP_LINE="summarizer.run$line" $command -sc query=bash 2> /dev/null)
    choices=$(tr " " "\n" <<< "$choices" | grep -v "=_")
    local typed="${line##* }"
    local word="${typed##*["$COMP_WORDBREAKS"]}"
    COMPREPLY=($(compgen -W "$choices" -- "$typed"))
    COMPREPLY=("${COMPREPLY[@]#"${typed%"$word"}"}")
}
_summarizer_others()
{
    local rest="${_summarizer_before["${1##*/}"]}"
    [[ "$rest" =~ \ -F\ ([^ ]+) ]] || return 0
    local completes="${BASH_REMATCH[1]}"
    compopt +o default +o bashdefault 2> /dev/null
    while [[ "$rest" =~ \ -o\ ([a-z]+)(.*) ]]; do
        compopt -o "${BASH_REMATCH[1]}" 2> /dev/null
        rest="${BASH_REMATCH[2]}"
    done
    "$completes" "$@"
    (( $? != 124 ))
}
_summarizer_install()
{
    local name before
    for name in python python3; do
        for before in "complete -p" _comp_load _completion_loader; do
            $before "$name" &> /dev/null && break
        done
        before="$(complete -p "$name" 2> /dev/null)"
        [[ "$before" == *_summarizer_run* ]] || _summarizer_before["$name"]="$before"
    done
}
declare -gA _summarizer_before
_summarizer_install
complete -o bashdefault -o default -F _summarizer_run python python3 summarizer
"""
"""Completes what follows `python -m summarizer.run` or `summarizer run`.

After any other `python`, what completed it before does, with its own options; where nothing did, the shell as ever.

Installed by `eval "$(python -m summarizer.run -sc install=bash)"`. What there is to complete is Hydra's answer to
`-sc query=bash`, which it gives for the line in $COMP_LINE; Hydra's own script knows commands of one word alone.
"""


def asks_for_completion(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for the script above."""
    return list(arguments) in INSTALL
