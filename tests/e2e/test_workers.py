"""Jobs that several processes share: the same bytes whatever their number, and whoever of them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from helpers import TINY, environment, run, slow, wait_until

import atomica
from atomica.runner import main

TABLES = ("complexes", "blocks", "atoms")

SLOW = (
    "import sys, time; from atomica.jobs import embed, tables; from atomica.runner import main;"
    "embed.PIECE_BLOCKS = 60; write = tables.write_table;"
    "tables.write_table = lambda *given: (time.sleep(0.02), write(*given));"
    "sys.exit(main(sys.argv[1:]))"
)
"""The command with pieces of a few complexes, each of which takes a while."""


@pytest.fixture(scope="module")
def spec(tiny_set, tmp_path_factory):
    """The spec of a job that embeds with a small model, 60 complexes many times."""
    import torch

    folder = tmp_path_factory.mktemp("job")
    torch.manual_seed(3)
    config = atomica.EncoderConfig(atom_hidden=8, block_hidden=8, edge_size=4, layers=1)
    atomica.Model(config).save(folder / "model")
    path = folder / "embed.toml"
    path.write_text(
        f'[run]\nname = "embed"\njob = "embed"\nout = "{folder}/{{name}}"\n'
        f'[data]\nsource = {[str(tiny_set)] * 2}\n[model]\nweights = "{folder}/model"\n'
        '[device]\nkind = "cpu"\nthreads = 1\n'
    )
    return path


@pytest.fixture(scope="module")
def alone(spec):
    """The tables of one process."""
    words = [sys.executable, "-c", SLOW, str(spec), "--set", "run.name=alone"]
    subprocess.run(words, check=True, env=environment(), capture_output=True)
    return {name: (spec.parent / "alone" / f"{name}.parquet").read_bytes() for name in TABLES}


def _tables(folder):
    return {name: (folder / f"{name}.parquet").read_bytes() for name in TABLES}


def test_processes_that_lose_their_lead_and_a_helper_make_the_bytes_of_one(spec, alone):
    folder = spec.parent / "shared"

    def shard(number):
        words = [sys.executable, "-c", SLOW, str(spec), "--set", "run.name=shared", "--shard", f"{number}/3"]
        pipe = subprocess.PIPE
        return subprocess.Popen(words, env=environment(), stdout=pipe, stderr=pipe, text=True)

    lead = shard(1)
    wait_until(lambda: (folder / "pieces").is_dir(), lead)
    others = [shard(number) for number in (2, 3)]

    def pieces():
        return len(list((folder / "pieces").glob("complexes-*.parquet")))

    wait_until(lambda: pieces() >= 3, lead)
    lead.send_signal(signal.SIGKILL)
    before = pieces()
    wait_until(lambda: pieces() > before or not (folder / "pieces").is_dir())  # the others have come by now
    others[0].send_signal(signal.SIGKILL)
    for one in others[1:]:
        out, errors = one.communicate(timeout=300)
        assert one.returncode == 0, errors
        assert f"written {folder}" in out
    for one in (lead, others[0]):
        one.communicate(timeout=60)
        assert one.returncode in (-signal.SIGKILL, 0)
    assert lead.returncode == -signal.SIGKILL
    assert _tables(folder) == alone
    assert not (folder / "pieces").exists()
    assert (folder / "report.html").is_file()


def test_devices_share_a_job(spec, tiny_set):
    """The command starts the other process itself; pieces as large as they are, of one set many times."""
    words = ["--set", f"data.source={[str(tiny_set)] * 9}", "--set", 'embed.tables=["complexes"]']
    assert main([str(spec), *words, "--set", "run.name=devices1"]) == 0
    result = run(spec, *words, "--set", "run.name=devices2", "--devices", 2)
    assert result.returncode == 0, result.stderr
    assert "ended before all was done" not in result.stdout
    one, two = (spec.parent / f"devices{count}" for count in (1, 2))
    assert not (two / "workers.txt").exists()
    assert (one / "complexes.parquet").read_bytes() == (two / "complexes.parquet").read_bytes()


OWN = {
    "evaluate": '[evaluate]\nlabel = "label"\nlabels = { residue_binary = "label_size" }\n',
    "probe": '[probe]\nlabel = "label"\nseeds = 1\nstrengths = [1.0]\n',
}


@pytest.fixture(scope="module")
def answering(spec):
    """A model with a head on complexes and one on residues."""
    import torch

    from atomica import heads

    torch.manual_seed(4)
    config = atomica.EncoderConfig(atom_hidden=8, block_hidden=8, edge_size=4, layers=1)
    made = {
        kind: heads.head_class(kind)(heads.head_class(kind).Config(positive="yes"), config)
        for kind in ("binary", "residue_binary")
    }
    atomica.Model(config, made).save(spec.parent / "answering")
    return spec.parent / "answering"


@pytest.mark.parametrize("job", ["evaluate", pytest.param("probe", marks=slow)])
def test_processes_share_what_is_measured(job, spec, answering, tiny_set):
    """One process against two."""
    path = spec.parent / f"{job}.toml"
    text = spec.read_text().replace('job = "embed"', f'job = "{job}"')
    path.write_text(text.replace(f"{spec.parent}/model", str(answering)) + OWN[job])

    def start(name, *words):
        words = [sys.executable, "-c", SLOW, str(path), "--set", f"run.name={name}", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(words, env=environment(), stdout=pipe, stderr=pipe, text=True)

    def files(name):
        folder = spec.parent / name
        own = [*folder.glob("*.csv"), *folder.glob("*.parquet"), folder / "evaluation.json"]
        return {file.name: file.read_bytes() for file in own}

    alone = start(f"{job}-alone")
    shards = [start(f"{job}-shards", "--shard", f"{number}/2") for number in (1, 2)]
    for one in (alone, *shards):
        _, errors = one.communicate(timeout=300)
        assert one.returncode == 0, errors
    expected = files(f"{job}-alone")
    assert "evaluation.json" in expected
    assert len(expected) > 1
    assert files(f"{job}-shards") == expected


@slow
def test_torchrun_shares_a_job(spec, alone):
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--no-python",
    ]
    words += [sys.executable, "-c", SLOW, str(spec), "--set", "run.name=torchrun"]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert _tables(spec.parent / "torchrun") == alone


def test_a_killed_worker_of_ray_is_taken_over(spec, alone, tmp_path):
    pytest.importorskip("ray")
    script = tmp_path / "job.py"
    script.write_text(
        "import os, signal, sys, threading, time\nfrom pathlib import Path\n"
        "from atomica.jobs import embed\nfrom atomica.runner import main\n"
        "embed.PIECE_BLOCKS = 60\n"
        "import ray\nray.init(num_cpus=2, log_to_driver=False)\n"
        "@ray.remote\ndef pids():\n    return os.getpid()\n"
        "folder = Path(sys.argv[1])\n"
        "def workers():\n"
        "    for path in Path('/proc').glob('[0-9]*/cmdline'):\n"
        "        try: words = path.read_bytes()\n"
        "        except OSError: continue\n"
        "        if words.startswith(b'ray::_work'): yield int(path.parent.name)\n"
        "def kill():\n"
        "    while not (folder / 'pieces').is_dir() or not (found := list(workers())): time.sleep(0.01)\n"
        "    for one in found: os.kill(one, signal.SIGKILL); print('killed')\n"
        "threading.Thread(target=kill, daemon=True).start()\n"
        "sys.exit(main(sys.argv[2:]))\n"
    )
    folder = spec.parent / "ray"
    words = [sys.executable, str(script), str(folder), str(spec), "--set", "run.name=ray"]
    words += ["--set", 'device.engine="ray"', "--devices", "2"]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "killed" in done.stdout
    assert pq.read_table(folder / "complexes.parquet").equals(
        pq.read_table(spec.parent / "alone" / "complexes.parquet")
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shard", "3/2"], "must be K/N"),
        (["--shard", "1/2", "--devices", "2"], "leave out --devices"),
    ],
)
def test_what_no_share_is(spec, words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(spec), *words])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_a_training_has_no_shards(write_run, capsys):
    path, _ = write_run(TINY)
    assert main([str(path), "--shard", "1/2"]) == 2
    assert "--shard is of jobs after training" in capsys.readouterr().err


def test_a_finished_job_has_nothing_to_share(spec, alone, capsys):
    assert main([str(spec), "--set", "run.name=alone", "--shard", "2/2"]) == 0
    assert "was done before" in capsys.readouterr().out
    assert os.path.isdir(spec.parent / "alone")
