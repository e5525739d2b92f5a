"""What tests of whole runs share: starting `atomica-run` as a process, waiting for it, reading what it has recorded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

slow = pytest.mark.skipif(os.environ.get("ATOMICA_SLOW") != "1", reason="minutes; set ATOMICA_SLOW=1")
"""Of tests that take longer than what they add to the others is worth each time."""

ROOT = Path(__file__).parents[1]

PREP = ROOT / "tests" / "fixtures" / "prep"
"""What the original makes of structures: tests/fixtures/README.md. Its models are unpacked by the fixture `models`."""

TINY = """\
[run]
name = "tiny"
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
hidden = 8

[train]
epochs = 3

[device]
kind = "cpu"
threads = 1

[log]
every_steps = 1
tensorboard = false
"""
"""The spec of a small run on the fixture `tiny_set`; modules change it to what they are about."""


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A file system of so many bytes at a new folder, such as 64k; what it gives makes it another size. Skips without
    the right to mount one."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield lambda other: subprocess.run(["mount", "-o", f"remount,size={other}", str(place)], check=True)
    finally:
        subprocess.run(["umount", str(place)], check=True)


def changed(text, changes):
    """A text with parts replaced, each of which must be there."""
    for old, new in (changes or {}).items():
        assert old in text, old
        text = text.replace(old, new)
    return text


BINARY = TINY[TINY.index("[[head]]") : TINY.index("\n[train]")]
HEADLESS = changed(TINY, {BINARY: ""})
"""The head of `TINY`, and the rest of it."""


def environment(**more):
    """Variables for a process that must find this source tree, and should not take every core."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **more}


def command(*arguments):
    return [sys.executable, "-m", "atomica.runner", *map(str, arguments)]


class Started(subprocess.Popen):
    """A process that a test which fails does not wait for."""

    def __exit__(self, kind, value, trace):
        if kind is not None:
            self.kill()
        return super().__exit__(kind, value, trace)


def start(*arguments, env=None, words=()):
    """Start the command, or with `words` one that starts it."""
    return Started(
        [sys.executable, *words, *command(*arguments)[1:]],
        env=env or environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Under nohup it would be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )


class Result(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def run(*arguments, env=None, words=()):
    """The same to its end."""
    with start(*arguments, env=env, words=words) as process:
        out, errors = process.communicate(timeout=300)
        return Result(process.returncode, out, errors)


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def run_script(text, folder, *arguments):
    """A script as two ranks, to its end."""
    script = folder / "rank.py"
    script.write_text(text)
    words = [sys.executable, *TORCHRUN, str(script), *map(str, arguments)]
    return subprocess.run(words, env=environment(), capture_output=True, text=True, check=False, timeout=300)


def events(out, kind=None):
    """What metrics.jsonl in a run's folder has, of one kind or of all; no line that is just being written."""
    file = out / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.is_file() else []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record for record in records if kind in (None, record["event"])]


def wait_until(true, process=None, seconds=200):
    """Wait until something is true; fail when `process` ends before, or after so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and (process is None or process.poll() is None):
        if true():
            return
        time.sleep(0.02)
    assert true(), process.communicate(timeout=10) if process is not None else "too late"


def wait_for_steps(process, out, steps):
    """Wait until a run has recorded so many steps (`log.every_steps = 1`)."""
    wait_until(lambda: len(events(out, "step")) >= steps, process)


def same_weights(one, other):
    """Two runs have left the same models, bit for bit."""
    for name in ("last", "best"):
        left, right = (folder / "checkpoints" / name / "model.safetensors" for folder in (one, other))
        assert left.read_bytes() == right.read_bytes(), name
