"""Types of the Rust part."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SCHEMA_VERSION: int
VERSION: str

class AtomicaError(Exception):
    code: str
    stage: str
    file: str | None
    line: int | None
    column: int | None

class StructureError(AtomicaError): ...
class IndexFileError(AtomicaError): ...
class ShardError(AtomicaError): ...

def run(argv: Sequence[str]) -> int: ...
def nearest(
    positions: NDArray[np.float32],
    complexes: NDArray[np.int64],
    segments: NDArray[np.uint8],
    eligible: NDArray[np.bool_],
    k: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]: ...
def read_structure(path: str) -> dict[str, object]: ...
def block_symbols() -> list[str]: ...
def atom_symbols() -> list[str]: ...
