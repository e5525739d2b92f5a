"""Contacts by kind: on structures whose contacts are known from their papers, and each rule at its limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

import atomica
from atomica import _prep
from atomica.analysis.contacts import agreement, contacts
from atomica.data.record import Texts
from atomica.testing import as_record

SYMBOLS = [symbol.capitalize() for symbol in _prep.atom_symbols()]


@pytest.fixture(scope="module")
def entry(shared, tmp_path_factory):
    """Builds a complex of an archive entry and gives its contacts as (kind, residue, atoms of both)."""

    def build(name, chain1, chain2, code="", number=""):
        folder = tmp_path_factory.mktemp(name)
        path = shared / "data" / "entries" / f"{name}.pdb.gz"
        (folder / "index.csv").write_text(
            f"id,path,chain1,chain2,lig_code,lig_resnum\n{name},{path},{chain1},{chain2},{code},{number}\n"
        )
        assert _prep.run(["build-graphs", str(folder / "index.csv"), "--out", str(folder / "data")]) == 0
        record = atomica.open_dataset(folder / "data")[0]
        found = set()
        for one in contacts(record):
            assert [int(record.segment_ids[block]) for block in one.blocks] == [0, 1]
            block = one.blocks[0]
            residue = f"{record.block_components[block]}{record.block_resnums[block]}"
            found.add((one.kind, residue, *one.atoms))
        return found

    return build


def test_the_metal_of_carbonic_anhydrase_is_held_by_three_histidines(entry):
    """Cobalt in the place of zinc: His94 and His96 by NE2, His119 by ND1 (Håkansson & Wehnert 1992)."""
    assert entry("1cah", "A", "A", "CO", 262) == {
        ("metal", "HIS94", "NE2", "CO"),
        ("metal", "HIS96", "NE2", "CO"),
        ("metal", "HIS119", "ND1", "CO"),
    }


def test_the_zinc_of_adenosine_deaminase(entry):
    """His15, His17, His214 and Asp295 (Wilson, Rudolph, Quiocho 1991)."""
    found = entry("2ada", "A", "A", "ZN", 400)
    assert {(kind, residue) for kind, residue, *_ in found} == {
        ("metal", residue) for residue in ("HIS15", "HIS17", "HIS214", "ASP295")
    }


def test_folate_in_dihydrofolate_reductase(entry):
    """Asp27 holds the pterin, Ile5 its amide N8, Phe31 lies on its rings, Arg57 grips the glutamate's α-carboxylate
    (Sawaya & Kraut 1997)."""
    found = entry("1rx4", "A", "A", "DDF", 161)
    for one in (
        ("hydrogen bond", "ASP27", "OD1", "NA2"),
        ("hydrogen bond", "ASP27", "OD2", "N3"),
        ("hydrogen bond", "ILE5", "O", "N8"),
        ("salt bridge", "ARG57", "NH1", "O1"),
        ("salt bridge", "ARG57", "NH2", "O2"),
    ):
        assert one in found, one
    stacked = {residue for kind, residue, *_ in found if kind == "pi stacking"}
    assert stacked == {"PHE31"}


def test_a_base_is_read_by_an_arginine_and_the_backbone_held(entry):
    """p53 (chain B): Arg280 and Lys120 read guanines, Ser241 and Ala276 hold phosphates (Cho et al. 1994). Of a pair of
    residues the nearest atoms are given."""
    found = entry("1tup", "B", "E_F")
    assert {
        ("ARG280", "NH1", "O6"),
        ("LYS120", "NZ", "O6"),
        ("SER241", "OG", "OP1"),
        ("ALA276", "N", "OP2"),
    } <= {one[1:] for one in found if one[0] == "hydrogen bond"}
    bridges = {(residue, other) for kind, residue, _, other in found if kind == "salt bridge"}
    assert bridges
    assert {other for _, other in bridges} <= {"OP1", "OP2", "O1P", "O2P"}
    assert {residue[:3] for residue, _ in bridges} <= {"ARG", "LYS", "HIS"}


def complex_of(*sides):
    """A record of two partners of one residue each: (component, block type, {atom: (element, place)})."""
    types, lengths, segments, atoms, places, names, components = [], [], [], [], [], [], []
    for segment, (component, kind, own) in enumerate(sides):
        types += [kind]
        lengths += [len(own)]
        segments += [segment]
        components += [component]
        for name, (element, place) in own.items():
            atoms.append(SYMBOLS.index(element))
            places.append(place)
            names.append(name)
    record = as_record(places, types, atoms, lengths, segments)
    return replace(record, atom_names=Texts(pa.array(names)), block_components=Texts(pa.array(components)))


def ring(names, height, shift=0.0):
    """A flat ring of carbons of 1.4 Å bonds."""
    angles = np.arange(len(names)) * 2 * np.pi / len(names)
    return {
        name: ("C", (1.4 * np.cos(a) + shift, 1.4 * np.sin(a), height))
        for name, a in zip(names, angles, strict=True)
    }


PHE = ["CG", "CD1", "CE1", "CZ", "CE2", "CD2"]
LIGAND = ["C1", "C2", "C3", "C4", "C5", "C6"]


def kinds(record):
    return {one.kind for one in contacts(record)}


@pytest.mark.parametrize(
    ("distance", "found"),
    [(2.9, {"hydrogen bond", "salt bridge"}), (3.8, {"salt bridge"}), (4.2, set())],
)
def test_a_lysine_and_an_aspartate(distance, found):
    lysine = {"CE": ("C", (-1.5, 0, 0)), "NZ": ("N", (0, 0, 0))}
    aspartate = {
        "CG": ("C", (distance + 1.2, 0, 0)),
        "OD1": ("O", (distance, 0, 0)),
        "OD2": ("O", (distance + 1.8, 1.1, 0)),
    }
    assert kinds(complex_of(("LYS", 16, lysine), ("ASP", 12, aspartate))) == found


def test_an_atom_behind_the_donor_is_no_acceptor():
    """2.9 Å from the nitrogen, but on the side of the carbon that it is bonded to."""
    lysine = {"CE": ("C", (1.2, 0.9, 0)), "NZ": ("N", (0, 0, 0))}
    backbone = {"C": ("C", (3.0, -2.0, 0)), "O": ("O", (2.8, -0.76, 0))}
    assert not kinds(complex_of(("LYS", 16, lysine), ("ALA", 4, backbone)))


@pytest.mark.parametrize(
    ("height", "shift", "found"), [(3.6, 1.2, True), (3.6, 3.5, False), (5.8, 0.0, False)]
)
def test_rings_on_each_other(height, shift, found):
    record = complex_of(("PHE", 17, ring(PHE, 0.0)), ("LIG", 30, ring(LIGAND, height, shift)))
    assert ("pi stacking" in kinds(record)) == found


@pytest.mark.parametrize(("height", "found"), [(4.5, True), (6.5, False)])
def test_a_cation_on_a_ring(height, found):
    lysine = {"CE": ("C", (0, 0, height + 1.5)), "NZ": ("N", (0, 0, height))}
    record = complex_of(("LYS", 16, lysine), ("LIG", 30, ring(LIGAND, 0.0)))
    assert ("cation-pi" in kinds(record)) == found


def test_a_ring_of_a_chair_is_none():
    chair = {
        name: (element, (x, y, z + 0.25 * (-1) ** i))
        for i, (name, (element, (x, y, z))) in enumerate(ring(LIGAND, 3.6).items())
    }
    assert "pi stacking" not in kinds(complex_of(("PHE", 17, ring(PHE, 0.0)), ("LIG", 30, chair)))


def test_what_is_bonded_across_is_no_contact():
    cysteine = {"CB": ("C", (-1.8, 0, 0)), "SG": ("S", (0, 0, 0))}
    ligand = {"C1": ("C", (1.8, 0, 0)), "C2": ("C", (2.5, 1.3, 0))}
    found = {one.atoms for one in contacts(complex_of(("CYS", 9, cysteine), ("LIG", 30, ligand)))}
    assert ("SG", "C1") not in found


def test_one_partner_alone_has_none():
    assert contacts(atomica.open_dataset("demo://pockets")[40].view("segment0")) == []


def test_global_atoms_are_no_elements_and_nothing_is_said_of_them(capfd):
    record = atomica.open_dataset("demo://pockets")[0]
    assert contacts(record)
    assert capfd.readouterr().err == ""


def test_agreement_is_over_complexes():
    """Two complexes, of which one is ranked right and the other wrong; a third without contacts says nothing."""
    rows = np.repeat([0, 1, 2], 4)
    importance = np.array([4.0, 3, 2, 1] * 3)
    touching = [["metal"], [], [], [], [], [], [], ["hydrophobic"], [], [], [], []]
    found = agreement(rows, importance, touching)
    assert found["contacts: any"] == {"complexes": 2, "P@k": 0.5, "AUROC": 0.5, "base rate": 0.25}
    assert found["contacts: metal"]["AUROC"] == 1.0
    assert set(found) == {"contacts: any", "contacts: metal", "contacts: hydrophobic"}
    many = agreement(np.repeat(np.arange(8), 4), np.tile(importance[:4], 8), (touching[:4] * 8))
    assert many["contacts: metal"]["P@k low"] == many["contacts: metal"]["P@k high"] == 1.0
