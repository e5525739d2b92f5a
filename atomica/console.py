"""What a run tells a person: on the terminal, as plain lines in the log.txt of its folder, and how far it is."""

from __future__ import annotations

import io
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from atomica.files import LOG

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Journal", "Meter", "hang_up", "plain", "progress_bar"]


def plain() -> None:
    """Let a terminal that knows ASCII alone show "?" for the rest, instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def hang_up() -> None:
    """Write nowhere what would go to a pipe that nobody reads any more, as after `| head`, or to a lost terminal."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
        except ValueError:
            continue  # closed
    os.close(nowhere)


class Journal:
    """What a run tells: on the terminal, and with the time in log.txt, once the run has a folder.

    silent: nothing, for all but the first of several processes. folder: of the run, once there is one.
    """

    def __init__(self, *, silent: bool = False) -> None:
        self.silent = silent
        self._kept: list[str] = []
        self._stream: TextIO | None = None
        self.folder: Path | None = None

    def open(self, folder: Path, *, resume: bool) -> None:
        """Start log.txt in the folder of a run with what was told so far; a resumed run adds to its own."""
        self.folder = folder
        if not resume:
            (folder / LOG).unlink(missing_ok=True)
        # Several processes may add to it.
        self._stream = (folder / LOG).open("a", encoding="utf-8")
        kept, self._kept = self._kept, []
        for text in kept:
            self.note(text)

    def say(self, text: str, *, error: bool = False) -> None:
        """Print to standard output or standard error, and write down; nothing if silent."""
        if self.silent:
            return
        try:
            print(text, file=sys.stderr if error else sys.stdout, flush=True)
        except OSError:  # a pipe that nobody reads any more, a terminal that is gone
            hang_up()
            self.note(text)
            self.note("nobody reads the output any more: what follows stands here alone")
            return
        self.note(text)

    def note(self, text: str) -> None:
        """Write down alone, each line with the time."""
        if self._stream is None:
            self._kept.append(text)
            return
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        with suppress(
            OSError
        ):  # on a full disk, what matters fails by itself, and is told of on the terminal
            self._stream.write("".join(f"{now}  {line}\n" for line in text.splitlines() if line))
            self._stream.flush()

    def close(self) -> None:
        """Nothing more is to be told."""
        if self._stream is not None:
            with suppress(OSError):
                self._stream.close()
            self._stream = None


def progress_bar() -> Progress:
    """A bar on standard error with the field `rate` and the remaining time; it goes when it is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[rate]}")
    made = (TextColumn(column) if isinstance(column, str) else column for column in columns)
    return Progress(*made, TimeRemainingColumn(), console=Console(stderr=True), transient=True)


class Meter:
    """Progress of a job, on a terminal as a bar with rate and remaining time, elsewhere told as a line now and then.

    >>> with Meter(Journal(silent=True), 10) as meter:
    ...     meter.add(4)
    >>> meter.done
    4
    """

    EVERY_S = 15.0

    def __init__(self, journal: Journal, total: int, unit: str = "complexes") -> None:
        self.journal, self.total, self.unit, self.done, self.counted = journal, total, unit, 0, 0
        self.began = self._last = time.monotonic()
        self._bar = None
        if not journal.silent and sys.stderr.isatty():
            self._bar = progress_bar()
            self._task = self._bar.add_task("", total=total, rate="")
            self._bar.start()

    def __enter__(self) -> Meter:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @property
    def rate(self) -> float:
        """Units per second in this process; what an earlier one did is not counted."""
        return self.counted / max(time.monotonic() - self.began, 1e-9)

    def skip(self, count: int) -> None:
        """Count what an earlier run has done."""
        self.done += count

    def add(self, count: int) -> None:
        """Count what was done now, and show it."""
        self.done += count
        self.counted += count
        now = time.monotonic()
        text = f"{self.rate:.1f} {self.unit}/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, rate=text)
        elif now - self._last > self.EVERY_S:
            left = (self.total - self.done) / max(self.rate, 1e-9)
            line = f"{self.done} of {self.total} {self.unit}, {text}, {left:.0f} s left"
            self.journal.say(line, error=True)
            self._last = now
