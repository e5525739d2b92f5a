"""Reads every structure file of a folder with our readers, gemmi and Biotite, and counts where they differ.

    python tests/bench/correctness.py --data FOLDER

FOLDER is searched for PDB, mmCIF and BinaryCIF files. Compared are the atoms of the first model (water and hydrogen
included), of alternate locations the one with the highest occupancy, residue by residue. Biotite chooses them itself,
from gemmi's atoms they are chosen here. BinaryCIF is compared with Biotite alone. An atom is known by its name and
place (0.001 Å); deuterium counts as hydrogen. Listed is every file where ours differs from what the others agree on;
tests/parity/test_corpus.py names the reason for each.
"""

from __future__ import annotations

import argparse
import gzip
import io
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import biotite
import gemmi
import numpy as np

from atomica import _prep

SUFFIXES = (".pdb", ".ent", ".cif", ".bcif")
REFUSALS = (_prep.StructureError, biotite.InvalidFileError, RuntimeError, ValueError)
COLUMNS = ("element", "chain", "number", "insertion", "component")

Key = tuple[str, int, int, int]
"""Atom name and place in thousandths of an Å."""
Atom = tuple[int, str, int, str, str]
"""The COLUMNS of an atom."""


@dataclass
class Atoms:
    """Columns as a reader gives them; `altloc` is blank without one."""

    name: np.ndarray
    x: np.ndarray
    element: np.ndarray
    chain: np.ndarray
    number: np.ndarray
    insertion: np.ndarray
    component: np.ndarray

    def by_key(self) -> dict[Key, list[Atom]]:
        # Single precision first: Biotite keeps no more.
        place = np.round(self.x.astype(np.float32).astype(float) * 1000).astype(int).tolist()
        rows = zip(*(getattr(self, column).tolist() for column in COLUMNS), strict=True)
        found: dict[Key, list[Atom]] = defaultdict(list)
        for name, (x, y, z), row in zip(self.name.tolist(), place, rows, strict=True):
            found[name, x, y, z].append(row)
        return found


def name_of(path: Path) -> str:
    return path.name.removesuffix(".gz")


def ours(path: Path) -> Atoms:
    s = _prep.read_structure(path)
    return Atoms(s.atom_name, s.x, s.element.astype(int), s.chain, s.resnum, s.icode, s.resname)


def content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def for_others(path: Path) -> str:
    """The text; of a PDB file without what keeps the other readers from reading it to its end.

    Inner END records, legacy text where the charge belongs (then the element is left to the reader), and records
    whose name is in lower case.
    """
    text = content(path).decode("latin-1").replace("\r\n", "\n")
    if not name_of(path).endswith((".pdb", ".ent")):
        return text
    lines = []
    for line in text.split("\n"):
        record = line[:6].upper()
        if record.strip() == "END":
            continue
        if record in ("ATOM  ", "HETATM"):
            tail = line[66:80].ljust(14)
            charge = tail[12:].strip()
            odd = bool(charge) and not (
                len(charge) == 2 and {charge[0].isdigit(), charge[1].isdigit()} == {True, False}
            )
            line = record + (line[6:66].ljust(80) if odd or tail[6:10].strip() else line[6:80])
        lines.append(line)
    return "\n".join([*lines, "END", ""])


def number_of(symbol: str) -> int:
    return 1 if symbol.upper() in ("D", "T") else gemmi.Element(symbol).atomic_number


def by_gemmi(path: Path) -> Atoms:
    text = for_others(path)
    if name_of(path).endswith(".cif"):
        blocks = [block for block in gemmi.cif.read_string(text) if block.find_values("_atom_site.Cartn_x")]
        if not blocks:
            raise ValueError("no _atom_site")
        structure = gemmi.make_structure_from_block(blocks[0])
    else:
        structure = gemmi.read_pdb_string(text)
    if not structure:
        raise ValueError("no atoms")
    while len(structure) > 1:
        del structure[1]
    flat = gemmi.FlatStructure(structure)
    columns = {
        "name": flat.atom_names,
        "chain": flat.chain_ids,
        "component": flat.residue_names,
        "insertion": flat.icodes,
        "altloc": flat.altlocs,
    }
    texts = {name: as_text(column) for name, column in columns.items()}
    altloc = texts.pop("altloc")
    elements = np.asarray(flat.elements).astype(int)
    elements[elements > 118] = 1  # gemmi's deuterium
    atoms = Atoms(x=np.asarray(flat.pos), element=elements, number=np.asarray(flat.resnums), **texts)
    keep = chosen(atoms, altloc, np.asarray(flat.occ))
    return Atoms(**{name: column[keep] for name, column in vars(atoms).items()})


def as_text(letters: np.ndarray) -> np.ndarray:
    """Texts from gemmi's table of letters: one row for each, filled up with zeros."""
    letters = np.ascontiguousarray(letters.reshape(len(letters), -1)).view(np.uint8)
    return np.char.strip(letters.view(f"S{letters.shape[1]}")[:, 0].astype(str))


def chosen(atoms: Atoms, altloc: np.ndarray, occupancy: np.ndarray) -> np.ndarray:
    """Which atoms stay when each residue keeps its most occupied location: the rule, written a second time."""
    keep = np.ones(len(altloc), dtype=bool)
    places: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    for i, place in enumerate(zip(atoms.chain, atoms.number, atoms.insertion, strict=True)):
        places[place].append(i)
    for rows in places.values():
        letters = [str(altloc[i]) for i in rows if altloc[i]]
        if not letters:
            continue
        components = {str(atoms.component[i]) for i in rows}
        total: dict[str, float] = defaultdict(float)
        for i in rows:
            if altloc[i]:
                total[str(altloc[i])] += round(float(occupancy[i]), 4)
        count = Counter(letters) if len(components) > 1 else Counter(dict.fromkeys(letters, 1))
        best = max(total, key=lambda letter: round(total[letter] / count[letter], 6))
        component = next(str(atoms.component[i]) for i in rows if altloc[i] == best)
        for i in rows:
            keep[i] = altloc[i] in ("", best) and atoms.component[i] == component
    return keep


def by_biotite(path: Path) -> Atoms:
    warnings.simplefilter("ignore")  # it tells of every guessed element
    from biotite.structure.io.pdb import PDBFile
    from biotite.structure.io.pdbx import BinaryCIFFile, CIFFile, get_structure

    kind = name_of(path).rsplit(".", 1)[1]
    if kind == "bcif":
        array = get_structure(BinaryCIFFile.read(io.BytesIO(content(path))), model=1, altloc="occupancy")
    elif kind == "cif":
        array = get_structure(CIFFile.read(io.StringIO(for_others(path))), model=1, altloc="occupancy")
    else:
        array = PDBFile.read(io.StringIO(for_others(path))).get_structure(model=1, altloc="occupancy")
    elements = np.array([number_of(str(e)) for e in array.element], dtype=int)
    return Atoms(
        array.atom_name,
        np.asarray(array.coord),
        elements,
        array.chain_id,
        array.res_id,
        array.ins_code,
        array.res_name,
    )


@dataclass
class Comparison:
    """What came of one file, or of many: per column, how many atoms were compared and how the three stand."""

    same: Counter[str] = field(default_factory=Counter)
    """All agree."""
    ours_differs: Counter[str] = field(default_factory=Counter)
    """The others agree with one another, not with ours."""
    with_gemmi: Counter[str] = field(default_factory=Counter)
    with_biotite: Counter[str] = field(default_factory=Counter)
    alone: Counter[str] = field(default_factory=Counter)
    """All three differ."""
    examples: dict[str, str] = field(default_factory=dict)
    """Column → the first atom in which ours differs from what the others agree on."""

    def count(self, column: str, mine: object, first: object, second: object, what: object) -> None:
        if first == second:
            if mine == first:
                self.same[column] += 1
            else:
                self.ours_differs[column] += 1
                self.examples.setdefault(column, f"{what}: {mine}, not {first}")
        elif mine == first:
            self.with_gemmi[column] += 1
        elif mine == second:
            self.with_biotite[column] += 1
        else:
            self.alone[column] += 1

    def add(self, other: Comparison) -> None:
        for name in ("same", "ours_differs", "with_gemmi", "with_biotite", "alone"):
            getattr(self, name).update(getattr(other, name))


def compare(path: Path) -> tuple[Comparison, list[str]]:
    """The comparison, and what the readers refuse: "reader: reason"."""
    refused: list[str] = []
    tables: list[dict[Key, list[Atom]] | None] = []
    for name, read in (("ours", ours), ("gemmi", by_gemmi), ("biotite", by_biotite)):
        table = None
        if not (name == "gemmi" and name_of(path).endswith(".bcif")):
            try:
                table = read(path).by_key()
            except REFUSALS as error:
                refused.append(f"{name}: {type(error).__name__} {str(error)[:90]}")
        tables.append(table)
    result = Comparison()
    mine, *others = tables
    there = [table for table in others if table is not None]
    if mine is None or not there:
        return result, refused
    # A reader that refuses has no opinion; the other one's counts.
    first, second = there[0], there[-1]
    for key in mine.keys() | first.keys() | second.keys():
        counts = [len(table.get(key, ())) for table in (mine, first, second)]
        result.count("atom", *counts, key)
        if min(counts) == 0:
            continue
        rows = [sorted(table[key]) for table in (mine, first, second)]
        for i, column in enumerate(COLUMNS):
            result.count(column, *([row[i] for row in table] for table in rows), key)
    return result, refused


def structure_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if name_of(path).endswith(SUFFIXES))


def table(groups: dict[str, Comparison]) -> Iterable[str]:
    header = ("", "", "compared", "all agree", "only ours differs", "as gemmi", "as Biotite", "all differ")
    rows: list[Sequence[object]] = [header]
    for group, total in groups.items():
        for column in ("atom", *COLUMNS):
            counts = [
                c[column]
                for c in (total.same, total.ours_differs, total.with_gemmi, total.with_biotite, total.alone)
            ]
            rows.append((group, column, sum(counts), *counts))
            group = ""
    for row in rows:
        yield "".join(
            f"{row[0]:<8}{row[1]:<11}" if i == 0 else f"{text:>18}" for i, text in enumerate(row[1:])
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--verbose", action="store_true", help="also what another reader refuses or sees alone"
    )
    arguments = parser.parse_args()
    groups: dict[str, Comparison] = defaultdict(Comparison)
    files = structure_files(arguments.data)
    for path in files:
        comparison, refused = compare(path)
        groups[name_of(path).rsplit(".", 1)[1].replace("ent", "pdb")].add(comparison)
        for column, example in comparison.examples.items():
            print(f"{path.name}: {column} of {comparison.ours_differs[column]} atoms; {example}")
        for text in refused:
            if arguments.verbose or text.startswith("ours"):
                print(f"{path.name}: refused by {text}")
        if arguments.verbose:
            for who in ("with_gemmi", "with_biotite", "alone"):
                if found := dict(getattr(comparison, who)):
                    print(f"{path.name}: ours {who.replace('_', ' ')}: {found}")
    print(f"{len(files)} files")
    for line in table(groups):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
