"""Builds that are killed, and builds shared out over workers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import atomica
from atomica import _prep
from atomica.prep import command as prep

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")

KILLS = int(os.environ.get("ATOMICA_KILLS", "3"))
"""How often a build is killed; `ATOMICA_KILLS=20 pytest tests/e2e/test_prep_jobs.py` for more."""


@pytest.fixture(scope="module")
def inputs(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 20,000 rows over the made-up complexes, some of which fail."""
    folder = tmp_path_factory.mktemp("jobs")
    rows = ["id,path,chain1,chain2"]
    for i in range(20_000):
        name = "gone" if i % 97 == 50 else f"c{i % 60:02}"
        rows.append(f"r{i},{tiny_set.parent / name}.pdb,A,B")
    (folder / "index.csv").write_text("\n".join(rows) + "\n")
    arguments = [
        "build-graphs",
        str(folder / "index.csv"),
        "--out",
        str(folder / "whole"),
        "--shard-rows",
        "200",
    ]
    assert _prep.run(arguments) == 3
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "atomica.prep", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_a_killed_build_ends_as_if_it_had_not_been(inputs: Path, tmp_path: Path):
    """Each time a new build, killed at another moment, and killed again while it resumes."""
    draw = random.Random(7)

    def command(out: str) -> list[str]:
        return [
            "build-graphs",
            str(inputs / "index.csv"),
            "--out",
            str(tmp_path / out),
            "--shard-rows",
            "200",
        ]

    begin = time.monotonic()
    assert start(*command("timed")).wait() == 3
    usual = time.monotonic() - begin
    whole, halfway = files(inputs / "whole"), 0
    for number in range(KILLS):
        out = tmp_path / str(number)
        for resume in ([], ["--resume"]):
            process = start(*command(out.name), *resume)
            time.sleep(draw.uniform(0, usual))
            process.send_signal(signal.SIGKILL)
            process.wait()
            halfway += (out / "shard-00000.arrow").exists() and not (out / "manifest.json").exists()
        assert start(*command(out.name), "--resume").wait() == 3
        assert files(out) == whole
    print(f"{2 * KILLS} kills, {halfway} of them between the first shard and the end")


def descendants(pid: int) -> list[tuple[int, str]]:
    """Processes started by `pid`, directly or not, with their command lines."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
            except (OSError, ValueError):
                continue

    def below(child: int) -> bool:
        while child in parents and child != pid:
            child = parents[child]
        return child == pid

    return [(child, names[child]) for child in names if child != pid and below(child)]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for workers in /proc")
def test_ray_workers_share_a_build_and_one_may_die(inputs: Path, tmp_path: Path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'atomica-dgl[ray]'")
    out = tmp_path / "out"
    process = start(
        *("build-graphs", str(inputs / "index.csv"), "--out", str(out), "--shard-rows", "200"),
        *("--engine", "ray", "--parts", "4"),
    )
    killed = False
    while process.poll() is None and not killed:
        for pid, name in descendants(process.pid):
            if name.startswith("ray::_part") and not killed:
                os.kill(pid, signal.SIGKILL)
                killed = True
        time.sleep(0.02)
    assert killed
    assert process.wait(timeout=120) == 3
    assert files(out) == files(inputs / "whole")
    assert not Path(f"{out}.parts").exists()


def test_ray_workers_cut_ligands(shared: Path, tmp_path: Path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'atomica-dgl[ray]'")
    data = shared / "data" / "entries"
    lines = (data / "index_ligand.csv").read_text().splitlines()
    index = tmp_path / "index.csv"
    chosen = [line for line in lines if line.startswith(("1fkb_RAP", "1fkj_FK5", "1rx4_"))]
    index.write_text("\n".join([lines[0], *(line.replace(",", f",{data}/", 1) for line in chosen)]) + "\n")
    words = ["build-graphs", str(index), "--fragments", "ccd_300", "--out"]
    assert prep.main([*words, str(tmp_path / "here")]) == 0
    assert prep.main([*words, str(tmp_path / "there"), "--engine", "ray", "--parts", "2"]) == 0
    assert files(tmp_path / "there") == files(tmp_path / "here")
    ways = [record.ligand_chemistry for record in atomica.open_dataset(tmp_path / "there")]
    assert ways == ["components"] * len(chosen)
