"""All errors of the package: those of the Rust part, and those of the Python part.

Errors of the Rust part have the fields `code`, `stage`, `file`, `line` and `column`.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

try:
    from atomica._prep import AtomicaError, IndexFileError, ShardError, StructureError
except ModuleNotFoundError as error:
    raise ImportError(
        "atomica._prep, the compiled part of Atomica, is not in this folder of sources. Build it in place with "
        "`pip install -e .`, or start Python in another folder to use the installed package."
    ) from error

__all__ = [
    "AtomicaError",
    "DataError",
    "IndexFileError",
    "ShardError",
    "SpecError",
    "StructureError",
    "in_words",
]


class SpecError(AtomicaError):
    """A run's specification cannot be used: says where, why, and what would."""


class DataError(AtomicaError):
    """A data set does not fit what is asked of it. Each argument says one thing that is wrong."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))


def in_words(error: Exception, folder: Path | None = None) -> str:
    """What a person is told of an error; of one of the file system where it was, if need be the folder written to.

    >>> in_words(OSError(28, "No space left on device"), Path("outputs/run"))
    'outputs/run: No space left on device; make room there'
    """
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    where = error.filename2 or error.filename or folder
    full = "; make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{'' if where is None else f'{where}: '}{os.strerror(error.errno)}{full}"
