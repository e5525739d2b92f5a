"""Cutting ligands into fragments, and the vocabulary file."""

import random
from collections import Counter
from itertools import islice

import pytest
from rdkit import Chem

from atomica.errors import DataError
from atomica.prep import command as prep
from atomica.prep import learn as mining
from atomica.prep.fragments import (
    Cutter,
    Molecule,
    UnionWriter,
    component,
    fragment,
    read_vocabulary,
    sensible,
)


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "tiny.tsv"
    path.write_text('{"kekulize": false}\nCO\t2\t50\nCC\t2\t40\nCCO\t3\t30\nc1ccccc1\t6\t20\nC\t1\t900\n')
    return read_vocabulary(path)


def test_most_frequent_union_first(vocabulary):
    ethanol = Molecule(("C1", "C2", "O1"), ("C", "C", "O"), ((0, 1, 1), (1, 2, 1)))
    (whole,) = fragment(ethanol, vocabulary)
    assert (whole.smiles, sorted(whole.atoms)) == ("CCO", [0, 1, 2])


def drawn(smiles):
    """What a ligand's file would say of a SMILES: atomic numbers and Kekulé bonds."""
    molecule = mining._parsed(smiles)
    return [Chem.GetPeriodicTable().GetAtomicNumber(e) for e in molecule.elements], list(molecule.bonds)


def test_where_the_bonds_come_from(vocabulary):
    cutter = Cutter(vocabulary)
    assert (cutter.block_types, cutter.entries) == (154, 5)
    names = ["C1", "C2", "O"]
    assert cutter.cut("EOH", names, [6, 6, 8], []) == ("components", [(152, [1, 2, 0])])
    assert cutter.cut("EOH", names, [6, 6, 8], [(0, 1, 1), (1, 2, 1)])[0] == "bonds"
    # Other atoms than the dictionary's: only a SMILES can tell.
    near = [(0, 1, 1520), (1, 2, 1430)]
    assert cutter.cut("EOH", ["X1", "X2", "X3"], [6, 6, 8], [], near=near) == ("atoms", [])
    assert cutter.cut("EOH", ["X1", "X2", "X3"], [6, 6, 8], [], near=near, smiles="OCC") == (
        "smiles",
        [(152, [2, 1, 0])],
    )
    with pytest.raises(ValueError, match="'C#' is no SMILES"):
        cutter.cut("EOH", ["X1", "X2", "X3"], [6, 6, 8], [], near=near, smiles="C#")
    assert cutter.cut("ZN", ["ZN"], [30], []) == ("atoms", [])
    assert cutter.cut("no such component", names, [6, 6, 8], []) == ("atoms", [])


@pytest.mark.parametrize(
    "smiles",
    [
        "CC(=O)[O-]",
        "CC(N)=[NH2+]",
        "NCCCCC([NH3+])C(=O)[O-]",
        "Nc1ncnc2c1ncn2C1OC(COP(=O)([O-])[O-])C(O)C1O",
        "C[N+](=O)[O-]",
        "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
        "CN1CCN(c2ccc(Nc3ncc4ccccc4n3)cc2)CC1",
    ],
)
def test_bond_orders_from_atoms_and_hydrogens(smiles):
    """Whatever the charge, the fragments are those of the orders that the SMILES says."""
    whole = Chem.MolFromSmiles(smiles)
    hydrogens = [atom.GetTotalNumHs() for atom in whole.GetAtoms()]
    Chem.Kekulize(whole, clearAromaticFlags=True)
    elements = [atom.GetAtomicNum() for atom in whole.GetAtoms()]
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), int(b.GetBondTypeAsDouble())) for b in whole.GetBonds()]
    near = [(i, j, 0) for i, j, _ in bonds]
    names, cutter = [f"X{i}" for i in range(len(elements))], Cutter(read_vocabulary("ccd_300"))

    def pieces(cut):
        return cut[0], sorted((kind, len(atoms)) for kind, atoms in cut[1])

    found = cutter.cut("UNL", names, elements, [], near=near, hydrogens=hydrogens, perceive=True)
    stated = cutter.cut("UNL", names, elements, bonds)
    assert (pieces(found), stated[0]) == (("perceived", pieces(stated)[1]), "bonds")
    for given, perceive in (([0] * len(elements), True), (hydrogens, False)):
        cut = cutter.cut("UNL", names, elements, [], near=near, hydrogens=given, perceive=perceive)
        assert cut == ("atoms", [])


def test_missing_atoms_need_the_right_neighbours():
    """A bound sugar has lost an oxygen; names that fit by chance are not enough."""
    cutter, sugar = Cutter(read_vocabulary("ccd_300")), component("NAG")
    kept = [i for i, name in enumerate(sugar.names) if name != "O1"]
    names = [sugar.names[i] for i in kept]
    elements = [Chem.GetPeriodicTable().GetAtomicNumber(sugar.elements[i]) for i in kept]
    near = [(kept.index(i), kept.index(j), 0) for i, j, _ in sugar.bonds if i in kept and j in kept]
    source, pieces = cutter.cut("NAG", names, elements, [], near=near)
    assert source == "components"
    assert sorted(atom for _, atoms in pieces for atom in atoms) == list(range(len(names)))
    assert cutter.cut("NAG", names, elements, [], near=near[1:])[0] == "atoms"


@pytest.mark.parametrize(
    ("smiles", "aromatic"),
    [
        ("c1ccccc1", "ring"),
        ("c1cc[nH]c1", "ring"),
        ("c1c[nH]cn1", "ring"),
        ("c1ccncc1", "ring"),
        ("CC(=O)O", "acid"),
    ],
)
def test_aromatic_bonds_of_a_file(smiles, aromatic):
    """Order 4 gives the fragments of the Kekulé form."""
    cutter = Cutter(read_vocabulary("ccd_300"))
    elements, bonds = drawn(smiles)
    flagged = [
        (i, j, 4 if aromatic == "ring" or 8 in (elements[i], elements[j]) else order) for i, j, order in bonds
    ]
    names = [str(i) for i in range(len(elements))]
    assert cutter.cut("UNL", names, elements, flagged) == cutter.cut("UNL", names, elements, bonds)


def test_of_several_ways_to_lay_a_smiles_the_shortest_double_bonds_win():
    from atomica.prep.fragments import _of_smiles

    ring = [(i, (i + 1) % 6, 1340 if i == 3 else 1530) for i in range(6)]
    molecule = _of_smiles("C1CCC=CC1", ("C",) * 6, ring)
    assert [sorted((i, j)) for i, j, order in molecule.bonds if order == 2] == [[3, 4]]
    assert _of_smiles("CCO", ("C", "N", "C"), ring[:2]) is None


def test_every_atom_is_in_one_fragment(vocabulary):
    molecule = component("BNZ")
    pieces = fragment(molecule, vocabulary)
    assert sorted(atom for piece in pieces for atom in piece.atoms) == list(range(6))


def test_metals_are_left_as_atoms(vocabulary):
    assert fragment(component("HEM"), vocabulary) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "no entries"), ("CC\t2\n", ":1: expected"), ("CC\t2\t1\nCC\t2\t2\n", ":2: CC is listed twice")],
)
def test_bad_vocabularies_name_the_line(tmp_path, text, message):
    path = tmp_path / "bad.tsv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_vocabulary(path)


def test_missing_vocabulary(tmp_path):
    with pytest.raises(DataError, match="no such vocabulary"):
        read_vocabulary(tmp_path / "absent.tsv")


def test_headers_are_read(tmp_path):
    path = tmp_path / "v.tsv"
    path.write_text('{"kekulize": true, "canonical": true}\nCC\t2\t1\n')
    vocabulary = read_vocabulary(path)
    assert vocabulary.kekulize
    assert vocabulary.canonical
    path.write_text('{"kekulize": 1}\nCC\t2\t1\n')
    with pytest.raises(DataError, match=":1: kekulize is 1; expected true or false"):
        read_vocabulary(path)


def some_components(count):
    return [(code, component(code)) for code in CODES[:count]]


CODES = (
    "ATP",
    "NAG",
    "STI",
    "FOL",
    "CLR",
    "BNZ",
    "MPD",
    "GTP",
    "FK5",
    "DMS",
    "HEM",
    "PLP",
    "CIT",
    "SAM",
    "TYR",
)


@pytest.mark.parametrize("kekulize", [False, True])
def test_counts_kept_up_to_date_are_those_counted_anew(kekulize):
    """The fast way of counting against its slow twin: all pairs of all molecules, after every merge."""
    miner = mining.Miner(kekulize=kekulize)
    for _, molecule in some_components(len(CODES)):
        miner.add(molecule)
    for _ in range(40):
        anew = Counter()
        for assembly in miner._molecules:
            for piece in assembly.atoms:
                for other, links in assembly.links(piece).items():
                    if other < piece:
                        anew[assembly.union(other, piece, links)] += 1
        kept = {number: count for number, count in enumerate(miner._counts) if count}
        assert kept == anew
        number, count = miner.most_frequent()
        assert count == max(anew.values())
        miner.merge(number)


def test_one_smiles_whatever_the_order_of_atoms():
    molecule = component("FOL")
    generator = random.Random(3)
    seen = []
    for _ in range(5):
        order = list(range(len(molecule.names)))
        generator.shuffle(order)
        bonds = [(order.index(i), order.index(j), o) for i, j, o in molecule.bonds]
        generator.shuffle(bonds)
        shuffled = Molecule(molecule.names, tuple(molecule.elements[i] for i in order), tuple(bonds))
        miner = mining.Miner()
        assert miner.add(shuffled)
        seen.append(Counter({miner.text(n): count for n, count in enumerate(miner._counts)}))
    assert all(counts == seen[0] for counts in seen)


def test_a_shared_writer_changes_nothing():
    """Fragments with remembered SMILES against each molecule on its own."""
    vocabulary = read_vocabulary("ccd_300")
    writer = UnionWriter(canonical=True)
    for _, molecule in some_components(10) * 2:
        assert fragment(molecule, vocabulary, writer) == fragment(molecule, vocabulary)


def test_the_shipped_vocabulary_holds_what_a_part_of_its_molecules_gives():
    """The dictionary by its tables is the dictionary by component, and its common fragments are in the file."""
    shipped = read_vocabulary("ccd_300")
    assert len(shipped.entries) == 300
    assert shipped.canonical
    part = [(code, m) for code, m in islice(mining.dictionary(), 0, 4000, 20) if isinstance(m, Molecule)]
    for code, molecule in part[:40]:
        other = component(code)
        assert (molecule.names, molecule.elements) == (other.names, other.elements)
        assert {(*sorted(b[:2]), b[2]) for b in molecule.bonds} == {
            (*sorted(b[:2]), b[2]) for b in other.bonds
        }
    learned = mining.learn(part, 50)
    common = {smiles for smiles, _, count in learned.entries if count >= 40}
    assert len(common) >= 15
    assert common <= set(shipped.frequency)
    for smiles, _, count in learned.entries:
        if smiles in shipped.frequency and shipped.frequency[smiles] < count:
            pytest.fail(f"{smiles} is rarer in the whole than in a part")


def test_learning_from_a_file(tmp_path, capsys):
    source, out = tmp_path / "m.smi", tmp_path / "v.tsv"
    lines = ["CCO one", "# a remark", "CCO.[Na+]", "not a molecule", "c1ccccc1O", "[Fe]", ""]
    source.write_text("\n".join(lines))
    words = ["fragments", "learn", str(source), "--size", "6", "--out", str(out)]
    assert prep.main(words) == 3
    said = capsys.readouterr().err
    assert "from 3 molecules" in said
    assert f"{source}:4" in said
    assert "no SMILES" in (tmp_path / "v.tsv.rejected.tsv").read_text()
    # Most frequent first: cc 6 times in one ring, then what is bonded to it.
    assert dict(read_vocabulary(out).frequency)["cc"] == 6
    first = out.read_bytes()
    assert prep.main(words) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert prep.main([*words, "--overwrite"]) == 3
    assert out.read_bytes() == first
    table = tmp_path / "m.csv"
    table.write_text("name,SMILES\none,CCO\ntwo,CCO\n")
    out.unlink()
    assert prep.main(["fragments", "learn", str(table), "--size", "4", "--out", str(out)]) == 0
    assert read_vocabulary(out).entries == (("CCO", 3, 2), ("CC", 2, 2), ("C", 1, 4), ("O", 1, 2))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give a file"),
        (["absent.smi"], "no such file"),
        (["--from", "ccd", "--size", "1"], "--size 1"),
        (["--from", "ccd", "--elements", "C,Fe"], "Fe not among"),
    ],
)
def test_wrong_usage_of_learning(tmp_path, capsys, words, message):
    out = tmp_path / "v.tsv"
    assert prep.main(["fragments", "learn", *words, "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_kekule_fragments_have_no_aromatic_atoms():
    for molecule in (component("BNZ"), component("ATP")):
        built = sensible(molecule, kekulize=True)
        assert not any(atom.GetIsAromatic() for atom in built.GetAtoms())
