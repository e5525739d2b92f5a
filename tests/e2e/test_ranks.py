"""Several processes that train together: the numbers of one, one end for all, checkpoints for any number of them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import (
    TINY,
    TORCHRUN,
    changed,
    environment,
    events,
    run,
    run_script,
    same_weights,
    small_disk,
    start,
    wait_for_steps,
    wait_until,
)

from atomica import load
from atomica.runner import main

NOISE = """\

[noise]
rotation_sigma = 0.5
translation_sigma = 1.0
mask_proportion = 0.2
"""

HEADS = """\
[[head]]
kind = "regression"
label = "label_size"
weight = 0.1
"""

NOISE_HEADS = """\
[[head]]
kind = "denoise"
torsion = 0.0
[[head]]
kind = "masked_block"
dropout = 0.0
"""

SPEC = changed(
    TINY,
    {
        'input = "segment0"\n': "",
        "_blocks = 64": "_blocks = 100",
        "\n[model]": f"{NOISE}\n[model]",
        "layers = 1": "layers = 1\ndropout = 0.0",
        "\n[train]": f"{HEADS}{NOISE_HEADS}\n[train]\nlearning_rate = 1e-3\nema = 0.9",
    },
)
"""A run with every sort of head, and averaged weights."""


@pytest.fixture(scope="module")
def write_spec(write_run):
    return partial(write_run, SPEC)


LABELS_ONLY = {NOISE: "", NOISE_HEADS: ""}
"""Leaves what is quick."""


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
    """Also where each works through its share in parts, and with averaged weights."""
    path, out = write_spec()
    code, printed, errors = run(path, "--devices", 2, "--set", "device.accumulate=2")
    assert code == 0, errors
    assert "Warning" not in errors
    assert printed.count("written ") == printed.count("\nbest ") == 1
    losses = [[record["loss"] for record in events(folder, "step")[:20]] for folder in (alone, out)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    compare(alone, out, 1e-4)


def test_working_through_a_step_in_parts_changes_nothing(alone, write_spec):
    path, out = write_spec()
    assert main([str(path), "--set", "device.accumulate=3"]) == 0
    compare(alone, out, 1e-4)


def test_ranks_without_complexes_or_labels(write_spec):
    """Steps of one or two complexes: in some a rank has none, in some no complex has a label for one of the heads."""
    changes = {**LABELS_ONLY, "_blocks = 100": "_blocks = 34", "epochs = 3": "epochs = 1"}
    path, alone = write_spec(changes)
    assert main([str(path)]) == 0
    assert {"regression/loss" in record for record in events(alone, "step")} == {True, False}
    path, out = write_spec(changes)
    code, _, errors = run(path, "--devices", 2)
    assert code == 0, errors
    compare(alone, out, 1e-4)


@pytest.mark.parametrize("epochs", [0, 2])
def test_heads_are_solved_again_alike(write_spec, epochs):
    """From training and validation rows, what is read of them shared by two processes; and trained on from there."""
    changes = {**LABELS_ONLY, "epochs = 3": f"epochs = {epochs}\nrefit = true"}
    path, alone = write_spec(changes)
    assert main([str(path)]) == 0
    path, out = write_spec(changes)
    code, _, errors = run(path, "--devices", 2)
    assert code == 0, errors
    models = [load(folder / "checkpoints" / "best", "cpu") for folder in (alone, out)]
    for name in models[0].heads:
        paths = [model.head(name).linear.weight for model in models]
        assert paths[0].abs().max() > 1e-2
        assert torch.allclose(*paths, atol=1e-3), (paths[0] - paths[1]).abs().max()
    if epochs:
        compare(alone, out, 1e-3)
        assert [record["epoch"] for record in events(out, "epoch")] == [0, 1, 2]


# ------------------------------------------------------------------------------------------- how runs end


@pytest.fixture(scope="module")
def quick(write_spec):
    """An undisturbed run of one process with what is quick, and dropout; its changes and folder."""
    changes = {**LABELS_ONLY, "dropout = 0.0": "dropout = 0.1", "epochs = 3": "epochs = 5\nrefit = true"}
    path, out = write_spec(changes)
    assert main([str(path)]) == 0
    return changes, out


OFTEN = ("--set", "train.checkpoints.minutes=1e-9")
"""A checkpoint before every step."""


def test_a_killed_rank_ends_the_run_which_goes_on_with_another_number_of_ranks(write_spec, tmp_path):
    changes = {**LABELS_ONLY, "epochs = 3": "epochs = 40"}
    path, out = write_spec(changes)
    process = start(path, "--devices", 2, *OFTEN)
    wait_for_steps(process, out, 3)
    ranks = ranks_of(process)
    assert sorted(ranks) == [0, 1]
    began = time.monotonic()
    os.kill(ranks[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert process.returncode == 1
    assert "atomica-run: rank 1 was killed by SIGKILL" in errors
    assert "Traceback" not in errors
    done = len(events(out, "step"))
    # A signal to one rank alone: all write a checkpoint together and end.
    process = start(path, "--resume", "--devices", 2)
    wait_for_steps(process, out, done + 2)
    os.kill(ranks_of(process)[1], signal.SIGUSR1)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.count("checkpoint written; go on with --resume") == 1
    assert main([str(path), "--resume", "--set", "train.epochs=5"]) == 0
    path, undisturbed = write_spec(changes)
    assert main([str(path), "--set", "train.epochs=5"]) == 0
    compare(undisturbed, out, 1e-3)


@pytest.mark.parametrize(
    ("words", "options", "steps"),
    [((), ("--devices", 2), 0), ((), ("--devices", 2), 3), (TORCHRUN, (), 3)],
    ids=["starting", "training", "torchrun"],
)
def test_no_rank_outlives_the_command_that_started_it(write_spec, capsys, words, options, steps):
    path, out = write_spec({**LABELS_ONLY, "epochs = 3": "epochs = 40"})
    process = start(path, *options, words=words)
    wait_until(lambda: len(ranks_of(process)) == 2, process)
    if steps:
        wait_for_steps(process, out, steps)
    ranks = ranks_of(process)
    process.kill()
    wait_until(lambda: not any(Path(f"/proc/{rank}").exists() for rank in ranks.values()), seconds=30)
    process.communicate(timeout=30)
    done = events(out, "step")
    assert bool(done) == bool(steps)
    # They have written a checkpoint, to go on from; a run that had not begun is started.
    epochs = done[-1]["epoch"] + 1 if done else 1
    assert main([str(path), "--start-or-resume", "--set", f"train.epochs={epochs}"]) == 0
    if steps:
        assert f"resume  after step {done[-1]['step']}, " in capsys.readouterr().out
    recorded = [record["step"] for record in events(out, "step")]
    assert recorded == list(range(1, len(recorded) + 1))


FAULTY = """\
import os
from atomica.heads import register
from atomica.heads.binary import BinaryHead

@register("faulty")
class Faulty(BinaryHead):
    def loss(self, output, target):
        if os.environ.get("RANK") == "1":
            raise ValueError("the dog ate my gradient")
        return super().loss(output, target)

@register("nan")
class Nan(BinaryHead):
    steps = 0

    def loss(self, output, target):
        self.steps += self.training
        bad = self.training and self.steps == 2 and os.environ.get("RANK", "1") == "1"
        return super().loss(output, target) * (float("nan") if bad else 1.0)
"""


@pytest.fixture
def plugin(tmp_path):
    """Variables for processes that find two more kinds of heads: one fails, one has a bad loss, both on rank 1."""
    (tmp_path / "faulty.py").write_text(FAULTY)
    info = tmp_path / "faulty-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[atomica.heads]\nfaulty = faulty:Faulty\nnan = faulty:Nan\n")
    return environment(PYTHONPATH=os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]]))


def test_a_bad_loss_on_one_rank_is_skipped_by_all(write_spec, plugin):
    """The run goes on as that of one process that skips the same step."""
    changes = {**LABELS_ONLY, 'kind = "binary"': 'kind = "nan"', "epochs = 3": "epochs = 2"}
    found = []
    for devices in (1, 2):
        path, out = write_spec(changes)
        code, said, errors = run(path, "--devices", devices, "--set", "train.max_skipped=1", env=plugin)
        assert code == 0, errors
        assert said.count("1 steps skipped") == 1
        assert [record["step"] for record in events(out, "step")][:2] == [1, 3]
        found.append(json.loads((out / "bad_steps" / "step-00000002" / "batch.json").read_text())["ids"])
        found.append(out)
    assert found[0] == found[2]
    compare(found[1], found[3], 1e-4)


def test_the_reason_of_the_rank_that_fails_reaches_the_user(write_spec, plugin):
    path, out = write_spec({**LABELS_ONLY, 'kind = "binary"': 'kind = "faulty"'})
    code, _, errors = run(path, "--devices", 2, env=plugin)
    assert code == 1
    assert "atomica-run: rank 1: Traceback" in errors
    assert "ValueError: the dog ate my gradient" in errors
    # Under torchrun, which says more, too.
    path, out = write_spec({**LABELS_ONLY, 'kind = "binary"': 'kind = "faulty"'})
    code, _, errors = run(path, env=plugin, words=TORCHRUN)
    assert code == 1
    assert "ValueError: the dog ate my gradient" in errors
    # What is wrong with a spec is said once, before anything is written.
    path, out = write_spec({"epochs = 3": "epochs = -1"})
    code, printed, errors = run(path, "--devices", 2)
    assert code == 2, errors
    assert printed == ""
    assert errors.count("train.epochs = -1") == errors.count("\n") == 1, errors
    assert not out.exists()


SLOW_END = """\
import os, sys, time
from pathlib import Path
from atomica.runner import main
code = main([sys.argv[1]])
if os.environ["RANK"] == "0":
    time.sleep(3)
    Path(sys.argv[2]).touch()
sys.exit(code)
"""


def test_a_rank_that_is_done_ends_as_it_would_whatever_the_agent_does(write_spec, tmp_path):
    path, _ = write_spec({"epochs = 3": "epochs = -1"})
    done = run_script(SLOW_END, tmp_path, path, tmp_path / "ended")
    assert (tmp_path / "ended").exists(), done.stderr
    assert "closing signal SIGTERM" in done.stderr
    assert "interrupted" not in done.stderr


LAST_LOOK = """\
import os, sys
from pathlib import Path
from atomica.runner import main
code = main([sys.argv[1]])
names = [(thread / "comm").read_text().strip() for thread in Path("/proc/self/task").iterdir()]
Path(sys.argv[2], os.environ["RANK"]).write_text("\\n".join(names))
sys.exit(code)
"""


def test_no_thread_outlives_the_group_of_ranks(write_spec, tmp_path):
    """One that lets go of a tensor while the interpreter is taken down aborts the process, after all is written."""
    path, _ = write_spec({**LABELS_ONLY, "epochs = 3": "epochs = 1"})
    done = run_script(LAST_LOOK, tmp_path, path, tmp_path)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        names = (tmp_path / str(rank)).read_text().splitlines()
        assert names
        assert not [name for name in names if "gloo" in name], names


def test_killed_at_any_moment_a_run_loses_nothing(quick, write_spec):
    changes, undisturbed = quick
    path, out = write_spec(changes)
    generator = random.Random(4)
    kills = int(os.environ.get("ATOMICA_KILLS", "3"))
    code = None
    for kill in range(kills):
        resumable = (out / "checkpoints" / "last").is_dir() or (out / "checkpoints" / ".last.old").is_dir()
        process = start(path, *OFTEN, *(["--resume"] if resumable else []))
        # Between two recorded steps; the first kill as soon as there is a folder.
        done = len(events(out, "step")) if (out / "metrics.jsonl").is_file() else 0
        if kill:
            wait_for_steps(process, out, min(done + generator.randint(1, 4), 33))
        time.sleep(generator.uniform(0, 1.0))
        process.kill()
        process.communicate(timeout=60)
        code = process.returncode
    assert code == -signal.SIGKILL
    assert main([str(path), "--resume"]) == 0
    same_weights(out, undisturbed)
    records = [[record["loss"] for record in events(folder, "step")] for folder in (out, undisturbed)]
    assert records[0] == records[1]


def test_a_full_disk_loses_nothing(quick, write_spec, tmp_path):
    changes, undisturbed = quick
    path, _ = write_spec(changes)
    with small_disk(tmp_path / "small", "1100k") as resized:
        out = tmp_path / "small" / "run"
        where = ("--set", f"run.out={out}")
        code, _, errors = run(path, *OFTEN, *where)
        assert code == 1, errors
        assert "No space left on device" in errors
        assert "Traceback" not in errors
        resized("20m")
        assert main([str(path), "--resume", *where]) == 0
        same_weights(out, undisturbed)


# --------------------------------------------------------------------------------------------- two hosts


@pytest.fixture
def hosts():
    """Two network namespaces joined by a cable: name → address."""
    tag = f"at{os.getpid() % 100000}"
    names = {f"{tag}{side}": f"10.77.0.{number}" for side, number in (("a", 1), ("b", 2))}

    def ip(*words, check=True):
        return subprocess.run(["ip", *words], capture_output=True, text=True, check=check)

    try:
        made = [ip("netns", "add", name, check=False) for name in names]
    except FileNotFoundError:
        pytest.skip("needs the command ip")
    try:
        if any(one.returncode for one in made):
            pytest.skip(f"needs the right to make network namespaces: {made[0].stderr.strip()}")
        one, other = names
        ip(
            "link",
            "add",
            f"v{one}",
            "netns",
            one,
            "type",
            "veth",
            "peer",
            "name",
            f"v{other}",
            "netns",
            other,
        )
        for name, address in names.items():
            ip("-n", name, "addr", "add", f"{address}/24", "dev", f"v{name}")
            ip("-n", name, "link", "set", f"v{name}", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name, check=False)


def test_two_hosts_get_the_losses_of_one(write_spec, hosts):
    changes = {**LABELS_ONLY, "epochs = 3": "epochs = 1"}
    path, alone = write_spec(changes)
    assert main([str(path)]) == 0
    path, out = write_spec(changes)
    first = next(iter(hosts.values()))
    running = [
        subprocess.Popen(
            [
                *("ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run"),
                *("--nnodes", "2", "--nproc-per-node", "1", "--local-addr", address),
                *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{first}:29577", "--rdzv-id", "two"),
                *("--rdzv-conf", f"is_host={int(address == first)}"),
                *("-m", "atomica.runner", str(path)),
            ],
            env=environment(GLOO_SOCKET_IFNAME=f"v{name}"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, address in hosts.items()
    ]
    said = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert sum(printed.count("written ") for printed, _ in said) == 1
    compare(alone, out, 1e-4)
    losses = [[record["loss"] for record in events(folder, "step")] for folder in (alone, out)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
