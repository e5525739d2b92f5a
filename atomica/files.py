"""Files: names of a run's, written whole or not at all, checksums, who holds a folder; numbers as texts state them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atomica.errors import DataError

__all__ = [
    "Lock",
    "checksums_of",
    "damage",
    "number_of",
    "replacing",
    "sync",
    "to_json",
    "write_bytes",
    "write_json",
    "write_text",
]

DONE, FAILED, USAGE, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes of both commands: done; failed; wrong usage, spec or data, nothing written; done, but some inputs failed
and are listed; interrupted, to be gone on with."""

SPEC, ENVIRONMENT, LOG, REPORT = "spec.toml", "environment.json", "log.txt", "report.html"
"""In every run's folder: its settings, what it ran on, what it told, its report."""

CHECKPOINTS, LAST, BEST, METRICS = "checkpoints", "last", "best", "metrics.jsonl"
"""Of a training: the folder of checkpoints, two of them, and what was measured."""

EVALUATION, PREDICTIONS = "evaluation.json", "predictions.csv"
"""Of whatever evaluates."""

MEMBERS = "members.json"
"""Of a run of several trainings: its members, their state and where their weights are."""

IDENTITY, RESULT, FAILURES = "job.json", "result.json", "failures.jsonl"
"""Of a job after training: what decides its numbers, what it gave, which inputs failed."""

TRAINING_SET = "training_set.safetensors"
"""Beside the weights of a trained model: what is kept of the complexes that it learnt from."""

CHECKSUMS = "checksums.json"
"""SHA-256 sums of the files of a folder, beside them."""

FOLDER_LOCK = ".lock"
"""The file in the folder of a run by which the process that writes there holds it; it stays when that ends."""


# ------------------------------------------------------------------------------------------ whole or not at all


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; synced and moved there at the end, removed if that is not reached."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8 whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: object) -> None:
    """Write plain data as a JSON file whole or not at all; see `to_json`."""
    write_text(path, to_json(content, indent=1) + "\n")


def to_json(content: object, *, indent: int | None = None) -> str:
    """Plain data as JSON that every program reads: what is not finite is null.

    >>> to_json({"auroc": float("nan"), "loss": [1.5, float("inf")]})
    '{"auroc": null, "loss": [1.5, null]}'
    """
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --------------------------------------------------------------------------------------------------- checksums


def sha256_of(file: Path) -> str:
    """The SHA-256 sum of a file, in hexadecimal."""
    with file.open("rb") as stream:
        found = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            found.update(chunk)
    return found.hexdigest()


def checksums_of(folder: Path) -> str:
    """The text of `CHECKSUMS` for the files that are in `folder` now."""
    return json.dumps({file.name: sha256_of(file) for file in sorted(folder.iterdir())}, indent=1)


def damage(folder: Path, names: Sequence[str] = ()) -> str:
    """What is wrong with the files of a folder, or with some of them alone; nothing if they are as written."""
    try:
        sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        expected = {str(name): str(value) for name, value in sums.items()}
    except (OSError, ValueError, AttributeError) as error:
        return f"{CHECKSUMS}: {error}"
    for name in names or expected:
        if not (folder / name).is_file():
            return f"{name} is missing"
        if name not in expected:
            return f"{name} is not among {CHECKSUMS}"
        if sha256_of(folder / name) != expected[name]:
            return f"{name} is not what was written: its SHA-256 differs"
    return ""


# ------------------------------------------------------------------------------------------------------- locks


class Lock:
    """A lock on a file, let go of when this process ends, however it does.

    wait: until it can be had; else `held` says whether it was free. shared: with others who ask for it shared.
    optional: where the file system knows no locks, it counts as held; else OSError.
    """

    def __init__(
        self, path: Path, *, wait: bool = False, shared: bool = False, optional: bool = False
    ) -> None:
        self._file = path.open("a")
        self.held = True
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self._file, kind | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            self.held = False
            self._file.close()
        except OSError as error:
            if not optional:
                self._file.close()
                reason = (
                    f"{path}: its file system has no locks, which processes need to share a folder: {error}"
                )
                raise OSError(reason) from error

    def __enter__(self) -> Lock:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Let go of it."""
        self.release()

    def release(self) -> None:
        """Let go of it."""
        self._file.close()


# ----------------------------------------------------------------------------------------------- numbers in text

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LARGEST = (2 - 2**-23) * 2.0**127
"""Of float32."""


def number_of(text: str | None) -> float | None:
    """The finite number that `text` states, if it does. Raises DataError if float32 cannot hold it.

    >>> number_of(" 6.5 "), number_of("1_000"), number_of("nan"), number_of("٣")
    (6.5, None, None, None)
    """
    if text is None or not _NUMBER.fullmatch(text.strip()):
        return None
    number = float(text)
    if abs(number) > _LARGEST:
        raise DataError(f"label {text!r} is beyond what float32 can hold; give labels in another unit")
    return number
