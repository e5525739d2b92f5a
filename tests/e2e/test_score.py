"""Interaction scores: against a pair of forward passes for every block; as a table; as structures."""

from __future__ import annotations

import gzip
import io
import json
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT, environment
from scipy.stats import spearmanr

import atomica
from atomica import _prep, keys
from atomica.analysis import gradient, masking
from atomica.analysis.bfactors import INTERFACE, Values, coloured, interface, of_record
from atomica.data import graph
from atomica.errors import AtomicaError
from atomica.jobs.score import LIGAND, colours, scores
from atomica.model.contract import Contract
from atomica.prep import pockets
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


def test_the_unmasked_complex_is_computed_once(tiny_set, monkeypatch):
    """Of many batches the first alone runs the levels of the unmasked complex; scores are those of a batch each."""
    model, record = model_of({"layers": 3}), atomica.open_dataset(tiny_set)[11]
    made, inner = [], masking._first_copy
    monkeypatch.setattr(masking, "_first_copy", lambda *a, **k: made.append(1) or inner(*a, **k))
    blocks, values = scores(model, record, batch_blocks=1)
    assert len(blocks) > 2
    assert len(made) == 2  # atoms, blocks
    each = [
        masking.cosines(model, record, batch_blocks=1, blocks=blocks[i : i + 1])[0]
        for i in range(len(blocks))
    ]
    np.testing.assert_allclose(values, each, rtol=0, atol=1e-7)


@pytest.mark.parametrize("segment", [0, 1])
@pytest.mark.parametrize(
    "options", [{"layers": 3}, {"layers": 3, "reference_quirks": True}], ids=["plain", "quirks"]
)
def test_scores_of_one_partner_are_those_of_representations(options, segment, tiny_set):
    """What is read of a partner, from a complex and its masked copy through the whole model."""
    model, record = model_of(options), atomica.open_dataset(tiny_set)[11]
    blocks, values = scores(model, record, ligand=segment, batch_blocks=100)
    assert set(record.segment_ids[blocks].tolist()) == {1 - segment}
    wanted = []
    for block in blocks.tolist():
        pair = masking.masked_copies(record, np.array([block])).graph(model.config.graph_options())
        with torch.no_grad():
            (found,) = model.represent(pair, LIGAND[segment])
        wanted.append(float(F.cosine_similarity(*found.double(), dim=0)))
    assert min(wanted) < 0.9999
    np.testing.assert_allclose(values, wanted, rtol=0, atol=2e-6)


def test_scores_by_gradient_cost_few_passes_and_rank_as_masks_do():
    model = model_of({"layers": 3, "atom_hidden": 16, "block_hidden": 16})
    data = atomica.open_dataset("demo://pockets")
    passes = dict.fromkeys(gradient.PASSES, 0)

    def count(name):
        def hook(*_):
            passes[name] += 1

        return hook

    encoder = model.encoder
    hooks = [encoder.atoms.register_forward_hook(count("atom level forward"))]
    hooks += [encoder.blocks.register_forward_hook(count("block level forward"))]
    hooks += [encoder.blocks.register_full_backward_hook(count("block level backward"))]
    ranks = []
    for row in (40, 60, 80, 100):
        record = data[row].view("segment0")
        passes = dict.fromkeys(passes, 0)
        blocks, estimated = scores(model, record, method="gradient")
        assert passes == gradient.PASSES
        again, exact = scores(model, record)
        assert blocks.tolist() == again.tolist()
        assert (estimated <= 1).all()
        ranks.append(spearmanr(estimated, exact)[0])
    for hook in hooks:
        hook.remove()
    assert np.mean(ranks) > 0.5
    assert all(weight.grad is None for weight in model.parameters())


def test_gradients_are_those_of_the_path(tiny_set):
    """With all directions, and at its start, the estimate is that of the change to first order by finite steps."""
    model, record = model_of({"layers": 2}), atomica.open_dataset(tiny_set)[11]
    model.double()
    path = gradient.Path.of(model, record)
    directions, point = gradient.DIRECTIONS, gradient.POINT
    gradient.DIRECTIONS, gradient.POINT = 10**6, 0.0
    try:
        values = gradient.gradient_scores(model, record)
    finally:
        gradient.DIRECTIONS, gradient.POINT = directions, point
    small = 1e-6
    for value, block in zip(values, masking.maskable(record), strict=True):
        moved = path.here.clone()
        moved[block] += small * path.step[block]
        with torch.no_grad():
            change = (path.embedding(moved) - path.embedding(path.here)) / small
        assert 1 - value == pytest.approx(float(change.square().sum() / 2), rel=1e-4)


def spec_of(tmp_path, source, own="", options=None):
    torch.manual_seed(0)
    model_of(options or {}).save(tmp_path / "weights")
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


def test_the_job_finds_contacts_and_judges_scores_by_them(tmp_path, shared):
    """A metal and its protein, read on the metal's side: the table of contacts, the figures, and the report's lines."""
    entries = shared / "data" / "entries"
    (tmp_path / "index.csv").write_text(
        "id,path,chain1,chain2,lig_code,lig_resnum\n"
        f"one,{entries}/1cah.pdb.gz,A,A,CO,262\ntwo,{entries}/2ada.pdb.gz,A,A,ZN,400\n"
    )
    spec = spec_of(tmp_path, tmp_path / "index.csv", '[score]\nreadout = "ligand"\n', {"layers": 3})
    assert main([str(spec)]) == 0
    out = tmp_path / "out"
    table, found = (pq.read_table(out / f"{name}.parquet").to_pylist() for name in ("scores", "contacts"))
    assert {(row["kind"], row["component1"], row["resnum1"]) for row in found if row["id"] == "one"} == {
        ("metal", "HIS", 94),
        ("metal", "HIS", 96),
        ("metal", "HIS", 119),
    }
    assert {row["segment"] for row in table} == {0}
    touching = {(row["row"], row["chain1"], row["resnum1"]) for row in found}
    assert {(r["row"], r["chain"], r["resnum"]) for r in table if r["contacts"] == "metal"} == touching
    assert (out / "contacts.csv").read_text().count("\n") == len(found) + 1
    figures = json.loads((out / "result.json").read_text())["figures"]
    own = [[row for row in table if row["row"] == number] for number in (0, 1)]
    shares = []
    for rows in own:
        k = sum(row["contacts"] != "" for row in rows)
        first = sorted(rows, key=lambda row: row["score"])[:k]
        shares.append(sum(row["contacts"] != "" for row in first) / k)
    assert figures["contacts: any"]["P@k"] == pytest.approx(np.mean(shares), abs=1e-4)
    page = (out / "report.html").read_text()
    for shown in ("Scores and contacts", 'value="metal"', "3 metal", "side is told with and without it"):
        assert shown in page, shown
    assert 'value="pi stacking"' not in page


WRONG = {
    'readout = "ligand"\nmethod = "gradient"': 'gradients estimate the readout "complex" alone',
    'ligand = "segment1"': 'has no effect: score.readout is "complex"',
    'readout = "ligand"': "60 of 60 complexes have no ligand side",
    'method = "gradiant"': "gradient",
}


@pytest.mark.parametrize("lines", WRONG)
def test_what_cannot_be_scored_is_said_before_anything_is_written(lines, tmp_path, tiny_set, capsys):
    assert main([str(spec_of(tmp_path, tiny_set, f"[score]\n{lines}\n"))]) == 2
    assert WRONG[lines] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_contacts_there_is_no_table_of_them(tmp_path, tiny_set):
    own = '[score]\ncontacts = false\nstructures = false\nmethod = "gradient"\n'
    assert main([str(spec_of(tmp_path, tiny_set, own))]) == 0
    out = tmp_path / "out"
    assert not (out / "contacts.csv").exists()
    assert "contacts" not in pq.read_table(out / "scores.parquet").column_names
    assert "estimated for all blocks at once by gradients" in (out / "report.html").read_text()
    figures = json.loads((out / "result.json").read_text())["figures"]
    assert -1 <= float(figures["rank correlation with masking"]) <= 1
    assert "gradients rank blocks as masks do with rho" in (out / "log.txt").read_text()


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


@pytest.mark.parametrize("name", ["biotite__5zng.cif.gz", "biotite__1p4k.bcif", "biotite__1l2y.pdb.gz"])
def test_files_keep_the_rest(name, shared, tmp_path):
    """The B-factors are the scores of the residues, in all models; everything else of the file is as it was."""
    source = shared / "data" / "parser" / name
    content = source.read_bytes()
    content = gzip.decompress(content) if source.suffix == ".gz" else content
    before = _prep.read_sites(source)
    atoms = before.atoms
    residue = (atoms.chain[0], int(atoms.resnum[0]), atoms.icode[0], atoms.resname[0])
    written = coloured(source, Values(residues={residue: 42.0}), tmp_path / "coloured")
    after = _prep.read_sites(written)
    chosen = (atoms.chain == residue[0]) & (atoms.resnum == residue[1])
    assert set(after.b_factor[chosen]) == {42.0}
    assert not after.b_factor[~chosen].any()
    if written.suffix == ".bcif":
        from biotite.structure.io import pdbx

        old, new = (pdbx.BinaryCIFFile.read(io.BytesIO(one)) for one in (content, written.read_bytes()))
        assert list(old.block) == list(new.block)
        for category in old.block:
            for column in old.block[category]:
                same = old.block[category][column].as_array(str) == new.block[category][column].as_array(str)
                assert same.all() or column == "B_iso_or_equiv", (category, column)
    else:
        blank = np.full(len(before), 0.0)
        assert after.with_b_factors(blank) == before.with_b_factors(blank)
        assert len(written.read_bytes().splitlines()) == len(content.splitlines())
    (tmp_path / "plain").write_bytes(before.with_b_factors(np.nan_to_num(before.b_factor)))
    if written.suffix != ".bcif":
        assert (tmp_path / "plain").read_bytes() == content


def atom_lines(chain, first, residues, height, write):
    """Alanines along x; `write(chain, number, atom, x, y, z)` gives a line."""
    for index in range(residues):
        for name, along in (("N", -1.2), ("CA", 0.0), ("C", 1.2), ("O", 1.3), ("H", -1.0)):
            yield write(chain, first + index, name, 3.8 * index + along, height, 0.1 * along)


NUMBERS = {
    "hybrid-36": lambda n: f"{n:4d}" if n < 10_000 else f"A{n - 10_000:03d}",
    "hexadecimal": lambda n: f"{n:4d}" if n < 10_000 else f"{n:4X}",
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_residue_numbers_that_are_mended_have_their_values(kind, tmp_path):
    def line(chain, number, name, x, y, z):
        return (
            f"ATOM      1  {name:<3} ALA {chain}{NUMBERS[kind](number)}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  9.00"
            f"          {name[0]:>2}"
        )

    lines = [*atom_lines("A", 9997, 8, 0.0, line), "TER", *atom_lines("B", 1, 8, 4.0, line), "TER"]
    water = "HETATM    1  O   HOH A   1      90.000  90.000  90.000  1.00  9.00           O"
    (tmp_path / "x.pdb").write_text("\n".join([*lines, water, "END", ""]))
    values = check_values(tmp_path, tmp_path / "x.pdb", "A", "B")
    assert [number for chain, number in values if chain == "A"] == list(range(9997, 10005))


CIF = """\
data_x
loop_
_atom_site.group_PDB
_atom_site.id
_atom_site.type_symbol
_atom_site.label_atom_id
_atom_site.label_alt_id
_atom_site.label_comp_id
_atom_site.label_asym_id
_atom_site.label_seq_id
_atom_site.pdbx_PDB_ins_code
_atom_site.Cartn_x
_atom_site.Cartn_y
_atom_site.Cartn_z
_atom_site.occupancy
_atom_site.B_iso_or_equiv
_atom_site.auth_seq_id
_atom_site.auth_asym_id
_atom_site.pdbx_PDB_model_num
"""


@pytest.mark.parametrize("ids", ["author", "label"])
@pytest.mark.parametrize("suffix", [".cif", ".cif.gz", ".bcif", ".bcif.gz", ".bcif.zst"])
def test_data_of_either_ids_have_their_values(ids, suffix, tmp_path):
    """Both have chains A and B and some numbers in common, for other residues."""
    author = {"A": ("B", 1), "B": ("A", 2)}

    def line(chain, number, name, x, y, z):
        theirs, shift = author[chain]
        code = "A" if number == 3 else "?"  # the author's third residue is an insertion
        return (
            f"ATOM 1 {name[0]} {name} . ALA {chain} {number} {code} {x:.3f} {y:.3f} {z:.3f} 1.00 9.00 "
            f"{number + shift - (number == 3)} {theirs} 1"
        )

    lines = [*atom_lines("A", 1, 8, 0.0, line), *atom_lines("B", 1, 8, 4.0, line)]
    lines.append("HETATM 1 O O . HOH C . ? 90.0 90.0 90.0 1.00 9.00 1 A 1")
    text = CIF + "\n".join(lines) + "\n"
    made = text.encode() if "bcif" not in suffix else binary(text)
    packed = {".gz": gzip.compress, ".zst": pa.Codec("zstd").compress}.get(
        suffix[suffix.rindex(".") :], bytes
    )
    (tmp_path / f"x{suffix}").write_bytes(packed(made))
    values = check_values(tmp_path, tmp_path / f"x{suffix}", "A", "B", ids)
    assert sorted({chain for chain, _ in values}) == ["A", "B"]
    assert (("A", 1) in values) == (ids == "label")
    assert (("A", 10) in values) == (ids == "author")


def binary(text):
    """A text of mmCIF as BinaryCIF, by Biotite."""
    from biotite.structure.io import pdbx

    file, made = pdbx.BinaryCIFFile(), io.BytesIO()
    table = pdbx.CIFFile.read(io.StringIO(text)).block["atom_site"]

    def column(name):
        kind = {"C": float, "o": float, "B": float}.get(
            name[0], int if name.endswith(("seq_id", "model_num")) else str
        )
        mask = table[name].mask
        values = table[name].as_array(str)
        values = np.where(np.isin(values, [".", "?"]), "0" if kind is not str else ".", values).astype(kind)
        return pdbx.BinaryCIFColumn(values, None if mask is None else mask.array)

    file["x"] = pdbx.BinaryCIFBlock(
        {"atom_site": pdbx.BinaryCIFCategory({name: column(name) for name in table})}
    )
    file.write(made)
    return made.getvalue()


def check_values(folder, path, chain1, chain2, ids="author"):
    """Run the job on data built from a file; every residue of the interface has its value, everything else 0.

    Gives the values by chain and number. The report shows the same residues, named as the viewer names them.
    """
    (folder / "index.csv").write_text(f"id,path,chain1,chain2\none,{path.name},{chain1},{chain2}\n")
    options = ["--out", str(folder / "data"), "--ids", ids]
    assert _prep.run(["build-graphs", str(folder / "index.csv"), *options]) == 0
    assert main([str(spec_of(folder, folder / "data", f'[score]\nroot = "{folder}"\n'))]) == 0
    out = folder / "out"
    table = pq.read_table(out / "scores.parquet").to_pylist()
    shown = colours(np.array([row["score"] for row in table])).tolist()
    expected = {
        (row["chain"], row["resnum"], row["icode"]): value for row, value in zip(table, shown, strict=True)
    }
    (written,) = (out / "structures").iterdir()
    assert written.suffix == path.with_suffix("").suffix or written.suffix == path.suffix
    assert not written.name.endswith(INTERFACE)
    sites = _prep.read_sites(written, label_ids=ids == "label")
    found = dict.fromkeys(expected)
    for place, value in zip(pockets.places(sites.atoms), sites.b_factor.tolist(), strict=True):
        assert value == pytest.approx(expected.get(place, 0.0), abs=0.006), place
        found[place] = value
    assert None not in found.values()
    assert max(value for value in found.values()) == pytest.approx(100)
    assert len(found) == len(expected) + 1  # the water
    author = dict(
        zip(pockets.places(sites.atoms), pockets.places(_prep.read_sites(written).atoms), strict=True)
    )
    page = (out / "report.html").read_text()
    for place in expected:
        chain, number, icode = author[place]
        assert f'["{chain}|{number}|{icode}",' in page, place
    assert re.search(r"[1-9]\d* contacts within 4.5 ", page)
    return {place[:2]: value for place, value in found.items() if place in expected}


def test_values_fall_back_to_the_residue_and_keep_to_it(tmp_path):
    """Hydrogens have the value of their residue; a ligand of the same number is another, a variant is the same."""
    line = "ATOM      1  {:<3}{}{} A   1       0.000   0.000   0.000  1.00  9.00           {}"
    rows = [
        ("CA", " ", "ALA", "C"),
        ("HB1", " ", "ALA", "H"),
        ("CA", "A", "ALA", "C"),
        ("CA", "B", "SER", "C"),
        ("C1", " ", "LIG", "C"),
        ("C2", " ", "LIG", "C"),
    ]
    path = tmp_path / "x.pdb"
    path.write_text("\n".join(line.format(*row) for row in rows) + "\n")
    residue = ("A", 1, "")
    values = Values(
        atoms={((*residue, "ALA"), "CA"): 7.0, ((*residue, "LIG"), "C2"): 3.0},
        residues={(*residue, "ALA"): 8.0},
    )
    assert values.of(_prep.read_sites(path)).tolist() == [7.0, 8.0, 7.0, 8.0, 0.0, 3.0]


def test_values_of_a_record():
    record = atomica.open_dataset("demo://pockets")[40]
    values = of_record(record, {1: 7.0})
    residue = (record.block_chains[1], int(record.block_resnums[1]), "", record.block_components[1])
    first, count = int(record.block_lengths[0]), int(record.block_lengths[1])
    assert values.residues == {residue: 7.0}
    assert values.atoms == {(residue, name): 7.0 for name in record.atom_names[first : first + count]}


@pytest.mark.parametrize(
    "text",
    [
        CIF.replace("_atom_site.B_iso_or_equiv\n", "") + "ATOM 1 C 'C A' . ALA A 1 ? 0 0 0 1.00 1 A\n 1\n#\n",
        CIF + "ATOM 1 C CA . ALA A 1 ? 0 0 0 1.00 '?' 1 A 1",
        CIF + "ATOM 1 C CA . ALA A 1 ? 0 0 0 1.00\n;9.0\n; 1 A 1\n# end",
        "\ufeffdata_x\n_atom_site.type_symbol C\n_atom_site.label_atom_id CA\n_atom_site.label_comp_id ALA\n"
        "_atom_site.label_asym_id A\n_atom_site.label_seq_id 1\n_atom_site.Cartn_x 0\n_atom_site.Cartn_y 0\n"
        "_atom_site.Cartn_z 'O'\n_cell.length_a 9\n".replace("'O'", "'0'"),
        "ATOM      1  CA  ALA A   1       0.000   0.000   0.000",
        "ATOM      1  CA  ALA A   1       0.000   0.000   0.000  1.00  9.0\r\nEND\r\n",
    ],
    ids=["no column", "quoted", "text field", "item by item", "short line", "cut column"],
)
def test_b_factors_are_written_where_there_was_none(text, tmp_path):
    path = tmp_path / ("x.pdb" if text.startswith("ATOM") else "x.cif")
    path.write_text(text, newline="")
    before = _prep.read_sites(path)
    assert len(before) == 1
    path.write_bytes(before.with_b_factors(np.array([12.5])))
    after = _prep.read_sites(path)
    assert after.b_factor.tolist() == [12.5]
    for name, column in before.atoms.columns().items():
        assert np.array_equal(column, after.atoms.columns()[name]), name


TOO_MUCH = [([1e4], "10000 is no B-factor: expected -99.99 to 999.99"), ([np.nan], "NaN is no B-factor")]


@pytest.mark.parametrize(("values", "message"), [*TOO_MUCH, ([1.0, 2.0], "2 B-factors for 1 records")])
def test_values_that_fit_into_no_column_are_refused(values, message, tmp_path):
    path = tmp_path / "x.pdb"
    path.write_text("ATOM      1  CA  ALA A   1       0.000   0.000   0.000  1.00  9.00           C\n")
    with pytest.raises(AtomicaError, match=message):
        _prep.read_sites(path).with_b_factors(np.array(values))


def test_the_comparison_of_gradients_refuses_an_input_that_the_model_was_not_made_for(tmp_path):
    config = atomica.EncoderConfig(atom_hidden=8, block_hidden=8, edge_size=4, layers=1)
    atomica.Model(config, made_for=Contract(view="complex")).save(tmp_path / "model")
    script = ROOT / "tests" / "bench" / "gradients.py"
    words = [sys.executable, str(script), "--weights", str(tmp_path / "model"), "--complexes", "1"]

    def start(*more):
        return subprocess.run([*words, *more], env=environment(), capture_output=True, text=True, check=False)

    done = start("--input", "segment0")
    assert done.returncode == 2
    assert "data.input = 'segment0', and the model was trained with 'complex'" in done.stderr
    assert "no complex has 10 to 12 blocks of complex" in start("--largest", "12").stderr
