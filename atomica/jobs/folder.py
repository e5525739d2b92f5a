"""The folder of a job: whether it is free, whether what was begun there is the same, and who holds it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from atomica.errors import SpecError
from atomica.files import CHECKPOINTS, ENVIRONMENT, FOLDER_LOCK, IDENTITY, LAST, METRICS, SPEC, Lock
from atomica.spec import Issues, Source

__all__ = ["HEADER", "Claim", "check", "check_same", "placed"]

HEADER = "# Every setting of this "
"""How the resolved spec in a run's folder begins."""


def placed(source: Source, *, start_or_resume: bool) -> Source:
    """The spec with `run.out` where it is, if it is that of a begun run: the folder may have been copied or moved.

    `--set run.out=…` has its way. Raises SpecError where a run that has begun was to be started or resumed, and nothing
    is left to go on from: it must not start from scratch.
    """
    file = Path(os.path.abspath(source.file))
    table = source.tree.get("run")
    if file.name != SPEC or not isinstance(table, dict) or not _resolved(file):
        return source
    moved = ("run", "out") not in source.overrides
    if moved and any((file.parent / name).exists() for name in (ENVIRONMENT, IDENTITY, CHECKPOINTS)):
        source = replace(source, tree={**source.tree, "run": {**table, "out": str(file.parent)}})
    elif moved and start_or_resume:
        raise SpecError(
            f"{source.file}: is the spec of a run that has begun, and beside it is nothing to go on from; copy the "
            "whole folder of the run, or start it anew without --start-or-resume"
        )
    begun = any((file.parent / CHECKPOINTS / name).exists() for name in (LAST, f".{LAST}.old"))
    trained = (file.parent / METRICS).is_file() and (file.parent / METRICS).stat().st_size > 0
    if moved and start_or_resume and trained and not begun:
        raise SpecError(
            f"{file.parent} holds a run that has begun, and its {CHECKPOINTS}/{LAST} is missing; put it back, or start "
            "anew under another run.out without --start-or-resume"
        )
    return source


def _resolved(file: Path) -> bool:
    try:
        with file.open(encoding="utf-8", errors="replace") as stream:
            return stream.readline().startswith(HEADER)
    except OSError:
        return False


class Claim:
    """The folder of a run, held by the first rank against other processes that would write into it."""

    def __init__(self) -> None:
        self._lock: Lock | None = None

    @property
    def held(self) -> bool:
        """Whether this process holds it."""
        return self._lock is not None

    def can_be(self, folder: Path) -> bool:
        """Hold it if no other process does; says whether this one now does."""
        if self._lock is None:
            lock = Lock(folder / FOLDER_LOCK, optional=True)
            self._lock = lock if lock.held else None
        return self.held

    def __call__(self, folder: Path) -> None:
        """Hold it, if that is not done; raises SpecError if another process does."""
        if not self.can_be(folder):
            raise SpecError(
                f"another process is at work on the run in {folder}; wait for its end (after a signal, for its "
                "checkpoint), or give another run.name or run.out"
            )

    def release(self) -> None:
        """Let go of it."""
        if self._lock is not None:
            self._lock.release()


def check(folder: Path, issues: Issues, *, begun: bool, resume: bool, dry: bool) -> None:
    """An issue if the folder does not fit what is asked for.

    begun: whether it holds what a job can go on from. A folder with a spec alone is one that was killed before that.
    """
    problem = ""
    if resume:
        problem = "" if begun else f"{folder} holds nothing to resume; leave out --resume"
    elif dry or not folder.exists():
        pass
    elif not folder.is_dir():
        problem = f"{folder} is a file"
    elif begun:
        problem = (
            f"{folder} holds a run already; add --resume to go on with it, or change run.name or run.out"
        )
    elif any(folder.iterdir()) and not any((folder / name).exists() for name in (SPEC, FOLDER_LOCK)):
        # A folder with a lock is one that another process of the same job is just filling.
        problem = f"{folder} is not empty and holds no run; give another run.out"
    if problem := problem or _closed(folder):
        issues.add(("run", "out"), problem, value=False)


def _closed(folder: Path) -> str:
    """Why nothing can be written to a folder, or what is there of the way to it; nothing is left behind."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return f"{there} is a file, so that nothing can be written below it; give another run.out"
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".atomica-", dir=there))
    except OSError as error:
        return f"{there} cannot be written to ({error.strerror}); give another run.out"
    return ""


def check_same(folder: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise SpecError if what was begun in the folder was started with other settings, weights or data."""
    changed = list(_differences(then, now))
    if changed:
        raise SpecError(
            f"cannot resume {folder}: it was started with other settings\n"
            + "\n".join(f"  {line}" for line in changed)
            + f"\nresume with {folder / SPEC}, or start a new run under another run.name"
        )


def _differences(then: Any, now: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*now, *then]):
            yield from _differences(then.get(key, "absent"), now.get(key, "absent"), (*path, key))
    elif then != now and path[0] == "data":
        yield f"{'.'.join(path)}: other data than then"
    elif then != now:
        yield f"{'.'.join(path).removeprefix('settings.')}: {then!r} then, {now!r} now"


def take(folder: Path, claim: Claim, *, begun: Callable[[], bool], resume: bool) -> None:
    """Make the folder of a new run and hold it; another process may have done so since it was looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    claim(folder)
    if not resume and begun():
        raise SpecError(f"another process has made a run in {folder}; give another run.name or run.out")
