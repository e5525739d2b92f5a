"""Fragments of 254 ligands against the original's, groups, order and SMILES."""

import gzip
import json

from helpers import PREP

import atomica
from atomica import keys
from atomica.prep import command as prep
from atomica.prep.fragments import (
    FIRST_FRAGMENT_BLOCK,
    Molecule,
    UnionWriter,
    component,
    fragment,
    read_vocabulary,
)


def test_fragments_of_the_original():
    vocabulary = read_vocabulary(PREP / "fragments" / "ps_300.tsv")
    with gzip.open(PREP / "fragments.json.gz") as file:
        ligands = json.load(file)["ligands"]
    assert len(ligands) == 254
    writer = UnionWriter()
    for ligand in ligands:
        bonds = tuple(map(tuple, ligand["bonds"]))
        molecule = Molecule(tuple(ligand["atom_names"]), tuple(ligand["elements"]), bonds)
        pieces = fragment(molecule, vocabulary, writer)
        expected = ligand["result_kekule"]
        if "error" in expected:  # metals: the original falls back to one block per atom, and so do we
            assert pieces is None, ligand["id"]
            continue
        assert [list(piece.atoms) for piece in pieces] == expected["groups"], ligand["id"]
        assert [piece.smiles for piece in pieces] == expected["fragments"], ligand["id"]


def test_vocabulary_gives_the_original_block_types():
    folder = PREP / "fragments"
    with open(folder / "vocab.json") as file:
        listed = json.load(file)
    for name in ("ps_300", "ps_500"):
        types = read_vocabulary(folder / f"{name}.tsv").block_types
        blocks = listed[f"blocks_{name.upper()}"]["blocks"]
        assert types == {block["abbreviation"]: block["index"] for block in blocks[150:]}


def test_component_dictionary_has_the_same_molecules():
    with gzip.open(PREP / "fragments.json.gz") as file:
        ligands = json.load(file)["ligands"]
    for ligand in ligands[:60]:
        molecule = component(ligand["id"])
        assert list(molecule.names) == ligand["atom_names"], ligand["id"]
        ours = {(min(i, j), max(i, j)) for i, j, _ in molecule.bonds}
        assert ours == {(min(i, j), max(i, j)) for i, j, _ in ligand["bonds"]}, ligand["id"]


def test_ligands_from_files_are_cut_by_their_bonds(shared, tmp_path):
    """Every ligand of the affinity series."""
    out = tmp_path / "out"
    index = shared / "data" / "fep" / "index.csv"
    assert prep.main(["build-graphs", str(index), "--out", str(out), "--fragments", "ccd_300"]) == 0
    data = atomica.open_dataset(out)
    assert len(data) == 871
    assert {data[i].ligand_chemistry for i in range(len(data))} == {"bonds"}
    assert data.fragments == "ccd_300"
    first = data[0]
    kinds = first.block_types[(first.segment_ids == 1) & (first.block_types != keys.GLOBAL_BLOCK)]
    assert (kinds >= FIRST_FRAGMENT_BLOCK).any()


def test_a_smiles_serves_where_the_dictionary_does_not(shared, tmp_path):
    rows = ["id,path,chain1,chain2,lig_code,lig_smiles"]
    path = shared / "data" / "entries" / "107l.pdb.gz"
    # The same ligand under a name that the dictionary does not know, and a text that is no SMILES.
    with gzip.open(path, "rt") as file:
        text = file.read()
    (tmp_path / "renamed.pdb").write_text(text.replace(" BME ", " QQQ "))
    rows += ["a,renamed.pdb,A,A,QQQ,OCCS", "b,renamed.pdb,A,A,QQQ,", f"c,{path},A,A,BME,"]
    (tmp_path / "index.csv").write_text("\n".join([*rows, "d,renamed.pdb,A,A,QQQ,O(C"]) + "\n")
    words = ["build-graphs", str(tmp_path / "index.csv"), "--out", str(tmp_path / "out")]
    assert prep.main([*words, "--fragments", "ccd_300"]) == 3
    data = atomica.open_dataset(tmp_path / "out")
    ways = {data[i].id[0]: data[i].ligand_chemistry for i in range(len(data))}
    assert ways == {"a": "smiles", "b": "atoms", "c": "components"}
    ledger = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert {entry["code"] for entry in ledger} == {"LigandChemistry"}
    assert "'O(C' is no SMILES" in ledger[0]["message"]


def test_ligands_found_without_an_index_are_cut(shared, tmp_path):
    """As from the index that lists what was found. What holds a metal stays one block per atom, as in the original."""
    folder = tmp_path / "files"
    folder.mkdir()
    for name in ("1fkb", "1rx4", "2a01"):
        (folder / f"{name}.pdb.gz").symlink_to(shared / "data" / "entries" / f"{name}.pdb.gz")
    found, listed = tmp_path / "found", tmp_path / "listed"
    words = ["build-graphs", str(folder), "--discover", "--out", str(found)]
    assert prep.main([*words, "--fragments", "ccd_300"]) == 0
    index = str(found / "discovered.csv")
    assert prep.main(["build-graphs", index, "--out", str(listed), "--fragments", "ccd_300"]) == 0
    assert (found / "shard-00000.arrow").read_bytes() == (listed / "shard-00000.arrow").read_bytes()
    data = atomica.open_dataset(found)
    ways: dict[str, set[str]] = {}
    for record in data:
        if code := record.metadata.get("lig_code"):
            ways.setdefault(code, set()).add(record.ligand_chemistry)
            large = bool((record.block_types >= FIRST_FRAGMENT_BLOCK).any())
            assert large == (record.ligand_chemistry == "components"), code
    assert ways == {code: {"components"} for code in ("RAP", "DDF", "NAP")} | {"AC9": {"atoms"}}
