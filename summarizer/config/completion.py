"""Tab completion for `python -m summarizer.run` and `summarizer run`; Hydra's own knows commands of one word.

    eval "$(python -m summarizer.run -sc install=bash)"

What there is to complete is Hydra's answer to `-sc query=bash`, which it gives for the line in $COMP_LINE.
"""

from __future__ import annotations

from collections.abc import Sequence

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
        return
    fi
    local choices=$(COMP_LINE="summarizer.run$line" $command -sc query=bash 2> /dev/null)
    choices=$(tr " " "\n" <<< "$choices" | grep -v "=_")
    COMPREPLY=($(compgen -W "$choices" -- "${line##* }"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _summarizer_run python python3 summarizer
"""
"""Completes what follows `python -m summarizer.run` or `summarizer run`; else file names, as before."""


def asks_for_completion(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for the script above."""
    return list(arguments) in INSTALL
