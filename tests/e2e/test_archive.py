"""Structures by id: found in a local copy of the archive, or downloaded from a server (here one on this machine)."""

from __future__ import annotations

import csv
import gzip
import http.server
import json
import shutil
import threading

import numpy as np
import pytest
from biotite.structure.io import load_structure, pdbx

from atomica import open_dataset
from atomica.prep import archive
from atomica.prep.command import main


@pytest.fixture
def entry(tiny_set):
    """A structure of the small set, as a PDB file."""
    return tiny_set.parent / "c00.pdb"


def as_bcif(path, target, b_factor=None):
    atoms = load_structure(path, extra_fields=["b_factor"])
    if b_factor is not None:
        atoms.b_factor[:] = b_factor[atoms.res_id - 1]
    file = pdbx.BinaryCIFFile()
    pdbx.set_structure(file, atoms)
    file.write(target)
    return target


def index(folder, *paths):
    text = "id,path,chain1,chain2\n" + "".join(f"r{n},{path},A,B\n" for n, path in enumerate(paths))
    (folder / "index.csv").write_text(text)
    return folder / "index.csv"


@pytest.mark.parametrize(
    "place",
    [
        "ab/1abc.cif.gz",
        "1abc.cif",
        "structures/divided/mmCIF/ab/1abc.cif.gz",
        "pdb/ab/pdb1abc.ent.gz",
        "1abc.bcif.gz",
    ],
)
def test_a_copy_of_the_archive_is_searched(entry, tmp_path, place):
    mirror = tmp_path / "mirror"
    target = mirror / place
    target.parent.mkdir(parents=True)
    plain = tmp_path / "plain"
    if ".ent" in place:
        shutil.copy(entry, plain)
    elif ".bcif" in place:
        as_bcif(entry, plain.with_suffix(".bcif")).rename(plain)
    else:
        file = pdbx.CIFFile()
        pdbx.set_structure(file, load_structure(entry))
        file.write(plain)
    target.write_bytes(gzip.compress(plain.read_bytes()) if place.endswith(".gz") else plain.read_bytes())
    listed = index(tmp_path, "pdb:1ABC", entry, "pdb:9zzz")
    out = tmp_path / "graphs"
    assert main(["build-graphs", str(listed), "--out", str(out), "--mirror", str(mirror)]) == 3
    data = open_dataset(out)
    assert data.ids == ["r0", "r1"]
    assert np.allclose(data[0].positions, data[1].positions, atol=1e-3)
    assert data[0].source_path == str(target)
    (failed,) = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert failed["id"] == "r2"


def test_an_index_with_semicolons_keeps_its_decimal_commas(entry, tmp_path):
    shutil.copy(entry, tmp_path / "1abc.pdb")
    (tmp_path / "index.csv").write_text("sep=;\nid;path;chain1;chain2;label\na;pdb:1abc;A;B;5,25\n")
    words = [
        "build-graphs",
        str(tmp_path / "index.csv"),
        "--out",
        str(tmp_path / "out"),
        "--mirror",
        str(tmp_path),
    ]
    assert main(words) == 0
    assert [float(text) for text in open_dataset(tmp_path / "out").column("label")] == [5.25]


def test_ids_need_somewhere_to_look(tmp_path, capsys):
    listed = index(tmp_path, "pdb:1abc")
    for command in (["build-graphs", str(listed), "--out", str(tmp_path / "out")], ["check", str(listed)]):
        assert main(command) == 2
        told = capsys.readouterr().err
        assert f"{listed}:2: pdb:1abc names an entry by its id" in told
        assert "--fetch" in told
    assert (
        main(["build-graphs", str(listed), "--out", str(tmp_path / "out"), "--mirror", str(tmp_path / "no")])
        == 2
    )
    assert "no such folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def server(entry, tmp_path, monkeypatch):
    """A server that has the entry, as Biotite's databases do, and fails the first request of all; its requests."""
    asked = []
    content = as_bcif(entry, tmp_path / "served.bcif").read_bytes()
    scores = np.array([90.0] * 3 + [30.0] * 20)
    model = as_bcif(entry, tmp_path / "model.bcif", scores).read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            known = {"/1abc.bcif": content, "/model.bcif": model}
            known["/api/P12345"] = json.dumps([{"bcifUrl": f"{address}/model.bcif"}]).encode()
            if len(asked) == 1:
                self.connection.close()
                return
            found = known.get(self.path.partition("?")[0])
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(found or b"<title>404 Not Found</title>")

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        address = f"http://127.0.0.1:{served.server_port}"
        thread = threading.Thread(target=served.serve_forever, daemon=True)
        thread.start()
        from biotite.database.afdb import download as afdb
        from biotite.database.rcsb import download as rcsb

        monkeypatch.setattr(rcsb, "_bcif_url", f"{address}/")
        monkeypatch.setattr(afdb, "_METADATA_URL", f"{address}/api")
        monkeypatch.setattr(archive, "PAUSE_SECONDS", 0.01)
        yield asked
        served.shutdown()


def test_what_is_not_there_is_downloaded_once(server, tmp_path, capsys):
    listed = index(tmp_path, "pdb:1abc", "pdb:9zzz")
    words = ["build-graphs", str(listed), "--fetch", "--cache", str(tmp_path / "cache")]
    assert main([*words, "--out", str(tmp_path / "one")]) == 3
    assert open_dataset(tmp_path / "one").ids == ["r0"]
    assert "pdb:9zzz: cannot be downloaded" in capsys.readouterr().err
    assert server.count("/1abc.bcif") == 2  # the first request failed
    assert main([*words, "--out", str(tmp_path / "two")]) == 3
    assert server.count("/1abc.bcif") == 2
    (tmp_path / "cache" / "pdb-1abc.bcif").write_bytes(b"damaged")
    assert main([*words, "--out", str(tmp_path / "three")]) == 3
    assert server.count("/1abc.bcif") == 3
    assert open_dataset(tmp_path / "three").ids == ["r0"]


def test_a_floor_leaves_residues_of_predicted_models_out(server, tmp_path):
    listed = index(tmp_path, "af:P12345", "af:P12345")
    words = ["build-graphs", str(listed), "--fetch", "--cache", str(tmp_path / "cache")]
    blocks = {}
    for floor in ("0", "70"):
        out = tmp_path / f"floor{floor}"
        assert main([*words, "--out", str(out), "--min-plddt", floor]) == 0
        data = open_dataset(out)
        blocks[floor] = set(data[0].block_resnums.tolist()) - {0}
        with open(f"{out}.indexes/index.csv", newline="") as stream:
            means = {float(row["plddt"]) for row in csv.DictReader(stream)}
        assert set(data.column("plddt")) == {f"{means.pop():.1f}"}
    assert max(blocks["70"]) <= 3 < max(blocks["0"])
