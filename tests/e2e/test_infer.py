"""Jobs after training, from the command line and from Python: embeddings, going on after a kill, errors."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import atomica
from atomica import spec
from atomica.errors import DataError, IndexFileError
from atomica.files import FOLDER_LOCK, Lock
from atomica.heads.binary import BinaryConfig, BinaryHead
from atomica.jobs.embed import encode
from atomica.jobs.inputs import InputConfig, find, listed, open_data
from atomica.runner import main

ROOT = Path(__file__).parents[2]
TOLERANCE = 2e-6
"""What `encode` promises of the same complex in other company, in float32."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The folder of a small model."""
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("weights")
    atomica.Model(atomica.EncoderConfig(atom_hidden=8, block_hidden=8, edge_size=4, layers=2)).save(folder)
    return folder


@pytest.fixture
def job(tmp_path, weights, tiny_set):
    """Writes a spec of a job; returns its path."""

    def write(name="embed", *, source=tiny_set, own=""):
        path = tmp_path / f"{name}.toml"
        path.write_text(
            f'[run]\nname = "{name}"\njob = "{name}"\nout = "{tmp_path}/out/{{name}}"\n'
            f'[data]\nsource = "{source}"\n[model]\nweights = "{weights}"\n[device]\nthreads = 1\n{own}'
        )
        return path

    return write


def vectors(table, name="embedding"):
    return np.stack(table.column(name).to_numpy(zero_copy_only=False))


def test_embed_writes_tables_that_map_back(job, tiny_set, weights, tmp_path):
    assert main([str(job())]) == 0
    out = tmp_path / "out" / "embed"
    assert sorted(path.name for path in out.iterdir()) == [
        FOLDER_LOCK,
        "atoms.parquet",
        "blocks.parquet",
        "complexes.parquet",
        "environment.json",
        "job.json",
        "log.txt",
        "report.html",
        "result.json",
        "spec.toml",
    ]
    data, model = atomica.open_dataset(tiny_set), atomica.load(weights, "cpu")
    tables = {name: pq.read_table(out / f"{name}.parquet") for name in ("complexes", "blocks", "atoms")}
    assert tables["complexes"].column("id").to_pylist() == data.ids
    record = data[7]
    with torch.no_grad():
        alone = model.encode(data.graphs([7], **model.config.graph_options()))
    for name, wanted in (("complexes", alone.graph), ("blocks", alone.block), ("atoms", alone.atom)):
        own = tables[name].filter(np.array(tables[name].column("row")) == 7)
        np.testing.assert_allclose(vectors(own), wanted.numpy(), rtol=0, atol=TOLERANCE)
        assert set(own.column("id").to_pylist()) == {record.id}
    blocks = tables["blocks"].filter(np.array(tables["blocks"].column("row")) == 7)
    assert blocks.column("chain").to_pylist() == list(record.block_chains)
    assert blocks.column("resnum").to_pylist() == record.block_resnums.tolist()
    assert blocks.column("type").to_pylist()[:2] == ["GLOBAL", record.block_components[1]]
    atoms = tables["atoms"].filter(np.array(tables["atoms"].column("row")) == 7)
    assert atoms.column("name").to_pylist() == list(record.atom_names)
    np.testing.assert_array_equal(vectors(atoms, "position"), record.positions)
    lengths = np.bincount(atoms.column("block").to_numpy(), minlength=len(record.block_types))
    np.testing.assert_array_equal(lengths, record.block_lengths)


def test_invariants_of_complexes_and_what_their_numbers_are(job, tiny_set, weights, tmp_path):
    own = '[embed]\nrepresentation = ["z_interface", "z_block"]\nsegment = 1\npool = "mean_std_global"\n'
    assert main([str(job(own=own))]) == 0
    out, model = tmp_path / "out" / "embed", atomica.load(weights, "cpu")
    assert sorted(path.stem for path in out.glob("*.parquet")) == ["blocks", "complexes"]
    whole = pq.read_table(out / "complexes.parquet")
    told = whole.schema.metadata
    assert told[b"representation"] == b"z_interface.1.mean_std_global"
    parts, constant = json.loads(told[b"columns"]), json.loads(told[b"constant"])
    found = atomica.embed(tiny_set, model, representation="z_interface", segment=1)
    np.testing.assert_allclose(vectors(whole), found.complex, rtol=0, atol=1e-5 * np.abs(found.complex).max())
    assert (found.representation["complexes"], found.columns) == ("z_interface.1.mean_std_global", parts)
    assert found.constant.tolist() == constant
    assert len(constant) >= parts["global.atoms_mean"] + parts["global.atoms_deviation"]
    assert json.loads(told[b"dropped"]) is False
    assert "numbers are the same in all rows: " in (out / "log.txt").read_text()

    again = job(own=own + "drop_constant = true\n")
    assert main([str(again), "--set", "run.name=dropped"]) == 0
    less = pq.read_table(tmp_path / "out" / "dropped" / "complexes.parquet")
    np.testing.assert_array_equal(vectors(less), np.delete(vectors(whole), constant, axis=1))
    assert json.loads(less.schema.metadata[b"dropped"]) is True
    assert json.loads(less.schema.metadata[b"constant"]) == constant


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ('representation = "z_grph"', "there is no z_grph"),
        ('representation = ["z_graph", "h_interface"]', "names two of one table"),
        (
            'representation = "z_atom"\ntables = ["blocks"]',
            "is of the table atoms, which embed.tables leaves out",
        ),
        ('pool = "mean"', "has no effect: neither z_graph nor z_interface is asked for"),
        ("segment = 1", "has no effect: no interface is asked for"),
    ],
)
def test_representations_that_cannot_be(job, own, said, capsys):
    assert main([str(job(own=f"[embed]\n{own}\n"))]) == 2
    assert said in capsys.readouterr().err


def test_a_partner_that_is_not_there(job, capsys):
    path = job(own='[embed]\nrepresentation = "h_interface"\nsegment = 1\n')
    assert main([str(path), "--set", "data.input=segment0"]) == 2
    assert "all complexes lack partner 1, of which h_interface.1 is asked" in capsys.readouterr().err


def test_batches_and_order_change_no_value(tiny_set, weights, tmp_path):
    data, model = atomica.open_dataset(tiny_set), atomica.load(weights, "cpu")

    def encoded(positions=None, **config):
        asked = InputConfig(str(tiny_set), **config)
        opened = open_data(find(asked.paths), asked, "complex", [model], tmp_path)
        return {found.position: found for found in encode(model, opened, positions)}

    one, some = encoded(batch_blocks=1), encoded(batch_blocks=97)
    backwards = np.arange(len(data))[::-1][:25]
    part = encoded(backwards, batch_blocks=10**6, loader_threads=2)
    assert sorted(one) == sorted(some) == list(range(60))
    assert sorted(part) == sorted(backwards.tolist())
    for position, found in part.items():
        for other in (one[position], some[position]):
            for name in ("complex", "block", "atom"):
                np.testing.assert_allclose(getattr(found, name), getattr(other, name), rtol=0, atol=TOLERANCE)


def test_weights_of_the_original_do_not_feel_their_batch(tiny_set):
    """With `reference_quirks` padding leaks between complexes; complexes therefore go one by one."""
    config = atomica.EncoderConfig(
        atom_hidden=8, block_hidden=8, edge_size=4, layers=2, reference_quirks=True
    )
    torch.manual_seed(0)
    model = atomica.Model(config).eval()
    data = atomica.open_dataset(tiny_set)
    found = atomica.embed(tiny_set, model)
    with torch.no_grad():
        alone = model.encode(data.graphs([3], **config.graph_options()))
        among = model.encode(data.graphs(range(60), **config.graph_options()))
    np.testing.assert_allclose(found.complex[3], alone.graph[0].numpy(), rtol=0, atol=1e-6)
    assert np.abs(among.graph[3].numpy() - alone.graph[0].numpy()).max() > 1e-4


def test_embed_of_structures_and_an_index_in_python(tiny_set, weights, tmp_path):
    """Files, a folder and an index of the same structures: the same embeddings, and what fails is told."""
    folder = tmp_path / "structures"
    folder.mkdir()
    for index in range(12):
        shutil.copy(tiny_set.parent / f"c{index:02}.pdb", folder)
    (tmp_path / "index.csv").write_text(
        "id,path,chain1,chain2\nfirst,structures/c01.pdb,A,B\nlost,structures/none.pdb,A,B\n"
    )
    discovered = atomica.embed(folder, weights, device="cpu")
    assert len(discovered) > 2
    assert discovered.ids[0] == "c01_A_B"
    named = [folder / f"{name[:3]}.pdb" for name in discovered.ids]
    files = atomica.embed(named[::-1], weights, device="cpu")
    indexed = atomica.embed(tmp_path / "index.csv", weights, device="cpu")
    assert sorted(files.ids) == sorted(discovered.ids)
    order = [files.ids.index(name) for name in discovered.ids]
    np.testing.assert_allclose(files.complex[order], discovered.complex, rtol=0, atol=TOLERANCE)
    assert indexed.ids == ("first",)
    assert [failure["id"] for failure in indexed.failures] == ["lost"]
    np.testing.assert_allclose(indexed.complex[0], discovered.complex[0], rtol=0, atol=TOLERANCE)
    assert indexed.blocks[0].shape == (len(indexed.records[0].block_types), 8)


def test_inputs_that_fail_are_listed_and_show_in_the_exit_code(job, tiny_set, tmp_path):
    (tmp_path / "index.csv").write_text(
        f"id,path,chain1,chain2\nfirst,{tiny_set.parent}/c00.pdb,A,B\nlost,none.pdb,A,B\n"
    )
    assert main([str(job(source=tmp_path / "index.csv"))]) == 3
    out = tmp_path / "out" / "embed"
    assert '"lost"' in (out / "failures.jsonl").read_text()
    assert pq.read_table(out / "complexes.parquet").column("id").to_pylist() == ["first"]
    assert main([str(out / "spec.toml"), "--resume"]) == 3


def test_an_index_that_cannot_be_used_says_so_itself(job, weights, tmp_path, capsys):
    index = tmp_path / "index.csv"
    index.write_text("id,file\n")
    with pytest.raises(IndexFileError, match="header lacks path") as caught:
        atomica.embed(index, weights, device="cpu")
    assert (caught.value.code, caught.value.file) == ("IndexColumns", str(index))
    assert main([str(job(source=index))]) == 1
    assert f"atomica-run: {index}: the header lacks path" in capsys.readouterr().err
    index.write_text("id,path,chain1,chain2\n")
    with pytest.raises(DataError, match="no such vocabulary file"):
        atomica.embed(index, weights, fragments="mine.tsv", device="cpu")


def test_all_that_is_wrong_with_a_job_is_said_at_once(job, capsys, tmp_path):
    path = job(own="[embed]\ntables = []\n[train]\nepochs = 1\n")
    changes = ("model.weights=none.ckpt", "data.cutof=1", 'data.source=["no; where", "nor: here"]')
    assert main([str(path), *(word for change in changes for word in ("--set", change))]) == 2
    said = capsys.readouterr().err
    for part in (
        'data.source = ["no; where", "nor: here"]: no; where: no such file or folder\n',
        'data.source = ["no; where", "nor: here"]: nor: here: no such file or folder\n',
        "the list is empty",
        "train: unknown key",
        "none.ckpt",
        "did you mean",
    ):
        assert part in said, said
    assert not (tmp_path / "out").exists()


def test_a_setting_without_effect_is_an_error(job, capsys):
    assert main([str(job()), "--set", "data.cutoff=6"]) == 2
    assert "data.cutoff = 6: has no effect" in capsys.readouterr().err
    assert main([str(job()), "--set", "run.seed=6"]) == 2
    assert "run.seed" in capsys.readouterr().err


def test_dry_run_writes_nothing(job, tmp_path, capsys):
    assert main([str(job()), "--dry-run"]) == 0
    assert "dry run: all is well" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["embed.toml"]


def test_a_job_does_not_write_over_another(job, tmp_path, capsys):
    path = job(own='[embed]\ntables = ["complexes"]\n')
    assert main([str(path)]) == 0
    assert main([str(path)]) == 2
    assert "add --resume" in capsys.readouterr().err
    assert main([str(path), "--resume"]) == 0
    assert "was done before" in capsys.readouterr().out
    assert main([str(path), "--resume", "--set", "data.split=test"]) == 2
    assert "data.split: '' then, 'test' now" in capsys.readouterr().err
    other = tmp_path / "out" / "other"
    other.mkdir()
    with Lock(other / FOLDER_LOCK):  # as a process does that writes into the folder
        assert main([str(path), "--set", "run.name=other"]) == 2
    assert f"another process is at work on the run in {other}" in capsys.readouterr().err
    assert [file.name for file in other.iterdir()] == [FOLDER_LOCK]
    assert main([str(path), "--set", "run.name=other"]) == 0


JOBS = ("embed", "score", "evaluate")


@pytest.mark.parametrize("name", JOBS)
def test_specs_of_jobs_run(name, tmp_path, monkeypatch, capsys):
    """As they stand, by the model of the package; evaluate, where runs/ligand.toml leaves one, and else says so."""
    monkeypatch.chdir(tmp_path)
    path = ROOT / "runs" / f"{name}.toml"
    text = path.read_text()
    assert f"\n#     atomica-run runs/{name}.toml" in text
    assert f"[`{name}.toml`]({name}.toml)" in (ROOT / "runs" / "README.md").read_text()
    if name == "evaluate":
        assert main([str(path)]) == 2
        assert "train a model first (atomica-run runs/ligand.toml), or name" in capsys.readouterr().err
        settings = {"atom_hidden": 8, "block_hidden": 8, "edge_size": 4, "layers": 1}
        config = atomica.EncoderConfig(**settings)
        own = BinaryConfig(positive="nucleic", negative="protein", hidden=8, layers=2)
        atomica.Model(config, {"binary": BinaryHead(own, config)}).save("outputs/ligand/checkpoints/best")
    else:
        assert spec.load(path).tree["model"] == {"weights": "base"}
    most = 48  # the small ones, the others are listed as left out
    assert main([str(path), "--set", f"data.max_item_blocks={most}"]) == 3
    folder = tmp_path / "outputs" / name
    result = json.loads((folder / "result.json").read_text())
    assert result["job"] == name
    assert all((folder / table).is_file() for table in result["tables"].values())
    assert f"more than {most} blocks" in (folder / "failures.jsonl").read_text()


def test_evaluate_gives_what_training_gave_at_its_end(tiny_set, tmp_path):
    train = tmp_path / "train.toml"
    train.write_text(
        f'[run]\nname = "train"\nout = "{tmp_path}/train"\n[data]\ntrain = "{tiny_set}"\ninput = "segment0"\n'
        "[model]\natom_hidden = 8\nblock_hidden = 8\nedge_size = 4\nlayers = 1\n"
        '[[head]]\nkind = "binary"\npositive = "yes"\n[train]\nepochs = 1\n[log]\ntensorboard = false\n'
        "[device]\nthreads = 1\n"
    )
    assert main([str(train)]) == 0
    again = tmp_path / "evaluate.toml"
    again.write_text(
        f'[run]\nname = "evaluate"\njob = "evaluate"\nout = "{tmp_path}/evaluate"\n'
        f'[data]\nsource = "{tiny_set}"\nsplit = "test"\ninput = "segment0"\n'
        f'[model]\nweights = "{tmp_path}/train/checkpoints/best"\n[device]\nthreads = 1\n'
    )
    assert main([str(again)]) == 0
    first, second = (
        json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("train", "evaluate")
    )
    assert first.pop("loss") == pytest.approx(second.pop("loss"), rel=1e-5)
    for key in ("split", "data", "input"):
        assert first[key] == second[key], key
    assert first["metrics"].keys() == second["metrics"].keys()
    for key, value in first["metrics"].items():
        assert value == pytest.approx(second["metrics"][key], rel=1e-5), key
    tables = [
        list(csv.DictReader((tmp_path / name / "predictions.csv").open())) for name in ("train", "evaluate")
    ]
    for one, other in zip(*tables, strict=True):
        assert (one["id"], one["label"]) == (other["id"], other["label"])
        assert float(one["probability"]) == pytest.approx(float(other["probability"]), abs=1e-5)


def test_a_killed_job_goes_on_to_the_same_bytes(job, tmp_path):
    """SIGKILL at some moments, ATOMICA_KILLS of them; the tables are those of a job that was let alone."""
    code = (
        "import sys, time; from atomica.jobs import embed, tables; from atomica.runner import main;"
        "embed.PIECE_BLOCKS = 60; write = tables.write_table;"
        "tables.write_table = lambda *given: (time.sleep(0.02), write(*given));"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, str(job())]
    alone, killed = tmp_path / "out" / "alone", tmp_path / "out" / "killed"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, "--set", "run.name=alone"], check=True, env=environment, capture_output=True)
    kills, resumed = int(os.environ.get("ATOMICA_KILLS", "2")), 0
    parts = len(set(pq.read_table(alone / "complexes.parquet").column("row").to_pylist()))
    assert parts == 60
    for number in range(kills):
        again = ["--resume"] if (killed / "job.json").is_file() else []
        resumed += bool(again)
        process = subprocess.Popen(
            [*command, "--set", "run.name=killed", *again],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        want = 3 * (number + 1) * 4
        while process.poll() is None and len(list(killed.glob("pieces/*.parquet"))) < want:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    last = subprocess.run(
        [*command, "--set", "run.name=killed", "--resume"], env=environment, capture_output=True, text=True
    )
    assert last.returncode == 0, last.stderr
    for name in ("complexes", "blocks", "atoms"):
        assert (killed / f"{name}.parquet").read_bytes() == (alone / f"{name}.parquet").read_bytes()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"device": "gpu"}, "device = 'gpu': must be auto, cpu or cuda"),
        ({"input": "segment2"}, 'input = "segment2": must be one of "complex"'),
        ({"cutoff": "8"}, "must be a number, not '8'"),
        ({"batch_blocks": 0}, "batch_blocks = 0: must be at least 1"),
        ({"batch_blocks": True}, "must be a whole number, not True"),
        ({"force": "yes"}, "must be true or false, not 'yes'"),
        ({"segment": 2}, "must be one of 0, 1|at most 1"),
    ],
)
def test_what_is_wrong_with_a_call_in_python_is_said_by_name(wrong, told):
    with pytest.raises(atomica.AtomicaError, match=told):
        atomica.embed("demo://pockets", "base", **wrong)


def test_what_is_no_path_is_told_by_its_type():
    with pytest.raises(atomica.AtomicaError, match="an empty text names nothing to read"):
        atomica.embed("", "base")
    with pytest.raises(atomica.AtomicaError, match="^Record where a path is wanted"):
        listed(atomica.open_dataset("demo://pockets")[0])
    data = atomica.open_dataset("demo://pockets")
    assert listed(data) == (str(data.folder),)
