"""Which models of a training are kept, and when a checkpoint is due."""

from __future__ import annotations

import json

import pytest

from atomica.heads import head_class
from atomica.model.model import Model
from atomica.nn.equivariant import EncoderConfig
from atomica.train.checkpoint import KEEP, WRITE, CheckpointConfig, Due
from atomica.train.config import TrainConfig
from atomica.train.distributed import ALONE
from atomica.train.optimizer import make_optimizer
from atomica.train.saver import Saver, State
from atomica.train.step import Stepper


@pytest.fixture(scope="module")
def stepper():
    encoder = EncoderConfig(atom_hidden=4, block_hidden=4, edge_size=2, layers=1)
    binary = head_class("binary")
    model = Model(encoder, {"binary": binary(binary.Config(hidden=4), encoder)}, kinds={"binary": "binary"})
    return Stepper(model, make_optimizer(model, TrainConfig()), TrainConfig(), ALONE)


def saver_in(folder, stepper, mode, **settings):
    return Saver(stepper, folder, CheckpointConfig(**settings), {}, 0, ALONE, ("auroc", mode))


@pytest.mark.parametrize(
    ("mode", "values", "kept"),
    [
        ("max", [0.5, 0.9, 0.7, 0.6], [2, 3]),
        ("min", [0.5, 0.9, 0.7, 0.4], [1, 4]),
        ("max", [0.5, 0.5, 0.5, 0.5], [1, 2]),  # of equals the earlier one
        ("min", [0.7, 0.5, 0.5, 0.5], [2, 3]),
        ("max", [0.5, 0.9, 0.5, 0.9], [2, 4]),
        ("max", [float("nan"), 0.1, float("inf"), 0.2], [2, 4]),
    ],
)
def test_the_best_few_are_kept_and_the_earlier_of_equals(stepper, tmp_path, mode, values, kept):
    saver, state = saver_in(tmp_path, stepper, mode, top=2), State()
    for epoch, value in enumerate(values, 1):
        state.epoch = epoch
        saver.best(state, stepper.model, value, better=False)
        state = State(**json.loads(json.dumps(state.__dict__)))  # as a run that is resumed after each epoch
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"epoch-{epoch:04}" for epoch in kept]
    assert sorted(epoch for _, epoch in state.top) == kept


def test_checkpoints_are_due_by_the_clock_across_interruptions(stepper, tmp_path):
    now = [100.0]
    due = Due(CheckpointConfig(minutes=10, hours=2), lambda: now[0])
    told = []
    for minute in range(0, 301, 5):
        now[0] = 100.0 + 60 * minute
        if what := due.what():
            told.append((minute, what))
            due.written(keep=what == KEEP)
    assert [minute for minute, what in told if what == KEEP] == [120, 240]
    assert [minute for minute, what in told if what == WRITE] == [m for m in range(10, 301, 10) if m % 120]
    assert Due(CheckpointConfig(minutes=0), lambda: now[0] + 1e9).what() == ""
    # A run that is ended every hour and resumed keeps one every two hours of training all the same.
    later = Due(CheckpointConfig(minutes=0, hours=2), lambda: now[0])
    later.go_on(due.age)
    assert due.age == 3600
    assert later.what() == ""
    now[0] += 3600
    assert later.what() == KEEP


def test_the_age_of_what_is_kept_travels_with_the_checkpoint(stepper, tmp_path):
    from atomica.train import checkpoint

    saver, state = saver_in(tmp_path, stepper, "max", hours=2), State(step=7)
    saver.due.go_on(5000.0)
    saver.last(state)
    again = saver_in(tmp_path, stepper, "max", hours=2)
    again.restore(checkpoint.read(tmp_path / "last"))
    assert 5000 <= again.due.age < 5600
    saver.last(state, keep=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "step-00000007"]
    again.restore(checkpoint.read(tmp_path / "step-00000007"))
    assert again.due.age < 600
