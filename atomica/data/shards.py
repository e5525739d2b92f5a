"""Shards: Arrow IPC files as `atomica-prep build-graphs` writes them, checked and memory-mapped."""

from __future__ import annotations

import errno
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from atomica.errors import ShardError
from atomica.keys import RECORD_FIELDS, SCHEMA_VERSION, Field

__all__ = ["Columns", "Shard", "Unpacked", "arrow_type"]


def _arrow_type(dtype: str) -> pa.DataType:
    fixed = {"utf8": pa.utf8(), "utf8?": pa.utf8(), "map<utf8,utf8>": pa.map_(pa.utf8(), pa.utf8())}
    return fixed[dtype] if dtype in fixed else getattr(pa, dtype)()


def arrow_type(field: Field) -> pa.DataType:
    """The type of a record's column in a shard."""
    item = _arrow_type(field.dtype)
    if field.name == "positions":
        item = pa.list_(item, 3)
    return pa.list_(item) if field.shape else item


def _same_type(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Equal but for the names and nullability of list items and map entries, which carry no meaning."""
    if pa.types.is_map(wanted):
        return pa.types.is_map(found) and found.key_type == pa.utf8() and found.item_type == pa.utf8()
    if pa.types.is_fixed_size_list(wanted):
        same = pa.types.is_fixed_size_list(found) and found.list_size == wanted.list_size
        return same and _same_type(found.value_type, wanted.value_type)
    if pa.types.is_list(wanted):
        return pa.types.is_list(found) and _same_type(found.value_type, wanted.value_type)
    return bool(found == wanted)


_DAMAGED = (pa.ArrowException, OSError, OverflowError, UnicodeDecodeError)
"""What pyarrow raises for files that are not as they should be."""


_LIMIT = "close some, or raise their limit (ulimit -n)"


class Columns:
    """The columns of one record batch, opened so that a row is a slice."""

    def __init__(self, batch: pa.RecordBatch, where: str) -> None:
        self.rows = batch.num_rows
        self.plain: dict[str, pa.Array] = {}
        self.values: dict[str, Any] = {}
        self.offsets: dict[str, npt.NDArray[np.int32]] = {}
        for field in RECORD_FIELDS:
            column = batch.column(field.name)
            if not field.shape:
                self.plain[field.name] = column
                continue
            if column.null_count:
                raise ShardError(f"{where}: column {field.name} holds missing values")
            self.offsets[field.name] = column.offsets.to_numpy()
            values = column.values
            if field.dtype == "utf8":
                self.values[field.name] = values
                continue
            if pa.types.is_fixed_size_list(values.type):
                values = values.flatten()
            if values.null_count:
                raise ShardError(f"{where}: column {field.name} holds missing values")
            self.values[field.name] = values.to_numpy(zero_copy_only=True)


UNPACKED = 1 << 30
"""Bytes of unpacked batches that are kept of a data set."""


class Unpacked:
    """Batches of compressed shards: those used last, up to `UNPACKED` bytes, the last one whatever its size."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.bytes = 0
        self._kept: OrderedDict[tuple[Path, int], tuple[Columns, int]] = OrderedDict()

    def get(self, key: tuple[Path, int]) -> Columns | None:
        """A batch, by shard and number, if it is kept."""
        with self.lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def keep(self, key: tuple[Path, int], columns: Columns, size: int) -> None:
        """Keep a batch of so many bytes, and no longer those that were not used for the longest time."""
        with self.lock:
            self._kept[key] = columns, size
            self.bytes += size
            while self.bytes > UNPACKED and len(self._kept) > 1:
                _, (_, freed) = self._kept.popitem(last=False)
                self.bytes -= freed


class Shard:
    """One Arrow file. Its number columns are opened when a row is first asked for.

    unpacked: where the batches of a compressed shard are kept; those of others stay on the disk, and are mapped.
    """

    def __init__(self, path: Path, entry: Mapping[str, Any], unpacked: Unpacked | None = None) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.batches: dict[int, Columns] = {}
        self.unpacked = unpacked
        if not path.is_file():
            raise ShardError(f"{path}: the manifest names this shard, but there is no such file")
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise ShardError(
                f"{path}: has {size} bytes, the manifest says {entry['bytes']}; rebuild the data set"
            )
        with self._opened() as reader:
            self.schema = reader.schema
        try:
            self._check_schema()
        except UnicodeDecodeError as error:
            raise ShardError(f"{path}: names of its columns are no text: {error}") from None
        light = self.read(["id"])
        rows = light.num_rows
        if rows != entry["rows"]:
            raise ShardError(
                f"{path}: has {rows} rows, the manifest says {entry['rows']}; rebuild the data set"
            )
        counts = [len(chunk) for chunk in light.column("id").chunks]
        self.ends = np.cumsum([0, *counts])

    @contextmanager
    def _opened(self, options: Any = None) -> Iterator[Any]:
        """A reader of the file, which is closed afterwards; what was read stays mapped for as long as it is used."""
        try:
            mapped = pa.memory_map(str(self.path))
        except OSError as error:
            if error.errno == errno.EMFILE:
                raise ShardError(f"{self.path}: too many open files in this process; {_LIMIT}") from None
            raise ShardError(f"{self.path}: cannot be read: {error}") from None
        try:
            try:
                reader = pa.ipc.open_file(mapped, options=options)
            except _DAMAGED as error:
                raise ShardError(f"{self.path}: not an Arrow IPC file: {error}") from None
            yield reader
        finally:
            mapped.close()

    def _check_schema(self) -> None:
        found = self.schema
        wanted = [field.name for field in RECORD_FIELDS]
        if found.names != wanted:
            missing = [name for name in wanted if name not in found.names]
            extra = [name for name in found.names if name not in wanted]
            detail = "; ".join(
                text
                for text in (
                    f"missing {', '.join(missing)}" if missing else "",
                    f"unknown {', '.join(extra)}" if extra else "",
                    "in another order" if not missing and not extra else "",
                )
                if text
            )
            raise ShardError(f"{self.path}: columns are not those of schema {SCHEMA_VERSION}: {detail}")
        for field in RECORD_FIELDS:
            expected = arrow_type(field)
            actual = found.field(field.name).type
            if not _same_type(actual, expected):
                raise ShardError(f"{self.path}: column {field.name} has type {actual}, expected {expected}")

    def read(self, names: Sequence[str]) -> pa.Table:
        """Some columns of the whole shard; the others are neither read nor decompressed."""
        fields = [self.schema.get_field_index(name) for name in names]
        with self._opened(pa.ipc.IpcReadOptions(included_fields=fields)) as reader:
            try:
                table = reader.read_all()
                table.validate(full=True)
            except _DAMAGED as error:
                raise ShardError(f"{self.path}: damaged: {error}") from None
        return table

    def row(self, index: int) -> tuple[Columns, int]:
        batch = int(np.searchsorted(self.ends, index, side="right")) - 1
        key = self.path, batch
        with self.lock:
            columns = self.batches.get(batch) if self.unpacked is None else self.unpacked.get(key)
            if columns is None:
                # Empty batches share their end with the next one, which searchsorted picks.
                with self._opened() as reader:
                    try:
                        data = reader.get_batch(batch)
                        # Offsets and texts, not numbers: pyarrow follows a wrong offset out of its memory.
                        data.validate(full=True)
                    except _DAMAGED as error:
                        raise ShardError(f"{self.path}: damaged: {error}") from None
                columns = Columns(data, str(self.path))
                if self.unpacked is None:
                    self.batches[batch] = columns
                else:
                    self.unpacked.keep(key, columns, data.nbytes)
        return columns, index - int(self.ends[batch])
