"""The structure readers against gemmi and Biotite: the same atoms at the same places, element by element.

`ATOMICA_ALL_FILES=1` compares every file instead of a sample.
"""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path

import gemmi
import numpy as np
import pytest

from atomica import _prep

SAMPLE = 20


def sample(files: list[Path]) -> list[Path]:
    files = sorted(files)
    return files if os.environ.get("ATOMICA_ALL_FILES") else files[:: max(1, len(files) // SAMPLE)][:SAMPLE]


@pytest.fixture(scope="module")
def structures(shared: Path) -> list[Path]:
    data = shared / "data"
    return sample(list((data / "entries").glob("*.pdb.gz"))) + sample(list((data / "bm5").glob("*.pdb.gz")))


def ours(path: Path) -> tuple[np.ndarray, np.ndarray]:
    columns = _prep.read_structure(str(path))
    return np.asarray(columns["element"], dtype=int), np.asarray(columns["x"])


def order(elements: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Rows sorted by place and element, so that only the sets of atoms matter."""
    rows = np.column_stack([np.round(x, 3), elements])
    return rows[np.lexsort(rows.T)]


def by_gemmi(path: Path) -> tuple[np.ndarray, np.ndarray, bool]:
    """Atoms of the first model; and whether any has an alternate location."""
    text = gzip.decompress(path.read_bytes()).decode("latin-1")
    if path.name.endswith(".cif.gz"):
        structure = gemmi.make_structure_from_block(gemmi.cif.read_string(text)[0])
    else:
        # Legacy text behind the temperature factors is no charge, and an inner END no end.
        lines = [
            line[:66].ljust(76) + element(line) if line[:6] in ("ATOM  ", "HETATM") else line
            for line in text.splitlines()
            if line.strip() != "END"
        ]
        structure = gemmi.read_pdb_string("\n".join(lines))
    atoms = [cra.atom for cra in structure[0].all()]
    elements = np.array([1 if a.element.name in ("D", "T") else a.element.atomic_number for a in atoms])
    x = np.array([a.pos.tolist() for a in atoms]).reshape(-1, 3)
    return elements, x, any(a.altloc != "\0" for a in atoms)


def element(line: str) -> str:
    symbol = line[76:78]
    return symbol if symbol.strip().isalpha() and not line[72:76].strip() else ""


def by_biotite(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Atoms of the first model, of alternate locations the one with the highest occupancy."""
    from biotite.structure.io.pdb import PDBFile

    text = gzip.decompress(path.read_bytes()).decode("latin-1")
    array = PDBFile.read(io.StringIO(text)).get_structure(model=1, altloc="occupancy")
    numbers = [1 if e in ("D", "T") else gemmi.Element(str(e)).atomic_number for e in array.element]
    return np.array(numbers), np.asarray(array.coord, dtype=float)


def test_atoms_agree_with_gemmi(structures):
    compared = 0
    for path in structures:
        elements, x, alternates = by_gemmi(path)
        if alternates:
            continue
        compared += 1
        mine = ours(path)
        assert len(mine[0]) == len(elements), path.name
        assert np.abs(order(*mine) - order(elements, x)).max() < 1e-3, path.name
    assert compared >= SAMPLE


def test_alternate_locations_agree_with_biotite(shared):
    compared = 0
    for path in sorted((shared / "data/entries").glob("*.pdb.gz")):
        elements, _, alternates = by_gemmi(path)
        if not alternates:
            continue
        compared += 1
        theirs = by_biotite(path)
        mine = ours(path)
        assert len(mine[0]) == len(theirs[0]) <= len(elements), path.name
        assert np.abs(order(*mine) - order(*theirs)).max() < 2e-3, path.name
        if compared == 12 and not os.environ.get("ATOMICA_ALL_FILES"):
            break
    assert compared >= 10


#: Pairs of files that differ in content, not only in format.
DIFFERENT = {
    "biopython__1LCD": "water is numbered anew in one",
    "biopython__a_structure": "nine atoms of a whole entry",
    "gemmi__HEM": "a component and its coordinates",
    "p2rank__2W83": "atoms are in another order in one",
    "pdbtbx__1ubq": "only one has hydrogens",
}


def test_both_formats_of_an_entry_agree(shared):
    """PDB and mmCIF of one entry, residue numbers and chains included."""
    folder = shared / "data/parser"
    pairs = [(p, p.with_name(p.name.replace(".pdb.gz", ".cif.gz"))) for p in sorted(folder.glob("*.pdb.gz"))]
    pairs = [(p, c) for p, c in pairs if c.exists() and p.name.split(".")[0] not in DIFFERENT]
    assert len(pairs) >= 10
    for pdb, cif in pairs:
        a, b = _prep.read_structure(str(pdb)), _prep.read_structure(str(cif))
        for field in ("chain", "resname", "icode", "atom_name"):
            assert a[field] == b[field], (pdb.name, field)
        # Whether a modified residue is a hetero group is another matter between the formats.
        for field in ("resnum", "element"):
            assert np.array_equal(a[field], b[field]), (pdb.name, field)
        assert np.abs(a["x"] - b["x"]).max() < 1e-3, pdb.name


#: Files with nothing but headers, components, small crystals or reflections in them.
WITHOUT_ATOMS = {
    "biopython__1MOM_min.cif.gz",
    "biopython__4Q9R_min.cif.gz",
    "biopython__d256ba_.ent.gz",
    "biopython__header.pdb.gz",
    "biotite__TYR.cif.gz",
    "gemmi__1011031.cif.gz",
    "gemmi__2013551.cif.gz",
    "gemmi__5moo_header.pdb.gz",
    "gemmi__HEM.cif.gz",
    "gemmi__SO3.cif.gz",
    "gemmi__eol-test.cif.gz",
    "gemmi__misc.cif.gz",
    "gemmi__r5wkdsf.cif.gz",
    "pdbeccdutils__UNL.cif.gz",
}


def test_no_file_breaks_the_readers(shared):
    """Every file is read, or refused with its name and, where there is one, the line."""
    read, refused = 0, {}
    for path in sorted((shared / "data/parser").iterdir()):
        if path.name.split(".gz")[0].rsplit(".", 1)[-1] not in ("pdb", "ent", "cif"):
            continue
        try:
            columns = _prep.read_structure(str(path))
        except _prep.StructureError as error:
            refused[path.name] = error.code if path.name in str(error) else str(error)
        else:
            read += 1
            assert len(columns["chain"]) == len(columns["x"]) > 0
            assert np.isfinite(columns["x"]).all()
    assert read >= 120
    assert refused == dict.fromkeys(WITHOUT_ATOMS, "NoAtoms")
