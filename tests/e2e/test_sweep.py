"""Whole sweeps: stopped, killed, shared by processes or a Ray cluster; trials pruned and failed; table and report."""

from __future__ import annotations

import csv
import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest
from helpers import TINY, changed, environment, events, run, same_weights, slow, start, wait_until

pytest.importorskip("optuna")

from atomica.runner import main

SPEC = (
    changed(TINY, {"epochs = 3": 'epochs = 3\nmonitor = "loss"'})
    + """\
[sweep]
method = "grid"
prune = "median"
[sweep.keys]
train.learning_rate = [3e-3, 1e-30, 1e25]
"""
)


@pytest.fixture
def write_spec(write_run, monkeypatch):
    # Trials are processes of their own, which must find this source tree.
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    return partial(write_run, SPEC)


def table(out):
    with (out / "trials.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def process_of(place):
    """Process id of the trial in a folder, while it runs."""
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"run.out={place}".encode() in words:
            return int(folder.name)
    return None


def test_a_sweep_is_stopped_and_goes_on(write_spec, capsys):
    path, out = write_spec({"epochs = 3": "epochs = 20"})  # not over before the signal, on a busy machine
    first = out / "trials" / "0001" / "metrics.jsonl"
    process = start(path)
    wait_until(lambda: events(first.parent, "epoch"), process)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "trial 1 of 3: train.learning_rate=0.003" in said
    assert "stopped in trial 1; its checkpoint is written; go on with --resume" in errors
    assert (first.parent / "checkpoints" / "last").is_dir()

    arguments = [str(path)]
    assert main(arguments) == 2
    assert "holds a sweep already; add --resume" in capsys.readouterr().err
    assert main([*arguments, "--resume", "--set", "model.layers=2", "--set", "sweep.prune=none"]) == 2
    error = capsys.readouterr().err
    assert "the sweep was started otherwise" in error
    assert "  sweep: {" in error
    assert "  [model]: {" in error

    assert main([*arguments, "--resume"]) == 3
    said = capsys.readouterr().out
    rows = table(out)
    assert [(row["trial"], row["state"], row["train.learning_rate"]) for row in rows] == [
        ("1", "done", "0.003"),
        ("2", "pruned", "1e-30"),
        ("3", "failed", "1e+25"),
    ]
    # A trial is stopped after the step it is in; on a busy machine some short epochs are over sooner than that.
    assert (rows[0]["epochs"], rows[2]["epochs"]) == ("20", "0")
    assert 1 <= int(rows[1]["epochs"]) < 20
    records = [json.loads(line) for line in first.read_text().splitlines()]
    losses = [record["valid_loss"] for record in records if record["event"] == "epoch"]
    assert len(losses) == 21  # with that of epoch 0, of the head as it is solved
    assert float(rows[0]["valid loss"]) == pytest.approx(min(losses), rel=1e-5)
    assert f"best    trial 1, valid loss {rows[0]['valid loss']}: {out / 'trials/0001'}" in said
    assert "failed: the " in said
    assert "of this step" in (out / "trials" / "0003.txt").read_text()
    assert "the loss is" in rows[2]["problem"]
    assert "trial 3 of 3" in (out / "log.txt").read_text()
    # Each trial is a run of its own, which can be repeated.
    assert "learning_rate = 0.003" in (out / "trials" / "0001" / "spec.toml").read_text()
    page = (out / "report.html").read_text()
    for told in ("By trial", "Courses", "train.learning_rate", "trials/0001", "the loss is"):
        assert told in page


@slow
def test_a_killed_sweep_goes_on_in_several_processes(write_spec):
    """Killed in a trial: that one is taken up where it stood, by one of two processes that share the rest."""
    changes = {
        'prune = "median"\n': "",
        "[3e-3, 1e-30, 1e25]": "[1e-3, 2e-3, 3e-3]",
        "epochs = 3": "epochs = 20",
    }
    path, out = write_spec(changes)
    first = out / "trials" / "0001"
    process = start(path)
    wait_until(lambda: len(events(first, "epoch")) >= 2, process)
    trial = process_of(first)
    process.kill()
    process.communicate(timeout=60)
    # Two at once, while the trial of the killed one may still be writing its checkpoint; one of them resumes, and the
    # other is the same command again, which joins what others work on.
    resumed = start(path, "--resume")
    wait_until(
        lambda: "2 of 3" in (out / "log.txt").read_text() or process_of(first) not in (None, trial), resumed
    )
    joined = start(path)
    said = [one.communicate(timeout=300) for one in (resumed, joined)]
    assert [one.returncode for one in (resumed, joined)] == [0, 0], said
    rows = table(out)
    assert sorted((row["trial"], row["state"], row["epochs"]) for row in rows) == [
        (number, "done", "20") for number in "123"
    ]
    assert sorted(float(row["train.learning_rate"]) for row in rows) == [1e-3, 2e-3, 3e-3]
    assert [row["valid loss"] for row in rows] == sorted((row["valid loss"] for row in rows), key=float)
    log = (out / "log.txt").read_text()
    assert log.count("trial 1 of 3") == 2
    assert log.count("trial 2 of 3") == log.count("trial 3 of 3") == 1
    # The trial that was killed has lost nothing and done nothing twice.
    steps = [record["step"] for record in events(first, "step")]
    assert steps == list(range(1, len(steps) + 1))
    assert "resume  after step" in (first / "log.txt").read_text()
    undisturbed = out.parent / "undisturbed"
    assert main([str(first / "spec.toml"), "--set", f"run.out={undisturbed}"]) == 0
    same_weights(first, undisturbed)


def test_each_trial_may_have_several_devices(write_spec):
    path, out = write_spec(
        {
            "epochs = 3": "epochs = 1",
            '"grid"': '"random"',
            'prune = "median"': "trials = 1",
            "[3e-3, 1e-30, 1e25]": "[1e-3, 2e-3]",
        }
    )
    code, said, errors = run(path, "--devices", 2)
    assert code == 0, said + errors
    starts = json.loads((out / "trials" / "0001" / "environment.json").read_text())
    assert [one["ranks"] for one in starts] == [2]


def test_a_ray_cluster_runs_trials_and_is_stopped(write_spec):
    pytest.importorskip("ray")
    changes = {
        'prune = "median"\n': 'engine = "ray"\n',
        "[3e-3, 1e-30, 1e25]": "[3e-3, 1e25, 2e-3]",
        "epochs = 3": "epochs = 20",
    }
    path, out = write_spec(changes)
    first = out / "trials" / "0001"
    process = start(path)
    wait_until(lambda: events(first, "epoch"), process)
    process.send_signal(signal.SIGTERM)
    said, errors = process.communicate(timeout=200)
    assert process.returncode == 130, said + errors
    assert "go on with --resume" in errors
    assert (first / "checkpoints" / "last").is_dir()
    assert process_of(first) is None
    # A worker of the cluster is killed: Ray starts its task again, which takes up the trial.
    process = start(path, "--resume")
    third = out / "trials" / "0003"
    wait_until(lambda: events(third, "epoch"), process)
    worker = (Path("/proc") / str(process_of(third)) / "stat").read_text().rpartition(")")[2].split()[1]
    os.kill(int(worker), signal.SIGKILL)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 3, said + errors
    assert "trial 2 fail: the " in said
    rows = {row["trial"]: row for row in table(out)}
    assert {number: row["state"] for number, row in rows.items()} == {"1": "done", "2": "failed", "3": "done"}
    assert rows["1"]["epochs"] == rows["3"]["epochs"] == "20"
    for folder in (first, third):
        assert "resume  after step" in (folder / "log.txt").read_text()
    assert (out / "log.txt").read_text().count("trial 3 of 3: train.learning_rate=0.002") == 2
