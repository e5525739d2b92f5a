"""Checkpoints: safetensors and JSON, never pickles; a folder appears complete or not at all.

A checkpoint is a folder that `atomica.load` reads, `model.safetensors` and `model.json`, with what a run
needs to go on beside it: `state.safetensors` (optimiser, random-number generators), `state.json` (the rest).
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atomica.errors import DataError

__all__ = [
    "Checkpoint",
    "find",
    "load_optimizer",
    "pack_optimizer",
    "pack_random",
    "read",
    "restore_random",
    "write",
    "write_text",
]

FORMAT = 1
STATE, TENSORS = "state.json", "state.safetensors"


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
    save_model(fresh)
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    _write_bytes(fresh / TENSORS, save(flat))
    _write_bytes(fresh / STATE, json.dumps({"format": FORMAT, **state}, indent=1).encode())
    for file in fresh.iterdir():
        _sync(file)
    _sync(fresh)
    if folder.exists():
        # A rename cannot replace a folder with files in it. Between the two renames `find` takes the old one.
        if old.exists():
            shutil.rmtree(old)
        folder.rename(old)
    fresh.rename(folder)
    _sync(folder.parent)
    if old.exists():
        shutil.rmtree(old)


def find(folder: Path) -> Path | None:
    """The complete checkpoint at `folder`, also if writing its successor was cut short; None without one."""
    return next((place for place in (folder, _old(folder)) if (place / STATE).is_file()), None)


def read(folder: Path) -> Checkpoint:
    """Read a checkpoint. Raises DataError if it is missing, damaged, or of an unknown format."""
    from safetensors.torch import load_file

    place = find(folder)
    if place is None:
        raise DataError(f"{folder}: no checkpoint there")
    try:
        state = json.loads((place / STATE).read_text(encoding="utf-8"))
        tensors = load_file(place / TENSORS)
    except Exception as error:
        raise DataError(f"{place}: damaged checkpoint ({error})") from error
    if state.get("format") != FORMAT:
        raise DataError(
            f"{place}: checkpoint format {state.get('format')} is not {FORMAT}, which this version reads"
        )
    return Checkpoint(place, state, tensors)


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, sync it, and move it into place."""
    temporary = path.with_name(f".{path.name}.tmp")
    _write_bytes(temporary, text.encode())
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def _fresh(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.new")


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
