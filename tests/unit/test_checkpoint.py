"""Checkpoints: complete state, exact, never half written."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from atomica import files
from atomica.errors import DataError
from atomica.train import checkpoint


def train(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(torch.randn(4, 3)) * random.random() * np.random.rand()).square().mean()
        loss.backward()
        optimizer.step()


def make(kind):
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Dropout(0.3), torch.nn.Linear(5, 1))
    return model, kind(model.parameters(), lr=0.01, weight_decay=0.1)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam, torch.optim.RMSprop])
def test_going_on_from_a_checkpoint_changes_nothing(tmp_path, kind):
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    model, optimizer = make(kind)
    train(model, optimizer, 3)
    plain, tensors = checkpoint.pack_optimizer(optimizer)
    generators, more = checkpoint.pack_random()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    checkpoint.write(
        tmp_path / "last",
        lambda folder: (folder / "model.txt").write_text("weights"),
        {"optimizer": plain, "random": generators},
        {**tensors, **more},
    )
    train(model, optimizer, 4)

    found = checkpoint.read(tmp_path / "last")
    assert (found.folder / "model.txt").read_text() == "weights"
    again, other = make(kind)
    again.load_state_dict(weights)
    checkpoint.load_optimizer(other, found.state["optimizer"], found.tensors)
    checkpoint.restore_random(found.state["random"], found.tensors)
    train(again, other, 4)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def write(folder, number):
    checkpoint.write(folder, lambda inside: (inside / "n").write_text(str(number)), {"n": number}, {})


def test_a_checkpoint_is_replaced_whole(tmp_path):
    last = tmp_path / "deep" / "last"
    for number in (1, 2, 3):
        write(last, number)
        assert checkpoint.read(last).state["n"] == number
    assert [entry.name for entry in last.parent.iterdir()] == ["last"]


def test_one_is_always_found_however_writing_was_cut_short(tmp_path, monkeypatch):
    last = tmp_path / "last"
    write(last, 1)

    def fail(_):
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        checkpoint.write(last, fail, {"n": 2}, {})
    assert checkpoint.read(last).state["n"] == 1
    last.rename(tmp_path / ".last.old")  # killed between the two renames
    assert checkpoint.read(last).state["n"] == 1
    write(last, 3)
    assert checkpoint.read(last).state["n"] == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["last"]


def test_damage_is_named(tmp_path):
    last = tmp_path / "last"
    with pytest.raises(DataError, match="no checkpoint there"):
        checkpoint.read(last)
    write(last, 1)
    (last / "state.json").write_text('{"format": 99}')
    with pytest.raises(DataError, match="format 99 is not 2"):
        checkpoint.read(last)
    (last / "state.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        checkpoint.read(last)


@pytest.mark.parametrize("name", ["n", "state.json", "state.safetensors", "checksums.json"])
def test_a_changed_byte_in_any_file_is_found(tmp_path, name):
    last = tmp_path / "last"
    checkpoint.write(
        last, lambda inside: (inside / "n").write_text("weights"), {"n": 1}, {"x": torch.arange(9.0)}
    )
    assert checkpoint.read(last).state["n"] == 1
    content = bytearray((last / name).read_bytes())
    # In the last letter or number of the file: the syntax stays right.
    at = max(index for index, byte in enumerate(content) if chr(byte).isalnum() or name.endswith("tensors"))
    content[at] ^= 1
    (last / name).write_bytes(content)
    with pytest.raises(DataError, match="damaged checkpoint"):
        checkpoint.read(last)
    (last / name).unlink()
    with pytest.raises(DataError, match="damaged checkpoint|no checkpoint there"):
        checkpoint.read(last)


def test_a_full_disk_leaves_the_old_checkpoint_and_no_half_of_a_new_one(tmp_path):
    last = tmp_path / "last"
    write(last, 1)

    def fill(inside):
        (inside / "half").write_bytes(b"x" * 100)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        checkpoint.write(last, fill, {"n": 2}, {})
    assert checkpoint.read(last).state["n"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["last"]


def test_generators_travel_as_bytes():
    content = checkpoint.random_bytes()
    first = [torch.rand(3).tolist(), random.random(), float(np.random.rand())]
    checkpoint.restore_random_bytes(checkpoint.as_tensor(content).numpy().tobytes())
    assert [torch.rand(3).tolist(), random.random(), float(np.random.rand())] == first


def test_an_optimiser_of_another_model_is_refused(tmp_path):
    _, optimizer = make(torch.optim.AdamW)
    plain, tensors = checkpoint.pack_optimizer(optimizer)
    other = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])
    with pytest.raises(DataError, match="does not fit"):
        checkpoint.load_optimizer(other, plain, tensors)


def test_write_text_replaces(tmp_path):
    files.write_text(tmp_path / "a.txt", "one")
    files.write_text(tmp_path / "a.txt", "two")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("a.txt", "two")]
