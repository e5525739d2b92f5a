"""All errors of the package: those of the Rust part, and those of the Python part.

Errors of the Rust part have the fields `code`, `stage`, `file`, `line` and `column`.
"""

from __future__ import annotations

from atomica._prep import AtomicaError, IndexFileError, ShardError, StructureError

__all__ = ["AtomicaError", "DataError", "IndexFileError", "ShardError", "SpecError", "StructureError"]


class SpecError(AtomicaError):
    """A run's specification cannot be used: says where, why, and what would."""


class DataError(AtomicaError):
    """A data set does not fit what is asked of it."""
