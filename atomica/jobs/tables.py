"""Tables written part by part, so that an interrupted job goes on where it stopped and memory stays flat."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["Meter", "in_parts", "write_table"]


Indices = npt.NDArray[np.int64]


class Meter:
    """Progress of a job, on a terminal as a bar with rate and remaining time, elsewhere as a line now and then."""

    EVERY_S = 15.0

    def __init__(self, total: int, unit: str = "complexes", *, quiet: bool = False) -> None:
        self.total, self.unit, self.done, self.counted = total, unit, 0, 0
        self.began = self._last = time.monotonic()
        self.quiet = quiet
        self._bar = None
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=total, rate="")
            self._bar.start()

    @property
    def rate(self) -> float:
        """Units per second in this process; what an earlier one did is not counted."""
        return self.counted / max(time.monotonic() - self.began, 1e-9)

    def skip(self, count: int) -> None:
        """Count what an earlier run has done."""
        self.done += count

    def add(self, count: int) -> None:
        """Count what was done now, and show it."""
        self.done += count
        self.counted += count
        now = time.monotonic()
        text = f"{self.rate:.1f} {self.unit}/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, rate=text)
        elif not self.quiet and now - self._last > self.EVERY_S:
            left = (self.total - self.done) / max(self.rate, 1e-9)
            print(
                f"{self.done} of {self.total} {self.unit}, {text}, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
            self._last = now

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file under a temporary name, sync it, and move it into place."""
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, temporary, compression="zstd")
    _into_place(temporary, path)


def _into_place(temporary: Path, path: Path) -> None:
    handle = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    temporary.replace(path)


def in_parts(
    folder: Path,
    names: tuple[str, ...],
    rows: int,
    size: int,
    make: Callable[[Indices], Mapping[str, pa.Table]],
    meter: Meter,
) -> dict[str, Path]:
    """Make the tables `names` of `rows` rows, `size` at a time, and join each into `folder/NAME.parquet`.

    make: positions of some rows → their tables, by name. It must depend on nothing else, so that tables are the
    same bit by bit however often the work was interrupted. Parts lie in `folder/parts` until all are there.
    """
    final = {name: folder / f"{name}.parquet" for name in names}
    parts = folder / "parts"
    if all(path.is_file() for path in final.values()) and not parts.exists():
        meter.skip(rows)
        return final
    parts.mkdir(parents=True, exist_ok=True)
    count = -(-rows // size)
    for number in range(count):
        positions = np.arange(number * size, min((number + 1) * size, rows))
        files = {name: parts / f"{name}-{number:06}.parquet" for name in names}
        if all(file.is_file() for file in files.values()):
            meter.skip(len(positions))
            continue
        tables = make(positions)
        for name, file in files.items():
            write_table(file, tables[name])
    for name, path in final.items():
        _join([parts / f"{name}-{number:06}.parquet" for number in range(count)], path)
    shutil.rmtree(parts)
    return final


def _join(parts: list[Path], path: Path) -> None:
    """Join Parquet files of one schema, one in memory at a time."""
    temporary = path.with_name(f".{path.name}.tmp")
    writer = None
    try:
        for part in parts:
            table = pq.read_table(part)
            if writer is None:
                writer = pq.ParquetWriter(temporary, table.schema, compression="zstd")
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    _into_place(temporary, path)
