"""Runs of several trainings: seeds, folds, what they say together; stopped, killed, gone on with."""

from __future__ import annotations

import csv
import json
import signal
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import TINY, changed, environment, events, same_weights, start, wait_until
from sklearn.metrics import roc_auc_score

from atomica.data.dataset import open_dataset
from atomica.runner import main

SPEC = changed(TINY, {"epochs = 3": "epochs = 2\nseeds = 2"})
FOLDS = {
    "seeds = 2": "seeds = 2\nfolds = 6",
    "max_item_blocks = 64": 'max_item_blocks = 64\nfolds = "batch_of"',
}


@pytest.fixture
def write_spec(write_run, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    return partial(write_run, SPEC)


def members(out):
    return json.loads((out / "members.json").read_text())["members"]


def table(out):
    with (out / "predictions.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def evaluated(out):
    return json.loads((out / "evaluation.json").read_text())["heads"]["binary"]


def test_a_killed_ensemble_goes_on(write_spec, capsys):
    """Its members go on from their checkpoints; those that are done are not run again when more are asked for."""
    path, out = write_spec({"epochs = 2": "epochs = 20"})
    places = [out / "members" / f"seed{seed}" for seed in (0, 1)]
    process = start(path)
    wait_until(lambda: len(events(places[1], "epoch")) >= 2, process)
    process.kill()
    process.communicate(timeout=60)
    assert not (out / "evaluation.json").exists()

    assert main([str(path)]) == 2
    assert "holds a run already; add --resume" in capsys.readouterr().err
    assert main([str(path), "--resume", "--set", "model.layers=2"]) == 2
    assert "model.layers: 1 then, 2 now" in capsys.readouterr().err

    assert main([str(path), "--resume"]) == 0
    assert "resume  after step" in (places[1] / "log.txt").read_text()
    for seed, place in enumerate(places):
        steps = [record["step"] for record in events(place, "step")]
        assert steps == list(range(1, len(steps) + 1))
        undisturbed = out.parent / f"undisturbed{seed}"
        assert main([str(place / "spec.toml"), "--set", f"run.out={undisturbed}"]) == 0
        same_weights(place, undisturbed)

    before = [(place / "log.txt").read_text() for place in places]
    capsys.readouterr()
    assert main([str(path), "--resume", "--set", "train.seeds=3"]) == 0
    assert "2 of 3 are done already" in capsys.readouterr().out
    assert [(place / "log.txt").read_text() for place in places] == before
    assert [one["state"] for one in members(out).values()] == ["done"] * 3
    assert len(evaluated(out)["seeds"]) == 3


def test_a_stopped_ensemble_says_how_to_go_on(write_spec):
    path, out = write_spec({"epochs = 2": "epochs = 60"})
    process = start(path)
    wait_until(lambda: events(out / "members" / "seed0", "epoch"), process)
    process.send_signal(signal.SIGTERM)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 130, said + errors
    assert "go on with --resume" in errors
    assert {one["state"] for one in members(out).values()} == {"waiting"}
    assert (out / "members" / "seed0" / "checkpoints" / "last").is_dir()


def test_members_that_fail_are_told_of(write_spec, capsys):
    path, out = write_spec({"epochs = 2": "epochs = 1\nlearning_rate = 1e25"})
    assert main([str(path)]) == 1
    said = capsys.readouterr().out
    assert "failed  2 members; what they said is in" in said
    for one in members(out).values():
        assert one["state"] == "failed"
        assert "Lower train.learning_rate" in one["problem"]
    assert not (out / "evaluation.json").exists()
    assert "Lower train.learning_rate" in (out / "report.html").read_text()


def test_folds_test_every_row_once(write_spec, capsys):
    """Six folds by two seeds, two members at a time."""
    path, out = write_spec({**FOLDS, "epochs = 2": "epochs = 1"})
    assert main([str(path), "--devices", "2"]) == 0
    said = capsys.readouterr().out
    assert "members 12: 2 seeds, 6 folds of column 'batch_of'; 2 at a time" in said
    rows, found = table(out), evaluated(out)
    assert sorted(row["id"] for row in rows) == [f"c{index:02}" for index in range(60)]
    truth = np.array([row["label"] == "yes" for row in rows])
    probability = np.array([float(row["probability"]) for row in rows])
    assert found["metrics"]["auroc"] == pytest.approx(roc_auc_score(truth, probability), abs=1e-6)
    # The ensemble is the mean of the seeds, each a model that saw nothing of the fold it is asked about.
    each = []
    for seed in (0, 1):
        said_of = {}
        for fold in range(6):
            place = out / "members" / f"seed{seed}-fold{fold}"
            own = table(place)
            assert {int(row["id"][1:]) // 10 for row in own} == {fold}
            said_of |= {row["id"]: float(row["probability"]) for row in own}
        each.append(np.array([said_of[row["id"]] for row in rows]))
        assert found["seeds"][str(seed)]["auroc"] == pytest.approx(roc_auc_score(truth, each[-1]), abs=1e-6)
    assert np.allclose(probability, np.mean(each, axis=0), atol=1e-5)
    spread = np.array([float(row["spread"]) for row in rows])
    assert np.allclose(spread, np.std(each, axis=0, ddof=1), atol=1e-5)
    values = [one["auroc"] for one in found["seeds"].values()]
    assert found["single"]["auroc"]["mean"] == pytest.approx(np.mean(values))
    assert found["single"]["auroc"]["sd"] == pytest.approx(np.std(values, ddof=1))
    assert found["single_comparison"]["model"]["auroc"]["value"] == pytest.approx(np.mean(values), abs=1e-6)
    assert list(found["baselines"]) == ["majority", "regression on counts", "nearest by counts"]
    assert found["verdict"] in said
    page = (out / "report.html").read_text()
    for told in ("seed0-fold5", "mean ± deviation", "regression on counts"):
        assert told in page


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({**FOLDS, "folds = 6": "folds = 5"}, "the data have 6 folds: 0, 1, 2, 3, 4, 5; ask for as many"),
        ({**FOLDS, '"batch_of"': '"label"'}, "names 2 folds; it takes 3"),
        ({**FOLDS, '"batch_of"': '"nothing"'}, "has no column 'nothing'"),
        ({**FOLDS, '"batch_of"': '"batch_of"\nfold = 1'}, "has no effect with train.folds"),
        (
            {**FOLDS, '"batch_of"': '"batch_of"\ncluster = "label_size"'},
            "tested on relatives of what they saw",
        ),
        (
            {"seeds = 2": "seeds = 2\n[sweep]\nkeys = { train.epochs = [1, 2] }"},
            "trials of a sweep are single",
        ),
        (
            {"seeds = 2": "", "batch_blocks = 64": 'batch_blocks = 64\nfold = 6\nfolds = "batch_of"'},
            "folds 0 to 5",
        ),
    ],
)
def test_folds_and_seeds_that_cannot_be(write_spec, capsys, changes, problem):
    path, out = write_spec(changes)
    assert main([str(path)]) == 2
    assert problem in capsys.readouterr().err
    assert not out.exists()


def job(folder, name, text, *words):
    path = folder / f"{name}.toml"
    path.write_text(
        f'[run]\nname = "{name}"\njob = "{name}"\nout = "{folder}/{name}"\n{text}[device]\nthreads = 1\n'
    )
    return main([str(path), *words])


def test_jobs_take_the_folder_as_weights(write_spec, tiny_set, tmp_path, capsys):
    path, out = write_spec({"epochs = 2": "epochs = 1"})
    assert main([str(path)]) == 0
    ours = table(out)
    other = tmp_path / "other.csv"
    labels = open_dataset(tiny_set).column("label")
    lines = [f"c{index:02},{0.9 if label == 'yes' else 0.1}" for index, label in enumerate(labels)]
    other.write_text("\n".join(["id,probability", *lines]) + "\n")
    weights = f'[model]\nweights = "{out}"\n'
    data = f'[data]\nsource = "{tiny_set}"\ninput = "segment0"\nsplit = "test"\n'
    own = f'[evaluate]\ntrain = "{tiny_set}"\nblend = "{other}"\n'
    capsys.readouterr()
    assert job(tmp_path, "evaluate", data + weights + own) == 0
    said = capsys.readouterr().out
    place = tmp_path / "evaluate"
    rows, found = table(place), evaluated(place)
    for row, one in zip(rows, ours, strict=True):
        assert row["id"] == one["id"]
        for name in ("probability", "spread", "regression on counts"):
            assert float(row[name]) == pytest.approx(float(one[name]), abs=1e-5)
    assert found["metrics"] == pytest.approx(evaluated(out)["metrics"], abs=1e-5)
    assert len(found["members"]) == 2
    assert found["verdict"] in said
    # The other file knows the answers: on validation rows the least weight of ours is not the worst.
    assert found["blend"]["metrics"]["auroc"] == 1.0
    assert "the other alone" in (place / "report.html").read_text()
    (tmp_path / "short.csv").write_text("\n".join(["id,probability", *lines[:20]]) + "\n")
    blend = f"evaluate.blend={tmp_path}/short.csv"
    assert (
        job(tmp_path, "evaluate", data + weights + own, "--set", blend, "--set", f"run.out={tmp_path}/x") == 1
    )
    assert "says nothing of" in capsys.readouterr().err

    score = data + weights + "[score]\nstructures = false\n"
    assert job(tmp_path, "score", score) == 0
    together = pq.read_table(tmp_path / "score" / "scores.parquet")
    each = []
    for seed in (0, 1):
        one = f"{out}/members/seed{seed}/checkpoints/best"
        place = tmp_path / f"score{seed}"
        assert job(tmp_path, "score", score.replace(str(out), one), "--set", f"run.out={place}") == 0
        each.append(pq.read_table(place / "scores.parquet").column("score").to_numpy())
    assert np.allclose(together.column("score").to_numpy(), np.mean(each, axis=0), atol=1e-6)
    assert np.allclose(together.column("spread").to_numpy(), np.std(each, axis=0, ddof=1), atol=1e-6)

    called = data + f'[annotate.members]\nyes = ["{out}"]\n[annotate.thresholds]\nyes = 0.5\n'
    assert job(tmp_path, "annotate", called) == 0
    listed = json.loads((tmp_path / "annotate" / "ensemble.json").read_text())
    assert [str(one).count("members/seed") for one in listed["classes"]["yes"]["members"]] == [1, 1]

    capsys.readouterr()
    assert job(tmp_path, "embed", data + weights) == 2
    assert "embeddings are of different spaces; name one of them, such as" in capsys.readouterr().err
