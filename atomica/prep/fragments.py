"""Cutting small molecules into fragments of a principal-subgraph vocabulary (Kong et al. 2022).

Start with one piece per heavy atom. Among all pairs of bonded pieces take those whose union, written as canonical
SMILES, is the most frequent entry of the vocabulary, merge them, and repeat until no union is an entry.
Bonds come from the ligand's own file, else from the component dictionary that the `biotite` package carries, else
from a SMILES laid over the atoms, else, where the ligand's file gives all hydrogens, from RDKit's perception.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from atomica.errors import DataError

__all__ = [
    "Assembly",
    "Cutter",
    "Fragment",
    "Molecule",
    "UnionWriter",
    "Vocabulary",
    "component",
    "fragment",
    "read_vocabulary",
    "sensible",
]


FIRST_FRAGMENT_BLOCK = 150
"""Block types below are specials, residues and elements; fragments of several atoms follow in file order."""
SHIPPED = Path(__file__).parents[1] / "vocabularies"
"""Vocabularies that come with the package, found by name."""
_FIRST_ELEMENT_BLOCK = 32
_HYDROGENS = ("H", "D", "T")
_CHARGE = 4
"""Largest charge of a molecule that is tried where bond orders are perceived."""
_TRIES = 10_000
"""Combinations of valences that are tried for one charge."""
_AROMATIC = 4
"""Order of an aromatic bond, as a ligand's file gives it."""
ORGANIC = frozenset(["B", "Br", "C", "Cl", "F", "I", "N", "O", "P", "S", "Se", "Si"])
"""Elements with a fixed valence. Molecules with others (haem, chlorophyll) stay one block per atom, as in the
data that the released weights were trained on."""


@dataclass(frozen=True)
class Vocabulary:
    """A fragment vocabulary: entries (SMILES, atoms, frequency) in file order, and where it came from.

    `kekulize`: aromatic bonds are written as alternating single and double ones. `canonical`: every fragment has one
    SMILES; those of the released vocabularies now and then have two.
    """

    name: str
    sha256: str
    entries: tuple[tuple[str, int, int], ...]
    kekulize: bool = False
    canonical: bool = False

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

    `path` may also be the name of a vocabulary that comes with the package.
    Raises DataError naming file and line of what is wrong.

    >>> read_vocabulary("ccd_300").name
    'ccd_300'
    """
    file = Path(path)
    if not file.is_file():
        shipped = sorted(f.stem for f in SHIPPED.glob("*.tsv"))
        if str(path) not in shipped:
            raise DataError(
                f"{file}: no such vocabulary file; with the package come: {', '.join(shipped) or 'none'}"
            )
        file = SHIPPED / f"{path}.tsv"
    content = file.read_bytes()
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is not UTF-8 text: {error}") from None
    flags = {"kekulize": False, "canonical": False}
    entries, seen = [], set()
    for number, line in enumerate(lines, start=1):
        if number == 1 and line.startswith("{"):
            flags = {name: _flag(file, line, name) for name in flags}
            continue
        if not line.strip() or line.startswith("smiles\t"):
            continue
        fields = line.split("\t")
        if len(fields) != 3 or not fields[1].isdecimal() or not fields[2].isdecimal():
            raise DataError(f"{file}:{number}: expected SMILES, atom count, frequency; got {line!r}")
        if fields[0] in seen:
            raise DataError(f"{file}:{number}: {fields[0]} is listed twice")
        seen.add(fields[0])
        entries.append((fields[0], int(fields[1]), int(fields[2])))
    if not entries:
        raise DataError(f"{file}: no entries")
    return Vocabulary(file.stem, hashlib.sha256(content).hexdigest(), tuple(entries), **flags)


def _flag(file: Path, header: str, name: str) -> bool:
    """A flag of the header; false if it does not say."""
    try:
        value = json.loads(header).get(name, False)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:1: the header is not JSON: {error}") from None
    if not isinstance(value, bool):
        raise DataError(f"{file}:1: {name} is {value!r}; expected true or false")
    return value


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


def sensible(molecule: Molecule, *, kekulize: bool = False) -> Any:
    """An RDKit molecule with aromaticity perceived; None where the chemistry cannot be made sense of.

    Charges are those that the bonds imply: the vocabularies in use were mined from molecules without them.
    With `kekulize` aromatic bonds are alternating single and double ones.
    """
    from rdkit import Chem, rdBase

    if not set(molecule.elements) <= ORGANIC:
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
            if kekulize:
                Chem.Kekulize(candidate, clearAromaticFlags=True)
            return candidate
    return None


class UnionWriter:
    """Writes unions of pieces as SMILES, equal ones only once, whatever molecule they are met in.

    RDKit's SMILES of a part of a molecule depend on hydrogens that they do not show, and now and then on the order
    of the atoms (Cc or cC), so some parts have several; so it is in the released vocabularies. With `canonical` a part
    has one.
    """

    def __init__(self, *, canonical: bool = False) -> None:
        self.canonical = canonical
        self._atoms: dict[tuple[Any, ...], int] = {}
        self._numbers: dict[str, int] = {}
        self._unions: dict[bytes, int] = {}
        self._plain: dict[str, str] = {}
        """With `canonical`: SMILES with marks → SMILES."""
        self.texts: list[str] = []
        """SMILES by number."""

    def __len__(self) -> int:
        return len(self._unions)

    def kind(self, atom: Any) -> int:
        """A number for all that a SMILES depends on in an atom of an RDKit molecule."""
        kind: tuple[Any, ...] = (atom.GetAtomicNum(), atom.GetFormalCharge(), atom.GetIsAromatic())
        kind = (*kind, atom.GetNumExplicitHs())
        if not self.canonical:
            kind = (*kind, atom.GetNumImplicitHs())
        return self._atoms.setdefault(kind, len(self._atoms))

    def number(self, assembly: Assembly, atoms: list[int], bonds: list[int]) -> int:
        """Number of the SMILES of a part of a molecule; the text is in `texts`."""
        if not self.canonical:  # RDKit takes them in this order
            atoms, bonds = sorted(atoms), sorted(bonds)
        place = {atom: index for index, atom in enumerate(atoms)}
        key = array("H", [len(atoms), *(assembly.kinds[atom] for atom in atoms)])
        for bond in bonds:
            i, j, kind = assembly.bonds[bond]
            key.extend((place[i], place[j], kind))
        packed = key.tobytes()
        number = self._unions.get(packed)
        if number is None:
            text = self._one_smiles(key) if self.canonical else assembly.written(bonds)
            number = self._numbers.setdefault(text, len(self.texts))
            if number == len(self.texts):
                self.texts.append(text)
            self._unions[packed] = number
        return number

    def _one_smiles(self, key: array[int]) -> str:
        """The one SMILES of a part, whatever the order of its atoms."""
        from rdkit import Chem

        kinds = list(self._atoms)
        count = key[0]
        part = Chem.RWMol()
        for kind in key[1 : count + 1]:
            number, charge, aromatic, hydrogens = kinds[kind]
            atom = Chem.Atom(number)
            atom.SetFormalCharge(charge)
            atom.SetNoImplicit(True)
            # RDKit's ranks do not see aromaticity and bracketed hydrogens; as marks they count.
            atom.SetIsotope(1 + aromatic + 2 * hydrogens)
            part.AddAtom(atom)
        ends = key[count + 1 :]
        for i, j, bond in zip(ends[::3], ends[1::3], ends[2::3], strict=True):
            part.AddBond(i, j, Chem.BondType.values[bond])
        marked = Chem.MolToSmiles(part)
        if marked not in self._plain:
            self._plain[marked] = _without_marks(part)
        return self._plain[marked]


def _without_marks(part: Any) -> str:
    """The SMILES of a part that was just written with marks for aromaticity and bracketed hydrogens."""
    from rdkit import Chem

    order = list(part.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"])
    plain = Chem.RWMol(Chem.RenumberAtoms(part, order))
    for atom in plain.GetAtoms():
        mark = atom.GetIsotope() - 1
        atom.SetIsotope(0)
        atom.SetNoImplicit(False)
        atom.SetIsAromatic(bool(mark % 2))
        atom.SetNumExplicitHs(mark // 2)
    for bond in plain.GetBonds():
        bond.SetIsAromatic(bond.GetBondType() == Chem.BondType.AROMATIC)
    return str(Chem.MolToSmiles(plain))


class Assembly:
    """A molecule in pieces, at first its atoms: numbers of pieces count up, those of merged ones are gone.

    A canonical writer needs no RDKit molecule any more; then it is not kept.
    """

    __slots__ = ("_ends", "_inside", "_molecule", "_next", "_writer", "atoms", "bonds", "kinds", "piece_of")

    def __init__(self, built: Any, writer: UnionWriter) -> None:
        self._molecule = None if writer.canonical else built
        self._writer = writer
        count = built.GetNumAtoms()
        self.kinds = tuple(writer.kind(atom) for atom in built.GetAtoms())
        self.bonds = [
            (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), int(bond.GetBondType()))
            for bond in built.GetBonds()
        ]
        """Both atoms of each bond, and RDKit's number of its kind."""
        self.atoms: dict[int, list[int]] = {index: [index] for index in range(count)}
        """Piece → its atoms, in order of creation and of merging."""
        self.piece_of = list(range(count))
        self._inside: dict[int, list[int]] = {index: [] for index in range(count)}
        self._ends: list[list[int]] = [[] for _ in range(count)]
        for index, (i, j, _) in enumerate(self.bonds):
            self._ends[i].append(index)
            self._ends[j].append(index)
        self._next = count

    def neighbors(self, atom: int) -> Iterator[int]:
        """Bonded atoms, in the order of the bonds."""
        for bond in self._ends[atom]:
            i, j, _ = self.bonds[bond]
            yield j if i == atom else i

    def links(self, piece: int) -> dict[int, list[int]]:
        """Every piece that is bonded to this one, and the bonds between them."""
        found: dict[int, list[int]] = {}
        for atom in self.atoms[piece]:
            for bond in self._ends[atom]:
                i, j, _ = self.bonds[bond]
                owner = self.piece_of[j if i == atom else i]
                if owner != piece:
                    found.setdefault(owner, []).append(bond)
        return found

    def union(self, left: int, right: int, links: list[int]) -> int:
        """Number of the SMILES of two pieces together; the text is in the writer's `texts`."""
        atoms = self.atoms[left] + self.atoms[right]
        return self._writer.number(self, atoms, self._inside[left] + self._inside[right] + links)

    def merge(self, left: int, right: int, links: list[int]) -> int:
        """Make one piece of two and give its number."""
        number = self._next
        self._next += 1
        self.atoms[number] = self.atoms.pop(left) + self.atoms.pop(right)
        self._inside[number] = self._inside.pop(left) + self._inside.pop(right) + links
        for atom in self.atoms[number]:
            self.piece_of[atom] = number
        return number

    def written(self, bonds: list[int]) -> str:
        """RDKit's SMILES of some bonds and their atoms."""
        from rdkit import Chem

        return str(Chem.MolToSmiles(Chem.PathToSubmol(self._molecule, bonds)))


def fragment(
    molecule: Molecule, vocabulary: Vocabulary, writer: UnionWriter | None = None
) -> list[Fragment] | None:
    """Cut `molecule` into fragments; None if its chemistry cannot be made sense of.

    Every heavy atom is in exactly one fragment. All unions with the most frequent SMILES are merged in one round.
    A `writer` shared by many calls makes them faster, and changes nothing else.
    """
    built = sensible(molecule, kekulize=vocabulary.kekulize)
    if built is None:
        return None
    frequency = vocabulary.frequency
    writer = UnionWriter(canonical=vocabulary.canonical) if writer is None else writer
    # Pieces in order of creation; which of several equal unions is merged first follows from that order.
    pieces = Assembly(built, writer)
    texts = dict(enumerate(molecule.elements))
    known: dict[tuple[int, int], tuple[str, list[int]]] = {}
    while True:
        unions: dict[str, list[tuple[int, int]]] = {}
        for number, atoms in pieces.atoms.items():
            links: dict[int, list[int]] | None = None
            touching = {
                pieces.piece_of[other]
                for atom in atoms
                for other in pieces.neighbors(atom)
                if other < atom and pieces.piece_of[other] != number
            }
            # not sorted: among equal unions the original's choice follows the order of a set of small integers
            for other in touching:
                if (number, other) not in known:
                    links = links or pieces.links(number)
                    text = writer.texts[pieces.union(number, other, links[other])]
                    known[number, other] = (text, links[other])
                smiles = known[number, other][0]
                if smiles in frequency:
                    unions.setdefault(smiles, []).append((number, other))
        if not unions:
            break
        best = max(unions, key=lambda smiles: frequency[smiles])
        for left, right in unions[best]:
            if left in pieces.atoms and right in pieces.atoms:
                texts[pieces.merge(left, right, known[left, right][1])] = best
    return [Fragment(tuple(atoms), texts[number]) for number, atoms in pieces.atoms.items()]


class Cutter:
    """Cuts ligands for `atomica-prep build-graphs`: what `_prep.build` asks while it runs.

    >>> cutter = Cutter(read_vocabulary("ccd_300"))
    >>> cutter.cut("", ["C1", "C2", "O1"], [6, 6, 8], [(0, 1, 1), (1, 2, 1)])[0]
    'bonds'
    """

    REMEMBERED = 500_000
    """Unions kept in memory, about 300 bytes each."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._types = vocabulary.block_types
        self._components: dict[str, Molecule | None] = {}
        self._writer = UnionWriter(canonical=vocabulary.canonical)
        self.name = vocabulary.name
        self.sha256 = vocabulary.sha256
        self.entries = len(vocabulary.entries)
        self.block_types = FIRST_FRAGMENT_BLOCK + len(self._types)

    def cut(
        self,
        component: str,
        names: Sequence[str],
        elements: Sequence[int],
        bonds: Sequence[tuple[int, int, int]],
        *,
        hydrogens: Sequence[int] = (),
        near: Sequence[tuple[int, int, int]] = (),
        smiles: str | None = None,
        perceive: bool = False,
    ) -> tuple[str, list[tuple[int, list[int]]]]:
        """Where the bonds are from (bonds, components, smiles, perceived, atoms), and type and atoms of each fragment.

        `elements` are atomic numbers of the heavy atoms, `bonds` (i, j, order; 4 aromatic, 0 unknown) and
        `hydrogens` what the ligand's file says, `near` pairs of atoms close enough for a bond with their distance
        in 0.001 Å. With `perceive`, orders that nothing tells are found from `near` and `hydrogens`. No fragments
        with "atoms": every atom is a block of its own.
        Raises ValueError for a SMILES that is none.
        """
        from rdkit import Chem

        table = Chem.GetPeriodicTable()
        if not all(1 <= number <= 118 for number in elements):
            return "atoms", []
        symbols = tuple(table.GetElementSymbol(number) for number in elements)
        for source, found in (
            ("bonds", lambda: _of_file(symbols, bonds, hydrogens)),
            ("components", lambda: self._of_dictionary(component, names, symbols, near)),
            ("smiles", lambda: _of_smiles(smiles, symbols, near) if smiles else None),
            ("perceived", lambda: _perceived(symbols, near, hydrogens) if perceive else None),
        ):
            molecule = found()
            pieces = self._pieces(molecule) if molecule else None
            if pieces is not None:
                return source, pieces
        return "atoms", []

    def _pieces(self, molecule: Molecule) -> list[tuple[int, list[int]]] | None:
        """Block type of each fragment, and its atoms by place in `molecule.names`, which holds the asker's."""
        from rdkit import Chem

        if len(self._writer) > self.REMEMBERED:
            self._writer = UnionWriter(canonical=self._vocabulary.canonical)
        pieces = fragment(molecule, self._vocabulary, self._writer)
        if pieces is None:
            return None
        table = Chem.GetPeriodicTable()

        def kind(piece: Fragment) -> int:
            if len(piece.atoms) > 1:
                return self._types[piece.smiles]
            return _FIRST_ELEMENT_BLOCK + int(table.GetAtomicNumber(molecule.elements[piece.atoms[0]])) - 1

        return [(kind(piece), [int(molecule.names[atom]) for atom in piece.atoms]) for piece in pieces]

    def _of_dictionary(
        self, code: str, names: Sequence[str], symbols: tuple[str, ...], near: Sequence[tuple[int, int, int]]
    ) -> Molecule | None:
        """The component, its atoms named by their place among `names`; None if these are not its atoms.

        Atoms may be missing, as those that left when a sugar was bound. Then the others must be bonded as in the
        dictionary: atoms named C1, C2, … say little about what they are.
        """
        if code not in self._components:
            self._components[code] = component(code)
        known = self._components[code]
        place = {name: index for index, name in enumerate(names)}
        if known is None or len(place) < len(names) or not set(place) <= set(known.names):
            return None
        present = [i for i, name in enumerate(known.names) if name in place]
        if any(symbols[place[known.names[i]]] != known.elements[i] for i in present):
            return None
        here = {i: index for index, i in enumerate(present)}
        bonds = tuple((here[i], here[j], order) for i, j, order in known.bonds if i in here and j in here)
        places = [place[known.names[i]] for i in present]
        if len(present) < len(known.names):
            stated = {frozenset((places[i], places[j])) for i, j, _ in bonds}
            if stated != {frozenset((i, j)) for i, j, _ in near}:
                return None
        return Molecule(tuple(map(str, places)), tuple(known.elements[i] for i in present), bonds)


def _numbered(symbols: tuple[str, ...], bonds: Iterable[tuple[int, int, int]]) -> Molecule:
    """A molecule whose atoms are named by their places."""
    return Molecule(tuple(map(str, range(len(symbols)))), symbols, tuple(bonds))


def _of_file(
    symbols: tuple[str, ...], bonds: Sequence[tuple[int, int, int]], hydrogens: Sequence[int]
) -> Molecule | None:
    """The molecule that a ligand's own file describes; None where bonds or their orders are missing."""
    if not bonds or any(order not in (1, 2, 3, _AROMATIC) for _, _, order in bonds):
        return None
    unique = {(min(i, j), max(i, j)): order for i, j, order in bonds}
    plain: Sequence[tuple[int, int, int]] | None = [(i, j, order) for (i, j), order in unique.items()]
    if plain and any(order == _AROMATIC for _, _, order in plain):
        plain = _alternating(symbols, plain, hydrogens)
    return _numbered(symbols, plain) if plain else None


def _alternating(
    symbols: tuple[str, ...], bonds: Sequence[tuple[int, int, int]], hydrogens: Sequence[int]
) -> list[tuple[int, int, int]] | None:
    """Single and double bonds instead of aromatic ones; None if there is no way to place them.

    Files call bonds aromatic in rings, and MOL2 also in carboxylates, phosphates and guanidinium.
    """
    from rdkit import Chem, rdBase

    built = Chem.RWMol()
    for symbol in symbols:
        built.AddAtom(Chem.Atom(symbol))
    kinds = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
    for i, j, order in bonds:
        built.AddBond(i, j, kinds.get(order, Chem.BondType.AROMATIC))
    Chem.FastFindRings(built)
    _settle_chains(built)
    # RDKit has marked the atoms of all aromatic bonds; of those in chains the marks are to go.
    for atom in built.GetAtoms():
        atom.SetIsAromatic(any(b.GetBondType() == Chem.BondType.AROMATIC for b in atom.GetBonds()))
    nitrogens = [a.GetIdx() for a in built.GetAtoms() if a.GetIsAromatic() and a.GetSymbol() == "N"]
    for index in nitrogens:
        if hydrogens and hydrogens[index]:
            built.GetAtomWithIdx(index).SetNumExplicitHs(1)
    # Which nitrogens hold a hydrogen or a charge is not always said; few need one.
    with rdBase.BlockLogs():
        for count in (0, 1, 2):
            for chosen in combinations(nitrogens, count):
                candidate = Chem.RWMol(built)
                for index in chosen:
                    atom = candidate.GetAtomWithIdx(index)
                    if atom.GetDegree() + atom.GetNumExplicitHs() > 2:
                        atom.SetFormalCharge(1)
                    else:
                        atom.SetNumExplicitHs(1)
                try:
                    candidate.UpdatePropertyCache(strict=False)
                    Chem.Kekulize(candidate, clearAromaticFlags=True)
                except Chem.MolSanitizeException:
                    continue
                return [
                    (b.GetBeginAtomIdx(), b.GetEndAtomIdx(), int(b.GetBondTypeAsDouble()))
                    for b in candidate.GetBonds()
                ]
    return None


def _settle_chains(built: Any) -> None:
    """Outside of rings: of the aromatic bonds of a centre one is double (of sulfur two), the others single."""
    from rdkit import Chem

    open_bonds = [
        b for b in built.GetBonds() if b.GetBondType() == Chem.BondType.AROMATIC and not b.IsInRing()
    ]
    doubles: dict[int, int] = {}
    for bond in open_bonds:
        center = max((bond.GetBeginAtom(), bond.GetEndAtom()), key=lambda atom: atom.GetDegree())
        room = (2 if center.GetSymbol() == "S" else 1) - doubles.get(center.GetIdx(), 0)
        bond.SetBondType(Chem.BondType.DOUBLE if room > 0 else Chem.BondType.SINGLE)
        bond.SetIsAromatic(False)
        doubles[center.GetIdx()] = doubles.get(center.GetIdx(), 0) + 1


def _of_smiles(text: str, symbols: tuple[str, ...], near: Sequence[tuple[int, int, int]]) -> Molecule | None:
    """The molecule of a SMILES laid over the atoms by which of them are near; None where it does not fit.

    Of several ways the one with the shortest double and triple bonds is taken. Atoms may be missing.
    Raises ValueError if the text is no SMILES.
    """
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        parsed = Chem.MolFromSmiles(text)
    if parsed is None:
        raise ValueError(f"lig_smiles {text!r} is no SMILES; correct it in the index, or leave it empty")
    parts = Chem.GetMolFrags(parsed, asMols=True)
    if not parts:
        return None
    template = Chem.RemoveAllHs(max(parts, key=lambda part: part.GetNumHeavyAtoms()))
    Chem.Kekulize(template, clearAromaticFlags=True)
    stated = [
        (b.GetBeginAtomIdx(), b.GetEndAtomIdx(), int(b.GetBondTypeAsDouble())) for b in template.GetBonds()
    ]
    ours = _skeleton(symbols, near)
    theirs = _skeleton([atom.GetSymbol() for atom in template.GetAtoms()], stated)
    length = {frozenset((i, j)): distance for i, j, distance in near}
    ways: list[dict[int, int]]
    if ours.GetNumAtoms() >= theirs.GetNumAtoms():  # atom of the template → ours
        found = ours.GetSubstructMatches(theirs, uniquify=False, maxMatches=1000)
        ways = [dict(enumerate(match)) for match in found]
    else:
        found = theirs.GetSubstructMatches(ours, uniquify=False, maxMatches=1000)
        ways = [{at: index for index, at in enumerate(match)} for match in found]
    ways = [way for way in ways if len(way) == len(symbols)]
    if not ways:
        return None

    def laid(way: dict[int, int]) -> list[tuple[int, int, int]]:
        return [(way[i], way[j], order) for i, j, order in stated if i in way and j in way]

    def strain(way: dict[int, int]) -> int:
        return sum((order - 1) * length.get(frozenset((i, j)), 9999) for i, j, order in laid(way))

    return _numbered(symbols, laid(min(ways, key=strain)))


def _perceived(
    symbols: tuple[str, ...], near: Sequence[tuple[int, int, int]], hydrogens: Sequence[int]
) -> Molecule | None:
    """The molecule of which atoms and all hydrogens are known, its charge guessed; None where nothing is plausible.

    Of all charges the one that leaves the fewest atoms charged, and no carbon, is taken.
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem.rdDetermineBonds import DetermineBondOrders

    # Files of docking programs leave hydrogens of carbon out, and without them any bond may be double.
    whole = any(count for symbol, count in zip(symbols, hydrogens, strict=True) if symbol == "C")
    if not near or not whole or not set(symbols) <= ORGANIC:
        return None
    built = Chem.RWMol(_skeleton(symbols, near))
    for index, count in enumerate(hydrogens):
        for _ in range(count):
            built.AddBond(index, built.AddAtom(Chem.Atom("H")), Chem.BondType.SINGLE)
    for atom in built.GetAtoms():
        atom.SetNoImplicit(True)
    built.AddConformer(Chem.Conformer(built.GetNumAtoms()))  # asked for, not used
    electrons = sum(atom.GetAtomicNum() for atom in built.GetAtoms())
    ways: list[tuple[int, int, list[tuple[int, int, int]]]] = []
    with rdBase.BlockLogs():
        for charge in sorted(range(-_CHARGE, _CHARGE + 1), key=abs):
            if (electrons - charge) % 2:
                continue
            candidate = Chem.Mol(built)
            try:
                DetermineBondOrders(candidate, charge=charge, embedChiral=False, maxIterations=_TRIES)
                Chem.SanitizeMol(candidate)
                Chem.Kekulize(candidate, clearAromaticFlags=True)
            except (ValueError, RuntimeError):
                continue
            atoms = list(candidate.GetAtoms())
            charged = [atom.GetSymbol() for atom in atoms if atom.GetFormalCharge()]
            if "C" in charged or any(atom.GetNumRadicalElectrons() for atom in atoms):
                continue
            orders = [
                (b.GetBeginAtomIdx(), b.GetEndAtomIdx(), int(b.GetBondTypeAsDouble()))
                for b in candidate.GetBonds()
                if b.GetEndAtomIdx() < len(symbols)
            ]
            ways.append((len(charged), abs(charge), orders))
    return _numbered(symbols, min(ways, key=lambda way: way[:2])[2]) if ways else None


def _skeleton(symbols: Sequence[str], bonds: Iterable[tuple[int, int, int]]) -> Any:
    """An RDKit molecule of atoms and bonds that are all single."""
    from rdkit import Chem

    built = Chem.RWMol()
    for symbol in symbols:
        built.AddAtom(Chem.Atom(symbol))
    for i, j, _ in bonds:
        built.AddBond(i, j, Chem.BondType.SINGLE)
    Chem.FastFindRings(built)
    return built
