"""The job probe: what it reads from vectors that know the answer, and from others; folds, files, refusals."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import atomica
from atomica.evaluation.statistics import MEASURES
from atomica.heads.multiclass import MulticlassConfig, MulticlassHead
from atomica.heads.regression import RegressionConfig, RegressionHead
from atomica.jobs.probe import ProbeConfig, Question
from atomica.jobs.probe import probe as probed
from atomica.runner import main


@pytest.fixture
def probe(tmp_path, tiny_set, capsys):
    """Runs a probe on the tiny set; returns exit code, what was found, predictions, what was told on stderr."""

    def run(own, *words, model=""):
        path = tmp_path / "probe.toml"
        path.write_text(
            f'[run]\nname = "probe"\njob = "probe"\nout = "{tmp_path}/out{len(list(tmp_path.iterdir()))}"\n'
            f'[data]\nsource = "{tiny_set}"\ninput = "segment0"\n{model}[probe]\n{own}[device]\nthreads = 1\n'
        )
        before = set(tmp_path.iterdir())
        code = main([str(path), *words])
        errors = capsys.readouterr().err
        made = [one for one in set(tmp_path.iterdir()) - before if one.is_dir()]
        if code or not made:
            return code, None, None, errors
        found = json.loads((made[0] / "evaluation.json").read_text())["heads"]["probe"]
        with (made[0] / "predictions.csv").open(newline="") as stream:
            return code, found, list(csv.DictReader(stream)), errors

    return run


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    config = atomica.EncoderConfig(atom_hidden=8, block_hidden=8, edge_size=4, layers=1)
    atomica.Model(config).save(tmp_path / "weights")
    return f'[model]\nweights = "{tmp_path}/weights"\n'


@pytest.fixture
def vectors(tmp_path, tiny_set):
    """Files of vectors: one with the answers among noise, one of noise alone."""
    dataset, generator = atomica.open_dataset(tiny_set), np.random.default_rng(0)
    yes = np.array([label == "yes" for label in dataset.column("label")])
    size = np.array([float(text or 0) for text in dataset.column("label_size")])
    noise = generator.normal(size=(len(yes), 20))
    known = np.concatenate(
        [noise, 3 * yes[:, None] + generator.normal(size=(len(yes), 1)), size[:, None]], axis=1
    )
    paths = {}
    for name, values in {"known": known, "noise": noise}.items():
        paths[name] = tmp_path / f"{name}.parquet"
        order = generator.permutation(len(values))  # they are found by id, not by place
        ids = [dataset.ids[one] for one in order]
        pq.write_table(pa.table({"id": ids, "embedding": values[order].tolist()}), paths[name])
    return paths


def test_vectors_that_know_beat_those_that_do_not(probe, vectors):
    own = f'vectors = "{vectors["known"]}"\nrandom = "{vectors["noise"]}"\nfolds = "batch_of"\ncluster = "batch_of"\n'
    code, found, rows, errors = probe(own)
    assert code == 0, errors
    assert sorted(row["id"] for row in rows) == [
        f"c{index:02}" for index in range(60)
    ]  # every row tested once
    arms = {name: arm["ensemble"]["balanced_accuracy"] for name, arm in found["arms"].items()}
    assert list(arms) == ["vectors", "residue counts", "random weights"]
    assert arms["vectors"] > 0.75
    assert arms["random weights"] < 0.7
    against = found["tests"]["random weights"]
    assert against["difference"]["balanced_accuracy"]["low"] > 0
    assert against["mcnemar"] < 0.01
    assert found["clusters"] == 6
    chosen = [
        row["label"] == found["config"]["classes"][np.argmax(json.loads(row["prediction"]))] for row in rows
    ]
    assert found["metrics"]["accuracy"] == pytest.approx(np.mean(chosen))


def test_networks_and_encoders_with_random_weights(probe, weights):
    own = 'method = "mlp"\nhidden = [16]\nepochs = 5\nseeds = 2\n'
    code, found, _, errors = probe(own, model=weights)
    assert code == 0, errors
    assert [arm["models"] for arm in found["arms"].values()] == [2, 2, 2]
    again = probe(own, model=weights)[1]
    assert again["arms"] == found["arms"]
    other = probe(own, "--set", "run.seed=7", model=weights)[1]
    assert other["arms"] != found["arms"]


def test_few_rows_and_invariants(probe, weights):
    """Fewer rows are drawn anew for each seed, the same for all arms; what is read of the encoder is named."""
    own = 'seeds = 2\nfew = [12, 1000]\nrepresentation = "z_graph"\npool = "mean"\nfolds = "batch_of"\n'
    code, found, _, errors = probe(own, model=weights)
    assert code == 0, errors
    assert list(found["curve"]) == ["12", "1000"]
    for arms in found["curve"].values():
        assert set(arms) == {"vectors", "residue counts", "random weights", "difference"}
        assert set(arms["difference"]) == {"residue counts", "random weights"}
    # with all rows it is the probe itself, whatever the draw
    everything, few = found["curve"]["1000"], found["curve"]["12"]
    whole = found["arms"]["residue counts"]["single"]["balanced_accuracy"]
    assert everything["residue counts"]["balanced_accuracy"]["sd"] == pytest.approx(0, abs=1e-9)
    assert everything["residue counts"]["balanced_accuracy"]["mean"] == pytest.approx(whole["mean"])
    assert few["vectors"]["balanced_accuracy"] != everything["vectors"]["balanced_accuracy"]
    other = probe(own.replace("z_graph", "h_graph"), model=weights)[1]
    assert other["arms"]["vectors"] != found["arms"]["vectors"]
    assert other["arms"]["residue counts"] == found["arms"]["residue counts"]


def test_numbers(probe, vectors):
    own = f'vectors = "{vectors["known"]}"\nrandom = "{vectors["noise"]}"\nlabel = "label_size"\nanswers = "numbers"\n'
    code, found, _, errors = probe(own + 'folds = "batch_of"\n')
    assert code == 0, errors
    rmse = {name: arm["ensemble"]["rmse"] for name, arm in found["arms"].items()}
    assert rmse["vectors"] < 0.7 * rmse["random weights"]


@pytest.mark.parametrize("form", ["classes", "numbers"])
def test_validation_rows_are_learnt_from_and_do_not_choose_alone(form):
    """Which of the known rows are called training, which validation makes no difference; a wild row makes little."""
    generator = np.random.default_rng(0)
    x, noise = generator.normal(size=(120, 300)), generator.normal(size=120)
    target = (
        (x[:, :5].sum(axis=1) > 0).astype(np.int64) if form == "classes" else x[:, :5].sum(axis=1) + noise
    )
    encoder = atomica.EncoderConfig(atom_hidden=8, block_hidden=8, layers=1)
    head = MulticlassHead(MulticlassConfig(("no", "yes")), encoder)
    if form == "numbers":
        head = RegressionHead(RegressionConfig(), encoder)
    options, order = ProbeConfig(label="label", answers=form), np.arange(120)
    clusters = [str(row // 3) for row in range(120)]

    def says(train, valid, x):
        return probed(
            options, Question(head, order, [], target, [(train, valid, order[60:])], clusters), x, 0
        )

    one, other = says(order[:57], order[57:60], x), says(order[3:60], order[:3], x)
    np.testing.assert_allclose(one, other, atol=1e-6)
    measure = next(iter(MEASURES[form].values()))
    assert (measure.function(target[60:], one) > 0.6) if form == "classes" else np.std(one) > 0.1
    wild = x.copy()
    wild[60] *= 1e6
    found = says(order[:57], order[57:60], wild)
    np.testing.assert_allclose(found[1:], one[1:])
    assert np.abs(found[0]).max() < 20


def test_what_cannot_be_probed_is_refused(probe, vectors, weights, tmp_path):
    known, noise = (
        f'{key} = "{vectors[name]}"\n' for key, name in (("vectors", "known"), ("random", "noise"))
    )
    (tmp_path / "text.parquet").write_text("none")
    pq.write_table(pa.table({"id": ["c00"], "embedding": [[1.0]]}), tmp_path / "short.parquet")
    for own, model, problem in (
        (known, "", "nothing says where those of the same encoder with random weights"),
        (known + noise, weights, "has no effect: probe.vectors and probe.random bring all"),
        (noise, "", "nothing says where vectors come from"),
        (noise + f'vectors = "{tmp_path}/text.parquet"\n', "", "text.parquet: no table with columns id"),
        (known + noise + 'label = "nothing"\n', "", "has no column 'nothing'"),
        (known + noise + 'folds = "label"\n', "", "names 2 folds; it takes 3"),
        (
            known + noise + 'classes = ["maybe", "perhaps"]\n',
            "",
            "no row is labelled with one of the classes",
        ),
    ):
        code, _, _, errors = probe(own, model=model)
        assert code == 2, own
        assert problem in errors
    code, _, _, errors = probe(noise + f'vectors = "{tmp_path}/short.parquet"\n')
    assert code == 1
    assert "has no vector of 59 complexes, c01 for one" in errors
