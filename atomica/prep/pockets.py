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

from atomica import _prep
from atomica.errors import DataError, StructureError
from atomica.files import write_text

__all__ = [
    "FORMATS",
    "MOLECULES",
    "PACKED",
    "Place",
    "Pocket",
    "index_by_score",
    "kind_of",
    "places",
    "pocket_by_score",
    "structure_files",
]


FORMATS = (".pdb", ".ent", ".cif", ".mmcif", ".bcif")
MOLECULES = (".sdf", ".sd", ".mol", ".mol2", ".pdb", ".ent", ".pdbqt")
PACKED = (".gz", ".zst")
"""How structure files end, those of molecules, and packed ones."""


def structure_files(path: str | Path, formats: Sequence[str] = FORMATS) -> Iterator[Path]:
    """The structure files at a path: itself, or all in a folder and the folders in it, in order of their names."""
    where = Path(path)
    files = sorted(where.rglob("*")) if where.is_dir() else [where]
    yield from (file for file in files if file.is_file() and kind_of(file)[1] in formats)


def kind_of(path: Path) -> tuple[str, str]:
    """Name without suffixes, and suffix of the format, of a file name.

    >>> kind_of(Path("a/1abc.PDB.gz")), kind_of(Path("notes"))
    (('1abc', '.pdb'), ('notes', ''))
    """
    name = path.name[: -len(path.suffix)] if path.suffix.lower() in PACKED else path.name
    stem, suffix = os.path.splitext(name)
    return stem, suffix.lower()


Place = tuple[str, int, str]
"""Where a residue is: chain, number, insertion code."""


def places(atoms: _prep.Structure) -> Iterator[Place]:
    """The place of the residue of every atom."""
    return zip(atoms.chain.tolist(), atoms.resnum.tolist(), atoms.icode.tolist(), strict=True)


def _quoted(chain: str, parting: str) -> str:
    """A chain id as an index writes it: in quotes where it holds what parts ids.

    >>> _quoted("A", "_"), _quoted("A_1", "_"), _quoted("E 1", " ")
    ('A', "'A_1'", "'E 1'")
    """
    plain = parting not in chain and not chain.startswith("'") and chain == chain.strip()
    return chain if plain else "'" + chain.replace("'", "''") + "'"


class Pocket(NamedTuple):
    """chains: those with residues in the pocket; residues: `CHAIN:NUMBER` with insertion codes, in file order."""

    chains: tuple[str, ...]
    residues: tuple[str, ...]


def pocket_by_score(path: str | Path, above: float) -> Pocket:
    """The residues (amino acids and nucleotides) of which an atom has a B-factor above a cutoff.

    The first model, every alternate location. Raises StructureError if the file cannot be read.
    """
    polymer = _prep.read_structure(path)
    inside = {place for place, kept in zip(places(polymer), polymer.polymer.tolist(), strict=True) if kept}
    sites = _prep.read_sites(path)
    high = (sites.first_model & (sites.b_factor > above)).tolist()
    found = [place for place, kept in zip(places(sites.atoms), high, strict=True) if kept and place in inside]
    rows = dict.fromkeys((chain, f"{_quoted(chain, ' ')}:{number}{icode}") for chain, number, icode in found)
    return Pocket(tuple(dict.fromkeys(chain for chain, _ in rows)), tuple(name for _, name in rows))


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
        name = kind_of(file)[0]
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
        except StructureError as error:
            failures.append({**failure, "code": "Unreadable", "message": str(error)})
            continue
        if len(pocket.residues) < least:
            message = (
                f"{file}: {len(pocket.residues)} residues have a B-factor above {above:g}, fewer than {least}"
            )
            failures.append({**failure, "code": "NoPocket", "message": message})
            continue
        path = os.path.relpath(file, out.parent)
        chains = "_".join(_quoted(chain, "_") for chain in pocket.chains)
        rows.append((name, path, chains, " ".join(pocket.residues)))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([("id", "path", "chain1", "residues"), *rows])
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, stream.getvalue())
    return failures
