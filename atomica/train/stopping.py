"""How a run ends before its time: signals ask for it, or numbers of a training are no longer finite."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass
from types import FrameType
from typing import Any

from atomica.errors import AtomicaError

__all__ = ["Interrupted", "Signals", "Stop", "StopRequested", "TrainingError"]


class TrainingError(AtomicaError):
    """Training cannot go on: a loss or gradient is not finite."""


class Interrupted(AtomicaError):
    """Training was asked to stop and has written a checkpoint to go on from."""


class StopRequested(Exception):
    """Leaves the loop at a point where the state is consistent, unlike a KeyboardInterrupt."""


@dataclass
class Stop:
    """A request to stop, set by a signal handler and looked at between steps."""

    requested: bool = False


class Signals:
    """SIGINT, SIGTERM, SIGHUP, SIGUSR1: once training runs, the first asks it to stop after the step and checkpoint.

    Schedulers and launchers send more than one, so only a second Ctrl-C, not in the same second, ends it at once.
    """

    def __init__(self) -> None:
        self.stop: Stop | None = None
        self.since = 0.0
        self.before: dict[int, Any] = {}

    def install(self) -> None:
        """Receive them from now on."""
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may handle signals
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup has asked for that
            self.before[number] = signal.signal(number, self.receive)

    def restore(self) -> None:
        """Leave them to whoever had them before."""
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def ignore(self) -> None:
        """Let no signal change how this process ends, from now on."""
        for number in self.before:
            signal.signal(number, signal.SIG_IGN)
        self.before.clear()

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle one."""
        now = time.monotonic()
        if self.stop is None or (self.stop.requested and number == signal.SIGINT and now - self.since > 1.0):
            raise KeyboardInterrupt
        if not self.stop.requested:
            self.stop.requested, self.since = True, now
