"""Types of the Rust part."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

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

class Structure:
    sha256: str | None
    def __len__(self) -> int: ...
    @property
    def chain(self) -> NDArray[np.str_]: ...
    @property
    def resname(self) -> NDArray[np.str_]: ...
    @property
    def resnum(self) -> NDArray[np.int32]: ...
    @property
    def icode(self) -> NDArray[np.str_]: ...
    @property
    def atom_name(self) -> NDArray[np.str_]: ...
    @property
    def element(self) -> NDArray[np.uint8]: ...
    @property
    def x(self) -> NDArray[np.float64]: ...
    @property
    def hetero(self) -> NDArray[np.bool_]: ...
    @property
    def polymer(self) -> NDArray[np.bool_]: ...
    @property
    def block(self) -> NDArray[np.str_]: ...
    @property
    def repairs(self) -> list[dict[str, Any]]: ...
    @property
    def accounts(self) -> dict[str, int]: ...
    def columns(self) -> dict[str, NDArray[Any]]: ...

class Sites:
    def __len__(self) -> int: ...
    @property
    def atoms(self) -> Structure: ...
    @property
    def first_model(self) -> NDArray[np.bool_]: ...
    @property
    def alternate(self) -> NDArray[np.bool_]: ...
    @property
    def b_factor(self) -> NDArray[np.float64]: ...
    def with_b_factors(self, values: NDArray[np.float64]) -> bytes: ...

class BuildOptions:
    """Options of `atomica-prep build-graphs`, with its defaults; `max_decompressed` None is 2 GiB."""

    def __init__(
        self,
        inputs: Sequence[str | os.PathLike[str]],
        out: str | os.PathLike[str],
        *,
        receptor: str | os.PathLike[str] | None = None,
        ligands: Sequence[str | os.PathLike[str]] = (),
        discover: bool = False,
        keep_additives: bool = False,
        cutoff: float = 8.0,
        neighbors: int = 8,
        interface_rule: Literal["all-pairs", "reference"] = "all-pairs",
        strictness: Literal["lenient", "strict"] = "lenient",
        ids: Literal["author", "label"] = "author",
        assembly: str = "none",
        max_decompressed: int | None = None,
        compression: Literal["none", "zstd", "lz4"] = "none",
        shard_rows: int = 1024,
        threads: int = 0,
        shard: tuple[int, int] = (1, 1),
        resume: bool = False,
        overwrite: bool = False,
    ) -> None: ...

class Summary:
    folder: Path
    complexes: int
    failures: int
    failures_by_code: dict[str, int]
    already_complete: bool
    code: int

def build(options: BuildOptions, fragments: object = None, *, quiet: bool = False) -> Summary: ...
def run(argv: Sequence[str], fragments: object = None) -> int: ...
def read_index(path: str | os.PathLike[str]) -> tuple[list[str], list[list[str]]]: ...
def nearest(
    positions: NDArray[np.float32],
    complexes: NDArray[np.int64],
    segments: NDArray[np.uint8],
    eligible: NDArray[np.bool_],
    k: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]: ...
def pairs_within(
    positions: NDArray[np.float32], cutoff: float
) -> tuple[NDArray[np.int32], NDArray[np.int32]]: ...
def perturb(
    records: Sequence[object],
    config: object,
    seeds: NDArray[np.uint64],
    neighbors: int,
    max_blocks: int | None,
    unknown_is_global: bool,
    draws: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, NDArray[Any]]: ...
def torsion_score(angles: NDArray[np.float64], sigma: float) -> NDArray[np.float64]: ...
def rotation_table(
    sigma: float, largest: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]: ...
def read_structure(
    source: str | os.PathLike[str] | bytes,
    format: str | None = None,
    *,
    strict: bool = False,
    max_decompressed: int | None = None,
    label_ids: bool = False,
    assembly: str | None = None,
) -> Structure: ...
def read_sites(
    path: str | os.PathLike[str], *, label_ids: bool = False, max_decompressed: int | None = None
) -> Sites: ...

class Convolution:
    """Sums over edges and products with weights of one convolution, in float32 on CPU."""

    def __init__(
        self,
        sizes: tuple[int, int, int, int],
        couplings: Sequence[tuple[tuple[int, int], Sequence[tuple[int, int, int, float]]]],
        targets: Sequence[tuple[int, int, int, int, int, float, Sequence[tuple[int, int, int, int, int]]]],
    ) -> None: ...
    def forward(self, given: Mapping[str, Any], threads: int) -> NDArray[np.float32]: ...
    def backward(
        self, given: Mapping[str, Any], out_grad: NDArray[np.float32], want_y: bool, threads: int
    ) -> tuple[
        NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32], list[NDArray[np.float32]]
    ]: ...

def block_symbols() -> list[str]: ...
def atom_symbols() -> list[str]: ...
