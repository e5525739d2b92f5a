"""What other people's tools and habits do to our objects, as users of DGL, PyTorch and Lightning have met it."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from helpers import BINARY, TINY

import atomica
from atomica.data.origin import Origin
from atomica.errors import DataError
from atomica.heads.regression import RegressionConfig, RegressionHead
from atomica.runner import main

REGRESSION = '[[head]]\nkind = "regression"\nlabel = "label_size"\nhidden = 8\n'
OTHER_EDGES = {"layers = 1": "layers = 1\nk_neighbors = 3\nblock_global = false", BINARY: REGRESSION}
"""A model that wants other graphs than those that are made unasked."""


def small(**settings):
    chosen = {"atom_hidden": 8, "block_hidden": 8, "edge_size": 4, "layers": 1, **settings}
    return atomica.Model(atomica.EncoderConfig(**chosen))


@pytest.fixture(scope="module")
def trained(write_run):
    """The folder of a run on one partner, with edges of its own."""
    spec, out = write_run(TINY, OTHER_EDGES)
    assert main([str(spec), "--set", "train.epochs=1"]) == 0
    return out


@pytest.fixture(scope="module")
def narrow(tiny_set, tmp_path_factory):
    """The data set `tiny_set` with another cutoff."""
    folder = tmp_path_factory.mktemp("narrow")
    arguments = [
        "build-graphs",
        str(tiny_set.parent / "index.csv"),
        "--out",
        str(folder / "set"),
        "--cutoff",
        "6.5",
    ]
    assert atomica._prep.run(arguments) == 0
    return folder / "set"


def refused(capsys, *arguments):
    """What the command says to what it does not do."""
    capsys.readouterr()
    assert main([str(one) for one in arguments]) == 2
    return capsys.readouterr().err


# ---------------------------------------------------------------------------------- what a model was made for


def test_predictions_in_python_are_those_of_the_run(trained, tiny_set):
    """The README's way made other graphs than the model was trained on, and other predictions."""
    model, data = atomica.load(trained / "checkpoints" / "best"), atomica.open_dataset(tiny_set)
    with (trained / "predictions.csv").open() as stream:
        written = {row["id"]: float(row["prediction"]) for row in csv.DictReader(stream)}
    ids = list(written)
    for given in (data.graphs(ids), data[ids], data.graphs([i in written for i in data.ids])):
        found = model.predict(given)["regression"].tolist()
        assert found == pytest.approx(list(written.values()), rel=1e-4, abs=1e-4)


def test_a_model_says_what_it_was_made_for(trained, tiny_set):
    description = json.loads((trained / "checkpoints" / "best" / "model.json").read_text())
    assert description["format"] == 2
    inputs = description["inputs"]
    assert inputs["view"] == "segment0"
    assert inputs["edges"]["k_neighbors"] == 3
    assert inputs["edges"]["block_global"] is False
    assert inputs["data"] == {
        "cutoff": 8.0, "rule": "all-pairs", "fragments": "none", "fragments_sha256": None, "schema": 2
    }  # fmt: skip
    assert inputs["labels"] == {"regression": {"column": "label_size"}}


def test_models_of_the_first_format_are_read(trained, tiny_set, tmp_path):
    """They say nothing of their data, and take whatever they are given."""
    folder = shutil.copytree(trained / "checkpoints" / "best", tmp_path / "old")
    (folder / "checksums.json").unlink()
    description = json.loads((folder / "model.json").read_text())
    del description["inputs"]
    (folder / "model.json").write_text(json.dumps({**description, "format": 1}))
    model = atomica.load(folder)
    assert model.made_for.view is None
    assert len(atomica.embed(tiny_set, model, input="segment1")) == 60


def test_embeddings_are_made_as_the_model_was_trained(trained, tiny_set, narrow):
    model = atomica.load(trained / "checkpoints" / "best")
    data = atomica.open_dataset(tiny_set)
    model.train()
    found = atomica.embed(tiny_set, model)
    assert model.training, "the caller's model was left in another mode"
    with torch.no_grad():
        right = model.eval().encode([record.view("segment0") for record in data[:5]])
    np.testing.assert_allclose(found.complex[:5], right.graph.numpy(), atol=2e-6)
    for given, rows in ((data, slice(None)), (data[:7], slice(7)), (data[3], slice(3, 4))):
        np.testing.assert_allclose(atomica.embed(given, model).complex, found.complex[rows], atol=2e-6)
    with pytest.raises(DataError, match="'complex', and the model was trained with 'segment0'"):
        atomica.embed(tiny_set, model, input="complex")
    with pytest.raises(DataError, match=r"cutoff 6.5 Å, and the model was trained with 8 Å"):
        atomica.embed(narrow, model)
    assert len(atomica.embed(narrow, model, input="complex", force=True)) == 60
    assert model.made_for.view == "segment0"


@pytest.mark.parametrize("job", ["embed", "score", "evaluate"])
def test_jobs_take_what_the_model_was_trained_on(trained, tiny_set, narrow, tmp_path, capsys, job):
    spec = tmp_path / "spec.toml"
    own = "[evaluate]\nlabel = 'label_size'\n" if job == "evaluate" else ""
    spec.write_text(
        f"[run]\nname = '{job}'\njob = '{job}'\nout = '{tmp_path}/out'\n[data]\nsource = '{tiny_set}'\nsplit = 'test'\n"
        f"[model]\nweights = '{trained}/checkpoints/best'\n[device]\nkind = 'cpu'\n{own}"
    )
    assert main([str(spec), "--dry-run"]) == 0
    assert "segment0 alone" in capsys.readouterr().out
    said = refused(capsys, spec, "--set", "data.input=complex")
    assert 'data.input = "complex"' in said
    assert "the model was trained with 'segment0'" in said
    said = refused(capsys, spec, "--set", f"data.source={narrow}")
    assert "cutoff 6.5 Å, and the model was trained with 8 Å" in said
    forced = ["--set", f"data.source={narrow}", "--set", "data.input=complex", "--set", "data.force=true"]
    assert main([str(spec), *forced]) == 0


def test_structures_are_cut_as_the_model_was_trained(trained, narrow, tiny_set, write_run, tmp_path, capsys):
    spec, out = write_run(TINY, {f"{tiny_set}": str(narrow)})
    assert main([str(spec), "--set", "train.epochs=1"]) == 0
    model = atomica.load(out / "checkpoints" / "best")
    assert model.made_for.origin == Origin(6.5, "all-pairs", "none", None, 2)
    found = atomica.embed(tiny_set.parent / "index.csv", model)
    assert found.records[0].origin.cutoff == 6.5
    with pytest.raises(DataError, match=r"cutoff 8 Å, and the model was trained with 6.5 Å"):
        atomica.embed(tiny_set.parent / "index.csv", model, cutoff=8.0)


def test_parts_of_another_making_are_refused(write_run, narrow, tiny_set, trained, capsys):
    spec, _ = write_run(TINY)
    said = refused(capsys, spec, "--set", f"data.test={narrow}")
    assert "data.test" in said
    assert "built with cutoff 6.5 Å, and 8 Å in data.train" in said
    said = refused(capsys, spec, "--set", f'data.train=["{tiny_set}", "{narrow}"]')
    assert "built with cutoff 6.5 Å, and 8 Å in" in said
    best = trained / "checkpoints" / "best"
    init = ["--set", f"model.init={best}", "--set", "model.k_neighbors=3", "--set", f"data.train={narrow}"]
    said = refused(capsys, spec, *init)
    assert "cutoff 6.5 Å, and the model was trained with 8 Å" in said
    assert main([str(spec), *init, "--set", "model.force=true", "--dry-run"]) == 0


# ----------------------------------------------------------------------------------------------- saving


def test_a_model_knows_the_kinds_of_its_heads(tmp_path):
    config = small().config
    model = atomica.Model(config, {"pk": RegressionHead(RegressionConfig(), config)})
    model.save(tmp_path)
    assert type(atomica.load(tmp_path).head("pk")) is RegressionHead


def test_a_head_that_nobody_could_load_is_not_saved(tmp_path):
    class Own(RegressionHead):
        pass

    config = small().config
    for kinds in (None, {"own": "binary"}):
        with pytest.raises(atomica.AtomicaError, match="head 'own' cannot be saved"):
            atomica.Model(config, {"own": Own(RegressionConfig(), config)}, kinds=kinds).save(tmp_path)
    assert not list(tmp_path.iterdir())
