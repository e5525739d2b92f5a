"""Several processes that train together: the numbers of one, one end for all, checkpoints for any number of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atomica.runner import main

ROOT = Path(__file__).parents[2]

SPEC = """\
[run]
name = "ranks"
out = "{out}"

[data]
train = "{data}"
batch_blocks = 100
max_item_blocks = 100

[noise]
rotation_sigma = 0.5
translation_sigma = 1.0
mask_proportion = 0.2

[model]
atom_hidden = 8
block_hidden = 8
edge_size = 4
layers = 1
dropout = 0.0

[[head]]
kind = "binary"
positive = "yes"
negative = "no"
hidden = 8
[[head]]
kind = "regression"
label = "label_size"
weight = 0.1
[[head]]
kind = "denoise"
torsion = 0.0
[[head]]
kind = "masked_block"
dropout = 0.0

[train]
epochs = 3
learning_rate = 1e-3

[device]
kind = "cpu"
threads = 1

[log]
every_steps = 1
tensorboard = false
"""


@pytest.fixture(scope="module")
def write_spec(tiny_set, tmp_path_factory):
    """Writes the spec of a small run with every sort of head; returns its path and the run's folder."""

    def write(changes=None):
        folder = tmp_path_factory.mktemp("ranks")
        text = SPEC.format(out=folder / "out", data=tiny_set)
        for old, new in (changes or {}).items():
            assert old in text
            text = text.replace(old, new)
        (folder / "spec.toml").write_text(text)
        return folder / "spec.toml", folder / "out"

    return write


LABELS_ONLY = {
    '[[head]]\nkind = "denoise"\ntorsion = 0.0\n[[head]]\nkind = "masked_block"\ndropout = 0.0\n': "",
    "[noise]\nrotation_sigma = 0.5\ntranslation_sigma = 1.0\nmask_proportion = 0.2\n": "",
}
"""Leaves what is quick."""


def environment(**more):
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **more}


def start(*arguments, env=None):
    return subprocess.Popen(
        [sys.executable, "-m", "atomica.runner", *map(str, arguments)],
        env=env or environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments, env=None):
    with start(*arguments, env=env) as process:
        out, errors = process.communicate(timeout=300)
        return process.returncode, out, errors


def events(out, kind):
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["event"] == kind]


def wait_for_steps(process, out, steps):
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "metrics.jsonl").is_file() and len(events(out, "step")) >= steps:
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate(timeout=10))


def ranks_of(process):
    """Process ids of the ranks that a launcher has started, by rank."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            variables = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        rank = next((word[5:] for word in variables if word.startswith(b"RANK=")), None)
        if rank is not None and int(parent) == process.pid:
            found[int(rank)] = int(folder.name)
    return found


def compare(one, other, tolerance):
    """Everything recorded of two runs that must not depend on how batches were shared out."""
    for kind in ("step", "epoch", "test"):
        left, right = events(one, kind), events(other, kind)
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            assert set(a) == set(b)
            for name in set(a) - {"event", "wait", "complexes_per_s"}:
                assert a[name] == pytest.approx(b[name], rel=tolerance, abs=tolerance, nan_ok=True), (
                    kind,
                    name,
                    a,
                    b,
                )


@pytest.fixture(scope="module")
def alone(write_spec):
    """A run of one process."""
    path, out = write_spec()
    assert main([str(path)]) == 0
    assert len(events(out, "step")) >= 20
    return out


def test_two_ranks_get_the_losses_of_one(alone, write_spec):
    path, out = write_spec()
    code, printed, errors = run(path, "--devices", 2)
    assert code == 0, errors
    assert "Warning" not in errors
    assert printed.count("written ") == printed.count("best ") == 1
    losses = [[record["loss"] for record in events(folder, "step")[:20]] for folder in (alone, out)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    compare(alone, out, 1e-4)


def test_working_through_a_step_in_parts_changes_nothing(alone, write_spec):
    path, out = write_spec()
    assert main([str(path), "--set", "device.accumulate=3"]) == 0
    compare(alone, out, 1e-4)
