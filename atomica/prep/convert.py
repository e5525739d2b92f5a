"""`atomica-prep convert`: the original's processed data sets (`.jsonl.gz`, `.jsonl`, `.pkl`) become shards.

A pickle is read by an unpickler that knows plain containers, numbers, texts and NumPy arrays of numbers, and refuses
everything else before it is made, so that no code of the file runs.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from atomica._prep import VERSION, atom_symbols, block_symbols, nearest
from atomica.data.dataset import BASE_ATOMS, BASE_BLOCKS
from atomica.data.shards import arrow_type
from atomica.errors import AtomicaError, DataError
from atomica.files import DONE, SOME_FAILED, USAGE, write_bytes
from atomica.keys import GLOBAL_BLOCK, MODALITIES, RECORD_FIELDS, SCHEMA_VERSION
from atomica.prep.fragments import Vocabulary, read_vocabulary
from atomica.prep.unpickle import items_of

__all__ = ["convert", "main"]


SHARD_ROWS = 1024
POSITION_CODES = ("", "", "", "", "A", "B", "G", "D", "E", "Z", "H", "XT", "P", "", "'")
"""The original's codes of places in a residue, by number; the element in front makes an atom's name without digits."""

Indices = npt.NDArray[np.int64]


# --------------------------------------------------------------------------------------------------- records


def _integers(data: Mapping[str, Any], name: str, below: int) -> Indices:
    if name not in data:
        raise DataError(f"lacks {name}")
    values = np.asarray(data[name])
    if values.ndim != 1 or not (np.issubdtype(values.dtype, np.integer) and values.size):
        raise DataError(f"{name}: expected a list of whole numbers, got {values.dtype} {values.shape}")
    if values.min() < 0 or values.max() >= below:
        raise DataError(
            f"{name}: holds {int(values.min())} to {int(values.max())}, expected 0 to {below - 1}"
        )
    return values.astype(np.int64)


def _coordinates(data: Mapping[str, Any], atoms: int) -> npt.NDArray[np.float32]:
    if "X" not in data:
        raise DataError("lacks X")
    try:
        found = np.asarray(data["X"], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"X: not numbers ({error})") from None
    if found.size != 3 * atoms or found.shape[0] != atoms:
        raise DataError(f"X: has shape {found.shape}, expected 3 coordinates for each of {atoms} atoms")
    values: npt.NDArray[np.float32] = found.reshape(atoms, 3).astype(np.float32)
    if not np.isfinite(values).all():
        raise DataError("X: holds coordinates that are not finite")
    return values


def _residue(text: Any) -> tuple[str, int, str]:
    """Chain, number and insertion code of the original's name of a residue.

    >>> _residue("A_52"), _residue("B_-3A")
    (('A', 52, ''), ('B', -3, 'A'))
    """
    found = re.fullmatch(r"(.*)_(-?\d+)([^\d_]?)", str(text))
    if found is None:
        raise DataError(f"block_to_pdb_indexes: {text!r} is not of the form CHAIN_NUMBER")
    return found[1], int(found[2]), found[3].strip()


def _near(
    positions: npt.NDArray[np.float32], segments: Indices, ordinary: npt.NDArray[np.bool_], k: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    whole = np.zeros(len(segments), dtype=np.int64)
    return nearest(np.ascontiguousarray(positions), whole, segments.astype(np.uint8), ordinary, k)


def _labels(item: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, str]:
    affinity = item.get("affinity")
    label = item.get("label", data.get("label"))
    if label is None and isinstance(affinity, Mapping):
        label = affinity.get("neglog_aff")
    return {} if label is None else {"label": str(label)}


def _modality(kind: Any) -> int:
    """Index of a kind of interface, given by name or index; -1 for none."""
    if isinstance(kind, int) and 0 <= kind < len(MODALITIES):
        return kind
    return MODALITIES.index(kind) if isinstance(kind, str) and kind in MODALITIES else -1


def record_of(
    item: Any, names: Sequence[str], neighbors: int, split: str | None, source: str
) -> dict[str, Any]:
    """The fields of a record, by name, of one of the original's items.

    names: of all block types. Raises DataError saying what is wrong with the item. The original keeps no bonds, so
    that a record has no rotatable ones.
    """
    if not isinstance(item, Mapping) or "id" not in item:
        raise DataError("is no complex: expected a table with id and data")
    data = item.get("data", item)
    if not isinstance(data, Mapping):
        raise DataError("data is no table")
    types = _integers(data, "B", len(names))
    lengths = _integers(data, "block_lengths", 1 << 31)
    segments = _integers(data, "segment_ids", 2)
    atom_types = _integers(data, "A", BASE_ATOMS)
    if not len(types) == len(lengths) == len(segments):
        raise DataError(
            f"B, block_lengths and segment_ids have {len(types)}, {len(lengths)}, {len(segments)} entries"
        )
    if (lengths < 1).any() or int(lengths.sum()) != len(atom_types):
        raise DataError(f"block_lengths must be positive and add up to the {len(atom_types)} atoms of A")
    for segment in np.unique(segments):
        if types[int(np.flatnonzero(segments == segment)[0])] != GLOBAL_BLOCK:
            raise DataError(f"segment {segment} does not begin with a global block")
    positions = _coordinates(data, len(atom_types))
    of_atom = np.repeat(np.arange(len(types)), lengths)
    first = np.cumsum(lengths) - lengths
    centres = (np.add.reduceat(positions.astype(np.float64), first, axis=0) / lengths[:, None]).astype(
        np.float32
    )
    ordinary = types != GLOBAL_BLOCK
    atom_intra, atom_inter = _near(positions, segments[of_atom], ordinary[of_atom], neighbors)
    block_intra, block_inter = _near(centres, segments, ordinary, neighbors)
    chains, numbers, icodes = [""] * len(types), np.zeros(len(types), np.int32), [""] * len(types)
    for block, text in dict(item.get("block_to_pdb_indexes") or {}).items():
        index = int(block)
        if not 0 <= index < len(types):
            raise DataError(f"block_to_pdb_indexes: there is no block {block}")
        chains[index], numbers[index], icodes[index] = _residue(text)
    elements = atom_symbols()
    codes = _integers(data, "atom_positions", len(POSITION_CODES)) if "atom_positions" in data else None
    if codes is not None and len(codes) != len(atom_types):
        codes = None  # the original does not shorten this list when it masks blocks
    none = np.zeros(0)
    return {
        "id": str(item["id"]),
        "modality": _modality(item.get("modality")),
        "split": split,
        "labels": _labels(item, data),
        "metadata": {},
        "block_types": types,
        "block_lengths": lengths,
        "segment_ids": segments,
        "atom_types": atom_types,
        "positions": positions,
        "atom_intra": atom_intra.reshape(-1),
        "atom_inter": atom_inter.reshape(-1),
        "block_intra": block_intra.reshape(-1),
        "block_inter": block_inter.reshape(-1),
        **dict.fromkeys(("torsion_fixed", "torsion_moving", "torsion_sizes", "torsion_atoms"), none),
        **dict.fromkeys(("bond_first", "bond_second", "bond_orders"), none),
        "block_chains": chains,
        "block_resnums": numbers,
        "block_icodes": icodes,
        "block_components": ["" if t == GLOBAL_BLOCK else names[t] for t in types],
        "atom_names": [
            ""
            if not ordinary[block]
            else elements[atom].upper() + ("" if codes is None else POSITION_CODES[codes[i]])
            for i, (atom, block) in enumerate(zip(atom_types.tolist(), of_atom.tolist(), strict=True))
        ],
        "source_path": source,
        "source_sha256": "",
        "ligand_chemistry": "none",
    }


# ---------------------------------------------------------------------------------------------------- shards


def _column(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Array:
    field = next(field for field in RECORD_FIELDS if field.name == name)
    kind = arrow_type(field)
    if not field.shape:
        values = [list(row[name].items()) if field.dtype.startswith("map") else row[name] for row in rows]
        return pa.array(values, kind)
    offsets = pa.array(np.cumsum([0, *(len(row[name]) for row in rows)]), pa.int32())
    if field.dtype == "utf8":
        flat = pa.array([text for row in rows for text in row[name]], pa.utf8())
    else:
        joined = np.concatenate([np.asarray(row[name]).reshape(-1) for row in rows]).astype(field.dtype)
        flat = pa.array(joined)
        if name == "positions":
            flat = pa.FixedSizeListArray.from_arrays(flat, 3)
    return pa.ListArray.from_arrays(offsets, flat)


def _shard(folder: Path, number: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Write one shard; gives its entry in the manifest."""
    table = pa.table({field.name: _column(field.name, rows) for field in RECORD_FIELDS})
    stream = io.BytesIO()
    with pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)
    content = stream.getvalue()
    name = f"shard-{number:05}.arrow"
    write_bytes(folder / name, content)
    return {
        "file": name,
        "rows": len(rows),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def convert(
    paths: Sequence[Path],
    out: Path,
    *,
    vocabulary: Vocabulary | None = None,
    neighbors: int = 8,
    split: str | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Convert files of the original into the data set `out`, a folder that is not there yet; gives the exit code.

    vocabulary: the fragments that the items were cut with. neighbors: how many to store. split: train, valid or test,
    for all of them. What cannot be converted is listed in failures.jsonl. Raises DataError if a file as a whole
    cannot be read.
    """
    names = block_symbols() + ([] if vocabulary is None else list(vocabulary.block_types))
    out.mkdir(parents=True)
    shards: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []
    seen: set[str] = set()
    counts = dict.fromkeys(("inputs", "complexes", "failures", "blocks", "atoms"), 0)
    for where, item, path in _all(paths):
        counts["inputs"] += 1
        try:
            if isinstance(item, DataError):
                raise item
            record = record_of(item, names, neighbors, split, path.name)
            if record["id"] in seen:
                raise DataError(f"a complex {record['id']!r} came before")
        except (DataError, TypeError, ValueError, OverflowError) as error:
            name = str(item.get("id", "")) if isinstance(item, Mapping) else ""
            failures.append(_failure(counts["inputs"], name, path, f"{where}: {error}"))
            continue
        seen.add(record["id"])
        counts["complexes"] += 1
        counts["blocks"] += len(record["block_types"])
        counts["atoms"] += len(record["atom_types"])
        waiting.append(record)
        if len(waiting) == SHARD_ROWS:
            shards.append(_shard(out, len(shards), waiting))
            waiting = []
    if waiting:
        shards.append(_shard(out, len(shards), waiting))
    counts["failures"] = len(failures)
    write_bytes(out / "failures.jsonl", "".join(json.dumps(row) + "\n" for row in failures).encode())
    manifest = _manifest(paths, vocabulary, names, neighbors, counts, shards)
    write_bytes(out / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())
    say(f"{counts['complexes']} complexes written to {out}, {len(failures)} failed")
    if failures:
        say(f"  {failures[0]['message']}" + (", …" if len(failures) > 1 else ""))
        say(f"  see {out / 'failures.jsonl'}")
    return SOME_FAILED if failures else DONE


def _all(paths: Iterable[Path]) -> Iterator[tuple[str, Any, Path]]:
    return ((where, item, path) for path in paths for where, item in items_of(path))


def _failure(row: int, name: str, path: Path, message: str) -> dict[str, Any]:
    found = {"row": row, "id": name, "file": str(path), "line": None, "column": None}
    return {**found, "stage": "convert", "code": "Item", "message": message}


def _manifest(
    paths: Sequence[Path],
    vocabulary: Vocabulary | None,
    names: Sequence[str],
    neighbors: int,
    counts: Mapping[str, int],
    shards: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    fragments = "none" if vocabulary is None else vocabulary.name
    return {
        "schema_version": SCHEMA_VERSION,
        "atomica_prep_version": VERSION,
        "options": {
            "cutoff": 0.0,
            "interface_rule": "reference",
            "neighbors": neighbors,
            "compression": "none",
            "shard_rows": SHARD_ROWS,
            "fragments": fragments,
            "strictness": "lenient",
            "converted": [path.name for path in paths],
        },
        "cutoff": 0.0,  # the files do not say with which one they were made
        "neighbors": neighbors,
        "vocabulary": {
            "blocks": len(names),
            "atoms": BASE_ATOMS,
            "fragments": fragments,
            "fragments_sha256": None if vocabulary is None else vocabulary.sha256,
            "fragment_entries": len(names) - BASE_BLOCKS,
        },
        "counts": dict(counts),
        "shards": list(shards),
    }


# ---------------------------------------------------------------------------------------------- command line


def main(arguments: Sequence[str]) -> int:
    """`atomica-prep convert`; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="atomica-prep convert",
        description="Turn the original's processed data sets into shards. Pickles are read without running their code.",
        epilog="example:\n  atomica-prep convert PP_test.jsonl.gz --split test --out pp_test\n\n"
        "exit codes: 0 all converted, 3 some items failed (see failures.jsonl), 2 wrong usage or an unreadable file",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help=".jsonl.gz, .jsonl, .pkl or .pkl.gz"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="folder of the data set, a new one"
    )
    parser.add_argument(
        "--fragments",
        metavar="NAME|FILE",
        default="none",
        help="vocabulary the ligands were cut with; default: none",
    )
    parser.add_argument(
        "--neighbors", type=int, default=8, metavar="K", help="nearest neighbours to store; default: 8"
    )
    parser.add_argument(
        "--split", choices=("train", "valid", "test"), help="split of all complexes; default: none"
    )
    given = parser.parse_args(list(arguments))
    try:
        if given.neighbors < 1:
            raise DataError("--neighbors must be at least 1")
        if given.out.exists():
            raise DataError(f"{given.out}: is there already; give another --out")
        missing = [str(path) for path in given.files if not path.is_file()]
        if missing:
            raise DataError(f"no such file: {', '.join(missing)}")
        vocabulary = None if given.fragments == "none" else read_vocabulary(given.fragments)
        return convert(
            given.files, given.out, vocabulary=vocabulary, neighbors=given.neighbors, split=given.split
        )
    except AtomicaError as error:
        print(f"atomica-prep: {error}", file=sys.stderr)
        return USAGE
