"""One complex: its arrays, read-only views of a mapped shard, and one partner of it alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from atomica.data.origin import INPUTS, Origin
from atomica.errors import DataError
from atomica.keys import GLOBAL_BLOCK, MODALITIES, NO_NEIGHBOR, RECORD_FIELDS, Field

__all__ = ["INPUTS", "Record", "malformed"]


SPLITS = ("train", "valid", "test")

Indices = npt.NDArray[np.int64]


# ------------------------------------------------------------------------------------------------ record


class Texts(Sequence[str]):
    """A read-only list of texts that stays in the mapped file until it is looked at."""

    __slots__ = ("_array",)

    def __init__(self, array: pa.Array) -> None:
        self._array = array

    def __len__(self) -> int:
        """Number of texts."""
        return len(self._array)

    def __getitem__(self, index: Any) -> Any:
        """One text, or a list of them for a slice."""
        picked = self._array[index]
        return picked.to_pylist() if isinstance(index, slice) else picked.as_py()

    def __iter__(self) -> Iterator[str]:
        """All texts, in order."""
        return iter(self._array.to_pylist())

    def __eq__(self, other: object) -> bool:
        """Equal to any sequence of the same texts."""
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """As the list it stands for."""
        return repr(list(self))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as the texts alone; Arrow would write all of the shard's."""
        return _texts, (list(self),)

    def take(self, mask: npt.NDArray[np.bool_]) -> Texts:
        """The texts where `mask` is true."""
        return Texts(self._array.filter(pa.array(mask)))


def _texts(values: list[str]) -> Texts:
    return Texts(pa.array(values, pa.utf8()))


@dataclass(frozen=True, eq=False)
class Record:
    """One complex. Fields, shapes, dtypes and units are those of `keys.RECORD_FIELDS`.

    Arrays are read-only views of the mapped shard; `positions` is [A, 3] in Å, the neighbour lists [A, K] and
    [B, K] hold indices into this record's atoms or blocks.
    """

    id: str
    modality: int
    split: str | None
    labels: Mapping[str, str]
    metadata: Mapping[str, str]
    block_types: npt.NDArray[np.uint16]
    block_lengths: npt.NDArray[np.uint32]
    segment_ids: npt.NDArray[np.uint8]
    atom_types: npt.NDArray[np.uint8]
    positions: npt.NDArray[np.float32]
    atom_intra: npt.NDArray[np.int32]
    atom_inter: npt.NDArray[np.int32]
    block_intra: npt.NDArray[np.int32]
    block_inter: npt.NDArray[np.int32]
    torsion_fixed: npt.NDArray[np.int32]
    torsion_moving: npt.NDArray[np.int32]
    torsion_sizes: npt.NDArray[np.uint32]
    torsion_atoms: npt.NDArray[np.int32]
    bond_first: npt.NDArray[np.int32]
    bond_second: npt.NDArray[np.int32]
    bond_orders: npt.NDArray[np.uint8]
    block_chains: Texts
    block_resnums: npt.NDArray[np.int32]
    block_icodes: Texts
    block_components: Texts
    atom_names: Texts
    source_path: str
    source_sha256: str
    ligand_chemistry: str
    seen: str = "complex"
    """What of the complex this is, one of `INPUTS`."""
    origin: Origin | None = None
    """How its data set was made."""

    def segment(self, s: int) -> Record:
        """One partner alone, as a record of its own: the other partner's blocks and atoms are gone.

        The segment id becomes 0, neighbours within the partner are kept, those in the other one dropped. The
        modality, which tells what the other partner is, becomes -1. Raises DataError if the complex has no
        block of segment `s`.
        """
        keep_blocks = self.segment_ids == s
        if not keep_blocks.any():
            raise DataError(f"{self.id}: has no segment {s}")
        found = self.keep(keep_blocks)
        return replace(
            found,
            modality=-1,
            seen=self.seen if self.seen != "complex" else INPUTS[s + 1],
            segment_ids=np.zeros_like(found.segment_ids),
            atom_inter=np.full_like(found.atom_inter, NO_NEIGHBOR),
            block_inter=np.full_like(found.block_inter, NO_NEIGHBOR),
        )

    def sampled(self, share: float, generator: np.random.Generator) -> tuple[Record, npt.NDArray[np.bool_]]:
        """The record with each ordinary block kept with a probability, one of each partner at least; and which are.

        Global atoms move to the mean of what is left of their partner; nearest neighbours must be found anew.
        """
        ordinary = self.block_types != GLOBAL_BLOCK
        kept = ~ordinary | (generator.random(len(ordinary)) < share)
        for segment in np.unique(self.segment_ids):
            own = np.flatnonzero(ordinary & (self.segment_ids == segment))
            if len(own) and not kept[own].any():
                kept[generator.choice(own)] = True
        found = self.keep(kept)
        positions = found.positions.copy()
        of_global = np.repeat(found.block_types == GLOBAL_BLOCK, found.block_lengths)
        segments = np.repeat(found.segment_ids, found.block_lengths)
        for segment in np.unique(segments[~of_global]):
            own = segments == segment
            positions[own & of_global] = positions[own & ~of_global].mean(axis=0)
        of_atoms = np.zeros((len(positions), 0), dtype=np.int32)
        of_blocks = np.zeros((len(found.block_types), 0), dtype=np.int32)
        found = replace(found, positions=positions, atom_intra=of_atoms, atom_inter=of_atoms)
        return replace(found, block_intra=of_blocks, block_inter=of_blocks), kept

    def keep(self, keep_blocks: npt.NDArray[np.bool_]) -> Record:
        """Some of the blocks [B]. Bonds stay that keep both ends and all that they move; lists lose what is gone."""
        keep_atoms = np.repeat(keep_blocks, self.block_lengths)
        torsions = keep_atoms[self.torsion_fixed] & keep_atoms[self.torsion_moving]
        if len(torsions):
            of_bond = np.repeat(np.arange(len(torsions)), self.torsion_sizes)
            lost = np.bincount(of_bond[~keep_atoms[self.torsion_atoms]], minlength=len(torsions))
            torsions = torsions & (lost == 0)
        bonds = keep_atoms[self.bond_first] & keep_atoms[self.bond_second]
        moved = np.repeat(torsions, self.torsion_sizes)
        return replace(
            self,
            block_types=self.block_types[keep_blocks],
            block_lengths=self.block_lengths[keep_blocks],
            segment_ids=self.segment_ids[keep_blocks],
            atom_types=self.atom_types[keep_atoms],
            positions=self.positions[keep_atoms],
            atom_intra=_rebase(self.atom_intra, keep_atoms),
            atom_inter=_rebase(self.atom_inter, keep_atoms),
            block_intra=_rebase(self.block_intra, keep_blocks),
            block_inter=_rebase(self.block_inter, keep_blocks),
            torsion_fixed=_rebase(self.torsion_fixed, keep_atoms, torsions),
            torsion_moving=_rebase(self.torsion_moving, keep_atoms, torsions),
            torsion_sizes=self.torsion_sizes[torsions],
            torsion_atoms=_rebase(self.torsion_atoms, keep_atoms, moved),
            bond_first=_rebase(self.bond_first, keep_atoms, bonds),
            bond_second=_rebase(self.bond_second, keep_atoms, bonds),
            bond_orders=self.bond_orders[bonds],
            block_chains=self.block_chains.take(keep_blocks),
            block_resnums=self.block_resnums[keep_blocks],
            block_icodes=self.block_icodes.take(keep_blocks),
            block_components=self.block_components.take(keep_blocks),
            atom_names=self.atom_names.take(keep_atoms),
        )

    def view(self, input: str) -> Record:
        """What a model with `data.input = input` sees of this complex."""
        if input not in INPUTS:
            raise DataError(f"input = {input!r}: must be one of {', '.join(INPUTS)}")
        return self if input in ("complex", self.seen) else self.segment(INPUTS.index(input) - 1)


_SHAPES = {field.name: field.shape.replace("*", ",").split(",") for field in RECORD_FIELDS if field.shape}
_DTYPES = {
    field.name: np.dtype(field.dtype) for field in RECORD_FIELDS if field.shape and field.dtype != "utf8"
}
_INDICES = {
    **dict.fromkeys(("atom_intra", "atom_inter"), ("A", NO_NEIGHBOR)),
    **dict.fromkeys(("block_intra", "block_inter"), ("B", NO_NEIGHBOR)),
    **dict.fromkeys(
        ("torsion_fixed", "torsion_moving", "torsion_atoms", "bond_first", "bond_second"), ("A", 0)
    ),
}
"""Fields that hold indices → the letter of what they count, and the least of them."""
_SUMS = {"block_lengths": "A", "torsion_sizes": "M"}
"""Fields that add up → the letter of what they add up to."""


def malformed(record: Record) -> str:
    """What is wrong with a record, as "FIELD: reason"; nothing if it is as `keys.RECORD_FIELDS` says and fits.

    >>> from atomica.testing import as_record
    >>> one = as_record([[0, 0, 0], [0, 0, 0]], [3, 4], [2, 8], [1, 1], [0, 0])
    >>> malformed(one), malformed(replace(one, bond_orders=[1]))
    ('', 'bond_orders: is list, expected an array of uint8')
    """
    sizes = {"3": 3}
    for field in RECORD_FIELDS:
        value = getattr(record, field.name, None)
        reason = _wrong_array(field.name, value, sizes) if field.shape else _wrong_value(field, value)
        if reason:
            return f"{field.name}: {reason}"
    for name, letter in _SUMS.items():
        total = int(getattr(record, name).sum())
        if total != sizes[letter]:
            return f"{name}: adds up to {total}, and there are {sizes[letter]} of that"
    return ""


def _wrong_value(field: Field, value: Any) -> str:
    if field.name == "modality":
        known = isinstance(value, int | np.integer) and -1 <= value < len(MODALITIES)
        return (
            "" if known else f"is {value!r}, expected an index into the {len(MODALITIES)} modalities, or -1"
        )
    kind = Mapping if field.dtype.startswith("map") else str
    if isinstance(value, kind) or (value is None and field.dtype.endswith("?")):
        return ""
    return f"is {type(value).__name__}, expected {kind.__name__}"


def _wrong_array(name: str, value: Any, sizes: dict[str, int]) -> str:
    """sizes: letter of a shape → its length; those that are not known yet are taken from the value."""
    dtype, letters = _DTYPES.get(name), _SHAPES[name]
    if dtype is None:
        texts = isinstance(value, Texts) or (
            isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)
        )
        if not texts:
            return f"is {type(value).__name__}, expected a list of texts"
        shape: tuple[int, ...] = (len(value),)
    elif not isinstance(value, np.ndarray):
        return f"is {type(value).__name__}, expected an array of {dtype}"
    elif value.dtype != dtype:
        return f"has dtype {value.dtype}, expected {dtype}"
    else:
        shape = value.shape
    if len(shape) != len(letters):
        return f"has shape {shape}, expected [{', '.join(letters)}]"
    expected = tuple(sizes.setdefault(letter, length) for letter, length in zip(letters, shape, strict=True))
    if shape != expected:
        return f"has shape {shape}, expected {expected} by the fields before it"
    if name in _INDICES and value.size:
        letter, least = _INDICES[name]
        if value.min() < least or value.max() >= sizes[letter]:
            return f"holds an index beyond its {sizes[letter]} rows: {value.min()} to {value.max()}"
    return ""


def _rebase(
    lists: npt.NDArray[np.int32], keep: npt.NDArray[np.bool_], rows: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.int32]:
    """Rows (default: `keep`) of index lists [N, ...], with indices counted among what is kept only."""
    new_index = np.cumsum(keep, dtype=np.int32) - 1
    new_index[~keep] = NO_NEIGHBOR
    kept = lists[keep if rows is None else rows]
    return np.where(kept < 0, np.int32(NO_NEIGHBOR), new_index[kept])
