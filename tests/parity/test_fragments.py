"""Fragments of 254 ligands against the original's, groups, order and SMILES."""

import gzip
import json

from atomica.fragments import Molecule, component, fragment, read_vocabulary


def test_fragments_of_the_original(shared):
    folder = shared / "fixtures" / "prep"
    vocabulary = read_vocabulary(folder / "fragments" / "ps_300.tsv")
    with gzip.open(folder / "fragments.json.gz") as file:
        ligands = json.load(file)["ligands"]
    assert len(ligands) == 254
    for ligand in ligands:
        bonds = tuple(map(tuple, ligand["bonds"]))
        molecule = Molecule(tuple(ligand["atom_names"]), tuple(ligand["elements"]), bonds)
        pieces = fragment(molecule, vocabulary)
        expected = ligand["result_kekule"]
        if "error" in expected:  # metals: the original falls back to one block per atom, and so do we
            assert pieces is None, ligand["id"]
            continue
        assert [list(piece.atoms) for piece in pieces] == expected["groups"], ligand["id"]
        assert [piece.smiles for piece in pieces] == expected["fragments"], ligand["id"]


def test_vocabulary_gives_the_original_block_types(shared):
    folder = shared / "fixtures" / "prep" / "fragments"
    with open(folder / "vocab.json") as file:
        listed = json.load(file)
    for name in ("ps_300", "ps_500"):
        types = read_vocabulary(folder / f"{name}.tsv").block_types
        blocks = listed[f"blocks_{name.upper()}"]["blocks"]
        assert types == {block["abbreviation"]: block["index"] for block in blocks[150:]}


def test_component_dictionary_has_the_same_molecules(shared):
    with gzip.open(shared / "fixtures" / "prep" / "fragments.json.gz") as file:
        ligands = json.load(file)["ligands"]
    for ligand in ligands[:60]:
        molecule = component(ligand["id"])
        assert list(molecule.names) == ligand["atom_names"], ligand["id"]
        ours = {(min(i, j), max(i, j)) for i, j, _ in molecule.bonds}
        assert ours == {(min(i, j), max(i, j)) for i, j, _ in ligand["bonds"]}, ligand["id"]
