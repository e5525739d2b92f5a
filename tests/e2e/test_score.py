"""Interaction scores: against a pair of forward passes for every block; as a table; as structures."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

import atomica
from atomica import keys
from atomica.analysis import masking
from atomica.analysis.bfactors import Values, coloured, interface, of_record
from atomica.data import graph
from atomica.jobs.score import colours, scores
from atomica.runner import main

MODELS = {
    "plain": {},
    "with global atoms": {"atom_global": True, "k_neighbors": 5},
    "no global blocks": {"block_global": False, "layers": 3},
    "reference_quirks": {"reference_quirks": True},
}


@pytest.fixture(autouse=True)
def one_thread(threads):
    torch.set_num_threads(1)


def model_of(options):
    torch.manual_seed(3)
    settings = {"atom_hidden": 8, "block_hidden": 8, "edge_size": 4, "layers": 2, **options}
    return atomica.Model(atomica.EncoderConfig(**settings)).eval()


def pair_by_pair(model, record):
    """The score as the original defines it, written out: a complex and its masked copy through the whole model."""
    found = []
    ends = np.cumsum(record.block_lengths)
    for block in range(len(record.block_types)):
        if record.block_types[block] == keys.GLOBAL_BLOCK:
            continue
        first, last = int(ends[block]) - int(record.block_lengths[block]), int(ends[block])
        types, lengths = record.block_types.astype(int), record.block_lengths.astype(int)
        masked_types, masked_lengths = types.copy(), lengths.copy()
        masked_types[block], masked_lengths[block] = keys.MASK_BLOCK, 1
        x, a = record.positions, record.atom_types.astype(int)
        together = graph.graph_from_arrays(
            np.concatenate([x, x[:first], x[first:last].mean(0, keepdims=True), x[last:]]),
            np.concatenate([types, masked_types]),
            np.concatenate([a, a[:first], [masking.MASK_ATOM], a[last:]]),
            np.concatenate([lengths, masked_lengths]),
            np.tile(record.segment_ids.astype(int), 2),
            [len(types)] * 2,
            modality=[record.modality] * 2,
            **model.config.graph_options(),
        )
        with torch.no_grad():
            whole, masked = model.encode(together).graph.double()
        found.append(float(F.cosine_similarity(whole, masked, dim=0)))
    return np.array(found)


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("batch_blocks", [1, 100, 10**6])
def test_scores_are_those_of_pairs_of_passes(options, batch_blocks, tiny_set):
    model, data = model_of(options), atomica.open_dataset(tiny_set)
    record = data[11] if batch_blocks < 10**6 else data[11].segment(0)
    blocks, values = scores(model, record, batch_blocks=batch_blocks)
    wanted = pair_by_pair(model, record)
    assert blocks.tolist() == np.flatnonzero(record.block_types != keys.GLOBAL_BLOCK).tolist()
    assert wanted.min() < 0.9999  # masks matter, so that agreement means something
    np.testing.assert_allclose(values, wanted, rtol=0, atol=2e-6)


def test_far_atoms_are_not_computed_again():
    model, data = model_of({"layers": 3}), atomica.open_dataset("demo://pockets")
    record = data[int(np.argmin(np.abs(data.block_counts() - 40)))]
    reached = []
    inner = masking.after_layer

    def counted(*given, **named):
        reached.append(len(given[6]) / len(given[2].x))
        return inner(*given, **named)

    masking.after_layer = counted
    try:
        _, values = scores(model, record)
    finally:
        masking.after_layer = inner
    np.testing.assert_allclose(values, pair_by_pair(model, record), rtol=0, atol=2e-6)
    assert reached[0] < 0.2  # only what a mask reaches is computed again
    assert reached == sorted(reached)


def spec_of(tmp_path, source, own=""):
    torch.manual_seed(0)
    model_of({}).save(tmp_path / "weights")
    path = tmp_path / "score.toml"
    path.write_text(
        f'[run]\nname = "score"\njob = "score"\nout = "{tmp_path}/out"\n[data]\nsource = "{source}"\n'
        f'[model]\nweights = "{tmp_path}/weights"\n[device]\nthreads = 1\n{own}'
    )
    return path


def test_the_job_writes_a_table_and_coloured_structures(tmp_path, tiny_set):
    (tmp_path / "index.csv").write_text(
        f"id,path,chain1,chain2\none,{tiny_set.parent}/c01.pdb,A,B\ntwo/x,{tiny_set.parent}/c03.pdb,A,B\n"
    )
    assert main([str(spec_of(tmp_path, tmp_path / "index.csv"))]) == 0
    out = tmp_path / "out"
    table = pq.read_table(out / "scores.parquet").to_pylist()
    data, model = atomica.open_dataset(out / "graphs" / "0"), atomica.load(tmp_path / "weights", "cpu")
    found = [row["score"] for row in table if row["row"] == 1]
    assert found == pytest.approx(scores(model, data[1])[1].tolist(), abs=1e-6)
    assert {(row["id"], row["chain"]) for row in table} == {(i, c) for i in ("one", "two/x") for c in "AB"}
    assert (out / "scores.csv").read_text().count("\n") == len(table) + 1
    assert sorted(path.name for path in (out / "structures").iterdir()) == ["one.pdb", "two_x.pdb"]
    lines = (out / "structures" / "one.pdb").read_text().splitlines()
    before = (tiny_set.parent / "c01.pdb").read_text().splitlines()
    own = [row for row in table if row["row"] == 0]
    expected = dict(
        zip(
            ((row["chain"], row["resnum"]) for row in own),
            colours(np.array([row["score"] for row in own])).tolist(),
            strict=True,
        )
    )
    assert max(expected.values()) == pytest.approx(100)
    for old, new in zip(before, lines, strict=True):
        if not old.startswith("ATOM"):
            assert old == new
            continue
        assert old[:60] + old[66:] == new[:60] + new[66:]
        assert float(new[60:66]) == pytest.approx(expected.get((new[21], int(new[22:26])), 0.0), abs=0.005)
    assert json.loads((out / "result.json").read_text())["tables"]["scores"] == "scores.parquet"


def test_complexes_of_one_id_have_a_structure_each_and_the_report_shows_both(tmp_path, tiny_set):
    for name, file in (("first", "c01.pdb"), ("second", "c03.pdb")):
        (tmp_path / f"{name}.csv").write_text(f"id,path,chain1,chain2\none,{tiny_set.parent}/{file},A,B\n")
    source = f'["{tmp_path}/first.csv", "{tmp_path}/second.csv"]'
    spec = spec_of(tmp_path, "SOURCE")
    spec.write_text(spec.read_text().replace('"SOURCE"', source))
    assert main([str(spec)]) == 0
    out = tmp_path / "out"
    assert sorted(path.name for path in (out / "structures").iterdir()) == ["one-0.pdb", "one-1.pdb"]
    page = (out / "report.html").read_text()
    for row in (0, 1):
        assert f"<option>one, row {row}</option>" in page
        assert f"How much the embedding of one, row {row} changes" in page
    texts = [json.dumps((out / "structures" / f"one-{row}.pdb").read_text())[1:200] for row in (0, 1)]
    assert texts[0] != texts[1]
    assert all(text in page for text in texts)


def test_without_the_file_the_interface_is_written(tmp_path):
    from biotite.structure.io import pdbx

    record = atomica.open_dataset("demo://pockets")[40]
    by_block = {block: float(block) for block in range(len(record.block_types))}
    path = interface(record, by_block, tmp_path / "one", "it is\nsomewhere else")
    assert path.read_text().startswith("# it is somewhere else\ndata_")
    atoms = pdbx.get_structure(pdbx.CIFFile.read(path), model=1, extra_fields=["b_factor"])
    kept = np.repeat(record.block_types != keys.GLOBAL_BLOCK, record.block_lengths)
    np.testing.assert_allclose(atoms.coord, record.positions[kept], atol=6e-4)
    assert atoms.atom_name.tolist() == [n for n, k in zip(record.atom_names, kept, strict=True) if k]
    of_block = np.repeat(np.arange(len(record.block_lengths)), record.block_lengths)
    assert atoms.b_factor.tolist() == of_block[kept].tolist()


@pytest.mark.parametrize("name", ["biotite__5zng.cif.gz", "biotite__1p4k.bcif"])
def test_mmcif_and_binarycif_keep_the_rest(name, shared, tmp_path):
    """The B-factors are the scores of the residues; everything else of the file is as it was."""
    from biotite.structure.io import pdbx

    source = shared / "data" / "parser" / name
    content = source.read_bytes()
    content = gzip.decompress(content) if source.suffix == ".gz" else content
    plain = tmp_path / source.name.removesuffix(".gz")
    plain.write_bytes(content)
    kind = pdbx.BinaryCIFFile if plain.suffix == ".bcif" else pdbx.CIFFile
    before = kind.read(plain).block
    atoms = before["atom_site"]
    residue = (
        atoms["auth_asym_id"].as_array(str)[0],
        int(atoms["auth_seq_id"].as_array(str)[0]),
        "",
    )
    written = coloured(source, Values(residues={residue: 42.0}), tmp_path / "coloured")
    after = kind.read(written).block
    chosen = (atoms["auth_asym_id"].as_array(str) == residue[0]) & (
        atoms["auth_seq_id"].as_array(str) == str(residue[1])
    )
    values = after["atom_site"]["B_iso_or_equiv"].as_array(float)
    assert set(values[chosen]) == {42.0}
    assert not values[~chosen].any()
    assert list(before) == list(after)
    for column in atoms:
        if column != "B_iso_or_equiv":
            assert (atoms[column].as_array(str) == after["atom_site"][column].as_array(str)).all(), column


def test_values_fall_back_to_the_residue():
    record = atomica.open_dataset("demo://pockets")[40]
    values = of_record(record, {1: 7.0})
    chain, number = record.block_chains[1], str(record.block_resnums[1])
    assert values.of(chain, number, "", "CA") == 7.0
    assert values.of(chain, number, "", "HB1") == 7.0  # a hydrogen of the residue
    assert values.of(chain, "9999", "", "CA") == 0.0
    assert values.of(chain, "?", "", "CA") == 0.0
