"""SHA-256 sums of the files of a folder, in a file beside them, so that damage is found before it is used."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["FILE", "FOLDER_LOCK", "Lock", "damage", "of_folder", "write_text"]


FILE = "checksums.json"


def _of_file(file: Path) -> str:
    found = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            found.update(chunk)
    return found.hexdigest()


def of_folder(folder: Path) -> str:
    """The text of `FILE` for the files that are in `folder` now."""
    return json.dumps({file.name: _of_file(file) for file in sorted(folder.iterdir())}, indent=1)


def damage(folder: Path, names: Sequence[str] = ()) -> str:
    """What is wrong with the files of a folder, or with some of them alone; nothing if they are as written."""
    try:
        sums = json.loads((folder / FILE).read_text(encoding="utf-8"))
        expected = {str(name): str(value) for name, value in sums.items()}
    except (OSError, ValueError, AttributeError) as error:
        return f"{FILE}: {error}"
    for name in names or expected:
        if not (folder / name).is_file():
            return f"{name} is missing"
        if name not in expected:
            return f"{name} is not among {FILE}"
        if _of_file(folder / name) != expected[name]:
            return f"{name} is not what was written: its SHA-256 differs"
    return ""


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


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, sync it, and move it into place."""
    temporary = path.with_name(f".{path.name}.tmp")
    _write_bytes(temporary, text.encode())
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
