"""Cutting small molecules into fragments of a principal-subgraph vocabulary (Kong et al. 2022).

Start with one piece per heavy atom. Among all pairs of bonded pieces take those whose union, written as canonical
SMILES, is the most frequent entry of the vocabulary, merge them, and repeat until no union is an entry.
Chemistry comes from the component dictionary that the `biotite` package carries, by component id.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atomica.errors import DataError

__all__ = [
    "Fragment",
    "Molecule",
    "Vocabulary",
    "component",
    "fragment",
    "fragment_table",
    "read_vocabulary",
]

FIRST_FRAGMENT_BLOCK = 150
"""Block types below are specials, residues and elements; fragments of several atoms follow in file order."""
_FIRST_ELEMENT_BLOCK = 32
_HYDROGENS = ("H", "D", "T")
_ORGANIC = frozenset(["B", "Br", "C", "Cl", "F", "I", "N", "O", "P", "S", "Se", "Si"])
"""Elements with a fixed valence. Molecules with others (haem, chlorophyll) stay one block per atom, as in the
data that the released weights were trained on."""


@dataclass(frozen=True)
class Vocabulary:
    """A fragment vocabulary: entries (SMILES, atoms, frequency) in file order, and where it came from."""

    name: str
    sha256: str
    entries: tuple[tuple[str, int, int], ...]

    @property
    def frequency(self) -> dict[str, int]:
        """SMILES → frequency, all entries."""
        return {smiles: count for smiles, _, count in self.entries}

    @property
    def block_types(self) -> dict[str, int]:
        """SMILES → block type, for entries of more than one atom; single atoms are element blocks."""
        large = [smiles for smiles, atoms, _ in self.entries if atoms > 1]
        return {smiles: FIRST_FRAGMENT_BLOCK + index for index, smiles in enumerate(large)}


@dataclass(frozen=True)
class Molecule:
    """Heavy atoms of a small molecule: names, element symbols, bonds (i, j, order 1, 2 or 3)."""

    names: tuple[str, ...]
    elements: tuple[str, ...]
    bonds: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Fragment:
    """One piece of a molecule: atom indices in the order of merging, and canonical SMILES."""

    atoms: tuple[int, ...]
    smiles: str


def read_vocabulary(path: str | Path) -> Vocabulary:
    """Read a tab-separated vocabulary: optional JSON header line, then SMILES, atom count, frequency.

    Raises DataError naming file and line of what is wrong.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{file}: no such vocabulary file")
    content = file.read_bytes()
    entries, seen = [], set()
    for number, line in enumerate(content.decode("utf-8").splitlines(), start=1):
        if not line.strip() or (number == 1 and line.startswith("{")) or line.startswith("smiles\t"):
            continue
        fields = line.split("\t")
        if len(fields) != 3 or not fields[1].isdigit() or not fields[2].isdigit():
            raise DataError(f"{file}:{number}: expected SMILES, atom count, frequency; got {line!r}")
        if fields[0] in seen:
            raise DataError(f"{file}:{number}: {fields[0]} is listed twice")
        seen.add(fields[0])
        entries.append((fields[0], int(fields[1]), int(fields[2])))
    if not entries:
        raise DataError(f"{file}: no entries")
    return Vocabulary(file.stem, hashlib.sha256(content).hexdigest(), tuple(entries))


def component(code: str) -> Molecule | None:
    """Heavy atoms and bonds of a component of the dictionary, or None if it is not there or has no bonds.

    >>> component("MPD").names
    ('C1', 'C2', 'O2', 'CM', 'C3', 'C4', 'O4', 'C5')
    """
    from biotite.structure import BondType, info

    orders = {
        BondType.SINGLE: 1,
        BondType.DOUBLE: 2,
        BondType.TRIPLE: 3,
        BondType.AROMATIC_SINGLE: 1,
        BondType.AROMATIC_DOUBLE: 2,
        BondType.AROMATIC_TRIPLE: 3,
        BondType.COORDINATION: 1,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # coordinates that the dictionary lacks are not needed here
            atoms = info.residue(code, allow_missing_coord=True)
    except KeyError:
        return None
    heavy = [i for i, element in enumerate(atoms.element) if element.upper() not in _HYDROGENS]
    position = {index: new for new, index in enumerate(heavy)}
    bonds = []
    for i, j, kind in atoms.bonds.as_array():
        if int(i) in position and int(j) in position:
            order = orders.get(BondType(int(kind)))
            if order is None:
                return None
            bonds.append((position[int(i)], position[int(j)], order))
    return Molecule(
        tuple(str(atoms.atom_name[i]) for i in heavy),
        tuple(str(atoms.element[i]).capitalize() for i in heavy),
        tuple(bonds),
    )


def _rdkit_molecule(molecule: Molecule) -> Any:
    """An RDKit molecule with aromaticity perceived; None where the chemistry cannot be made sense of.

    Charges are those that the bonds imply: the vocabularies in use were mined from molecules without them.
    """
    from rdkit import Chem, rdBase

    if not set(molecule.elements) <= _ORGANIC:
        return None
    orders = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
    built = Chem.RWMol()
    for element in molecule.elements:
        built.AddAtom(Chem.Atom(element))
    for i, j, order in molecule.bonds:
        built.AddBond(i, j, orders[order])
    table = Chem.GetPeriodicTable()
    with rdBase.BlockLogs():  # failures are an outcome here, not news
        for charged in (False, True):
            candidate = Chem.RWMol(built)
            if charged:  # a quaternary nitrogen and the like
                candidate.UpdatePropertyCache(strict=False)
                for atom in candidate.GetAtoms():
                    used = int(sum(bond.GetBondTypeAsDouble() for bond in atom.GetBonds()))
                    atom.SetFormalCharge(max(0, used - max(table.GetValenceList(atom.GetAtomicNum()))))
            try:
                Chem.SanitizeMol(candidate)
            except Chem.MolSanitizeException:
                continue
            return candidate
    return None


def fragment(molecule: Molecule, vocabulary: Vocabulary) -> list[Fragment] | None:
    """Cut `molecule` into fragments; None if its chemistry cannot be made sense of.

    Every heavy atom is in exactly one fragment. All unions with the most frequent SMILES are merged in one round.
    """
    from rdkit import Chem

    built = _rdkit_molecule(molecule)
    if built is None:
        return None
    frequency = vocabulary.frequency
    neighbors: list[list[int]] = [[] for _ in molecule.elements]
    for i, j, _ in molecule.bonds:
        neighbors[max(i, j)].append(min(i, j))
    written: dict[frozenset[int], str] = {}

    def smiles_of(atoms: Sequence[int]) -> str:
        key = frozenset(atoms)
        if key not in written:
            if len(key) == 1:
                written[key] = molecule.elements[atoms[0]]
            else:
                inside = [
                    b.GetIdx() for b in built.GetBonds() if {b.GetBeginAtomIdx(), b.GetEndAtomIdx()} <= key
                ]
                written[key] = Chem.MolToSmiles(Chem.PathToSubmol(built, inside))
        return written[key]

    # Pieces in order of creation; which of several equal unions is merged first follows from that order.
    pieces: dict[int, list[int]] = {index: [index] for index in range(len(molecule.elements))}
    piece_of = list(pieces)
    next_number = len(pieces)
    while True:
        unions: dict[str, list[tuple[int, int]]] = {}
        for number, atoms in pieces.items():
            touching = {
                piece_of[other] for atom in atoms for other in neighbors[atom] if piece_of[other] != number
            }
            # not sorted: among equal unions the original's choice follows the order of a set of small integers
            for other in touching:
                smiles = smiles_of(atoms + pieces[other])
                if smiles in frequency:
                    unions.setdefault(smiles, []).append((number, other))
        if not unions:
            break
        best = max(unions, key=lambda smiles: frequency[smiles])
        for left, right in unions[best]:
            if left in pieces and right in pieces:
                merged = pieces.pop(left) + pieces.pop(right)
                pieces[next_number] = merged
                for atom in merged:
                    piece_of[atom] = next_number
                next_number += 1
    return [Fragment(tuple(atoms), smiles_of(atoms)) for atoms in pieces.values()]


def fragment_table(codes: Iterable[str], vocabulary: Vocabulary) -> dict[str, Any]:
    """The table that `atomica-prep build-graphs --fragment-table` reads, for the given component ids.

    Components that are not in the dictionary or cannot be cut are left out: they stay one block per atom.
    """
    from rdkit import Chem

    table = Chem.GetPeriodicTable()
    types = vocabulary.block_types
    components: dict[str, list[dict[str, Any]]] = {}
    for code in sorted(set(codes)):
        molecule = component(code)
        if molecule is None or len(molecule.names) < 2:
            continue
        pieces = fragment(molecule, vocabulary)
        if pieces is None:
            continue
        rows = []
        for piece in pieces:
            if len(piece.atoms) == 1:
                number = table.GetAtomicNumber(molecule.elements[piece.atoms[0]])
                block_type = _FIRST_ELEMENT_BLOCK + number - 1
            else:
                block_type = types[piece.smiles]
            rows.append({"block_type": block_type, "atoms": [molecule.names[i] for i in piece.atoms]})
        components[code] = rows
    return {
        "vocabulary": {
            "name": vocabulary.name,
            "sha256": vocabulary.sha256,
            "entries": len(vocabulary.entries),
            "block_types": FIRST_FRAGMENT_BLOCK + len(types),
        },
        "components": components,
    }


def write_table(table: Mapping[str, Any], path: Path) -> None:
    """Write a fragment table as JSON, sorted, so that equal tables are equal files."""
    path.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
