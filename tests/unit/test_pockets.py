"""Pockets without a partner: by a list of residues and by a score in the B-factor column."""

import gzip

import numpy as np
import pytest

import atomica
from atomica import _prep
from atomica.data.record import INPUTS
from atomica.errors import DataError
from atomica.prep import pockets


def built(folder, index):
    out = folder / "graphs"
    (folder / "index.csv").write_text(index)
    code = _prep.run(["build-graphs", str(folder / "index.csv"), "--out", str(out)])
    return code, atomica.open_dataset(out)


@pytest.mark.parametrize("side", [0, 1])
def test_a_pocket_by_its_residues_is_the_complex_without_the_partner(tiny_set, tmp_path, side):
    """What a list of residues gives is what cutting by a partner gives, once the partner is gone."""
    complexes = atomica.open_dataset(tiny_set)
    alone = [complexes[row].segment(side) for row in range(5)]
    rows = ["id,path,chain1,residues"]
    for record in alone:
        chain = "AB"[side]
        # In any order: the record has them in that of the file.
        residues = " ".join(reversed([f"{chain}:{number}" for number in record.block_resnums[1:].tolist()]))
        rows.append(f"{record.id},{tiny_set.parent / record.source_path},{chain},{residues}")
    code, found = built(tmp_path, "\n".join(rows) + "\n")
    assert code == 0
    for record, wanted in zip(found, alone, strict=True):
        assert record.modality == wanted.modality == -1
        for name in ("block_types", "atom_types", "segment_ids", "block_resnums", "torsion_atoms"):
            assert np.array_equal(getattr(record, name), getattr(wanted, name)), name
        np.testing.assert_allclose(record.positions, wanted.positions, atol=1e-6)
        assert np.array_equal(record.atom_intra, wanted.atom_intra)
        assert np.array_equal(record.block_intra, wanted.block_intra)
        assert (record.atom_inter < 0).all()
        assert list(record.atom_names) == list(wanted.atom_names)
    model = atomica.Model(atomica.EncoderConfig(atom_hidden=8, block_hidden=8)).eval()
    for input in INPUTS[:2]:
        embedding = model.encode(found.graphs(range(5), input=input)).graph
        twin = model.encode(complexes.graphs(range(5), input=f"segment{side}")).graph
        assert (embedding - twin).abs().max() < 1e-5


def scored(tmp_path, name, text, scores):
    """A file with scores by residue number in its B-factor column."""
    lines = []
    for line in text.splitlines():
        if line.startswith("ATOM"):
            score = scores.get((line[21], int(line[22:26])), 0.0)
            line = f"{line[:60]}{score:6.2f}{line[66:]}"
        lines.append(line)
    path = tmp_path / name
    content = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def test_pockets_by_score(tiny_set, tmp_path):
    text = (tiny_set.parent / "c00.pdb").read_text()
    folder = tmp_path / "structures"
    folder.mkdir()
    high = {("A", 1): 0.9, ("A", 3): 0.81, ("B", 2): 0.95, ("A", 4): 0.8}
    scored(folder, "two.pdb.gz", text, high)
    scored(folder, "none.pdb", text, {("A", 1): 0.9})
    (folder / "broken.cif").write_text("data_x\nloop_\n_atom_site.id\n1\n")
    (folder / "notes.txt").write_text("no structure")
    assert pockets.pocket_by_score(folder / "two.pdb.gz", 0.8) == (("A", "B"), ("A:1", "A:3", "B:2"))
    failures = pockets.index_by_score([folder], tmp_path / "index.csv", above=0.8, least=3)
    assert [(row["id"], row["code"]) for row in failures] == [("broken", "Unreadable"), ("none", "NoPocket")]
    assert "1 residues have a B-factor above 0.8, fewer than 3" in failures[1]["message"]
    code, found = built(tmp_path, (tmp_path / "index.csv").read_text())
    assert code == 0
    assert found.ids == ["two"]
    labels = zip(found[0].block_chains[1:], found[0].block_resnums[1:].tolist(), strict=True)
    assert list(labels) == [("A", 1), ("A", 3), ("B", 2)]
    with pytest.raises(DataError, match="no structure file there"):
        pockets.index_by_score([tmp_path / "graphs"], tmp_path / "other.csv", above=0.8, least=3)


def test_an_index_names_any_chain(tiny_set, tmp_path):
    """Ids with blanks and underscores."""
    gemmi = pytest.importorskip("gemmi")
    structure = gemmi.read_structure(str(tiny_set.parent / "c00.pdb"))
    structure.setup_entities()
    names = {"A": "A 1", "B": "B_1"}
    for chain in structure[0]:
        chain.name = names[chain.name]
        for residue in chain:
            for atom in residue:
                atom.b_iso = 0.9 * (residue.seqid.num < 3)
    structure.make_mmcif_document().write_file(str(tmp_path / "x.cif"))
    assert pockets.index_by_score([tmp_path / "x.cif"], tmp_path / "index.csv", above=0.8, least=3) == []
    code, found = built(tmp_path, (tmp_path / "index.csv").read_text())
    assert code == 0
    labels = zip(found[0].block_chains[1:], found[0].block_resnums[1:].tolist(), strict=True)
    assert list(labels) == [("A 1", 1), ("A 1", 2), ("B_1", 1), ("B_1", 2)]


def test_scores_of_all_formats(shared):
    """The same entry as PDB, mmCIF and BinaryCIF has the same pocket."""
    files = sorted((shared / "data" / "parser").glob("biotite__1aki.*"))
    found = [pockets.pocket_by_score(path, 20.0) for path in files]
    assert len(found) == 3
    assert len(set(found)) == 1
    assert 20 < len(found[0].residues) < 100
