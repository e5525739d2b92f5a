"""The folder of a job: whether it is free, whose it is, and who holds it."""

from __future__ import annotations

from pathlib import Path

from atomica.files import FOLDER_LOCK, Lock

# ------------------------------------------------------------------------------------------------- jobs


class _Claim:
    """The folder of a run, held by the first rank against other processes that would write into it."""

    def __init__(self) -> None:
        self._lock: Lock | None = None

    def __call__(self, folder: Path) -> None:
        """Hold it, if that is not done; raises SpecError if another process does."""
        from atomica.errors import SpecError

        if self._lock is None:
            lock = Lock(folder / FOLDER_LOCK, optional=True)
            if not lock.held:
                raise SpecError(
                    f"another process is at work on the run in {folder}; wait for its end (after a signal, for its "
                    "checkpoint), or give another run.name or run.out"
                )
            self._lock = lock

    def release(self) -> None:
        """Let go of it."""
        if self._lock is not None:
            self._lock.release()
