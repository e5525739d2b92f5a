"""The original's processed data become shards; a pickle of anything but plain data is refused before it acts."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import subprocess
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from helpers import PREP

import atomica
from atomica.data import graph
from atomica.errors import DataError
from atomica.prep.command import main
from atomica.prep.unpickle import restricted_load


@pytest.fixture(scope="module")
def items():
    """Some of the original's items, in the form it writes them, from the reference interfaces."""
    found = []
    with gzip.open(PREP / "interfaces.json.gz") as stream:
        runs = json.load(stream)
    for item in [item for run in runs if run["kind"] in ("PP", "PL") for item in run["items"]][:9]:
        places, names, index = [], {}, 0
        for segment in item["segments"]:
            places.append(segment["global_xyz"])
            index += 1
            for block in segment["blocks"]:
                places += block["xyz"]
                names[index] = f"{block['chain']}_{block['resnum']}"
                index += 1
        keys = ("B", "A", "atom_positions", "block_lengths", "segment_ids")
        data = {"X": np.array(places), **{key: item[key] for key in keys}}
        found.append({"id": item["id"], "data": data, "block_to_pdb_indexes": names, "label": 6.5})
    return found


def written(items, kind, path):
    if kind == "pkl":
        path.write_bytes(pickle.dumps(items))
        return path
    with gzip.open(path, "wt") as stream:
        for item in items:
            data = {**item["data"], "X": item["data"]["X"].tolist()}
            stream.write(json.dumps({**item, "data": data}) + "\n")
    return path


@pytest.mark.parametrize("kind", ["pkl", "jsonl.gz"])
def test_items_of_the_original(items, kind, tmp_path, capsys):
    file = written(items, kind, tmp_path / f"items.{kind}")
    vocabulary = str(PREP / "fragments/ps_300.tsv")
    out = tmp_path / "out"
    command = ["convert", str(file), "--out", str(out), "--fragments", vocabulary, "--split", "test"]
    assert main(command) == 0, capsys.readouterr().err
    data = atomica.open_dataset(out)
    data.verify()
    assert data.ids == [item["id"] for item in items]
    assert data.block_types == 440
    assert set(data.splits) == {"test"}
    assert data.column("label") == ["6.5"] * len(items)
    for record, item in zip(data, items, strict=True):
        own = item["data"]
        np.testing.assert_array_equal(record.block_types, own["B"])
        np.testing.assert_array_equal(record.atom_types, own["A"])
        np.testing.assert_array_equal(record.segment_ids, own["segment_ids"])
        np.testing.assert_array_equal(record.positions, own["X"].astype(np.float32))
        for block, text in item["block_to_pdb_indexes"].items():
            assert f"{record.block_chains[block]}_{record.block_resnums[block]}" == text
        wanted = graph.graph_from_arrays(
            own["X"], own["B"], own["A"], own["block_lengths"], own["segment_ids"], [len(own["B"])]
        )
        made = graph.batch([record])
        for relation in wanted.canonical_etypes:
            for one, other in zip(wanted.edges(etype=relation), made.edges(etype=relation), strict=True):
                assert torch.equal(one, other)
    assert main(["inspect", str(out)]) == 0
    assert main(command) == 2
    assert "is there already" in capsys.readouterr().err


def test_what_is_wrong_with_an_item_is_listed_and_the_rest_kept(items, tmp_path, capsys):
    good = next(item for item in items if max(item["data"]["B"]) < 150)

    def broken(**changes):
        return {"id": "broken", "data": {**good["data"], **changes}}

    cases = {
        "expected 0 to 149": broken(B=[400, *good["data"]["B"][1:]]),
        "lacks X": {"id": "x", "data": {k: v for k, v in good["data"].items() if k != "X"}},
        "add up": broken(A=good["data"]["A"][1:]),
        "not finite": broken(X=good["data"]["X"] * np.nan),
        "does not begin with a global block": broken(B=[4, *good["data"]["B"][1:]]),
        "came before": good,
        "expected a table": 5,
        "is not of the form": {**good, "id": "y", "block_to_pdb_indexes": {1: "nonsense"}},
        "there is no block": {**good, "id": "z", "block_to_pdb_indexes": {100000: "A_1"}},
    }
    file = tmp_path / "items.pkl"
    file.write_bytes(pickle.dumps([good, *cases.values()]))
    assert main(["convert", str(file), "--out", str(tmp_path / "out")]) == 3
    rows = [json.loads(line) for line in (tmp_path / "out/failures.jsonl").read_text().splitlines()]
    for row, part in zip(rows, cases, strict=True):
        assert part in row["message"], row
        assert row["message"].startswith(f"{file}: item")
    assert atomica.open_dataset(tmp_path / "out").ids == [good["id"]]
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"id": "cut", \n')
    assert main(["convert", str(lines), "--out", str(tmp_path / "lines")]) == 3
    assert f"{lines}:1: not valid JSON" in (tmp_path / "lines/failures.jsonl").read_text()


def test_files_that_cannot_be_read(tmp_path, capsys):
    (tmp_path / "cut.pkl").write_bytes(pickle.dumps([1, 2])[:-4])
    (tmp_path / "table.pkl").write_bytes(pickle.dumps({}))
    (tmp_path / "plain.jsonl.gz").write_text("no gzip")
    for name, said in {
        "cut.pkl": "cut.pkl",
        "table.pkl": "expected a list",
        "plain.jsonl.gz": "cannot be read",
        "none.pkl": "no such file",
    }.items():
        assert main(["convert", str(tmp_path / name), "--out", str(tmp_path / f"out-{name}")]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_come_through(protocol):
    plain = {
        "a": [1, 2.5, "text", b"bytes", None, True, (1, 2), {3}],
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "i": np.arange(4, dtype=">i4"),
        "s": np.float32(2.5),
        "o": OrderedDict(x=np.array([True, False])),
    }
    found = restricted_load(io.BytesIO(pickle.dumps(plain, protocol)), "here")
    assert found["a"] == plain["a"]
    assert found["s"] == 2.5
    for one, other in (
        (found["f"], plain["f"]),
        (found["i"], plain["i"]),
        (found["o"]["x"], plain["o"]["x"]),
    ):
        np.testing.assert_array_equal(np.asarray(one), other)


class Reduced:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def attacks(marker):
    return {
        "os.system": Reduced(os.system, f"touch {marker}"),
        "eval": Reduced(eval, f"open({str(marker)!r}, 'w')"),
        "subprocess": Reduced(subprocess.call, ["touch", str(marker)]),
        "getattr": Reduced(getattr, "text", "upper"),
        "numpy's loader": Reduced(np.load, str(marker), None, True),
        "objects in an array": np.array([Reduced(os.system, f"touch {marker}")], dtype=object),
        "an empty array of objects": np.array([], dtype=object),
        "an array of structures": np.zeros(2, dtype=[("a", "i4")]),
        "a tensor": torch.zeros(2),
        "another container": Counter("abc"),
    }


@pytest.mark.parametrize("name", attacks(""))
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_malicious_pickle_runs_nothing(name, protocol, tmp_path, capsys):
    marker, file = tmp_path / "marker", tmp_path / "evil.pkl"
    file.write_bytes(pickle.dumps([attacks(marker)[name]], protocol))
    assert main(["convert", str(file), "--out", str(tmp_path / "out")]) == 2
    assert "evil.pkl: not read" in capsys.readouterr().err
    assert not marker.exists()
    pickle.loads(pickle.dumps(attacks(marker)["eval"]))  # noqa: S301
    assert marker.exists()  # the attack is one


def test_bytes_made_by_hand():
    """States that NumPy itself would take on trust, and mere rubbish."""
    for content in (
        b"cnumpy\nndarray\n(I1000000000000\ntR.",
        b"cnumpy\ndtype\n(S'O8'\ntR.",
        b"cnumpy\ndtype\n(S'f8'\ntR(I3\nS'<'\nN(S'a'\ntN I-1\nI-1\nI63\ntb.",
        b"cbuiltins\nexec\n(S'1'\ntR.",
        b"cposix\nsystem\n.",
        b"\x80\x05\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"",
        b"garbage",
    ):
        outcome = None
        try:
            outcome = restricted_load(io.BytesIO(content), "here")
        except DataError as error:
            outcome = str(error)
        own = type(outcome).__module__ == "atomica.prep.unpickle"  # a stand-in, not what NumPy would make
        assert own or outcome.startswith("here: not"), content
