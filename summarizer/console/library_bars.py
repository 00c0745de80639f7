"""Bars that a library draws by tqdm, drawn as this project's: downloads, and what `datasets` makes of them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from summarizer import compat
from summarizer.console import progress

SECOND_COUNT = ".transfer"
"""How the hub names a bar that counts the same bytes as another: as they come in, rather than as they are kept."""


@contextmanager
def library_bars(*classes: type[Any], label: str) -> Iterator[None]:
    """Within the block, the bars of these tqdm classes are this project's, at a terminal and elsewhere.

    classes: a library's own subclasses of tqdm; they are changed for the block, which is for calls that take no
        class of bars. Bars that a person switched off (HF_HUB_DISABLE_PROGRESS_BARS) stay off.
    label: before what is counted in bytes; other bars are called as the library calls them, and those of mere
        files beside the bytes are not shown.
    """
    with ExitStack() as changed:
        changed.enter_context(progress.together())
        for library in classes:
            changed.enter_context(compat.methods_replaced(library, _methods(library, label)))
        yield


def bar_class(library: type[Any], *, label: str) -> type[Any]:
    """A class of such bars, for a call that takes one. They are drawn in turn within `progress.together`."""
    return type("Bar", (library,), _methods(library, label))


def _methods(library: type[Any], label: str) -> dict[str, Callable[..., Any]]:
    begin, end = library.__init__, library.close

    def __init__(self: Any, *arguments: Any, **more: Any) -> None:  # noqa: N807 - it becomes one
        self.of_bytes = more.get("unit") == "B"
        of_pieces = str(more.get("unit", "")).strip() == "examples"
        self.shown = (self.of_bytes or of_pieces) and not str(more.get("name")).endswith(SECOND_COUNT)
        self.opened = ExitStack()
        self.ours = None
        # tqdm draws nothing where standard error is no terminal, and its last line in any case: to nowhere.
        begin(self, *arguments, **{**more, "disable": False, "file": io.StringIO()})

    def display(self: Any, *_: Any, **__: Any) -> None:
        if not self.shown:
            return
        total = int(self.total) if self.total else None
        if self.ours is None:
            self.ours = self.opened.enter_context(
                progress.bar(
                    label if self.of_bytes else str(self.desc).strip(": ").lower(),
                    total,
                    done=int(self.n),
                    unit="bytes" if self.of_bytes else "",
                )
            )
        self.ours.reach(int(self.n), total)

    def close(self: Any) -> None:
        end(self)
        if hasattr(self, "opened"):
            self.opened.close()

    return {"__init__": __init__, "display": display, "close": close}
