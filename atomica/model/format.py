"""The folder of a saved model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from atomica.errors import DataError
from atomica.files import BEST, CHECKPOINTS, CHECKSUMS, LAST, damage
from atomica.nn.encoders import DEFAULT

__all__ = ["WEIGHTS", "saved_encoder"]


FORMAT, READ = 2, (1, 2)
"""The format that is written, and those that are read; 1 says nothing of the data a model was made for."""
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
"""The files of a saved model."""
REFERENCE, REFERENCE_VALUES = "reference.json", "reference.safetensors"
"""Beside a published one: complexes, and what it says of them."""


def read_description(folder: Path) -> dict[str, Any]:
    """What `model.json` in `folder` says. Raises DataError if it, or the weights, are not there."""
    for name in (DESCRIPTION, WEIGHTS):
        if not (folder / name).is_file():
            raise DataError(f"{folder}: no {name} there; expected the folder of a saved model{hint(folder)}")
    _verify(folder, DESCRIPTION)
    try:
        found = json.loads((folder / DESCRIPTION).read_text())
    except json.JSONDecodeError as error:
        raise DataError(f"{folder / DESCRIPTION}: not valid JSON ({error})") from error
    check_format(found)
    return dict(found)


def hint(folder: Path) -> str:
    """What somebody may have meant who names the folder of a run, or of its checkpoints, as a model."""
    places = (folder / CHECKPOINTS / BEST, folder / BEST, folder / CHECKPOINTS / LAST)
    for place in (
        *places,
        *sorted(folder.glob("members/*")),
        *sorted(folder.glob(f"members/*/{CHECKPOINTS}/{BEST}")),
    ):
        if (place / WEIGHTS).is_file():
            return f"; did you mean {place}?"
    return ""


def check_format(description: Any) -> None:
    """Raise DataError if a description is of a format that this version does not read."""
    version = description.get("format") if isinstance(description, Mapping) else None
    if version not in READ:
        raise DataError(f"model format {version!r} is none of {READ}, those that this version reads")


def _verify(folder: Path, name: str) -> None:
    """Raise DataError if the folder has checksums, and a file of it is not what was written."""
    if (folder / CHECKSUMS).is_file() and (problem := damage(folder, (name,))):
        raise DataError(f"{folder}: damaged model ({problem}); take another checkpoint, or copy it again")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a saved model by name. Raises DataError if they cannot be read or are damaged."""
    from safetensors.torch import load_file

    _verify(folder, WEIGHTS)

    try:
        return load_file(folder / WEIGHTS)
    except Exception as error:
        raise DataError(f"{folder / WEIGHTS}: cannot be read ({error})") from error


def saved_encoder(folder: Path) -> dict[str, Any]:
    """The encoder's kind and settings of a saved model, as plain data. Raises DataError if `folder` has none."""
    return {"kind": DEFAULT, **read_description(folder)["encoder"]}
