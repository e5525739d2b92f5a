"""A whole sweep: stopped in a trial, gone on with; one trial pruned, one failed; its table."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from atomica.runner import main

ROOT = Path(__file__).parents[2]

SPEC = """\
[run]
name = "many"
out = "{out}"
[data]
train = "{data}"
input = "segment0"
batch_blocks = 64
max_item_blocks = 64
[model]
atom_hidden = 8
block_hidden = 8
edge_size = 4
layers = 1
[[head]]
kind = "binary"
positive = "yes"
negative = "no"
[train]
epochs = 3
monitor = "loss"
[device]
kind = "cpu"
threads = 1
[log]
tensorboard = false
[sweep]
method = "grid"
prune = "median"
[sweep.keys]
train.learning_rate = [3e-3, 1e-30, 1e25]
"""


def test_a_sweep_is_stopped_and_goes_on(tiny_set, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    (tmp_path / "spec.toml").write_text(SPEC.format(out=out, data=tiny_set))
    # Trials are processes of their own, which must find this source tree.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    first = out / "trials" / "0001" / "metrics.jsonl"
    command = [sys.executable, "-m", "atomica.runner", str(tmp_path / "spec.toml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while process.poll() is None and not (first.is_file() and '"epoch", ' in first.read_text()):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=120)[0]
    assert process.returncode == 130, said
    assert "trial   1 of 3: train.learning_rate=0.003" in said
    assert "stopped in trial 1; its checkpoint is written; go on with --resume" in said
    assert (first.parent / "checkpoints" / "last").is_dir()

    arguments = [str(tmp_path / "spec.toml")]
    assert main(arguments) == 2
    assert "holds a sweep already; add --resume" in capsys.readouterr().err
    assert main([*arguments, "--resume", "--set", "model.layers=2", "--set", "sweep.prune=none"]) == 2
    error = capsys.readouterr().err
    assert "the sweep was started otherwise" in error
    assert "  sweep: {" in error
    assert "  [model]: {" in error

    assert main([*arguments, "--resume"]) == 3
    said = capsys.readouterr().out
    with (out / "trials.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["trial"], row["state"], row["train.learning_rate"]) for row in rows] == [
        ("1", "done", "0.003"),
        ("2", "pruned", "1e-30"),
        ("3", "failed", "1e+25"),
    ]
    # A trial is stopped after the step it is in; on a busy machine its short epochs are over sooner than that.
    assert [row["epochs"] for row in rows] in [["3", epochs, "0"] for epochs in "123"]
    records = [json.loads(line) for line in first.read_text().splitlines()]
    losses = [record["valid_loss"] for record in records if record["event"] == "epoch"]
    assert len(losses) == 3
    assert float(rows[0]["valid loss"]) == pytest.approx(min(losses), rel=1e-5)
    assert f"best    trial 1, valid loss {rows[0]['valid loss']}: {out / 'trials/0001'}" in said
    assert "failed: the " in said
    assert "of this step" in (out / "trials" / "0003.txt").read_text()
    assert "trial   3 of 3" in (out / "log.txt").read_text()
    # Each trial is a run of its own, which can be repeated.
    assert "learning_rate = 0.003" in (out / "trials" / "0001" / "spec.toml").read_text()
