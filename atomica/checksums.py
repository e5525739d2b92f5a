"""SHA-256 sums of the files of a folder, in a file beside them, so that damage is found before it is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

__all__ = ["FILE", "damage", "of_folder"]

FILE = "checksums.json"


def _of_file(file: Path) -> str:
    found = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            found.update(chunk)
    return found.hexdigest()


def of_folder(folder: Path) -> str:
    """The text of `FILE` for the files that are in `folder` now."""
    return json.dumps({file.name: _of_file(file) for file in sorted(folder.iterdir())}, indent=1)


def damage(folder: Path, names: Sequence[str] = ()) -> str:
    """What is wrong with the files of a folder, or with some of them alone; nothing if they are as written."""
    try:
        sums = json.loads((folder / FILE).read_text(encoding="utf-8"))
        expected = {str(name): str(value) for name, value in sums.items()}
    except (OSError, ValueError, AttributeError) as error:
        return f"{FILE}: {error}"
    for name in names or expected:
        if not (folder / name).is_file():
            return f"{name} is missing"
        if name not in expected:
            return f"{name} is not among {FILE}"
        if _of_file(folder / name) != expected[name]:
            return f"{name} is not what was written: its SHA-256 differs"
    return ""
