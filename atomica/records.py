"""Shards → records: opening a data set, choosing its rows, sampling, batching, prefetching.

A data set is a folder written by `atomica-prep build-graphs`: Arrow IPC files, memory-mapped, and a manifest.
Numbers of a record are NumPy views of the mapped file. Nothing here needs PyTorch.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from atomica.errors import DataError, ShardError
from atomica.keys import NO_NEIGHBOR, RECORD_FIELDS, SCHEMA_VERSION, Field
from atomica.spec import Problems, setting

if TYPE_CHECKING:
    import dgl

__all__ = [
    "INPUTS",
    "DataConfig",
    "Dataset",
    "Mixture",
    "Record",
    "Rows",
    "Sampling",
    "arrow_type",
    "epoch_order",
    "occurrences",
    "open_dataset",
    "plan_batches",
    "prefetch",
    "sampling",
    "select_rows",
]

INPUTS = ("complex", "segment0", "segment1")
"""What of each record a model sees: both partners, or one of them with the other removed."""

PARTS = ("train", "valid", "test")
SAMPLERS = {
    "uniform": "every complex once per epoch",
    "balanced": "every class equally often",
    "modality": "each kind of interface in proportion to n / log n, n its number of complexes",
}

BASE_BLOCKS, BASE_ATOMS = 150, 121
"""Sizes of the block vocabulary without fragments, and of the atom vocabulary."""

DEMO = "demo://"

Indices = npt.NDArray[np.int64]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class DataConfig:
    """Section `[data]`: which complexes, what of them, and how they are batched."""

    train: str | tuple[str, ...] = setting(
        doc="data set folder, or demo://NAME for one that comes with the package; a list of them is a mixture"
    )
    valid: str | tuple[str, ...] | None = setting(
        None, "validation set or sets; absent: rows of `train` whose split is valid"
    )
    test: str | tuple[str, ...] | None = setting(
        None, "test set or sets; absent: rows of `train` whose split is test, if any"
    )
    embeddings: str | tuple[str, ...] | None = setting(
        None,
        "external features of blocks: a safetensors file with a tensor [blocks, size] for each complex, by id; or two "
        "files, for the blocks of segment 0 and of segment 1. model.embeddings.sizes must say the same sizes",
    )
    weights: tuple[float, ...] = setting(
        (),
        "of a mixture: share of each set of `train` in an epoch, relative to the others; empty: every complex "
        "as often as any other",
        above=0,
    )
    epoch_complexes: int = setting(
        0, "complexes drawn per training epoch; 0: as many as there are training rows", low=0
    )
    input: str = setting(
        "complex",
        "what the model sees: both partners, or one alone with the other removed",
        choices=INPUTS,
    )
    fragments: str = setting("none", "fragment vocabulary the data must be built with")
    batch_blocks: int = setting(1024, "blocks per step, at most; complexes are added until it is full", low=1)
    max_item_blocks: int = setting(1024, "complexes with more blocks are large", low=1)
    large: str = setting(
        "skip",
        "large complexes are skipped and counted, or cropped around a contact between the partners, another "
        "one in every epoch",
        choices=("skip", "crop"),
    )
    sampler: str = setting("uniform", "how training complexes are drawn", choices=SAMPLERS)
    loader_threads: int = setting(
        1, "threads that prepare the next batches; 0: none; no effect on the results", low=0, high=16
    )

    def __post_init__(self) -> None:
        """Check keys against each other."""
        sets = len(self.paths("train"))
        Problems.check(
            *(
                (getattr(self, part) == (), part, "the list is empty; name a data set, or remove the key")
                for part in PARTS
            ),
            (
                len(self.feature_files) > 2,
                "embeddings",
                "must be one file for all blocks, or two: for segment 0 and for segment 1",
            ),
            (
                len(self.feature_files) == 2 and self.input != "complex",
                "embeddings",
                f"names a file for each segment, but data.input = {self.input!r} shows one alone; name one file",
            ),
            (
                self.max_item_blocks > self.batch_blocks,
                "max_item_blocks",
                f"must be at most data.batch_blocks ({self.batch_blocks}), which a step may not exceed; "
                "raise batch_blocks or lower max_item_blocks",
            ),
            (
                self.large == "crop" and self.input != "complex",
                "large",
                f"crops around a contact between partners, but data.input = {self.input!r} shows one alone; "
                'use "skip"',
            ),
            (
                self.large == "crop" and self.max_item_blocks < 4,
                "max_item_blocks",
                "must be at least 4 to crop: two blocks of each partner",
            ),
            (
                bool(self.weights) and len(self.weights) != sets,
                "weights",
                f"must be one number for each of the {sets} sets of data.train",
            ),
            (
                len(self.weights) == 1 and sets == 1,
                "weights",
                "has no effect with a single data set; remove it, or name several in data.train",
            ),
        )

    def paths(self, part: str) -> tuple[str, ...]:
        """The data sets named for train, valid or test; empty if none is."""
        return _listed(getattr(self, part))

    @property
    def feature_files(self) -> tuple[str, ...]:
        """The files of external features; empty if there are none."""
        return _listed(self.embeddings)


def _listed(named: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """One path or several, as several.

    >>> _listed("a"), _listed(("a", "b")), _listed(None)
    (('a',), ('a', 'b'), ())
    """
    return (named,) if isinstance(named, str) else tuple(named or ())


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

    def take(self, mask: npt.NDArray[np.bool_]) -> Texts:
        """The texts where `mask` is true."""
        return Texts(self._array.filter(pa.array(mask)))


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

    def segment(self, s: int) -> Record:
        """One partner alone, as a record of its own: the other partner's blocks and atoms are gone.

        The segment id becomes 0, neighbours within the partner are kept, those in the other one dropped. The
        modality, which tells what the other partner is, becomes -1. Raises DataError if the complex has no
        block of segment `s`.
        """
        keep_blocks = self.segment_ids == s
        if not keep_blocks.any():
            raise DataError(f"{self.id}: has no segment {s}")
        keep_atoms = np.repeat(keep_blocks, self.block_lengths)
        blocks, atoms = int(keep_blocks.sum()), int(keep_atoms.sum())
        k = self.atom_intra.shape[1]
        # A bond and all that it moves lie in one segment.
        torsions = keep_atoms[self.torsion_fixed]
        bonds = keep_atoms[self.bond_first] & keep_atoms[self.bond_second]
        moved = np.repeat(torsions, self.torsion_sizes)
        return replace(
            self,
            modality=-1,
            block_types=self.block_types[keep_blocks],
            block_lengths=self.block_lengths[keep_blocks],
            segment_ids=np.zeros(blocks, dtype=np.uint8),
            atom_types=self.atom_types[keep_atoms],
            positions=self.positions[keep_atoms],
            atom_intra=_rebase(self.atom_intra, keep_atoms),
            atom_inter=np.full((atoms, k), NO_NEIGHBOR, dtype=np.int32),
            block_intra=_rebase(self.block_intra, keep_blocks),
            block_inter=np.full((blocks, k), NO_NEIGHBOR, dtype=np.int32),
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
        return self if input == "complex" else self.segment(INPUTS.index(input) - 1)


def _rebase(
    lists: npt.NDArray[np.int32], keep: npt.NDArray[np.bool_], rows: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.int32]:
    """Rows (default: `keep`) of index lists [N, ...], with indices counted among what is kept only."""
    new_index = np.cumsum(keep, dtype=np.int32) - 1
    new_index[~keep] = NO_NEIGHBOR
    kept = lists[keep if rows is None else rows]
    return np.where(kept < 0, np.int32(NO_NEIGHBOR), new_index[kept])


# ----------------------------------------------------------------------------------------------- dataset


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


_INDICES_OF_ATOMS = (
    "atom_intra",
    "atom_inter",
    "torsion_fixed",
    "torsion_moving",
    "torsion_atoms",
    "bond_first",
    "bond_second",
)
_INDICES_OF_BLOCKS = ("block_intra", "block_inter")

_DAMAGED = (pa.ArrowException, OSError, OverflowError, UnicodeDecodeError)
"""What pyarrow raises for files that are not as they should be."""


class _Columns:
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


class _Shard:
    """One Arrow file. Its number columns are opened when a row is first asked for."""

    def __init__(self, path: Path, entry: Mapping[str, Any]) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.batches: dict[int, _Columns] = {}
        if not path.is_file():
            raise ShardError(f"{path}: the manifest names this shard, but there is no such file")
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise ShardError(
                f"{path}: has {size} bytes, the manifest says {entry['bytes']}; rebuild the data set"
            )
        try:
            self.mapped = pa.memory_map(str(path))
            self.reader = pa.ipc.open_file(self.mapped)
        except _DAMAGED as error:
            raise ShardError(f"{path}: not an Arrow IPC file: {error}") from None
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

    def _check_schema(self) -> None:
        found = self.reader.schema
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
        schema = self.reader.schema
        options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in names])
        try:
            table = pa.ipc.open_file(self.mapped, options=options).read_all()
            table.validate(full=True)
        except _DAMAGED as error:
            raise ShardError(f"{self.path}: damaged: {error}") from None
        return table

    def row(self, index: int) -> tuple[_Columns, int]:
        batch = int(np.searchsorted(self.ends, index, side="right")) - 1
        with self.lock:
            if batch not in self.batches:
                # Empty batches share their end with the next one, which searchsorted picks.
                try:
                    data = self.reader.get_batch(batch)
                    # Offsets and texts, not numbers: pyarrow follows a wrong offset out of its memory.
                    data.validate(full=True)
                except _DAMAGED as error:
                    raise ShardError(f"{self.path}: damaged: {error}") from None
                self.batches[batch] = _Columns(data, str(self.path))
        return self.batches[batch], index - int(self.ends[batch])


class Dataset(Sequence[Record]):
    """The complexes of one folder of shards, memory-mapped; see `open_dataset`.

    Uncompressed shards are read in place, so a data set may be larger than memory; compressed ones are
    unpacked, shard by shard, when first used, and kept.
    """

    def __init__(self, folder: Path, name: str, manifest: Mapping[str, Any]) -> None:
        self.folder = folder
        self.name = name
        self.manifest = manifest
        self._shards = [_Shard(folder / entry["file"], entry) for entry in manifest["shards"]]
        self._ends = np.cumsum([0, *(int(entry["rows"]) for entry in manifest["shards"])])
        self._cache: dict[str, Any] = {}
        self.neighbors = int(manifest["neighbors"])

    def __len__(self) -> int:
        """Number of complexes."""
        return int(self._ends[-1])

    def __repr__(self) -> str:
        """Name, size and vocabulary."""
        return f"Dataset({self.name!r}, {len(self)} complexes, fragments {self.fragments!r})"

    def __getitem__(self, index: Any) -> Any:
        """The record of one row; negative rows count from the end, a slice gives a list."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = int(index)
        if row < 0:
            row += len(self)
        if not 0 <= row < len(self):
            raise IndexError(f"row {index} of a data set of {len(self)} complexes")
        which = int(np.searchsorted(self._ends, row, side="right")) - 1
        columns, local = self._shards[which].row(row - int(self._ends[which]))
        return self._record(columns, local, self._shards[which].path)

    def _record(self, columns: _Columns, row: int, where: Path) -> Record:
        found: dict[str, Any] = {}
        for field in RECORD_FIELDS:
            if field.shape:
                offsets = columns.offsets[field.name]
                start, end = int(offsets[row]), int(offsets[row + 1])
                if field.name == "positions":
                    start, end = 3 * start, 3 * end
                values = columns.values[field.name]
                if field.dtype == "utf8":
                    found[field.name] = Texts(values.slice(start, end - start))
                else:
                    found[field.name] = values[start:end]
            elif field.dtype.startswith("map"):
                found[field.name] = dict(columns.plain[field.name][row].as_py() or ())
            else:
                found[field.name] = columns.plain[field.name][row].as_py()
        atoms, blocks, k = len(found["atom_types"]), len(found["block_types"]), self.neighbors
        shapes: dict[str, tuple[int, ...]] = {
            "positions": (atoms, 3),
            "atom_intra": (atoms, k),
            "atom_inter": (atoms, k),
        }
        shapes |= {"block_intra": (blocks, k), "block_inter": (blocks, k)}
        shapes |= {"block_lengths": (blocks,), "segment_ids": (blocks,)}
        for name, shape in shapes.items():
            if found[name].size != int(np.prod(shape)):
                raise ShardError(
                    f"{where}: {found['id']}: {name} holds {found[name].size} values, expected {shape} "
                    f"for {atoms} atoms, {blocks} blocks and {k} neighbours"
                )
            found[name] = found[name].reshape(shape)
        if int(found["block_lengths"].sum()) != atoms:
            raise ShardError(f"{where}: {found['id']}: block_lengths do not add up to the {atoms} atoms")
        torsions = {found[name].size for name in ("torsion_fixed", "torsion_moving", "torsion_sizes")}
        if len(torsions) != 1 or int(found["torsion_sizes"].sum()) != found["torsion_atoms"].size:
            raise ShardError(f"{where}: {found['id']}: the lists of rotatable bonds do not belong together")
        if len({found[name].size for name in ("bond_first", "bond_second", "bond_orders")}) != 1:
            raise ShardError(f"{where}: {found['id']}: the lists of bonds do not belong together")
        for names, count in ((_INDICES_OF_ATOMS, atoms), (_INDICES_OF_BLOCKS, blocks)):
            for name in names:
                indices = found[name]
                if indices.size and not NO_NEIGHBOR <= indices.min() <= indices.max() < count:
                    raise ShardError(f"{where}: {found['id']}: {name} holds an index beyond its {count} rows")
        return Record(**found)

    @property
    def fragments(self) -> str:
        """Name of the fragment vocabulary the data were built with; "none" without."""
        return str(self.manifest["vocabulary"]["fragments"])

    @property
    def block_types(self) -> int:
        """Size of the block vocabulary."""
        return int(self.manifest["vocabulary"]["blocks"])

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the checksums of all shards: equal for equal data, wherever it lies."""
        sums = "".join(str(entry["sha256"]) for entry in self.manifest["shards"])
        return hashlib.sha256(sums.encode()).hexdigest()

    @property
    def ids(self) -> list[str]:
        """Name of every complex, in row order."""
        return self._texts("id")

    @property
    def splits(self) -> list[str | None]:
        """The split column: train, valid, test, or None, per row."""
        return self._texts("split")

    def column(self, name: str) -> list[str | None]:
        """Text of a label or metadata column for every row, None where a row has none.

        Raises DataError, with the names there are, if no row has such a column.
        """
        found: list[str | None] = []
        known: set[str] = set()
        for labels, metadata in zip(self._maps("labels"), self._maps("metadata"), strict=True):
            known.update(labels, metadata)
            found.append(labels.get(name, metadata.get(name)))
        if name not in known and len(self):
            raise DataError(
                f"{self.name}: has no column {name!r}; it has {', '.join(sorted(known)) or 'none'}"
            )
        return found

    @property
    def modalities(self) -> Indices:
        """Kind of interface of every complex [N], as an index into `keys.MODALITIES`; -1 if none of them."""
        return np.array(self._texts("modality"), dtype=np.int64)

    def rows_of(self, part: str, *, own: bool) -> Indices:
        """Row numbers of train, valid or test, by the split column.

        own: the data set was named for this part, so that all its rows belong to it if it has no splits at all.
        """
        splits = np.array([split or "" for split in self.splits], dtype=object)
        return np.arange(len(self)) if own and not any(splits) else np.flatnonzero(splits == part)

    def block_counts(self, input: str = "complex") -> Indices:
        """Blocks per complex [N] (global blocks included) that a model with `data.input = input` sees."""
        key = f"blocks:{input}"
        if key not in self._cache:
            counts = [np.zeros(0, dtype=np.int64)]
            for shard in self._shards:
                for chunk in shard.read(["segment_ids"]).column(0).chunks:
                    offsets = chunk.offsets.to_numpy().astype(np.int64)
                    if input == "complex":
                        counts.append(np.diff(offsets))
                        continue
                    segments = chunk.values.to_numpy(zero_copy_only=False)
                    chosen = np.concatenate([[0], np.cumsum(segments == INPUTS.index(input) - 1)])
                    counts.append(chosen[offsets[1:]] - chosen[offsets[:-1]])
            self._cache[key] = np.concatenate(counts).astype(np.int64)
        found: Indices = self._cache[key]
        return found

    def graphs(self, indices: Iterable[int], *, input: str = "complex", **options: Any) -> dgl.DGLGraph:
        """One batched DGL graph of the complexes `indices`; options are those of `atomica.graph.batch`."""
        from atomica import graph

        return graph.batch([self[i].view(input) for i in indices], **options)

    def verify(self) -> None:
        """Compare every shard with its checksum; raises ShardError for the first that differs."""
        for shard, entry in zip(self._shards, self.manifest["shards"], strict=True):
            digest = hashlib.sha256()
            with shard.path.open("rb") as stream:
                while piece := stream.read(1 << 20):
                    digest.update(piece)
            if digest.hexdigest() != entry["sha256"]:
                raise ShardError(f"{shard.path}: SHA-256 differs from the manifest; rebuild the data set")

    def _texts(self, name: str) -> list[Any]:
        if name not in self._cache:
            self._cache[name] = [
                text for shard in self._shards for text in shard.read([name]).column(0).to_pylist()
            ]
        found: list[Any] = self._cache[name]
        return found

    def _maps(self, name: str) -> list[dict[str, str]]:
        if name not in self._cache:
            self._cache[name] = [
                dict(pairs or ())
                for shard in self._shards
                for pairs in shard.read([name]).column(0).to_pylist()
            ]
        found: list[dict[str, str]] = self._cache[name]
        return found


class Mixture(Sequence[Record]):
    """Several data sets as one: the rows of the first, then those of the second, and so on.

    It answers whatever a `Dataset` answers. sources [N] tells which set a row is from. Raises DataError if the
    sets were built with different vocabularies.
    """

    def __init__(self, sets: Sequence[Dataset]) -> None:
        self.sets = tuple(sets)
        self.name = " + ".join(one.name for one in sets)
        for one in sets[1:]:
            if one.manifest["vocabulary"] != sets[0].manifest["vocabulary"]:
                raise DataError(
                    f"{one.name}: its vocabulary differs from that of {sets[0].name}; build both with the same"
                )
        self.manifest = sets[0].manifest
        self.fragments, self.block_types = sets[0].fragments, sets[0].block_types
        self._ends = np.cumsum([0, *(len(one) for one in sets)])

    def __len__(self) -> int:
        """Number of complexes in all sets."""
        return int(self._ends[-1])

    def __getitem__(self, index: Any) -> Any:
        """The record of one row; negative rows count from the end, a slice gives a list."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = int(index) + (len(self) if index < 0 else 0)
        if not 0 <= row < len(self):
            raise IndexError(f"row {index} of a data set of {len(self)} complexes")
        which = int(np.searchsorted(self._ends, row, side="right")) - 1
        return self.sets[which][row - int(self._ends[which])]

    @property
    def sources(self) -> Indices:
        """Which set every row is from [N], counted from 0."""
        return np.repeat(np.arange(len(self.sets)), np.diff(self._ends))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the fingerprints of the sets, in order."""
        return hashlib.sha256("".join(one.fingerprint for one in self.sets).encode()).hexdigest()

    @cached_property
    def ids(self) -> list[str]:
        """Name of every complex, in row order; names may recur in another set."""
        return [name for one in self.sets for name in one.ids]

    @property
    def splits(self) -> list[str | None]:
        """The split column of all sets."""
        return [split for one in self.sets for split in one.splits]

    @property
    def modalities(self) -> Indices:
        """Kind of interface of every complex [N]; see `Dataset.modalities`."""
        return np.concatenate([one.modalities for one in self.sets])

    def column(self, name: str) -> list[str | None]:
        """Text of a label or metadata column, None for rows of sets that lack it. DataError if all do."""
        found: list[str | None] = []
        missing: list[str] = []
        for one in self.sets:
            try:
                found += one.column(name)
            except DataError as error:
                missing.append(str(error))
                found += [None] * len(one)
        if len(missing) == len(self.sets):
            raise DataError("; ".join(missing))
        return found

    def rows_of(self, part: str, *, own: bool) -> Indices:
        """Row numbers of train, valid or test: those of every set; see `Dataset.rows_of`."""
        rows = [one.rows_of(part, own=own) + end for one, end in zip(self.sets, self._ends, strict=False)]
        return np.concatenate(rows)

    def block_counts(self, input: str = "complex") -> Indices:
        """Blocks per complex [N]; see `Dataset.block_counts`."""
        return np.concatenate([one.block_counts(input) for one in self.sets])

    def graphs(self, indices: Iterable[int], *, input: str = "complex", **options: Any) -> dgl.DGLGraph:
        """One batched DGL graph of the complexes `indices`; options are those of `atomica.graph.batch`."""
        from atomica import graph

        return graph.batch([self[i].view(input) for i in indices], **options)


def open_dataset(path: str | Path) -> Dataset:
    """Open a folder that `atomica-prep build-graphs` wrote, or `demo://NAME`, which comes with the package.

    Raises DataError if there is none, or if its schema or vocabulary is one this version does not know;
    ShardError if a shard is missing, damaged, or differs from the manifest in size or rows.
    """
    name = str(path)
    folder = _demo(name) if name.startswith(DEMO) else Path(path)
    if not folder.exists():
        raise DataError(f"{name}: no such folder")
    if not folder.is_dir():
        raise DataError(f"{name}: is a file; a data set is the folder that atomica-prep build-graphs wrote")
    manifest_path = folder / "manifest.json"
    if not manifest_path.is_file():
        raise DataError(
            f"{name}: holds no manifest.json, so it is no data set, or its build was interrupted; "
            "see atomica-prep build-graphs --help"
        )
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{manifest_path}: not valid JSON: {error}") from None
    _check_manifest(manifest, name)
    return Dataset(folder, name, manifest)


def _demo(name: str) -> Path:
    root = Path(__file__).parent / "demo"
    wanted = name[len(DEMO) :]
    there = sorted(entry.parent.name for entry in root.glob("*/manifest.json"))
    if wanted not in there:
        raise DataError(f"{name}: no such demo data set; there is {', '.join(there) or 'none'}")
    return root / wanted


def _check_manifest(manifest: Any, name: str) -> None:
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        writer = manifest.get("atomica_prep_version", "unknown") if isinstance(manifest, dict) else "unknown"
        raise DataError(
            f"{name}: schema version {version} (written by atomica-prep {writer}), but this version of "
            f"atomica reads {SCHEMA_VERSION}; rebuild the data set, or use the release that wrote it"
        )
    try:
        vocabulary = manifest["vocabulary"]
        blocks, atoms = int(vocabulary["blocks"]), int(vocabulary["atoms"])
        fragments = str(vocabulary["fragments"])
        int(manifest["neighbors"])
        for entry in manifest["shards"]:
            str(entry["file"]), int(entry["rows"]), int(entry["bytes"]), str(entry["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{name}: manifest.json lacks or garbles {error}") from None
    sizes_fit = blocks == BASE_BLOCKS if fragments == "none" else blocks > BASE_BLOCKS
    if not sizes_fit or atoms != BASE_ATOMS:
        raise DataError(
            f"{name}: a vocabulary of {blocks} block and {atoms} atom types (fragments {fragments!r}) is not "
            f"one this version knows: {BASE_BLOCKS} block types without fragments, {BASE_ATOMS} atom types"
        )


# ------------------------------------------------------------------------------- rows, sampling, batches


@dataclass(frozen=True)
class Rows:
    """The complexes of one part (train, valid or test) that a run uses.

    rows [N]: row numbers in `dataset`; blocks [N]: blocks the model sees of each; skipped: reason → count of
    complexes left out; cropped: how many are cropped to fit.
    """

    part: str
    dataset: Dataset | Mixture
    rows: Indices
    blocks: Indices
    skipped: Mapping[str, int]
    cropped: int = 0

    def __len__(self) -> int:
        """Number of complexes."""
        return len(self.rows)

    def keep(self, mask: npt.NDArray[np.bool_], reason: str) -> Rows:
        """Only the complexes where `mask` is true; the others are counted under `reason`."""
        lost = int((~mask).sum())
        skipped = {**self.skipped, reason: lost} if lost else self.skipped
        return replace(self, rows=self.rows[mask], blocks=self.blocks[mask], skipped=skipped)

    @property
    def ids(self) -> list[str]:
        """Names of the complexes."""
        ids = self.dataset.ids
        return [ids[row] for row in self.rows]


def select_rows(dataset: Dataset | Mixture, part: str, config: DataConfig, *, own: bool) -> Rows:
    """The complexes of one part of the data; those with too many blocks are skipped, or to be cropped.

    own: the data set was named for this part (`data.valid = ...`), so that all its rows belong to it if it
    has no splits at all. In a data set with splits, only the rows of this part's split are used.
    """
    rows = dataset.rows_of(part, own=own).astype(np.int64)
    chosen = Rows(part, dataset, rows, dataset.block_counts(config.input)[rows], {})
    if config.input != "complex":
        # One block is the global block alone, none a partner that is not there.
        chosen = chosen.keep(chosen.blocks > 1, f"no {config.input}")
    fits = chosen.blocks <= config.max_item_blocks
    if config.large == "crop":
        cropped = np.minimum(chosen.blocks, config.max_item_blocks)
        return replace(chosen, blocks=cropped, cropped=int((~fits).sum()))
    return chosen.keep(fits, f"more than {config.max_item_blocks} blocks (data.max_item_blocks)")


@dataclass(frozen=True)
class Sampling:
    """How often complexes come in an epoch: strata [N], the stratum of each, and shares [S], which add up to 1."""

    strata: Indices
    shares: npt.NDArray[np.float64]


def sampling(
    sampler: str, groups: Indices, *, sources: Indices | None = None, weights: Sequence[float] = ()
) -> Sampling | None:
    """The strata that `data.sampler` and `data.weights` ask for; None where every complex comes once.

    groups [N]: class or kind of interface of each complex; sources [N]: its data set, read with `weights` only,
    which then hold for the sets, and `sampler` within each. The share of a group of n complexes is 1 if
    balanced, n / log n by modality (log 2 for n = 1, which has log 0), and n if uniform.

    >>> sampling("balanced", np.array([0, 0, 0, 1])).shares.tolist()
    [0.5, 0.5]
    >>> both = sampling("uniform", np.zeros(4, int), sources=np.array([0, 0, 0, 1]), weights=(1.0, 3.0))
    >>> both.shares.tolist()
    [0.25, 0.75]
    """
    if sampler == "uniform" and not weights:
        return None
    group = np.zeros_like(groups) if sampler == "uniform" else groups
    source = sources if weights and sources is not None else np.zeros_like(groups)
    pairs, strata, counts = np.unique(
        np.stack([source, group], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    within = {
        "uniform": counts.astype(np.float64),
        "balanced": np.ones(len(counts)),
        "modality": counts / np.log(np.maximum(counts, 2)),
    }[sampler]
    share = within / np.bincount(pairs[:, 0], within)[pairs[:, 0]]
    if weights:
        share = share * np.asarray(weights)[pairs[:, 0]]
    return Sampling(strata.reshape(-1), share / share.sum())


def epoch_order(
    count: int, *, seed: int, epoch: int, sampling: Sampling | None = None, length: int = 0
) -> Indices:
    """Order in which an epoch visits `count` complexes; depends on (seed, epoch) only.

    Without `sampling` a permutation. With it, every stratum fills its share of the epoch's `length` places (0:
    `count`), to within one in each epoch and exactly over many: complexes of a small stratum come several
    times, each equally often to within one, and of a large one a random part is left out.

    >>> balanced = sampling("balanced", np.array([0, 0, 0, 0, 1]))
    >>> order = epoch_order(5, seed=0, epoch=0, sampling=balanced)
    >>> len(order), int((order == 4).sum())
    (5, 2)
    """
    generator = np.random.default_rng([seed, epoch])
    length = length or count
    if sampling is None:
        rounds = -(-length // count)
        return np.concatenate([generator.permutation(count) for _ in range(rounds)])[:length]
    # One offset for all boundaries shifts the odd places from stratum to stratum between epochs.
    ends = np.floor(np.cumsum(sampling.shares) * length + _spread(epoch) + 1e-9).astype(np.int64)
    ends[-1] = length
    picked = []
    for stratum, places in enumerate(np.diff(ends, prepend=0)):
        members = np.flatnonzero(sampling.strata == stratum)
        rounds = -(-int(places) // len(members))
        picked.append(
            np.concatenate([generator.permutation(members) for _ in range(max(rounds, 1))])[:places]
        )
    return generator.permutation(np.concatenate(picked))


def _spread(epoch: int) -> float:
    """The binary digits of epoch + 1 mirrored at the point: 1/2, 1/4, 3/4, 1/8, … covers [0, 1) evenly."""
    digits = f"{epoch + 1:b}"[::-1]
    return int(digits, 2) / 2 ** len(digits)


def occurrences(order: Indices) -> Indices:
    """How often the complex at each place of `order` came before, so that its noise can differ each time.

    >>> occurrences(np.array([4, 1, 4, 4, 1])).tolist()
    [0, 0, 1, 2, 1]
    """
    by_value = np.argsort(order, kind="stable")
    ordered = order[by_value]
    first = np.searchsorted(ordered, ordered)
    found = np.empty_like(order)
    found[by_value] = np.arange(len(order)) - first
    return found


def plan_batches(order: Indices, blocks: Indices, batch_blocks: int) -> list[Indices]:
    """Cut `order` into batches of at most `batch_blocks` blocks, in order; blocks [N] are indexed by it.

    A single complex that is larger makes a batch of its own.

    >>> [batch.tolist() for batch in plan_batches(np.array([2, 0, 1]), np.array([3, 4, 5]), 8)]
    [[2, 0], [1]]
    """
    ends = np.cumsum(blocks[order])
    batches: list[Indices] = []
    start = 0
    while start < len(order):
        filled = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, filled + batch_blocks, side="right")))
        batches.append(order[start:end])
        start = end
    return batches


def prefetch(
    jobs: Iterable[T], make: Callable[[T], R], *, threads: int = 1, ahead: int = 4
) -> Generator[R, None, None]:
    """`map(make, jobs)`, prepared up to `ahead` results early by other threads, in order.

    The first results are begun with the call. The order of the results does not depend on the number of threads;
    0 threads prepare each result when it is asked for. An exception in `make` is raised where its result would
    have come.

    >>> list(prefetch([1, 2, 3], lambda x: x * x, threads=2))
    [1, 4, 9]
    """
    if threads == 0:
        return (make(job) for job in jobs)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="atomica-prefetch")
    source = iter(jobs)
    waiting = deque(pool.submit(make, job) for job in islice(source, ahead))
    return _results(pool, waiting, source, make)


def _results(
    pool: ThreadPoolExecutor, waiting: deque[Future[R]], source: Iterator[T], make: Callable[[T], R]
) -> Generator[R, None, None]:
    """The results in order, a new job begun before each."""
    try:
        for job in source:
            waiting.append(pool.submit(make, job))
            yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        pool.shutdown(wait=True, cancel_futures=True)
