"""A terminal for tests: a program runs in it, and what a person would see on its screen comes back."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from dataclasses import dataclass, field

CODE = re.compile(r"\x1b\[(\?)?([\d;]*)([A-Za-z])|\r\n|\r|\n|[^\x1b\r\n]+")


@dataclass
class Screen:
    """Lines as they stand, however many: a log line redrawn above others moves them down, as in a terminal."""

    height: int
    lines: list[str] = field(default_factory=lambda: [""])
    row: int = 0
    column: int = 0
    cursor_hidden: bool = False
    highest_redrawn: int = 0
    """The most lines that the cursor went up at once."""

    def feed(self, shown: str) -> None:
        position = 0
        while position < len(shown):
            match = CODE.match(shown, position)
            assert match is not None, f"unknown: {shown[position : position + 20]!r}"
            position = match.end()
            if match[3]:
                self._control(match[2], match[3])
            elif match[0] == "\r":
                self.column = 0
            elif match[0] in ("\n", "\r\n"):
                self.row, self.column = self.row + 1, 0
                self.lines += [""] * (self.row + 1 - len(self.lines))
            else:
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + match[0] + line[self.column + len(match[0]) :]
                self.column += len(match[0])

    def _control(self, argument: str, code: str) -> None:
        if code == "A":
            up = int(argument or 1)
            self.highest_redrawn = max(self.highest_redrawn, up)
            self.row -= up
            assert self.row >= 0
            assert up < self.height, "no terminal goes above its own top"
        elif code == "K":
            assert argument == "2"
            self.lines[self.row] = ""
        elif code in "hl":
            assert argument == "25"
            self.cursor_hidden = code == "l"
        else:
            assert code == "m", f"unknown: {code}"


def run_in_terminal(script: str, width: int, height: int) -> tuple[Screen, int]:
    """Run a Python script in a terminal of that many cells: the screen it leaves, and its exit code."""
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    named = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
    environment = {name: value for name, value in os.environ.items() if name not in named}
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**environment, "TERM": "xterm"},
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # Linux ends a terminal whose other side closed so
            break
        if not part:
            break
        shown += part
    os.close(main)
    screen = Screen(height)
    screen.feed(shown.decode())
    return screen, process.wait()
