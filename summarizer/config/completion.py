"""Tab completion for `python -m summarizer.run`; Hydra's own is for `python FILE.py` and installed commands.

    eval "$(python -m summarizer.run -sc install=bash)"

What there is to complete is Hydra's answer to `-sc query=bash`, which it gives for the line in $COMP_LINE.
"""

from __future__ import annotations

from collections.abc import Sequence

INSTALL = (["-sc", "install=bash"], ["--shell-completion", "install=bash"])

BASH = r"""_summarizer_run()
{
    local words=($COMP_LINE)
    if [[ "${words[1]}" != "-m" || "${words[2]}" != "summarizer.run" ]]; then
        return
    fi
    local line="${COMP_LINE:0:$COMP_POINT}"
    line="${line#*summarizer.run}"
    local command="${words[0]} -m summarizer.run"
    local choices=$(COMP_LINE="summarizer.run$line" $command -sc query=bash 2> /dev/null)
    COMPREPLY=($(compgen -W "$choices" -- "${line##* }"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _summarizer_run python python3
"""
"""Completes what follows `python -m summarizer.run`; for any other use of python, file names, as before."""


def asks_for_completion(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for the script above."""
    return list(arguments) in INSTALL
