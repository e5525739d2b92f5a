"""The Rust part as Python sees it."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest
from helpers import PREP

from atomica import _prep, keys
from atomica.errors import AtomicaError, DataError, IndexFileError, ShardError, SpecError, StructureError


def pdb(shift: float = 0.0) -> str:
    """Two strands of alanines side by side."""
    lines = []
    for chain, y in (("A", 0.0), ("B", 5.0)):
        for i in range(6):
            for name, dx in ((" N  ", 0.0), (" CA ", 1.4), (" C  ", 2.4), (" O  ", 2.9)):
                x = 3.5 * i + dx + shift
                lines.append(
                    f"ATOM      1 {name} ALA {chain}{i + 1:4d}    {x:8.3f}{y:8.3f}{dx / 2:8.3f}"
                    f"  1.00  0.00          {name.strip()[0]:>2}"
                )
        lines.append("TER")
    return "\n".join([*lines, "END", ""])


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    rows = ["id,path,chain1,chain2,label,label_site,split,note"]
    for i in range(3):
        (tmp_path / f"{i}.pdb").write_text(pdb(i * 0.25))
        rows.append(f"c{i},{i}.pdb,A,B,{i}.5,s{i},{'train' if i else ''},n{i}")
    index = tmp_path / "index.csv"
    index.write_text("\n".join(rows) + "\n")
    return index


def test_vocabularies_have_their_order():
    blocks, atoms = _prep.block_symbols(), _prep.atom_symbols()
    assert (len(blocks), len(atoms)) == (150, 121)
    assert blocks[:5] == ["PAD", "MASK", "UNK", "GLOBAL", "GLY"]
    assert blocks[23:33] == ["PRO", "DA", "DG", "DC", "DT", "RA", "RG", "RC", "RU", "H"]
    assert atoms[:5] == ["PAD", "MASK", "GLOBAL", "H", "He"]
    assert blocks[keys.UNKNOWN_BLOCK] == "UNK"
    assert blocks[keys.GLOBAL_BLOCK] == "GLOBAL"
    assert atoms[keys.GLOBAL_ATOM] == "GLOBAL"
    assert _prep.SCHEMA_VERSION == keys.SCHEMA_VERSION


def test_vocabulary_is_that_of_the_reference():
    known = json.loads((PREP / "fragments/vocab.json").read_text())
    names = {"<G>": "GLOBAL"}
    table = known["blocks_PS_300"]["blocks"][:150]
    assert [names.get(b["abbreviation"], b["abbreviation"]) for b in table] == _prep.block_symbols()
    assert known["atoms"][3:] == _prep.atom_symbols()[3:]


def test_errors_are_one_family():
    for error in (StructureError, IndexFileError, ShardError, SpecError, DataError):
        assert issubclass(error, AtomicaError)


def test_an_unreadable_file_says_where(tmp_path):
    path = tmp_path / "x.pdb"
    path.write_text(pdb().replace("   1.400", "   1.x00", 1))
    with pytest.raises(StructureError, match="line 2, columns 31-38") as caught:
        _prep.read_structure(str(path))
    error = caught.value
    assert (error.code, error.stage, error.line, error.column) == ("BadRecords", "read", 2, 31)
    assert error.file == str(path)


def test_columns_of_a_structure(tmp_path):
    path = tmp_path / "x.pdb"
    path.write_text(pdb())
    structure = _prep.read_structure(str(path))
    assert len(structure) == 48
    assert repr(structure) == "Structure(48 atoms, 12 residues, 2 chains)"
    assert structure.chain.tolist() == ["A"] * 24 + ["B"] * 24
    assert structure.atom_name[:3].tolist() == ["N", "CA", "C"]
    assert structure.x.shape == (48, 3)
    assert structure.x.dtype == np.float64
    assert structure.element[:4].tolist() == [7, 6, 6, 8]
    assert not structure.hetero.any()
    assert {len(column) for column in structure.columns().values()} == {48}
    assert structure.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_structure_from_bytes_is_that_of_the_file(tmp_path):
    path = tmp_path / "x.pdb"
    path.write_text(pdb())
    wanted = _prep.read_structure(path).columns()
    packed = gzip.compress(path.read_bytes())
    (tmp_path / "nameless").write_bytes(packed)
    for source, extension in [
        (path.read_bytes(), "pdb"),
        (bytearray(path.read_bytes()), ".ent"),
        (packed, "pdb.gz"),
        (tmp_path / "nameless", "pdb.gz"),
    ]:
        columns = _prep.read_structure(source, format=extension).columns()
        assert columns.keys() == wanted.keys()
        assert all(np.array_equal(columns[name], wanted[name]) for name in wanted), extension
    assert _prep.read_structure(path.read_bytes(), "pdb").sha256 is None


def test_what_cannot_be_read_from_bytes():
    with pytest.raises(ValueError, match='give format="pdb"'):
        _prep.read_structure(b"ATOM")
    with pytest.raises(StructureError, match="<bytes>: holds no atoms"):
        _prep.read_structure(b"REMARK", "pdb")
    with pytest.raises(StructureError, match=r"<bytes>\.txt: .*\.mmcif"):
        _prep.read_structure(b"ATOM", "txt")
    with pytest.raises(TypeError):
        _prep.read_structure(1)


def test_a_build_has_the_schema(inputs, tmp_path):
    out = tmp_path / "out"
    assert _prep.run(["build-graphs", str(inputs), "--out", str(out), "--neighbors", "5"]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["schema_version"] == keys.SCHEMA_VERSION
    assert manifest["atomica_prep_version"] == _prep.VERSION
    assert manifest["vocabulary"] == {
        "blocks": 150,
        "atoms": 121,
        "fragments": "none",
        "fragments_sha256": None,
        "fragment_entries": 0,
    }
    assert manifest["counts"] == {"inputs": 3, "complexes": 3, "failures": 0, "blocks": 42, "atoms": 150}
    with pa.memory_map(str(out / manifest["shards"][0]["file"])) as source:
        before = pa.total_allocated_bytes()
        table = pa.ipc.open_file(source).read_all()
        assert pa.total_allocated_bytes() == before, "columns are mapped, not copied"
        assert table.column_names == [f.name for f in keys.RECORD_FIELDS]
        types = {"utf8": pa.utf8(), "utf8?": pa.utf8(), "map<utf8,utf8>": pa.map_(pa.utf8(), pa.utf8())}
        for field in keys.RECORD_FIELDS:
            plain = types.get(field.dtype)
            item = plain if plain is not None else getattr(pa, field.dtype)()
            if field.shape == "A,3":
                item = pa.list_(item, 3)
            assert table.schema.field(field.name).type == (pa.list_(item) if field.shape else item), (
                field.name
            )
        rows = table.to_pylist()
    assert [r["split"] for r in rows] == [None, "train", "train"]
    assert dict(rows[1]["labels"]) == {"label": "1.5", "label_site": "s1"}
    assert dict(rows[1]["metadata"]) == {"chain1": "A", "chain2": "B", "note": "n1"}
    row = rows[0]
    assert row["block_lengths"] == [1, 4, 4, 4, 4, 4, 4] * 2
    assert row["segment_ids"] == [0] * 7 + [1] * 7
    assert row["atom_types"][0] == keys.GLOBAL_ATOM
    x = np.array(row["positions"])
    assert np.allclose(x[0], x[1:25].mean(axis=0), atol=1e-5)
    # The stored lists are those of `nearest` without the global atoms.
    block = np.repeat(np.arange(14), row["block_lengths"])
    eligible = np.array(row["block_types"])[block] != keys.GLOBAL_BLOCK
    segments = np.array(row["segment_ids"], dtype=np.uint8)[block]
    x32 = np.array(row["positions"], dtype=np.float32)
    intra, inter = _prep.nearest(x32, np.zeros(50, np.int64), segments, eligible, 5)
    assert np.array_equal(intra.ravel(), row["atom_intra"])
    assert np.array_equal(inter.ravel(), row["atom_inter"])


def test_builds_are_byte_identical(inputs, tmp_path):
    for name, threads in (("a", "1"), ("b", "2")):
        arguments = ["build-graphs", str(inputs), "--out", str(tmp_path / name), "--threads", threads]
        assert _prep.run(arguments) == 0
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_exit_codes(inputs, tmp_path, capfd):
    assert _prep.run(["--help"]) == 0
    assert _prep.run(["build-graphs", "nowhere.csv", "--out", str(tmp_path / "out")]) == 2
    assert "nowhere.csv" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
    with inputs.open("a") as file:
        file.write("gone,gone.pdb,A,B,,,,\n")
    assert _prep.run(["build-graphs", str(inputs), "--out", str(tmp_path / "out")]) == 3
    failure = json.loads((tmp_path / "out" / "failures.jsonl").read_text())
    assert (failure["row"], failure["id"], failure["code"], failure["stage"]) == (5, "gone", "Io", "read")
    assert "3 complexes written" in capfd.readouterr().err


def test_a_build_from_python_is_that_of_the_command(inputs, tmp_path):
    with inputs.open("a") as file:
        file.write("gone,gone.pdb,A,B,,,,\n")
    one, other = tmp_path / "one", tmp_path / "other"
    options = _prep.BuildOptions([inputs], one, cutoff=7.5, neighbors=5, compression="zstd", threads=1)
    summary = _prep.build(options)
    told = (summary.folder, summary.complexes, summary.failures, summary.failures_by_code, summary.code)
    assert told == (one, 3, 1, {"Io": 1}, 3)
    assert not summary.already_complete
    words = ["--cutoff", "7.5", "--neighbors", "5", "--compression", "zstd"]
    assert _prep.run(["build-graphs", str(inputs), "--out", str(other), *words]) == summary.code
    assert {f.name: f.read_bytes() for f in one.iterdir()} == {
        f.name: f.read_bytes() for f in other.iterdir()
    }
    again = _prep.build(
        _prep.BuildOptions([inputs], one, cutoff=7.5, neighbors=5, compression="zstd", resume=True)
    )
    assert (again.already_complete, again.complexes, again.code) == (True, 3, 3)


def test_what_cannot_be_built_is_raised_with_its_type(inputs, tmp_path):
    out = tmp_path / "out"

    def build(source=inputs, **options):
        return _prep.build(_prep.BuildOptions([source], out, **options))

    (tmp_path / "bad.csv").write_text("id,file\n")
    with pytest.raises(IndexFileError, match="header lacks path") as caught:
        build(tmp_path / "bad.csv")
    assert (caught.value.code, caught.value.file) == ("IndexColumns", str(tmp_path / "bad.csv"))
    with pytest.raises(AtomicaError, match=r"nowhere\.csv: does not exist"):
        build(tmp_path / "nowhere.csv")
    with pytest.raises(AtomicaError, match="cutoff 0: expected a distance"):
        build(cutoff=0.0)
    with pytest.raises(AtomicaError, match='ids = "labels": expected author or label'):
        build(ids="labels")
    for options, message in (
        ({"shard": (3, 2)}, "shard: expected"),
        ({"resume": True, "overwrite": True}, "exclude each other"),
        ({"keep_additives": True}, "no effect without discover"),
    ):
        with pytest.raises(AtomicaError, match=message):
            build(**options)
    with pytest.raises(TypeError):
        build(cutof=1.0)
    assert not out.exists()
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(AtomicaError, match="is not empty") as caught:
        build()
    assert (caught.value.code, caught.value.stage) == ("OutputExists", "usage")
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    with pytest.raises(ShardError, match="cannot be written"):
        build()


def test_a_cutter_that_fails_ends_the_build_with_its_error(tmp_path):
    class Cutter:
        name, sha256, entries, block_types = "mine", "0" * 64, 1, 151

        def cut(self, *given, **named):
            raise RuntimeError("no more")

    text = pdb().replace("TER\nEND", "TER\n") + (
        "HETATM    1  C1  LIG C   1       3.000   2.000   1.000  1.00  0.00           C\n"
        "HETATM    2  C2  LIG C   1       4.500   2.000   1.000  1.00  0.00           C\n"
    )
    (tmp_path / "x.pdb").write_text(text)
    (tmp_path / "x.csv").write_text("id,path,chain1,chain2,lig_code\none,x.pdb,A,C,LIG\n")
    with pytest.raises(RuntimeError, match="no more"):
        _prep.build(_prep.BuildOptions([tmp_path / "x.csv"], tmp_path / "out"), Cutter())


def test_nearest_refuses_wrong_shapes():
    x = np.zeros((3, 3), np.float32)
    zeros = (np.zeros(3, np.int64), np.zeros(3, np.uint8), np.ones(3, bool))
    with pytest.raises(ValueError, match="segments 2"):
        _prep.nearest(x, zeros[0], zeros[1][:2], zeros[2], 4)
    with pytest.raises(ValueError, match="not finite"):
        _prep.nearest(x * np.float32("nan"), *zeros, 4)
    with pytest.raises(ValueError, match=r"expected \[N, 3\]"):
        _prep.nearest(x[:, :2], *zeros, 4)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("how", ["command", "python"])
def test_ctrl_c_ends_cleanly(how, inputs, tmp_path):
    (tmp_path / "many.csv").write_text(
        "id,path,chain1,chain2\n" + "".join(f"r{i},0.pdb,A,B\n" for i in range(200_000))
    )
    out = tmp_path / "out"
    # A shell that starts the tests in the background has its children ignore the signal.
    work = {
        "command": "sys.exit(_prep.run(sys.argv[1:]))",
        "python": """
try:
    _prep.build(_prep.BuildOptions([sys.argv[2]], sys.argv[4], threads=1))
except KeyboardInterrupt:
    sys.exit(130)
""",
    }
    code = f"""\
import signal, sys
from atomica import _prep
signal.signal(signal.SIGINT, signal.default_int_handler)
print('go', flush=True)
{work[how]}
"""
    arguments = ["build-graphs", str(tmp_path / "many.csv"), "--out", str(out), "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    while not (out / "progress.json").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"--resume" in err
    assert not (out / "manifest.json").exists()


def test_repairs_are_told_and_refused_when_strict():
    atom = "ATOM      1  CA  ALA A   1      11.104   6.134  -6.504  1.00  0.00"
    whole = _prep.read_structure((atom + "           C  \n").encode(), "pdb", strict=True)
    assert whole.repairs == []
    mended = _prep.read_structure(atom.encode(), "pdb")
    assert [(r["kind"], r["count"], r["line"], r["column"]) for r in mended.repairs] == [
        ("element-guessed", 1, 1, 77)
    ]
    with pytest.raises(_prep.StructureError, match="line 1, columns 77-78: no element") as caught:
        _prep.read_structure(atom.encode(), "pdb", strict=True)
    assert (caught.value.code, caught.value.line, caught.value.column) == ("NeedsRepair", 1, 77)


def test_pairs_within_are_all_pairs_closer_than_the_cutoff():
    rng = np.random.default_rng(4)
    x = rng.uniform(0, 20, (300, 3)).astype(np.float32)
    first, second = _prep.pairs_within(x, 5.0)
    apart = np.linalg.norm(x[:, None].astype(np.float64) - x[None], axis=-1)
    expected = np.argwhere(np.triu(apart < 5.0, k=1))
    assert len(expected) > 1000
    assert first.dtype == second.dtype == np.int32
    assert sorted(zip(first, second, strict=True)) == [tuple(pair) for pair in expected]
    # A view with other strides, and a repeated call.
    again = _prep.pairs_within(np.concatenate([x, x], axis=1)[:, :3], 5.0)
    np.testing.assert_array_equal(again, (first, second))


def test_pairs_within_refuses_what_it_cannot_use():
    x = np.zeros((3, 3), np.float32)
    with pytest.raises(ValueError, match="cutoff is -1"):
        _prep.pairs_within(x, -1.0)
    with pytest.raises(ValueError, match="not finite, in row 0"):
        _prep.pairs_within(x * np.float32("nan"), 5.0)
    with pytest.raises(ValueError, match="shape"):
        _prep.pairs_within(x[:, :2], 5.0)
