"""How a training ends before its time: it was asked to, or its numbers are no longer finite."""

from __future__ import annotations

from dataclasses import dataclass

from atomica.errors import AtomicaError

__all__ = ["Interrupted", "Stop", "StopRequested", "TrainingError"]


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
