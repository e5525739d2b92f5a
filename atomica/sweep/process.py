"""One training as a process of its own: a trial of a sweep, or a member of an ensemble."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from atomica.files import FOLDER_LOCK, SPEC, Lock
from atomica.train.distributed import PARENT
from atomica.train.stopping import Stop

__all__ = ["POLL_SECONDS", "Training", "wait_until_free"]

POLL_SECONDS = 0.5


class Training:
    """A training in `folder`, begun or gone on with; what it says goes to a file beside that, `FOLDER.txt`.

    base: the spec, of which `changes` sets some keys, as TOML. options: further arguments of the command. It ends when
    this process does, with a checkpoint.
    """

    def __init__(
        self,
        base: Path,
        folder: Path,
        changes: Mapping[str, str],
        options: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        command = [sys.executable, "-m", "atomica.runner", str(base), *options]
        for key, value in {**changes, "run.out": str(folder)}.items():
            command += ["--set", f"{key}={value}"]
        self.folder, self.output, self.asked = folder, folder.with_suffix(".txt"), False
        self.began = time.monotonic()
        with self.output.open("ab") as stream:
            self._process = subprocess.Popen(
                [*command, "--start-or-resume"],
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(variables or {}), PARENT: str(os.getpid())},
                start_new_session=True,  # signals from the terminal are passed on once, not twice
            )

    def __enter__(self) -> Training:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Wait for its end."""
        self._process.wait()

    def runs(self) -> bool:
        """Whether it still does."""
        return self._process.poll() is None

    def ask_to_stop(self) -> None:
        """Ask it, once, to write a checkpoint and end."""
        if not self.asked and self.runs():
            self._process.send_signal(signal.SIGTERM)
            self.asked = True

    @property
    def code(self) -> int:
        """The exit code of one that has ended."""
        return int(self._process.returncode)

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self.began

    @property
    def reason(self) -> str:
        """Why it has failed, in a line."""
        code = self.code
        if code < 0:
            hint = ", perhaps for lack of memory" if code == -signal.SIGKILL else ""
            return f"killed by {signal.Signals(-code).name}{hint}"
        lines = self.output.read_text(encoding="utf-8", errors="replace").split("\n")
        told = (line.removeprefix("atomica-run: ") for line in reversed(lines) if line.strip())
        return next(told, f"exit code {code}")


def wait_until_free(folder: Path, stop: Stop) -> None:
    """Wait for a process that still writes into a run's folder: the one that had started it was killed."""
    while (folder / SPEC).is_file() and not stop.requested:
        with Lock(folder / FOLDER_LOCK, optional=True) as lock:
            if lock.held:
                return
        time.sleep(POLL_SECONDS)
