"""External features of blocks, such as those of a protein language model, kept in safetensors files by complex.

A file holds one tensor [B, E] per complex, under the complex's id: a row for every block of its record, in order,
global blocks included. With two files, the first holds the rows of segment 0 only, the second those of segment 1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from atomica.data.record import INPUTS, Record
from atomica.errors import DataError

__all__ = ["BlockFeatures"]


DTYPES = ("F16", "F32", "F64")
SHOWN = 5
"""Complexes named in a message; the others are counted."""

Floats = npt.NDArray[np.float32]


class BlockFeatures:
    """The features in `paths`: one file for all blocks, or one for each segment.

    Files stay on disk until a complex is asked for. Raises DataError for a file that is none, or holds nothing.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        from safetensors import SafetensorError, safe_open

        self.paths = tuple(Path(path) for path in paths)
        self._files: list[Any] = []
        for path in self.paths:
            try:
                self._files.append(safe_open(path, framework="numpy"))
            except (OSError, SafetensorError) as error:
                raise DataError(f"{path}: no safetensors file that can be read ({error})") from None
        self._ids = [frozenset(file.keys()) for file in self._files]
        for path, ids in zip(self.paths, self._ids, strict=True):
            if not ids:
                raise DataError(f"{path}: holds no tensor")

    @property
    def fingerprint(self) -> str:
        """SHA-256 over sizes and headers of the files: other shapes or complexes change it, other numbers do not."""
        digest = hashlib.sha256()
        for path in self.paths:
            with path.open("rb") as stream:
                length = stream.read(8)
                digest.update(json.dumps(path.stat().st_size).encode() + length)
                digest.update(stream.read(int.from_bytes(length, "little")))
        return digest.hexdigest()

    def problems(self, ids: Sequence[str], blocks: npt.NDArray[np.int64], sizes: Sequence[int]) -> list[str]:
        """What is wrong with the files for the complexes `ids`, one line for each kind; nothing is read but headers.

        blocks [N, 2]: blocks of each segment; sizes: the width that each file must have.
        """
        found = []
        for index, (path, file) in enumerate(zip(self.paths, self._files, strict=True)):
            counts = blocks.sum(axis=1) if len(self._files) == 1 else blocks[:, index]
            missing, misshapen = [], []
            for name, count in zip(ids, counts.tolist(), strict=True):
                if name not in self._ids[index]:
                    missing.append(name)
                    continue
                part = file.get_slice(name)
                shape, dtype = part.get_shape(), part.get_dtype()
                if shape != [count, sizes[index]] or dtype not in DTYPES:
                    misshapen.append(f"{name} is {shape} {dtype} for {count} blocks")
            if missing:
                found.append(f"{path}: lacks {_listing(missing)} of {len(ids)} complexes")
            if misshapen:
                where = "" if len(self._files) == 1 else f" of segment {index}"
                found.append(
                    f"{path}: must hold [blocks{where}, {sizes[index]}] in {', '.join(DTYPES)} for each complex: "
                    + _listing(misshapen)
                )
        return found

    def rows(self, records: Sequence[Record], input: str = "complex") -> list[Floats]:
        """For each file the features [B, E] of the blocks of `records`, one record after the other.

        input: what the model sees of the records, see `Record.view`. With a file for each segment the rows of
        blocks of the other segment are 0. Raises DataError naming a complex that is not there, does not fit, or
        has a feature that is not finite.
        """
        return [
            np.concatenate([self._of(index, record, input) for record in records])
            for index in range(len(self._files))
        ]

    def _of(self, index: int, record: Record, input: str) -> Floats:
        path = self.paths[index]
        if record.id not in self._ids[index]:
            raise DataError(f"{path}: lacks {record.id}")
        values = self._files[index].get_tensor(record.id).astype(np.float32)
        own = np.ones(len(record.segment_ids), dtype=bool)
        if len(self._files) > 1:
            own = record.segment_ids == index
        if values.ndim != 2 or len(values) != own.sum():
            raise DataError(f"{path}: {record.id} is {list(values.shape)} for {own.sum()} blocks")
        if not np.isfinite(values).all():
            raise DataError(f"{path}: {record.id} has a feature that is not finite")
        spread = np.zeros((len(own), values.shape[1]), dtype=np.float32)
        spread[own] = values
        return spread if input == "complex" else spread[record.segment_ids == INPUTS.index(input) - 1]


def _listing(names: Sequence[str]) -> str:
    """How many, and the first of them.

    >>> _listing(["a", "b"])
    '2 (a; b)'
    """
    more = "; …" if len(names) > SHOWN else ""
    return f"{len(names)} ({'; '.join(names[:SHOWN])}{more})"
