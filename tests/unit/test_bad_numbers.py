"""Losses that are not finite, memory that runs out, precision and averaged weights: a run that copes, or says why."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import TINY, events
from safetensors.torch import load_file

from atomica import spec
from atomica.analysis import masking
from atomica.data.sampling import within_memory
from atomica.heads import register
from atomica.heads.binary import BinaryHead
from atomica.model.model import Model
from atomica.runner import main

CALLS, ROOM = {"count": 0}, {"complexes": 3}


@register("test_nan")
class Nan(BinaryHead):
    """Has a loss that is not finite in its second and fourth step."""

    def loss(self, output, target):
        CALLS["count"] += self.training
        loss = super().loss(output, target)
        return loss * float("nan") if self.training and CALLS["count"] in (2, 4) else loss


@register("test_hungry")
class Hungry(BinaryHead):
    """Has memory for three complexes."""

    def forward(self, encoding, inputs):
        if inputs.num_graphs > ROOM["complexes"]:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return super().forward(encoding, inputs)


@pytest.fixture
def start(write_run, tmp_path):
    """Starts a run with a kind of head and settings; gives the exit code, and the folder."""

    def run(kind, *changes, name="out", calls=0):
        CALLS["count"] = calls
        path, _ = write_run(TINY, {'kind = "binary"': f'kind = "{kind}"', "epochs = 3": "epochs = 2"})
        words = [word for change in changes for word in (("--set", change) if "=" in change else (change,))]
        return main([str(path), "--set", f"run.out={tmp_path / name}", *words]), tmp_path / name

    return run


def test_a_bad_step_ends_the_run_with_its_batch_kept(start, capsys):
    code, out = start("test_nan")
    assert code == 1
    kept = out / "bad_steps" / "step-00000002"
    assert str(kept) in capsys.readouterr().err
    numbers = json.loads((kept / "batch.json").read_text())
    assert numbers["loss"] is None
    assert len(numbers["ids"]) > 1
    tensors = load_file(kept / "batch.safetensors")
    assert (
        len(tensors["graph.graph_of_block"].unique())
        == len(numbers["ids"])
        == len(tensors["targets.test_nan"])
    )
    # Going on takes the same step again.
    code, out = start("test_nan", "--resume", calls=9)
    assert code == 0
    recorded = [record["step"] for record in events(out, "step")]
    assert recorded[:2] == [1, 2]


def test_bad_steps_are_skipped_and_counted_up_to_a_limit(start, capsys):
    code, out = start("test_nan", "train.max_skipped=2")
    assert code == 0
    assert "note    2 steps skipped" in capsys.readouterr().out
    assert {2, 4}.isdisjoint(record["step"] for record in events(out, "step"))
    assert len(list((out / "bad_steps").iterdir())) == 2
    weights = load_file(out / "checkpoints" / "last" / "model.safetensors")
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())
    code, out = start("test_nan", "train.max_skipped=1", name="again")
    assert code == 1
    assert "1 such steps were skipped before" in capsys.readouterr().err


def test_a_batch_too_large_for_the_memory_is_worked_through_in_parts(start, capsys):
    code, out = start("binary")
    assert code == 0
    code, hungry = start("test_hungry", "head.0.name=binary", name="hungry")
    text = capsys.readouterr()
    assert code == 0
    assert "times out of GPU memory: raise device.accumulate" in text.out
    assert "out of GPU memory in step 1 " in text.err
    for one, other in zip(events(out, "step"), events(hungry, "step"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4, abs=1e-6)
    for one, other in zip(events(out, "epoch"), events(hungry, "epoch"), strict=True):
        assert one["valid_loss"] == pytest.approx(other["valid_loss"], rel=1e-4, abs=1e-6)


def test_a_complex_that_no_memory_holds_ends_the_run_with_what_helps(start, capsys, monkeypatch):
    monkeypatch.setitem(ROOM, "complexes", 0)
    code, _ = start("test_hungry", "train.solve_heads=false")
    told = capsys.readouterr().err
    assert code == 1
    assert "device.accumulate" in told


def test_averaged_weights_are_validated_and_kept_and_survive_a_resume(start):
    settings = ("train.ema=0.9", "train.precision=bf16", "train.checkpoints.top=2")
    code, out = start("binary", *settings)
    assert code == 0
    folder = out / "checkpoints"
    last, best = (load_file(folder / name / "model.safetensors") for name in ("last", "best"))
    assert any(not torch.equal(last[name], best[name]) for name in last)
    assert len(list(folder.glob("epoch-*"))) == 2
    state = load_file(folder / "last" / "state.safetensors")
    assert int(state["average.n_averaged"]) == len(events(out, "step"))
    code, again = start("binary", *settings, "train.epochs=1", name="again")
    assert code == 0
    code, again = start("binary", *settings, "--resume", name="again")
    assert code == 0
    for name, value in load_file(again / "checkpoints" / "last" / "state.safetensors").items():
        assert name.startswith("random") or torch.equal(value, state[name]), name
    full = start("binary", name="full")[1]
    for one, other in zip(events(out, "step"), events(full, "step"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.05, abs=1e-3)
    assert any(
        one["loss"] != other["loss"]
        for one, other in zip(events(out, "step"), events(full, "step"), strict=True)
    )


@pytest.mark.parametrize("room", [1, 2, 5])
def test_work_is_halved_until_memory_holds_it(room):
    """All of it is done, in order, in parts that fit; a row that does not fit alone is an error."""

    def work(rows):
        if len(rows) > room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return rows.tolist()

    found = list(within_memory(np.arange(11), work))
    assert [row for _, part in found for row in part] == list(range(11))
    assert all(rows.tolist() == part and len(part) <= room for rows, part in found)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        list(within_memory(np.arange(3), lambda rows: work(np.arange(11))))


JOB = """\
[run]
name = "{job}"
job = "{job}"
out = "{out}"

[data]
source = "{source}"
batch_blocks = 64

[model]
weights = "{weights}"
"""
MORE = {
    "annotate": '[annotate]\nmembers.yes = ["{weights}"]\nthresholds.yes = 0.5\n',
    "score": '[score]\nreadout = "complex"\ncontacts = false\nstructures = false\n',
}


def test_every_way_through_a_model_is_halved_where_memory_runs_out(start, tmp_path, capsys, monkeypatch):
    """Solving heads, steps, validation, training set; jobs: the same numbers as with room for all.

    Where a complex does not fit alone, a sentence says what helps. A masked copy needs the complex beside it.
    """
    room, inside, masked, refused = {"complexes": 10**6}, Model._seen, masking.embeddings, []

    def seen(self, inputs):
        if inputs.num_graphs > room["complexes"]:
            refused.append(inputs.num_graphs)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB")
        return inside(self, inputs)

    def copies(encoder, inputs, *more):
        if inputs.num_graphs > 1 + room["complexes"]:
            refused.append(inputs.num_graphs)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB")
        return masked(encoder, inputs, *more)

    monkeypatch.setattr(Model, "_seen", seen)
    monkeypatch.setattr(masking, "embeddings", copies)
    code, whole = start("binary", name="whole")
    assert code == 0
    source = spec.load(whole / "spec.toml").tree["data"]["train"]

    def job(kind, name):
        out = tmp_path / name
        names = {"job": kind, "out": out, "source": source, "weights": whole / "checkpoints" / "best"}
        text = JOB + MORE.get(kind, "")
        if kind == "annotate":
            text = text.replace('[model]\nweights = "{weights}"\n', "")
        out.with_suffix(".toml").write_text(text.format(**names))
        return main([str(out.with_suffix(".toml"))]), out

    tables = {
        "embed": "complexes.parquet",
        "predict": "predictions.parquet",
        "evaluate": "predictions.csv",
        "annotate": "annotations.parquet",
        "score": "scores.parquet",
    }
    plenty = {kind: job(kind, kind) for kind in tables}
    assert all(code == 0 for code, _ in plenty.values()), capsys.readouterr().err
    assert not refused
    room["complexes"] = 1
    code, little = start("binary", name="little")
    assert code == 0, capsys.readouterr().err
    for one, other in zip(events(whole, "epoch"), events(little, "epoch"), strict=True):
        assert other["valid_loss"] == pytest.approx(one["valid_loss"], rel=1e-3, abs=1e-5)
    for kind, table in tables.items():
        refused.clear()
        code, out = job(kind, f"{kind}-little")
        assert code == 0, capsys.readouterr().err
        assert refused
        before, after = plenty[kind][1] / table, out / table
        if table.endswith(".parquet"):
            one, other = (pq.read_table(path).to_pylist() for path in (before, after))
            assert [row["id"] for row in one] == [row["id"] for row in other]
            numbers = [name for name, value in one[0].items() if isinstance(value, float)]
            for name in [*numbers, *(["embedding"] if kind == "embed" else [])]:
                values = [[row[name] for row in rows] for rows in (one, other)]
                np.testing.assert_allclose(*map(np.array, values), rtol=1e-4, atol=1e-5)
        else:
            assert [line.split(",")[0] for line in before.read_text().splitlines()] == [
                line.split(",")[0] for line in after.read_text().splitlines()
            ]
    room["complexes"] = 0
    capsys.readouterr()
    code, _ = job("embed", "none")
    told = capsys.readouterr().err
    assert code == 1
    assert "out of GPU memory (CUDA out of memory)" in told
    assert "data.batch_blocks" in told
    assert "Traceback" not in told
