"""Tables written piece by piece, so that an interrupted job goes on where it stopped and memory stays flat."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from atomica.console import Meter
from atomica.files import replacing

__all__ = ["in_pieces", "write_table"]

PIECES = "pieces"

Indices = npt.NDArray[np.int64]


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file whole or not at all."""
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def in_pieces(
    folder: Path,
    names: Sequence[str],
    rows: int,
    size: int,
    make: Callable[[Indices], Mapping[str, pa.Table]],
    meter: Meter,
) -> dict[str, Path]:
    """Make the tables `names` of `rows` rows, `size` at a time, and join each into `folder/NAME.parquet`.

    make: positions of some rows → their tables, by name. It must depend on nothing else, so that tables are the
    same bit by bit however often the work was interrupted. Pieces lie in `folder/pieces` until all are there.
    """
    final = {name: folder / f"{name}.parquet" for name in names}
    pieces = folder / PIECES
    if all(path.is_file() for path in final.values()) and not pieces.exists():
        meter.skip(rows)
        return final
    pieces.mkdir(parents=True, exist_ok=True)
    count = -(-rows // size)
    for number in range(count):
        positions = np.arange(number * size, min((number + 1) * size, rows))
        files = {name: pieces / f"{name}-{number:06}.parquet" for name in names}
        if all(file.is_file() for file in files.values()):
            meter.skip(len(positions))
            continue
        tables = make(positions)
        for name, file in files.items():
            write_table(file, tables[name])
    for name, path in final.items():
        _join([pieces / f"{name}-{number:06}.parquet" for number in range(count)], path)
    shutil.rmtree(pieces)
    return final


def _join(pieces: Sequence[Path], path: Path) -> None:
    """Join Parquet files of one schema, one in memory at a time."""
    with (
        replacing(path) as temporary,
        pq.ParquetWriter(temporary, pq.read_schema(pieces[0]), compression="zstd") as writer,
    ):
        for piece in pieces:
            writer.write_table(pq.read_table(piece))
