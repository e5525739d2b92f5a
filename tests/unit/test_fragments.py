"""Cutting ligands into fragments, and the vocabulary file."""

import pytest

from atomica.errors import DataError
from atomica.fragments import Molecule, component, fragment, fragment_table, read_vocabulary


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "tiny.tsv"
    path.write_text('{"kekulize": false}\nCO\t2\t50\nCC\t2\t40\nCCO\t3\t30\nc1ccccc1\t6\t20\nC\t1\t900\n')
    return read_vocabulary(path)


def test_most_frequent_union_first(vocabulary):
    ethanol = Molecule(("C1", "C2", "O1"), ("C", "C", "O"), ((0, 1, 1), (1, 2, 1)))
    (whole,) = fragment(ethanol, vocabulary)
    assert (whole.smiles, sorted(whole.atoms)) == ("CCO", [0, 1, 2])


def test_single_atoms_stay_elements(vocabulary):
    table = fragment_table(["EOH", "ZN", "HEM", "no such component"], vocabulary)
    assert set(table["components"]) == {"EOH"}
    assert table["vocabulary"]["block_types"] == 154
    (block,) = table["components"]["EOH"]
    assert block["block_type"] == 152
    assert sorted(block["atoms"]) == ["C1", "C2", "O"]


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
