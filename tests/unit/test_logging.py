"""What a run writes down: plain lines, a bar, metrics that a resumed run does not repeat, Weights & Biases."""

from __future__ import annotations

import io
import json
import struct

import pytest
from rich.console import Console

from atomica.console import Journal, Meter
from atomica.spec import Problems
from atomica.train import logging
from atomica.train.display import Display
from atomica.train.logging import LogConfig, RunLog, WandbConfig


def texts(folder):
    """The lines of log.txt without the time."""
    return [line[21:] for line in (folder / "log.txt").read_text().splitlines()]


def test_a_journal_keeps_what_was_said_before_there_was_a_folder(tmp_path, capsys):
    journal = Journal()
    journal.say("one\ntwo")
    assert not (tmp_path / "log.txt").exists()
    journal.open(tmp_path, resume=False)
    journal.say("three", error=True)
    journal.note("\nfour\n")
    journal.close()
    assert texts(tmp_path) == ["one", "two", "three", "four"]
    assert capsys.readouterr() == ("one\ntwo\n", "three\n")
    again = Journal()
    again.open(tmp_path, resume=True)
    again.note("five")
    again.close()
    assert texts(tmp_path)[-2:] == ["four", "five"]


def test_how_far_a_job_is_stands_in_the_log(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Meter, "EVERY_S", -1.0)
    journal = Journal()
    journal.open(tmp_path, resume=False)
    with Meter(journal, 10, "pockets") as meter:
        meter.skip(2)
        meter.add(3)
    journal.close()
    (line,) = texts(tmp_path)
    assert line.startswith("5 of 10 pockets, ")
    assert capsys.readouterr().err == f"{line}\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_progress(tmp_path, monkeypatch, terminal):
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    journal = Journal()
    journal.open(tmp_path, resume=False)
    screen = io.StringIO()
    display = Display(Console(file=screen, force_terminal=terminal, width=200), journal)
    display.start(100, 10)
    for done in range(11, 31):
        now += 10
        display.step(2, done, 0.5, 22.4)
    display.epoch(2, 9, {"train loss": 0.51, "valid auroc": 0.75}, True)
    display.stop()
    journal.close()
    # 20 steps in 200 s: a line each minute, and 80 steps left after step 20 take 800 s.
    lines = texts(tmp_path)
    assert lines[2] == "step 28/100, epoch 2: loss 0.5000, 22 complexes/s, about 0:12:00 left"
    assert lines[3] == "epoch 2/9  train loss 0.51  valid auroc 0.75  *best"
    assert len(lines) == 4
    shown = screen.getvalue()
    assert "train loss 0.51" in shown
    assert ("30/100" in shown, "step 28/100" in shown, "\x1b" in shown) == (terminal, not terminal, terminal)


def test_metrics_of_steps_that_are_taken_again_are_dropped(tmp_path):
    config = LogConfig(tensorboard=False)
    with RunLog(tmp_path, config) as log:
        for step in (1, 2, 3):
            log.record("step", 1, step, {"loss": step / 3})
    with RunLog(tmp_path, config, resume_step=2) as log:
        log.record("step", 1, 3, {"loss": 0.25})
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(record["step"], record["loss"]) for record in records] == [(1, 1 / 3), (2, 2 / 3), (3, 0.25)]
    with RunLog(tmp_path, config):
        pass
    assert (tmp_path / "metrics.jsonl").read_text() == ""


# ------------------------------------------------------------------------------------------ Weights & Biases


def records_of(file):
    """The records of an offline run's file: LevelDB's log format with a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def test_weights_and_biases_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    config = LogConfig(
        tensorboard=False, wandb=WandbConfig(mode="offline", project="pockets", tags=("a", "b"))
    )
    for resume_step in (None, 2):
        with RunLog(
            tmp_path, config, resume_step=resume_step, name="first", settings={"train.epochs": 3}
        ) as log:
            log.record("step", 1, 1 if resume_step is None else 3, {"loss": 0.5, "none": None})
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    ids = set()
    for file, step in zip(files, (1, 3), strict=True):
        records = list(records_of(file))
        (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
        assert (run.project, run.display_name, sorted(run.tags)) == ("pockets", "first", ["a", "b"])
        assert {item.key: json.loads(item.value_json) for item in run.config.update}["train.epochs"] == 3
        ids.add(run.run_id)
        (history,) = [record.history for record in records if record.WhichOneof("record_type") == "history"]
        values = {".".join([item.key, *item.nested_key]).strip("."): item.value_json for item in history.item}
        assert (values["step/loss"], values["step"]) == ("0.5", str(step))
        assert "step/none" not in values
        (last,) = [record.exit for record in records if record.WhichOneof("record_type") == "exit"]
        assert last.exit_code == 0
    assert len(ids) == 1  # the parts of a resumed run belong together


def test_weights_and_biases_settings(monkeypatch):
    with pytest.raises(Problems, match='project: has no effect with mode = "off"'):
        WandbConfig(project="p")
    monkeypatch.setattr(logging.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Problems, match=r"mode: needs the package wandb: pip install 'atomica-dgl\[wandb\]'"):
        WandbConfig(mode="offline")


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path, capsys):
    (tmp_path / "log.txt").symlink_to("/dev/full")
    journal = Journal()
    journal.open(tmp_path, resume=True)
    journal.say("one")
    journal.close()
    assert capsys.readouterr().out == "one\n"
