"""Pockets from scores that a program wrote into structures: an index of the residues above a cutoff.

PeSTo and other predictors of binding sites write a score per residue into the column of B-factors.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from atomica.errors import DataError
from atomica.files import write_text

__all__ = ["FORMATS", "PACKED", "Pocket", "index_by_score", "pocket_by_score", "structure_files"]


FORMATS = (".pdb", ".ent", ".cif", ".mmcif", ".bcif")
PACKED = {".gz": "gzip", ".zst": "zstd"}
"""How a packed file ends → what pyarrow calls the packing."""


def structure_files(path: str | Path) -> Iterator[Path]:
    """The structure files at a path: itself, or all in a folder and the folders in it, in order of their names."""
    where = Path(path)
    files = sorted(where.rglob("*")) if where.is_dir() else [where]
    yield from (file for file in files if file.is_file() and _kind(file)[1] in FORMATS)


def _kind(path: Path) -> tuple[str, str, str | None]:
    """Name without suffixes, suffix of the format, and packing, of a file name."""
    name, packing = path.name, PACKED.get(path.suffix.lower())
    if packing is not None:
        name = name[: -len(path.suffix)]
    stem, suffix = os.path.splitext(name)
    return stem, suffix.lower(), packing


class Pocket(NamedTuple):
    """chains: those with residues in the pocket; residues: `CHAIN:NUMBER` with insertion codes, in file order."""

    chains: tuple[str, ...]
    residues: tuple[str, ...]


def pocket_by_score(path: str | Path, above: float) -> Pocket:
    """The residues (amino acids and nucleotides) of which an atom has a B-factor above a cutoff.

    The first model, every alternate location. Raises DataError if the file cannot be read.
    """
    import numpy as np
    from biotite import structure

    atoms = _read(Path(path))
    polymer = structure.filter_amino_acids(atoms) | structure.filter_nucleotides(atoms)
    atoms = atoms[polymer & (np.asarray(atoms.b_factor) > above)]
    rows = zip(atoms.chain_id.tolist(), atoms.res_id.tolist(), atoms.ins_code.tolist(), strict=True)
    found = list(dict.fromkeys((chain, f"{chain}:{number}{icode.strip()}") for chain, number, icode in rows))
    return Pocket(tuple(dict.fromkeys(chain for chain, _ in found)), tuple(name for _, name in found))


def _read(path: Path) -> Any:
    """All atoms of the first model with their B-factors, as a Biotite array."""
    import pyarrow as pa
    from biotite import InvalidFileError
    from biotite.structure.io import pdb, pdbx

    _, suffix, packing = _kind(path)
    options: dict[str, Any] = {"model": 1, "altloc": "all", "extra_fields": ["b_factor"]}
    try:
        with pa.input_stream(str(path), compression=packing) as stream:
            content = stream.read()
        if suffix == ".bcif":
            return pdbx.get_structure(pdbx.BinaryCIFFile.read(io.BytesIO(content)), **options)
        text = io.StringIO(content.decode("utf-8", "replace"))
        if suffix in (".cif", ".mmcif"):
            return pdbx.get_structure(pdbx.CIFFile.read(text), **options)
        return pdb.PDBFile.read(text).get_structure(**options)
    # Biotite has no base class for what it raises on damaged files.
    except (
        OSError,
        pa.ArrowException,
        InvalidFileError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
    ) as error:
        raise DataError(f"{path}: its B-factors cannot be read: {error}") from None


def index_by_score(
    paths: Sequence[str | Path], out: Path, *, above: float, least: int
) -> list[dict[str, Any]]:
    """Write an index of one pocket per structure file for `atomica-prep build-graphs`; gives what has none.

    paths: structure files and folders. above: as in `pocket_by_score`. least: residues that a pocket has at least.
    The result has the form of rows of a ledger of failures. Raises DataError if there is no structure file.
    """
    files = [file for path in paths for file in structure_files(path)]
    if not files:
        raise DataError(f"{', '.join(map(str, paths))}: no structure file there ({', '.join(FORMATS)})")
    rows: list[tuple[str, ...]] = []
    failures: list[dict[str, Any]] = []
    for file in files:
        name = _kind(file)[0]
        failure = {
            "row": None,
            "id": name,
            "file": str(file),
            "line": None,
            "column": None,
            "stage": "pocket",
        }
        try:
            pocket = pocket_by_score(file, above)
        except DataError as error:
            failures.append({**failure, "code": "Unreadable", "message": str(error)})
            continue
        if len(pocket.residues) < least:
            message = (
                f"{file}: {len(pocket.residues)} residues have a B-factor above {above:g}, fewer than {least}"
            )
            failures.append({**failure, "code": "NoPocket", "message": message})
            continue
        path = os.path.relpath(file, out.parent)
        rows.append((name, path, "_".join(pocket.chains), " ".join(pocket.residues)))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([("id", "path", "chain1", "residues"), *rows])
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, stream.getvalue())
    return failures
