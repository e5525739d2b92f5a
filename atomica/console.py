"""What a run tells a person: on the terminal, and as plain lines in the log.txt of its folder."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TextIO

__all__ = ["TEXT", "Journal"]


TEXT = "log.txt"


class Journal:
    """What a run tells: on the terminal, and with the time in log.txt, once the run has a folder.

    silent: nothing, for all but the first of several processes.
    """

    def __init__(self, *, silent: bool = False) -> None:
        self.silent = silent
        self._kept: list[str] = []
        self._stream: TextIO | None = None

    def open(self, folder: Path, *, resume: bool) -> None:
        """Start log.txt in the folder of a run with what was told so far; a resumed run adds to its own."""
        if not resume:
            (folder / TEXT).unlink(missing_ok=True)
        # Several processes may add to it.
        self._stream = (folder / TEXT).open("a", encoding="utf-8")
        kept, self._kept = self._kept, []
        for text in kept:
            self.note(text)

    def say(self, text: str, *, error: bool = False) -> None:
        """Print to standard output or standard error, and write down; nothing if silent."""
        if self.silent:
            return
        print(text, file=sys.stderr if error else sys.stdout, flush=True)
        self.note(text)

    def note(self, text: str) -> None:
        """Write down alone, each line with the time."""
        if self._stream is None:
            self._kept.append(text)
            return
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self._stream.write("".join(f"{now}  {line}\n" for line in text.splitlines() if line))
        self._stream.flush()

    def close(self) -> None:
        """Nothing more is to be told."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
