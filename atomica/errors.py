"""All errors of the package: those of the Rust part, and those of the Python part.

Errors of the Rust part have the fields `code`, `stage`, `file`, `line` and `column`.
"""

from __future__ import annotations

try:
    from atomica._prep import AtomicaError, IndexFileError, ShardError, StructureError
except ModuleNotFoundError as error:
    raise ImportError(
        "atomica._prep, the compiled part of Atomica, is not in this folder of sources. Build it in place with "
        "`pip install -e .`, or start Python in another folder to use the installed package."
    ) from error

__all__ = ["AtomicaError", "DataError", "IndexFileError", "ShardError", "SpecError", "StructureError"]


class SpecError(AtomicaError):
    """A run's specification cannot be used: says where, why, and what would."""


class DataError(AtomicaError):
    """A data set does not fit what is asked of it. Each argument says one thing that is wrong."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))
