"""What a training shows on the terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from atomica.console import Journal, hang_up

__all__ = ["Display", "Terminal"]


LINE_SECONDS = 60.0
"""Time between two plain lines about steps: often enough to see that a run lives, seldom enough to be read."""


class Terminal(Console):
    """Standard error. A run outlives who reads it, also where that is a pipe, as in `2>&1 | head`.

    quiet: nothing is shown.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(stderr=True, quiet=quiet)

    def on_broken_pipe(self) -> None:
        """Go on without."""
        hang_up()


class Display:
    """A progress bar on a terminal, plain lines elsewhere and in the journal."""

    def __init__(self, console: Console, journal: Journal | None = None) -> None:
        self.console = console
        self.live = console.is_terminal
        self.journal = journal
        self._bar: Progress | None = None
        self._task: Any = None
        self._metric = ""
        self._drawn = self._told = 0.0
        self._total = 0
        self._began, self._before = 0.0, 0

    def start(self, total_steps: int, done: int) -> None:
        """Begin a run of `total_steps`, `done` of which lie behind."""
        self._total, self._before = total_steps, done
        self._began = self._told = time.monotonic()
        if not self.live:
            return
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            TextColumn("passed,"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
        )
        self._task = self._bar.add_task("train", total=total_steps, completed=done, epoch=1, text="")
        self._bar.start()

    def step(self, epoch: int, done: int, loss: float, complexes_per_s: float) -> None:
        """Show one training step: ten times a second at most in the bar, once a minute in plain lines."""
        now = time.monotonic()
        if self._bar is not None and now - self._drawn >= 0.1:
            self._drawn = now
            text = f"loss {loss:.4f} {self._metric} {complexes_per_s:.0f} complexes/s"
            self._bar.update(self._task, completed=done, epoch=epoch, text=text)
        if now - self._told >= LINE_SECONDS:
            self._told = now
            # The pace since the start counts validation and checkpoints in.
            left = (self._total - done) * (now - self._began) / max(1, done - self._before)
            text = (
                f"step {done}/{self._total}, epoch {epoch}: loss {loss:.4f}, {complexes_per_s:.0f} complexes/s, "
                f"about {timedelta(seconds=round(left))} left"
            )
            self._tell(text, show=self._bar is None)

    def epoch(self, epoch: int, epochs: int, values: Mapping[str, float], best: bool) -> None:
        """Show the outcome of an epoch."""
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        monitored = [f"{name} {value:.3f}" for name, value in values.items() if name.startswith("valid")]
        self._metric = monitored[-1] if monitored else ""
        self.line(f"epoch {epoch:>{len(str(epochs))}}/{epochs}  {shown}{'  *best' if best else ''}")

    def line(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        self._tell(text, show=True)

    def _tell(self, text: str, *, show: bool) -> None:
        if show:
            self.console.print(text, highlight=False, soft_wrap=True, markup=False)
        if self.journal is not None:
            self.journal.note(text)

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
