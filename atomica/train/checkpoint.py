"""Checkpoints: safetensors and JSON, never pickles; a folder appears complete or not at all.

A checkpoint is a folder that `atomica.load` reads, `model.safetensors` and `model.json`, with what a run
needs to go on beside it: `state.safetensors` (optimiser, random-number generators), `state.json` (the rest).
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atomica.errors import DataError
from atomica.files import CHECKSUMS, checksums_of, damage, sync, write_bytes, write_json, write_text
from atomica.spec import setting

__all__ = [
    "Checkpoint",
    "find",
    "load_optimizer",
    "pack_optimizer",
    "pack_random",
    "read",
    "remove",
    "restore_random",
    "write",
]


FORMAT = 2
STATE, TENSORS = "state.json", "state.safetensors"

WRITE, KEEP = "write", "keep"


@dataclass(frozen=True)
class CheckpointConfig:
    """Table `[train.checkpoints]`: what is kept beside `best`, and `last` at the end of every epoch."""

    minutes: float = setting(10.0, "`last` is also written so often within an epoch; 0: never", low=0)
    hours: float = setting(
        0.0,
        "a checkpoint is kept so often as step-NUMBER, to go on from once it is copied over `last`; 0: never",
        low=0,
    )
    top: int = setting(1, "models of the best epochs that are kept, beyond 1 as epoch-NUMBER", low=1)


class Due:
    """When the next checkpoint within an epoch is due, by the clock."""

    def __init__(self, config: CheckpointConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.config, self.clock = config, clock
        self.wrote = self.kept = clock()

    @property
    def age(self) -> float:
        """Seconds of training since one was kept, or since the start."""
        return self.clock() - self.kept

    def go_on(self, age: float) -> None:
        """Count from a run that was interrupted so long after it kept one."""
        self.kept = self.clock() - age

    def what(self) -> str:
        """`WRITE` or `KEEP` if one is due, else nothing."""
        now = self.clock()
        if self.config.hours and self.age >= 3600 * self.config.hours:
            return KEEP
        return WRITE if self.config.minutes and now - self.wrote >= 60 * self.config.minutes else ""

    def written(self, *, keep: bool) -> None:
        """One has been written."""
        self.wrote = self.clock()
        if keep:
            self.kept = self.wrote


@dataclass(frozen=True)
class Checkpoint:
    """What `read` finds: the folder (for the model), the state as plain data, and its tensors."""

    folder: Path
    state: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def write(
    folder: Path, save_model: Callable[[Path], None], state: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Replace the checkpoint `folder` by a new one.

    save_model writes the model into the folder it is given. Everything is written and synced under a
    temporary name first; at every moment either the old or the new checkpoint can be found by `find`.
    """
    from safetensors.torch import save

    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = _fresh(folder), _old(folder)
    if fresh.exists():
        shutil.rmtree(fresh)
    fresh.mkdir()
    try:
        save_model(fresh)
        flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_bytes(fresh / TENSORS, save(flat))
        write_json(fresh / STATE, {"format": FORMAT, **state})
        write_text(fresh / CHECKSUMS, checksums_of(fresh))
    except BaseException:
        # On a full disk, half a checkpoint would keep others from writing.
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    if folder.exists():
        # A rename cannot replace a folder with files in it. Between the two renames `find` takes the old one.
        if old.exists():
            shutil.rmtree(old)
        folder.rename(old)
    fresh.rename(folder)
    sync(folder.parent)
    if old.exists():
        shutil.rmtree(old)


def find(folder: Path) -> Path | None:
    """The complete checkpoint at `folder`, also if writing its successor was cut short; None without one."""
    return next((place for place in (folder, _old(folder)) if (place / STATE).is_file()), None)


def remove(folder: Path) -> None:
    """Delete a checkpoint, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def read(folder: Path) -> Checkpoint:
    """Read a checkpoint. Raises DataError if it is missing, damaged, or of an unknown format."""
    from safetensors.torch import load_file

    place = find(folder)
    if place is None:
        raise DataError(f"{folder}: no checkpoint there")
    try:
        state = json.loads((place / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{place}: damaged checkpoint ({STATE}: {error})") from error
    if state.get("format") != FORMAT:
        raise DataError(
            f"{place}: checkpoint format {state.get('format')} is not {FORMAT}, which this version reads"
        )
    if problem := damage(place):
        raise DataError(f"{place}: damaged checkpoint ({problem})")
    return Checkpoint(place, state, load_file(place / TENSORS))


def write_batch(folder: Path, numbers: Mapping[str, Any], contents: Any) -> None:
    """Keep a batch for a look: `batch.json`, and every tensor of `contents` in `batch.safetensors` by its path."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in _tensors("", contents)}
    write_bytes(folder / "batch.safetensors", save(tensors))
    write_json(folder / "batch.json", numbers)


def _tensors(path: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors within nested mappings and dataclasses, with dotted paths."""
    if isinstance(value, Tensor):
        yield path, value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(f"{path}.{field.name}" if path else field.name, getattr(value, field.name))
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _tensors(f"{path}.{name}" if path else str(name), entry)


def _fresh(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.new")


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


# ------------------------------------------------------------------------------------------- the state


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An optimiser's state as plain data and flat tensors `optimizer.INDEX.NAME`."""
    full = optimizer.state_dict()
    plain: dict[str, Any] = {"groups": full["param_groups"], "values": {}}
    tensors: dict[str, Tensor] = {}
    for index, entries in full["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                plain["values"][f"{index}.{name}"] = value
    return plain, tensors


def load_optimizer(
    optimizer: torch.optim.Optimizer, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `pack_optimizer` took. Raises DataError if it belongs to other parameters."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in [
        *(
            (name.removeprefix("optimizer."), t)
            for name, t in tensors.items()
            if name.startswith("optimizer.")
        ),
        *plain["values"].items(),
    ]:
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    groups = [
        {key: tuple(value) if key == "betas" else value for key, value in group.items()}
        for group in plain["groups"]
    ]
    try:
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except ValueError as error:
        raise DataError(f"the checkpoint's optimiser does not fit the model: {error}") from None


def pack_random() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The state of every random-number generator of this process: PyTorch (CPU, CUDA), NumPy, Python."""
    tensors = {"random.torch": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        for index, state in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"random.cuda.{index}"] = state
    name, words, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, gauss_next = random.getstate()
    tensors["random.numpy"] = torch.from_numpy(np.asarray(words).astype(np.int64))
    tensors["random.python"] = torch.tensor(internal, dtype=torch.int64)
    plain = {
        "numpy": [str(name), int(position), int(has_gauss), float(gauss)],
        "python": [version, gauss_next],
    }
    return plain, tensors


def restore_random(plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Put back what `pack_random` took; CUDA generators as far as there are devices."""
    torch.set_rng_state(tensors["random.torch"])
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if f"random.cuda.{index}" in tensors:
                torch.cuda.set_rng_state(tensors[f"random.cuda.{index}"], index)
    name, position, has_gauss, gauss = plain["numpy"]
    np.random.set_state((name, tensors["random.numpy"].numpy().astype(np.uint32), position, has_gauss, gauss))
    version, gauss_next = plain["python"]
    random.setstate((version, tuple(tensors["random.python"].tolist()), gauss_next))


def random_bytes() -> bytes:
    """What `pack_random` gives, as bytes that travel to another rank."""
    from safetensors.torch import save

    plain, tensors = pack_random()
    return save(tensors, metadata={"plain": json.dumps(plain)})


def restore_random_bytes(content: bytes) -> None:
    """Put back what `random_bytes` took."""
    from safetensors.torch import load

    length = int.from_bytes(content[:8], "little")
    plain = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["plain"])
    restore_random(plain, load(content))


def as_tensor(content: bytes) -> Tensor:
    """Bytes as a tensor."""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


AVERAGE = "average."


def pack_average(average: torch.optim.swa_utils.AveragedModel | None) -> dict[str, Tensor]:
    """The averaged weights as flat tensors."""
    return {} if average is None else {AVERAGE + name: value for name, value in average.state_dict().items()}


def load_average(average: torch.optim.swa_utils.AveragedModel | None, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `pack_average` took."""
    if average is not None:
        average.load_state_dict(
            {name.removeprefix(AVERAGE): value for name, value in tensors.items() if name.startswith(AVERAGE)}
        )
