"""Tables written piece by piece, so that an interrupted job goes on where it stopped and memory stays flat."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from atomica.console import Meter
from atomica.files import Lock, replacing
from atomica.jobs.workers import ALONE, PiecesDone, Workers, pause

__all__ = ["in_pieces", "write_csv", "write_table"]

PIECES = "pieces"
GROUP_BYTES = 1 << 25
"""Of a group of rows of a joined table, about."""

Indices = npt.NDArray[np.int64]


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file whole or not at all."""
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def write_csv(table: Path, target: Path) -> None:
    """Write a Parquet file as CSV, some rows in memory at a time."""
    file = pq.ParquetFile(table)
    with replacing(target) as temporary, pyarrow.csv.CSVWriter(temporary, file.schema_arrow) as writer:
        for batch in file.iter_batches(1 << 16):
            writer.write_batch(batch)


def in_pieces(
    folder: Path,
    names: Sequence[str],
    rows: int,
    size: int,
    make: Callable[[Indices], Mapping[str, pa.Table]],
    meter: Meter,
    workers: Workers = ALONE,
) -> dict[str, Path]:
    """Make the tables `names` of `rows` rows, `size` at a time, and join each into `folder/NAME.parquet`.

    make: positions of some rows → their tables, by name. It must depend on nothing else, so that tables are the same
    bit by bit however often the work was interrupted, and whoever made them. Pieces lie in `folder/pieces` until all
    are there. workers: who shares the work; for those that only help, it ends in PiecesDone.
    """
    final = {name: folder / f"{name}.parquet" for name in names}
    pieces = folder / PIECES
    if all(path.is_file() for path in final.values()) and not pieces.exists():
        meter.skip(rows)
        if not workers.leads:
            raise PiecesDone
        return final
    if workers.leads:
        pieces.mkdir(parents=True, exist_ok=True)
    count = -(-rows // size)
    try:
        with workers.started(folder, meter.journal):
            _fill(pieces, names, rows, size, make, meter)
    except FileNotFoundError:
        if workers.leads or pieces.exists():
            raise
    if not workers.leads:
        raise PiecesDone
    for name, path in final.items():
        _join([_piece(pieces, name, number) for number in range(count)], path)
    shutil.rmtree(pieces)
    return final


def _fill(
    pieces: Path,
    names: Sequence[str],
    rows: int,
    size: int,
    make: Callable[[Indices], Mapping[str, pa.Table]],
    meter: Meter,
) -> None:
    """Make all pieces that are not there and that no other process makes, until all are there."""
    left = list(range(-(-rows // size)))
    while left:
        before = len(left)
        for number in tuple(left):
            positions = np.arange(number * size, min((number + 1) * size, rows))
            files = {name: _piece(pieces, name, number) for name in names}
            with Lock(pieces / f"{number:06}.lock", optional=True) as lock:
                there = all(file.is_file() for file in files.values())
                if there:
                    meter.skip(len(positions))
                elif lock.held:
                    tables = make(positions)
                    for name, file in files.items():
                        write_table(file, tables[name])
                else:
                    continue
            left.remove(number)
        if len(left) == before:
            pause()


def _piece(pieces: Path, name: str, number: int) -> Path:
    return pieces / f"{name}-{number:06}.parquet"


def _join(pieces: Sequence[Path], path: Path) -> None:
    """Join Parquet files of one schema, some in memory at a time, which become one group of rows."""
    with (
        replacing(path) as temporary,
        pq.ParquetWriter(temporary, pq.read_schema(pieces[0]), compression="zstd") as writer,
    ):
        held: list[pa.Table] = []
        size = 0
        for piece in pieces:
            held.append(pq.read_table(piece))
            size += held[-1].nbytes
            if size > GROUP_BYTES:
                writer.write_table(pa.concat_tables(held))
                held.clear()
                size = 0
        if held:
            writer.write_table(pa.concat_tables(held))
