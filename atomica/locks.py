"""Files that a process locks for as long as it lives: who works on what, also across machines."""

from __future__ import annotations

import fcntl
from pathlib import Path

__all__ = ["FOLDER_LOCK", "Lock"]

FOLDER_LOCK = ".lock"
"""The file in the folder of a run or job by which the process that writes there holds it; it stays when that ends."""


class Lock:
    """A lock on a file, let go of when this process ends, however it does.

    wait: until it can be had; else `held` says whether it was free. shared: with others who ask for it shared.
    optional: where the file system knows no locks, it counts as held; else OSError.
    """

    def __init__(
        self, path: Path, *, wait: bool = False, shared: bool = False, optional: bool = False
    ) -> None:
        self._file = path.open("a")
        self.held = True
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self._file, kind | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            self.held = False
            self._file.close()
        except OSError as error:
            if not optional:
                self._file.close()
                reason = (
                    f"{path}: its file system has no locks, which processes need to share a folder: {error}"
                )
                raise OSError(reason) from error

    def __enter__(self) -> Lock:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Let go of it."""
        self.release()

    def release(self) -> None:
        """Let go of it."""
        self._file.close()
