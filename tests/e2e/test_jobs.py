"""What all kinds of jobs share: settings that are heeded or refused, files by one name, refusals before the start."""

from __future__ import annotations

import json
import os

import pytest
import torch
from helpers import changed, small_disk

import atomica
from atomica.files import replacing
from atomica.heads.binary import BinaryConfig, BinaryHead
from atomica.heads.masked_block import MaskedBlockConfig, MaskedBlockHead
from atomica.jobs import JOBS
from atomica.jobs.job import kind
from atomica.runner import main

CONFIG = {"atom_hidden": 8, "block_hidden": 8, "edge_size": 4, "layers": 1}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The folder of a small model with a head that has labels, and one that has none."""
    torch.manual_seed(3)
    config = atomica.EncoderConfig(**CONFIG)
    binary = BinaryHead(BinaryConfig(positive="yes", negative="no", hidden=8, layers=2), config)
    masked = MaskedBlockHead(MaskedBlockConfig(), config)
    folder = tmp_path_factory.mktemp("weights")
    atomica.Model(config, {"binary": binary, "masked_block": masked}).save(folder)
    return folder


@pytest.fixture
def start(tmp_path, weights, tiny_set, capsys):
    """Runs a job on the tiny set; returns exit code, the run's folder, what was told on stdout and stderr."""

    def run(name, *words, source=tiny_set, own="", device="", out="out"):
        path = tmp_path / f"{name}.toml"
        path.write_text(
            f'[run]\nname = "{name}"\njob = "{name}"\nout = "{tmp_path}/{out}"\n'
            f'[data]\nsource = "{source}"\n[model]\nweights = "{weights}"\n{own}\n[device]\nthreads = 1\n{device}'
        )
        code = main([str(path), *words])
        told = capsys.readouterr()
        return code, tmp_path / out, told.out, told.err

    return run


@pytest.mark.parametrize("name", ["embed", "score", "evaluate"])
def test_the_kernel_that_is_asked_for_does_the_work(start, monkeypatch, name):
    from atomica.nn.kernels import pytorch, rust

    def broken(*given):
        raise AssertionError("the other kernel was used")

    monkeypatch.setattr(rust, "forward", broken)
    few = ["--set", "data.split=test"]
    assert start(name, *few, device='kernel = "torch"')[0] == 0
    monkeypatch.undo()
    monkeypatch.setattr(pytorch, "forward", broken)
    with pytest.raises(AssertionError, match="the other kernel"):
        start(name, *few, device='kernel = "torch"', out="again")


@pytest.mark.parametrize("name", [name for name, job in ((n, kind(n)) for n in JOBS) if job.config])
def test_what_a_job_cannot_heed_is_refused(start, name):
    code, out, _, errors = start(name, device="accumulate = 2")
    assert code == 2
    assert "device.accumulate = 2: has no effect: only training has steps to share out; remove it" in errors
    assert not out.exists()


def test_predictions_have_the_name_that_training_gives_them(start, tmp_path, tiny_set):
    """Of a single head with labels, predictions.csv, whatever other heads there are."""
    code, out, _, errors = start("evaluate", "--set", "data.split=test")
    assert code == 0, errors
    assert (out / "predictions.csv").is_file()
    assert json.loads((out / "result.json").read_text())["tables"]["predictions"] == "predictions.csv"
    assert not list(out.glob("predictions-*"))


@pytest.mark.parametrize("what", ["data set", "index", "structures"])
def test_data_without_the_labels_is_refused_before_anything_is_written(start, tiny_set, what):
    sources = {"data set": tiny_set, "index": tiny_set.parent / "index.csv", "structures": tiny_set.parent}
    own = '[evaluate]\nlabel = "lable"\n'
    if what == "structures":
        structures = sources[what].parent / "structures-alone"
        structures.mkdir(exist_ok=True)
        (structures / "c00.pdb").write_text((tiny_set.parent / "c00.pdb").read_text())
        sources[what] = structures
    for words in (["--dry-run"], []):
        code, out, _, errors = start("evaluate", *words, source=sources[what], own=own)
        assert code == 2, errors
        assert "has no column 'lable'" in errors
        assert not out.exists()
    assert start("evaluate", source=tiny_set, own=changed(own, {"lable": "label"}))[0] == 0


def test_checks_change_no_settings(tmp_path, weights, tiny_set, monkeypatch, capsys):
    """Paths are made absolute once, for every job: the resolved spec says where files lie from anywhere."""
    monkeypatch.chdir(weights.parent)
    path = tmp_path / "annotate.toml"
    path.write_text(
        f'[run]\nname = "a"\njob = "annotate"\nout = "{tmp_path}/out"\n[data]\nsource = "{tiny_set}"\nsplit = "test"\n'
        f'[annotate]\nmembers = {{ yes = ["{weights.name}"] }}\nthresholds = {{ yes = 0.5 }}\n[device]\nthreads = 1\n'
    )
    assert main([str(path)]) == 0, capsys.readouterr().err
    assert f'yes = ["{weights}"]' in (tmp_path / "out" / "spec.toml").read_text()


def test_a_full_disk_is_told_of_by_its_folder(start, tmp_path):
    """Where not even the log can be written; the job goes on once there is room."""
    with small_disk(tmp_path / "small", "64k") as resized:
        filler = tmp_path / "small" / "filler"
        filler.write_bytes(bytes(65536 - 8192))
        code, out, _, errors = start("embed", out="small/run")
        assert code == 1, errors
        assert f"{out}" in errors
        assert "No space left on device; make room there; go on with --start-or-resume" in errors
        filler.unlink()
        resized("8m")
        assert start("embed", "--start-or-resume", out="small/run")[0] == 0


def test_a_file_is_synced_before_it_has_its_name(tmp_path, monkeypatch):
    path, synced = tmp_path / "file", []
    sync = os.fsync

    def noted(handle):
        synced.append((os.path.realpath(f"/proc/self/fd/{handle}"), path.exists()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    with replacing(path) as temporary:
        temporary.write_text("whole")
    assert synced[0] == (str(temporary), False)
    assert synced[-1] == (str(tmp_path), True)

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "whole"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_structures_pockets_and_scores_are_synced(start, tiny_set, tmp_path, monkeypatch):
    """No other function of ours writes what a run leaves."""
    from atomica.prep.pockets import index_by_score

    names = set()
    sync = os.fsync

    def noted(handle):
        names.add(os.path.basename(os.path.realpath(f"/proc/self/fd/{handle}")))
        sync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    code, out, _, errors = start(
        "score", "--set", "data.split=test", "--set", f"score.root={tiny_set.parent}"
    )
    assert code == 0, errors
    assert ".scores.csv.tmp" in names
    written = sorted(path.name for path in (out / "structures").iterdir())
    assert written
    assert {f".{name}.tmp" for name in written} <= names
    index_by_score([str(out / "structures")], tmp_path / "pockets.csv", above=10.0, least=1)
    assert ".pockets.csv.tmp" in names
