"""Contacts between the partners of a complex, by kind, from heavy atoms alone.

Records have no hydrogens, no charges and, but for ligands of a file of their own, no bond orders, which what PLIP and
ProLIF do rests on; so the kinds are told by these rules, all of distances and angles between heavy atoms:

| kind | between | at most | and | after |
| --- | --- | --- | --- | --- |
| hydrogen bond | donor, acceptor | 3.5 Å | ≥ 90° at both, to every atom bonded to them | McDonald & Thornton 1994 |
| salt bridge | charged atoms of opposite sign | 4.0 Å | | Barlow & Thornton 1983 |
| hydrophobic | carbons bonded to carbon and sulfur alone | 4.0 Å | | PLIP, Salentin et al. 2015 |
| pi stacking | centres of aromatic rings | 5.5 Å | planes at ≤ 30° or ≥ 60°, offset ≤ 2 Å | McGaughey et al. 1998 |
| cation-pi | positive atom, centre of a ring | 6.0 Å | offset ≤ 2 Å | Gallivan & Dougherty 1999, PLIP |
| metal | metal ion; N, O or S | 3.0 Å | | Harding 2001, PLIP |

Which atoms give or take hydrogens, and carry a charge, is known by name for the 20 amino acids and the nucleotides.
Elsewhere every N and O with fewer than three neighbours may do both; positive are N with four neighbours and those of a
carbon with three N; negative are O bonded to nothing but a P or S, or a carbon that has two such. Aromatic rings
elsewhere are flat ones of five or six C, N, O, S. Atoms are bonded if nearer than their covalent radii (RDKit's) and
0.4 Å; what is bonded across the partners is no contact. A hydrogen bond within a salt bridge is both. Water is in no
record, so there are no bridges by it.

Shapes: A atoms, B blocks, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from atomica import _prep, keys
from atomica.data.record import Record
from atomica.evaluation.statistics import auroc, resamplings

__all__ = ["KINDS", "Contact", "agreement", "contacts"]


KINDS = ("hydrogen bond", "salt bridge", "hydrophobic", "pi stacking", "cation-pi", "metal")
HYDROGEN_BOND, SALT_BRIDGE, HYDROPHOBIC, RINGS, CATION_RING, METAL = 3.5, 4.0, 4.0, 5.5, 6.0, 3.0
"""Distances in Å up to which there is a contact of each kind."""
OFFSET = 2.0
"""Å between the centre of one ring and that of the other, or a cation, seen along the ring's normal."""
BOND_TOLERANCE = 0.4
FEWEST = 5
"""Complexes below which there is no interval."""
FLAT = 0.1
"""Å from its mean plane that an atom of an aromatic ring may be."""

_DONORS = {
    **{"ARG": "NE NH1 NH2", "ASN": "ND2", "GLN": "NE2", "HIS": "ND1 NE2", "LYS": "NZ", "SER": "OG"},
    **{"THR": "OG1", "TYR": "OH", "TRP": "NE1"},
    **{"A": "N6 O2'", "C": "N4 O2'", "G": "N1 N2 O2'", "U": "N3 O2'", "DA": "N6", "DC": "N4", "DG": "N1 N2"},
    "DT": "N3",
}
_ACCEPTORS = {
    **{"ASP": "OD1 OD2", "GLU": "OE1 OE2", "ASN": "OD1", "GLN": "OE1", "HIS": "ND1 NE2", "SER": "OG"},
    **{"THR": "OG1", "TYR": "OH"},
    **{"A": "N1 N3 N7", "C": "N3 O2", "G": "N3 N7 O6", "U": "O2 O4"},
    **{"DA": "N1 N3 N7", "DC": "N3 O2", "DG": "N3 N7 O6", "DT": "O2 O4"},
}
_POSITIVE = {"ARG": "NE NH1 NH2", "LYS": "NZ", "HIS": "ND1 NE2"}
_NEGATIVE = {"ASP": "OD1 OD2", "GLU": "OE1 OE2"}
_PHENYL = "CG CD1 CD2 CE1 CE2 CZ"
_SIX, _FIVE = "N1 C2 N3 C4 C5 C6", "C4 C5 N7 C8 N9"
_RINGS = {
    **{"PHE": (_PHENYL,), "TYR": (_PHENYL,), "HIS": ("CG ND1 CD2 CE1 NE2",)},
    "TRP": ("CG CD1 NE1 CE2 CD2", "CD2 CE2 CE3 CZ2 CZ3 CH2"),
    **dict.fromkeys(("A", "G", "DA", "DG"), (_SIX, _FIVE)),
    **dict.fromkeys(("C", "U", "DC", "DT"), (_SIX,)),
}
_AMINO_NAMES = "ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL"
_AMINO = frozenset(_AMINO_NAMES.split())
_BASES = frozenset(("A", "C", "G", "U", "DA", "DC", "DG", "DT"))
_NONMETAL_NAMES = "H B C N O F Si P S Cl Ge As Se Br Sb Te I At He Ne Ar Kr Xe Rn"
_NONMETALS = frozenset(_NONMETAL_NAMES.split())

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Contact(NamedTuple):
    """A contact. blocks: of segment 0 and of segment 1; atoms: what touches, names joined by "+"; distance in Å between
    ends: the places [3] of both, of a ring its centre."""

    kind: str
    blocks: tuple[int, int]
    atoms: tuple[str, str]
    distance: float
    ends: tuple[tuple[float, ...], tuple[float, ...]]


class _Ring(NamedTuple):
    """atoms: indices; centre, normal [3]."""

    atoms: Indices
    centre: Floats
    normal: Floats


def contacts(record: Record) -> list[Contact]:
    """The contacts between the partners of a complex: of each kind and pair of blocks the nearest, in order of blocks.

    record: whole, with both partners; one partner alone has none.

    >>> import atomica
    >>> data = atomica.open_dataset("demo://pockets")
    >>> sorted({contact.kind for contact in contacts(data[40])})
    ['hydrogen bond', 'hydrophobic', 'salt bridge']
    """
    if len(np.unique(record.segment_ids)) < 2:
        return []
    found: dict[tuple[str, int, int], Contact] = {}
    for contact in sorted(_all(_Atoms(record)), key=lambda one: one.distance):
        found.setdefault((contact.kind, *contact.blocks), contact)
    return [found[key] for key in sorted(found, key=lambda key: (key[1:], KINDS.index(key[0])))]


def agreement(
    rows: Indices, importance: Floats, kinds: Sequence[Sequence[str]], *, seed: int = 0, resamples: int = 1000
) -> dict[str, dict[str, float]]:
    """How well the importance of blocks tells which touch the partner: of contacts of any kind, and of each kind.

    rows [N]: the complex of each block; importance [N]: higher is more; kinds: of each block's contacts. For each kind
    the means over complexes that have blocks with and without one, with 95% intervals by resampling complexes if there
    are at least FEWEST: "P@k" (k: the blocks with a contact), "AUROC", and the "base rate" that P@k would be by chance.

    >>> found = agreement(np.zeros(4, dtype=int), np.array([4.0, 3, 2, 1]), [["metal"], [], ["metal"], []])
    >>> found["contacts: metal"]["P@k"], found["contacts: any"]["AUROC"]
    (0.5, 0.75)
    """
    found: dict[str, dict[str, float]] = {}
    for kind in ("any", *KINDS):
        touches = np.array([bool(own) if kind == "any" else kind in own for own in kinds], dtype=np.int64)
        each = []
        for row in np.unique(rows):
            own, values = touches[rows == row], importance[rows == row]
            count = int(own.sum())
            if 0 < count < len(own):
                first = np.argsort(-values, kind="stable")[:count]
                each.append((float(own[first].mean()), auroc(own, values), count / len(own)))
        if not each:
            continue
        table = np.array(each)
        drawn = [
            table[picked].mean(axis=0) for picked in resamplings(len(table), seed=seed, resamples=resamples)
        ]
        low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
        entry: dict[str, float] = {"complexes": len(table)}
        for index, name in enumerate(("P@k", "AUROC", "base rate")):
            entry[name] = round(float(table[:, index].mean()), 4)
            if len(table) >= FEWEST:
                entry |= {
                    f"{name} low": round(float(low[index]), 4),
                    f"{name} high": round(float(high[index]), 4),
                }
        found[f"contacts: {kind}"] = entry
    return found


class _Atoms:
    """What the atoms of a record are, by the rules."""

    def __init__(self, record: Record) -> None:
        sizes = record.block_lengths.astype(np.int64)
        self.block = np.repeat(np.arange(len(sizes)), sizes)
        self.segment = record.segment_ids[self.block]
        self.x = record.positions.astype(np.float64)
        self.names = list(record.atom_names)
        components = list(record.block_components)
        self.component = [components[block] for block in self.block.tolist()]
        symbols = _prep.atom_symbols()
        self.element = np.array([symbols[one].capitalize() for one in record.atom_types.tolist()])
        is_global = (record.block_types == keys.GLOBAL_BLOCK)[self.block]
        self.heavy = ~is_global & (self.element != "H")
        self.metal = self.heavy & ~np.isin(self.element, list(_NONMETALS))
        self.bonds = self._bonds()
        self.neighbours: list[list[int]] = [[] for _ in self.names]
        for first, second in self.bonds.tolist():
            self.neighbours[first].append(second)
            self.neighbours[second].append(first)
        self.known = np.array([one in _AMINO or one in _BASES for one in self.component])

    def near(self, cutoff: float) -> tuple[Indices, Indices]:
        """Pairs of atoms [P] of the two partners, of the first and of the second, within a distance."""
        first, second = (
            one.astype(np.int64) for one in _prep.pairs_within(self.x.astype(np.float32), cutoff)
        )
        kept = self.heavy[first] & self.heavy[second] & (self.segment[first] != self.segment[second])
        first, second = first[kept], second[kept]
        swap = self.segment[first] > self.segment[second]
        return np.where(swap, second, first), np.where(swap, first, second)

    def _bonds(self) -> Indices:
        first, second = (one.astype(np.int64) for one in _prep.pairs_within(self.x.astype(np.float32), 3.0))
        radius = np.array([_radii().get(one, 0.0) for one in self.element.tolist()])
        plain = self.heavy & ~self.metal
        distance = np.linalg.norm(self.x[first] - self.x[second], axis=1)
        bonded = plain[first] & plain[second] & (distance < radius[first] + radius[second] + BOND_TOLERANCE)
        return np.stack([first[bonded], second[bonded]], axis=1)

    @cached_property
    def degree(self) -> Indices:
        return np.array([len(one) for one in self.neighbours])

    def named(self, table: dict[str, str]) -> Flags:
        """Atoms that a table by component names."""
        of = {component: frozenset(names.split()) for component, names in table.items()}
        pairs = zip(self.component, self.names, strict=True)
        return np.array([name in of.get(component, ()) for component, name in pairs])

    def _backbone(self, *names: str) -> Flags:
        amino = np.array([one in _AMINO for one in self.component])
        return amino & np.isin(self.names, names)

    def _other(self) -> Flags:
        """N and O of components that no table knows, with a place for a hydrogen or a free pair."""
        return ~self.known & self.heavy & np.isin(self.element, ["N", "O"]) & (self.degree < 3)

    @cached_property
    def donors(self) -> Flags:
        proline = np.array([one == "PRO" for one in self.component])
        return self.named(_DONORS) | (self._backbone("N") & ~proline) | self._other()

    @cached_property
    def acceptors(self) -> Flags:
        base = np.array([one in _BASES for one in self.component])
        of_sugar = base & np.isin(self.names, ["OP1", "OP2", "OP3", "O1P", "O2P", "O2'", "O3'", "O4'", "O5'"])
        return self.named(_ACCEPTORS) | self._backbone("O", "OXT") | of_sugar | self._other()

    @cached_property
    def positive(self) -> Flags:
        found = self.named(_POSITIVE)
        for atom in np.flatnonzero(~self.known & (self.element == "N")).tolist():
            guanidine = any(
                self.element[one] == "C" and self._count(one, "N") == 3 for one in self.neighbours[atom]
            )
            found[atom] = self.degree[atom] == 4 or guanidine
        return found

    @cached_property
    def negative(self) -> Flags:
        found = self.named(_NEGATIVE)
        oxygen = (self.element == "O") & (self.degree == 1) & ~self._backbone("O")
        for atom in np.flatnonzero(oxygen & ~self.named({**_ACCEPTORS, **_DONORS})).tolist():
            (other,) = self.neighbours[atom]
            ends = sum(self.element[one] == "O" and self.degree[one] == 1 for one in self.neighbours[other])
            found[atom] = self.element[other] in ("P", "S") or (self.element[other] == "C" and ends == 2)
        return found

    def _count(self, atom: int, element: str) -> int:
        return sum(self.element[one] == element for one in self.neighbours[atom])

    @cached_property
    def greasy(self) -> Flags:
        alone = [all(self.element[one] in ("C", "S") for one in others) for others in self.neighbours]
        return (self.element == "C") & np.array(alone) & (self.degree > 0)

    @cached_property
    def rings(self) -> list[_Ring]:
        """The aromatic rings."""
        found = []
        for block in np.unique(self.block[self.known & self.heavy]).tolist():
            own = np.flatnonzero(self.block == block)
            place = {self.names[atom]: atom for atom in own.tolist()}
            for names in _RINGS.get(self.component[own[0]], ()):
                atoms = [place[name] for name in names.split() if name in place]
                if len(atoms) == len(names.split()):
                    found.append(self._ring(atoms)[0])
        return found + [ring for ring, off in self._other_rings() if off <= FLAT]

    def _other_rings(self) -> Iterator[tuple[_Ring, float]]:
        import networkx

        may = ~self.known & np.isin(self.element, ["C", "N", "O", "S"]) & (self.degree < 4)
        graph = networkx.Graph(pair for pair in self.bonds.tolist() if may[pair[0]] and may[pair[1]])
        for cycle in networkx.minimum_cycle_basis(graph):
            if len(cycle) in (5, 6):
                yield self._ring(sorted(cycle))

    def _ring(self, atoms: Sequence[int]) -> tuple[_Ring, float]:
        """A ring, and how far in Å an atom is from its plane."""
        places = self.x[list(atoms)]
        centre = places.mean(axis=0)
        normal = np.linalg.svd(places - centre)[2][2]
        return _Ring(np.array(atoms), centre, normal), float(np.abs((places - centre) @ normal).max())

    def angle_fits(self, atom: int, other: int) -> bool:
        """Whether `other` lies at 90° or more from all that `atom` is bonded to."""
        towards = self.x[other] - self.x[atom]
        return all(float((self.x[one] - self.x[atom]) @ towards) <= 0.0 for one in self.neighbours[atom])


def _all(atoms: _Atoms) -> Iterator[Contact]:
    """Every contact; of a ring of several blocks one for each."""
    bonded = {frozenset(pair) for pair in atoms.bonds.tolist()}
    first, second = atoms.near(max(HYDROGEN_BOND, SALT_BRIDGE, HYDROPHOBIC, METAL))
    for one, two in zip(first.tolist(), second.tolist(), strict=True):
        if frozenset((one, two)) in bonded:
            continue
        distance = float(np.linalg.norm(atoms.x[one] - atoms.x[two]))
        for kind in _kinds(atoms, one, two, distance):
            yield _contact(atoms, kind, [one], [two], atoms.x[one], atoms.x[two])
    for ring in atoms.rings:
        side = atoms.segment[ring.atoms[0]]
        for cation in np.flatnonzero(atoms.positive & (atoms.segment != side)).tolist():
            off, height = _offset(ring, atoms.x[cation])
            if off <= OFFSET and np.hypot(off, height) <= CATION_RING:
                yield from _of_ring(atoms, "cation-pi", ring, [cation], atoms.x[cation])
        for other in atoms.rings:
            if side == 0 and atoms.segment[other.atoms[0]] == 1 and _stacked(ring, other):
                yield from _of_ring(atoms, "pi stacking", ring, other.atoms.tolist(), other.centre)


def _kinds(atoms: _Atoms, one: int, two: int, distance: float) -> Iterator[str]:
    """The kinds of contact of two atoms."""
    for give, take in ((one, two), (two, one)):
        if distance <= METAL and atoms.metal[give] and atoms.element[take] in ("N", "O", "S"):
            yield "metal"
        if distance <= SALT_BRIDGE and atoms.positive[give] and atoms.negative[take]:
            yield "salt bridge"
    gives = (atoms.donors[one] and atoms.acceptors[two]) or (atoms.donors[two] and atoms.acceptors[one])
    if distance <= HYDROGEN_BOND and gives and atoms.angle_fits(one, two) and atoms.angle_fits(two, one):
        yield "hydrogen bond"
    if distance <= HYDROPHOBIC and atoms.greasy[one] and atoms.greasy[two]:
        yield "hydrophobic"


def _stacked(one: _Ring, two: _Ring) -> bool:
    cosine = abs(float(one.normal @ two.normal))
    angle = float(np.degrees(np.arccos(min(1.0, cosine))))
    near = float(np.linalg.norm(one.centre - two.centre)) <= RINGS
    offset = min(_offset(one, two.centre)[0], _offset(two, one.centre)[0])
    return near and (angle <= 30.0 or angle >= 60.0) and offset <= OFFSET


def _offset(ring: _Ring, place: Floats) -> tuple[float, float]:
    """How far a place is from a ring's axis, and from its plane."""
    towards = place - ring.centre
    height = abs(float(towards @ ring.normal))
    return float(np.sqrt(max(0.0, float(towards @ towards) - height**2))), height


def _of_ring(atoms: _Atoms, kind: str, ring: _Ring, others: list[int], place: Floats) -> Iterator[Contact]:
    """A contact of a ring, for each of the blocks that it and the others are of."""
    for mine in _by_block(atoms, ring.atoms.tolist()):
        for theirs in _by_block(atoms, others):
            yield _contact(atoms, kind, mine, theirs, ring.centre, place)


def _by_block(atoms: _Atoms, of: list[int]) -> list[list[int]]:
    return [[one for one in of if atoms.block[one] == block] for block in dict.fromkeys(atoms.block[of])]


def _contact(
    atoms: _Atoms, kind: str, mine: list[int], theirs: list[int], here: Floats, there: Floats
) -> Contact:
    sides = [(mine, here), (theirs, there)]
    if atoms.segment[mine[0]] > atoms.segment[theirs[0]]:
        sides.reverse()
    blocks, names, ends = [], [], []
    for own, place in sides:
        blocks.append(int(atoms.block[own[0]]))
        names.append("+".join(atoms.names[one] for one in own))
        ends.append(tuple(float(x) for x in place))
    distance = float(np.linalg.norm(here - there))
    return Contact(kind, (blocks[0], blocks[1]), (names[0], names[1]), distance, (ends[0], ends[1]))


@cache
def _radii() -> dict[str, float]:
    """Covalent radii in Å by element. RDKit, asked for what is none, shouts."""
    from rdkit import Chem

    table = Chem.GetPeriodicTable()
    return {table.GetElementSymbol(number): float(table.GetRcovalent(number)) for number in range(1, 119)}
