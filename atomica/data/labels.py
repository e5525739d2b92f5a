"""Labels of blocks from a CSV, and vectors of complexes from a safetensors file: what an index has no column for."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atomica.data.record import Record
from atomica.data.sampling import Rows
from atomica.errors import DataError
from atomica.keys import GLOBAL_BLOCK

__all__ = ["BlockLabels", "BlockTargets", "ComplexVectors", "known_of"]

KEYS = ("id", "chain", "resnum", "icode")


class BlockLabels:
    """A CSV with columns id (of a complex), chain, resnum, icode (optional) and labels, a row for each residue.

    Raises DataError naming file and line for a row that is not understood, or a residue with two labels.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._of: dict[str, dict[tuple[str, int, str], Mapping[str, str]]] = {}
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                names = reader.fieldnames or ()
                if missing := [name for name in KEYS[:3] if name not in names]:
                    raise DataError(
                        f"{path}: line 1: has no column {', '.join(missing)}; expected {','.join(KEYS)} and labels"
                    )
                self.columns = tuple(name for name in names if name not in KEYS)
                for row in reader:
                    self._add(row, reader.line_num)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from None
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}: is no CSV in UTF-8: {error}") from None

    def _add(self, row: Mapping[str, str | None], line: int) -> None:
        try:
            number = int(row["resnum"] or "")
        except ValueError:
            raise DataError(
                f"{self.path}: line {line}: resnum = {row['resnum']!r} is no whole number"
            ) from None
        key = (row["chain"] or "", number, (row.get("icode") or "").strip())
        own = self._of.setdefault(row["id"] or "", {})
        labels = {name: row[name] or "" for name in self.columns}
        if own.setdefault(key, labels) != labels:
            raise DataError(
                f"{self.path}: line {line}: {row['id']} has another label of {_residue(key)} before"
            )

    def unmet(self, record: Record) -> int:
        """How many residues it names of a record's complex that the record does not have."""
        return len(set(self._of.get(record.id, ())) - set(residues(record)))

    def texts(self, record: Record, column: str) -> list[str | None]:
        """What a column says of each block of a record; None of global blocks and of those it does not name.

        Raises DataError if there is no such column.
        """
        if column not in self.columns:
            raise DataError(
                f"{self.path}: has no column {column!r}; it has {', '.join(self.columns) or 'no labels'}"
            )
        own = self._of.get(record.id, {})
        found: list[str | None] = []
        for block, key in zip(record.block_types.tolist(), residues(record), strict=True):
            labels = own.get(key) if block != GLOBAL_BLOCK else None
            found.append((labels or {}).get(column) or None)
        return found


def known_of(target: Tensor) -> Tensor:
    """Which blocks have a label, bool [B]: floating-point targets are NaN, others negative, where there is none."""
    return ~target.isnan() if target.is_floating_point() else target >= 0


def residues(record: Record) -> list[tuple[str, int, str]]:
    """Chain, number and insertion code of each block."""
    numbers = record.block_resnums.tolist()
    codes = (code.strip() for code in record.block_icodes)
    return list(zip(record.block_chains, numbers, codes, strict=True))


def _residue(key: tuple[str, int, str]) -> str:
    return f"{key[0]}:{key[1]}{key[2]}"


@dataclass(frozen=True)
class BlockTargets:
    """Labels of the blocks of some complexes, one after the other.

    values [B]: targets, NaN or -1 where there is no label, see `known_of`; ends [N]: blocks up to and with each
    complex. ids, residues, texts, ordinary [B]: complex, residue, label as it is written, and whether the block is not
    a global one. unmet: how many residues have a label and no block.
    """

    values: Tensor
    ends: npt.NDArray[np.int64]
    ids: Sequence[str]
    residues: Sequence[tuple[str, int, str]]
    texts: Sequence[str | None]
    ordinary: npt.NDArray[np.bool_]
    unmet: int = 0

    @classmethod
    def read(
        cls,
        labels: BlockLabels | None,
        column: str,
        rows: Rows,
        input: str,
        encode: Callable[[Sequence[str | None]], tuple[Tensor, Tensor]],
    ) -> BlockTargets:
        """Those of all complexes of some rows, as a model with `data.input = input` sees them.

        column: of the labels; without labels no block has one. encode: makes targets of texts, and says which are
        known. Raises DataError if there is no such column, or nothing is known.
        """
        records = [rows.dataset[row].view(input) for row in rows.rows.tolist()]
        sizes = [len(record.block_types) for record in records]
        if labels is None:
            texts: list[str | None] = [None] * sum(sizes)
            values = torch.full((len(texts),), -1)
        else:
            texts = [text for record in records for text in labels.texts(record, column)]
            target, known = encode(texts)
            none = torch.tensor(torch.nan if target.is_floating_point() else -1, dtype=target.dtype)
            values = torch.where(known, target, none)
        return cls(
            values,
            np.cumsum(sizes),
            [record.id for record in records for _ in record.block_types],
            [residue for record in records for residue in residues(record)],
            texts,
            np.concatenate([record.block_types != GLOBAL_BLOCK for record in records]),
            0 if labels is None else sum(map(labels.unmet, records)),
        )

    @property
    def names(self) -> list[str]:
        """Complex, chain and residue of each ordinary block, apart by spaces."""
        return [
            f"{self.ids[block]} {chain} {number}{code}"
            for block in np.flatnonzero(self.ordinary).tolist()
            for chain, number, code in [self.residues[block]]
        ]

    def answered(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Targets of the ordinary blocks, and where they are known."""
        own = self.values[torch.from_numpy(self.ordinary)]
        return own.numpy(), known_of(own).numpy()

    def of_ordinary(self, each: Sequence[Any]) -> list[Any]:
        """What is said of each complex [N], said of each of its ordinary blocks."""
        of_row = np.repeat(np.arange(len(self.ends)), np.diff(self.ends, prepend=0))
        return [each[row] for row in of_row[self.ordinary].tolist()]

    def rows(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The places of the blocks of some complexes, in the order of these."""
        starts = np.concatenate([[0], self.ends[:-1]])
        return np.concatenate([np.arange(starts[one], self.ends[one]) for one in positions.tolist()])


class ComplexVectors:
    """A safetensors file with a tensor [E] for each complex, under its id. Raises DataError if it is none."""

    def __init__(self, path: str | Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = Path(path)
        try:
            self._file = safe_open(self.path, framework="numpy")
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path}: no safetensors file that can be read ({error})") from None
        self._ids = frozenset(self._file.keys())

    def problem(self, ids: Sequence[str], size: int) -> str:
        """What is wrong with them for these complexes; empty if nothing is."""
        missing = [name for name in ids if name not in self._ids]
        if missing:
            return f"{self.path}: lacks {len(missing)} of {len(ids)} complexes, {missing[0]} for one"
        wrong = [name for name in ids if self._file.get_slice(name).get_shape() != [size]]
        return f"{self.path}: must hold [{size}] for each complex, and {wrong[0]} is another" if wrong else ""

    def rows(self, ids: Sequence[str]) -> npt.NDArray[np.float32]:
        """The vectors [G, E]. Raises DataError naming one that is not finite."""
        found = np.stack([self._file.get_tensor(name) for name in ids]).astype(np.float32)
        for name, values in zip(ids, found, strict=True):
            if not np.isfinite(values).all():
                raise DataError(f"{self.path}: {name} has a number that is not finite")
        return found
