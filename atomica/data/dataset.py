"""Shards → records: opening a data set or several as one.

A data set is a folder written by `atomica-prep build-graphs`: Arrow IPC files, memory-mapped, and a manifest.
Numbers of a record are NumPy views of the mapped file. Nothing here needs PyTorch.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atomica.data.origin import Origin
from atomica.data.record import INPUTS, Indices, Record, Texts, malformed
from atomica.data.shards import Columns, Shard, Unpacked
from atomica.errors import DataError, ShardError
from atomica.keys import RECORD_FIELDS, SCHEMA_VERSION

if TYPE_CHECKING:
    import dgl

__all__ = ["Complexes", "Dataset", "Mixture", "open_dataset"]

BASE_BLOCKS, BASE_ATOMS = 150, 121
"""Sizes of the block vocabulary without fragments, and of the atom vocabulary."""

DEMO = "demo://"


# ----------------------------------------------------------------------------------------------- dataset


class Complexes(Sequence[Record]):
    """What a data set and a mixture of them share: how rows are chosen. Rows are counted from 0.

    ids: the name of every complex, in row order. fragments: name of their vocabulary; block_types: size of the whole
    block vocabulary. origin: how they were made.
    """

    name: str
    ids: list[str]
    fragments: str
    block_types: int
    origin: Origin

    def _read(self, row: int) -> Record:
        """The record of one row."""
        raise NotImplementedError

    def __contains__(self, item: object) -> bool:
        """Whether a complex has this id."""
        return item in self.ids

    def __getitem__(self, index: Any) -> Any:
        """The record of a row or an id; for a slice, a list of rows or ids, or a mask [N], a list of records.

        Negative rows count from the end. Raises IndexError for a row beyond the end, TypeError for what is no whole
        number, and DataError for an id that no complex has, or several.
        """
        if isinstance(index, slice):
            return [self._read(row) for row in range(*index.indices(len(self)))]
        if isinstance(index, bool | np.bool_):
            raise TypeError(f"row {index}: a row is a whole number or an id")
        if isinstance(index, str) or np.ndim(index) == 0:
            return self._read(int(self.rows([index])[0]))
        return [self._read(row) for row in self.rows(index).tolist()]

    def rows(self, chosen: Any) -> Indices:
        """Row numbers of rows, ids, or the rows of a mask [N]: `data.rows(["1abc_A_B"])`. Errors as of `data[…]`."""
        if isinstance(chosen, str):
            raise TypeError(f"{chosen!r} is one id, and a list of them was expected: [{chosen!r}]")
        count = len(self)
        if not hasattr(chosen, "__array__"):
            chosen = list(chosen)
            if any(isinstance(one, str) for one in chosen):
                return self._rows_of_ids(chosen)
        values = np.asarray(chosen)
        if values.ndim != 1:
            raise TypeError(f"rows are a list of whole numbers, not an array of shape {values.shape}")
        if values.dtype == np.bool_:
            if len(values) != count:
                raise IndexError(f"a mask of {len(values)} values for a data set of {count} complexes")
            return np.flatnonzero(values)
        if not values.size:
            return np.zeros(0, dtype=np.int64)
        if not np.issubdtype(values.dtype, np.integer) or any(
            isinstance(one, bool | np.bool_) for one in chosen
        ):
            shown = next(
                (one for one in chosen if isinstance(one, bool | np.bool_ | float | np.floating)), chosen[0]
            )
            raise TypeError(
                f"row {shown!r}: a row is a whole number, an id, or one of a mask of {count} values"
            )
        rows = values.astype(np.int64)
        rows = np.where(rows < 0, rows + count, rows)
        beyond = (rows < 0) | (rows >= count)
        if beyond.any():
            raise IndexError(f"row {values[beyond][0]} of a data set of {count} complexes")
        return rows

    def _rows_of_ids(self, names: Sequence[Any]) -> Indices:
        places: dict[Any, list[int]] = {}
        for row, name in enumerate(self.ids):
            places.setdefault(name, []).append(row)
        for name in names:
            found = places.get(name, [])
            if not found:
                near = difflib.get_close_matches(str(name), self.ids, n=1)
                hint = (
                    f"; did you mean {near[0]!r}?"
                    if near
                    else f"; {self.ids[0]!r} is one"
                    if self.ids
                    else ""
                )
                raise DataError(f"no complex has the id {name!r}{hint}")
            if len(found) > 1:
                raise DataError(
                    f"{len(found)} complexes have the id {name!r}, in rows {', '.join(map(str, found))}"
                )
        return np.array([places[name][0] for name in names], dtype=np.int64)

    def graphs(self, indices: Any, *, input: str | None = None, **options: Any) -> dgl.DGLGraph:
        """One batched DGL graph of some complexes: rows, ids, or a mask [N].

        input: what of each, one of `data.record.INPUTS` (both partners); options are those of `atomica.graph.batch`.
        What is left out may be made otherwise by the model that reads the graph.
        """
        from atomica.data import graph

        records = [self._read(row).view(input or "complex") for row in self.rows(indices).tolist()]
        return graph.batch(records, view=input, **options)


class Dataset(Complexes):
    """The complexes of one folder of shards, memory-mapped; see `open_dataset`.

    Shards are read in place, so a data set may be larger than memory; compressed ones are unpacked when they are used,
    and those used last are kept, up to 1 GiB. Rows of a larger compressed set are read quickly in their order alone.
    """

    def __init__(self, folder: Path, name: str, manifest: Mapping[str, Any]) -> None:
        self.folder = folder
        self.name = name
        self.manifest = manifest
        packed = dict(manifest.get("options", {})).get("compression", "none") != "none"
        unpacked = Unpacked() if packed else None
        self._shards = [Shard(folder / entry["file"], entry, unpacked) for entry in manifest["shards"]]
        self._ends = np.cumsum([0, *(int(entry["rows"]) for entry in manifest["shards"])])
        self._cache: dict[str, Any] = {}
        self.neighbors = int(manifest["neighbors"])
        self.origin = Origin.of_manifest(manifest)

    def __len__(self) -> int:
        """Number of complexes."""
        return int(self._ends[-1])

    def __repr__(self) -> str:
        """Name, size and vocabulary."""
        return f"Dataset({self.name!r}, {len(self)} complexes, fragments {self.fragments!r})"

    def __getstate__(self) -> dict[str, Any]:
        """Where it lies: another process opens it again."""
        return {"folder": Path(os.path.abspath(self.folder)), "name": self.name, "manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _read(self, row: int) -> Record:
        which = int(np.searchsorted(self._ends, row, side="right")) - 1
        columns, local = self._shards[which].row(row - int(self._ends[which]))
        return self._record(columns, local, self._shards[which].path)

    def _record(self, columns: Columns, row: int, where: Path) -> Record:
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
        record = Record(**found, origin=self.origin)
        problem = malformed(record)
        if problem:
            raise ShardError(f"{where}: {record.id}: {problem}")
        return record

    @property
    def fragments(self) -> str:  # type: ignore[override]
        """Name of the fragment vocabulary the data were built with; "none" without."""
        return str(self.manifest["vocabulary"]["fragments"])

    @property
    def block_types(self) -> int:  # type: ignore[override]
        """Size of the block vocabulary."""
        return int(self.manifest["vocabulary"]["blocks"])

    @property
    def label_ids(self) -> bool:
        """Whether residues have the archive's ids (`--ids label`) instead of the author's."""
        return bool(self.manifest.get("options", {}).get("ids") == "label")

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the checksums of all shards: equal for equal data, wherever it lies."""
        sums = "".join(str(entry["sha256"]) for entry in self.manifest["shards"])
        return hashlib.sha256(sums.encode()).hexdigest()

    @property
    def ids(self) -> list[str]:  # type: ignore[override]
        """Name of every complex, in row order."""
        return self._texts("id")

    @property
    def checksums(self) -> list[str]:
        """SHA-256 of the structure file of every complex, in row order."""
        return self._texts("source_sha256")

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

    @cached_property
    def modalities(self) -> Indices:
        """Kind of interface of every complex [N], as an index into `keys.MODALITIES`; -1 if none of them."""
        each = (shard.read(["modality"]).column(0).to_numpy() for shard in self._shards)
        return np.concatenate([np.zeros(0, dtype=np.int64), *each]).astype(np.int64)

    def rows_of(self, split: str, *, own: bool) -> Indices:
        """Row numbers of train, valid or test, by the split column.

        own: the data set was named for this split, so that all its rows belong to it if it has no splits at all.
        """
        splits = np.array([name or "" for name in self.splits], dtype=object)
        return np.arange(len(self)) if own and not any(splits) else np.flatnonzero(splits == split)

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


class Mixture(Complexes):
    """Several data sets as one: the rows of the first, then those of the second, and so on.

    It answers whatever a `Dataset` answers. sources [N] tells which set a row is from. Raises DataError if the
    sets were built with different vocabularies, cutoffs or rules.
    """

    def __init__(self, sets: Sequence[Dataset]) -> None:
        self.sets = tuple(sets)
        self.name = " + ".join(one.name for one in sets)
        for one in sets[1:]:
            if one.manifest["vocabulary"] != sets[0].manifest["vocabulary"]:
                raise DataError(
                    f"{one.name}: its vocabulary differs from that of {sets[0].name}; build both with the same"
                )
            if found := one.origin.others(sets[0].origin):
                raise DataError(f"{one.name}: {'; '.join(found)} in {sets[0].name}; build both alike")
        self.manifest, self.origin = sets[0].manifest, sets[0].origin
        self.fragments, self.block_types = sets[0].fragments, sets[0].block_types
        self._ends = np.cumsum([0, *(len(one) for one in sets)])

    def __len__(self) -> int:
        """Number of complexes in all sets."""
        return int(self._ends[-1])

    def _read(self, row: int) -> Record:
        which = int(np.searchsorted(self._ends, row, side="right")) - 1
        return self.sets[which]._read(row - int(self._ends[which]))

    @property
    def sources(self) -> Indices:
        """Which set every row is from [N], counted from 0."""
        return np.repeat(np.arange(len(self.sets)), np.diff(self._ends))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the fingerprints of the sets, in order."""
        return hashlib.sha256("".join(one.fingerprint for one in self.sets).encode()).hexdigest()

    @cached_property
    def ids(self) -> list[str]:  # type: ignore[override]
        """Name of every complex, in row order; names may recur in another set."""
        return [name for one in self.sets for name in one.ids]

    @property
    def checksums(self) -> list[str]:
        """SHA-256 of the structure file of every complex; see `Dataset.checksums`."""
        return [checksum for one in self.sets for checksum in one.checksums]

    @property
    def splits(self) -> list[str | None]:
        """The split column of all sets."""
        return [split for one in self.sets for split in one.splits]

    @cached_property
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
            raise DataError(*missing)
        return found

    def rows_of(self, split: str, *, own: bool) -> Indices:
        """Row numbers of train, valid or test: those of every set; see `Dataset.rows_of`."""
        rows = [one.rows_of(split, own=own) + end for one, end in zip(self.sets, self._ends, strict=False)]
        return np.concatenate(rows)

    def block_counts(self, input: str = "complex") -> Indices:
        """Blocks per complex [N]; see `Dataset.block_counts`."""
        return np.concatenate([one.block_counts(input) for one in self.sets])


def open_dataset(path: str | Path) -> Dataset:
    """Open a folder that `atomica-prep build-graphs` wrote, or `demo://NAME`, which comes with the package.

    Raises DataError if there is none, or if its schema or vocabulary is one this version does not know;
    ShardError if a shard is missing, damaged, or differs from the manifest in size or rows.
    """
    name = str(path)
    folder = _demo(name) if name.startswith(DEMO) else Path(path).expanduser()
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
    root = Path(__file__).parents[1] / "demo"
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
