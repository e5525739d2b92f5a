"""runs/slurm.sh under a real Slurm of two nodes on this machine: warned in mid-run, requeued, finished."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from helpers import ROOT, TINY, environment, events, wait_until

# Two nodes on loopback addresses of their own, which are their names; jobs are requeued without Slurm's two minutes.
CONFIG = """\
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={ports[0]}
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=1
JobRequeue=1
NodeName=127.0.0.2 NodeHostname={host} NodeAddr=127.0.0.2 Port={ports[1]} CPUs=1
NodeName=127.0.0.3 NodeHostname={host} NodeAddr=127.0.0.3 Port={ports[2]} CPUs=1
PartitionName=main Nodes=ALL Default=YES State=UP
"""


def free_ports(number):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def place():
    """A folder for Slurm; its path is short, as there are sockets in it."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        yield Path(folder)


@pytest.fixture
def slurm(tmp_path, place):
    """A function that runs a Slurm command against a cluster of its own, and gives its output."""
    if not all(map(shutil.which, ("slurmctld", "slurmd", "sbatch"))):
        pytest.skip("needs Slurm (Debian: apt-get install slurm-wlm)")
    if os.geteuid():
        pytest.skip("needs root, to be two nodes of Slurm")
    (place / "state").mkdir()
    text = CONFIG.format(host=socket.gethostname().split(".")[0], folder=place, ports=free_ports(3))
    (place / "slurm.conf").write_text(text)
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = environment(SLURM_CONF=str(place / "slurm.conf"), PATH=paths)

    def ask(*words, check=True):
        done = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, (words, done.stderr, *log(place, "*.log"))
        return done.stdout

    daemons = [
        subprocess.Popen([*words, "-D"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for words in (["slurmctld"], ["slurmd", "-N", "127.0.0.2"], ["slurmd", "-N", "127.0.0.3"])
    ]
    try:
        try:
            wait_until(
                lambda: ask("sinfo", "-h", "-o", "%t %D", check=False).split() == ["idle", "2"], seconds=20
            )
        except AssertionError:
            pytest.skip("this build of Slurm does not start as two nodes here: " + str(log(place, "*.log")))
        yield ask
    finally:
        ask("scancel", "--signal=KILL", "--full", "--user=root", check=False)
        deadline = time.monotonic() + 10
        while ask("squeue", "-h", check=False) and time.monotonic() < deadline:
            time.sleep(0.2)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(timeout=30)


def log(folder, pattern):
    """Texts of the files of that name."""
    return [file.read_text() for file in sorted(folder.glob(pattern))]


def test_a_warned_job_is_requeued_and_goes_on(slurm, place, write_run, tmp_path):
    path, out = write_run(TINY, {"epochs = 3": "epochs = 8"})
    options = ["--parsable", "--cpus-per-task=1", "--gpus-per-node=0", str(ROOT / "runs" / "slurm.sh")]
    job = slurm("sbatch", *options, str(path)).strip()

    def state():
        return slurm("squeue", "-h", "-j", job, "-o", "%T", check=False).strip()

    def told():
        return "\n".join(log(tmp_path, "atomica-*.log"))

    def wait(true):
        try:
            wait_until(true)
        except AssertionError:
            pytest.fail("\n".join(["too late", slurm("squeue"), told(), *log(place, "*.log")]))

    wait(lambda: len(events(out, "step")) >= 3 or not state())
    slurm("scancel", "--batch", "--signal=USR1", job)  # as Slurm does before the time is over
    wait(lambda: state() == "PENDING")
    assert told().count("checkpoint written; go on with --resume") == 1
    done = len(events(out, "step"))
    assert done < 100
    wait(lambda: not state())
    assert (out / "evaluation.json").is_file(), told()
    assert f"resume  after step {done}" in told()
    steps = [record["step"] for record in events(out, "step")]
    assert steps == list(range(1, len(steps) + 1))
    assert [one["ranks"] for one in json.loads((out / "environment.json").read_text())] == [2, 2]
