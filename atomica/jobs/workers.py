"""Several processes that share the pieces of one job's tables, on one machine, on several, or on a Ray cluster.

They share a folder, and locks on files in it say who makes what. Whoever holds the folder leads: it reads and builds
the inputs, makes pieces like the others, and joins them at the end. The others wait for that, and take pieces that
nobody makes; locks of a process that dies are free, so that what it had begun is made by another, the lead included.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atomica.console import Journal
from atomica.errors import SpecError
from atomica.files import SPEC
from atomica.train.distributed import PARENT

__all__ = ["ALONE", "ENGINES", "PiecesDone", "Workers"]

ENGINES = ("processes", "ray")
POLL_SECONDS = 0.2
"""Time between two looks at what other processes have done."""


class PiecesDone(Exception):
    """All pieces are made, and another process joins them."""


@dataclass(frozen=True)
class Workers:
    """This process among those that share a job.

    leads: whether it joins the pieces; if not, it only helps. count: how many work, of which the lead starts those
    beside it by the engine, each with so many threads (0: its share of the cores).
    """

    leads: bool = True
    count: int = 1
    engine: str = "processes"
    threads: int = 0

    @contextmanager
    def started(self, folder: Path, journal: Journal) -> Iterator[None]:
        """The other processes, at work on the job in a folder until this ends; what became of them is told."""
        if not self.leads or (self.count == 1 and self.engine == "processes"):
            yield
        elif self.engine == "ray":
            with _on_ray(folder, self.count, self.threads, journal):
                yield
        else:
            with _beside(folder, self.count, self.threads, journal):
                yield


ALONE = Workers()


def _command(folder: Path, number: int, count: int) -> list[str]:
    return [str(folder / SPEC), "--shard", f"{number}/{count}"]


@contextmanager
def _beside(folder: Path, count: int, threads: int, journal: Journal) -> Iterator[None]:
    """All but the first of `count` processes on this machine, with a GPU each if there are some."""
    environment = {**os.environ, PARENT: str(os.getpid())}
    if not threads:
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // count))
    gpus, running = _gpus(), []
    output = folder / "workers.txt"
    try:
        with output.open("ab") as stream:
            for number in range(2, count + 1):
                own = {"CUDA_VISIBLE_DEVICES": gpus[(number - 1) % len(gpus)]} if gpus else {}
                command = [sys.executable, "-m", "atomica.runner", *_command(folder, number, count)]
                running.append(
                    subprocess.Popen(
                        command,
                        stdout=stream,
                        stderr=stream,
                        stdin=subprocess.DEVNULL,
                        env={**environment, **own},
                        start_new_session=True,  # signals from the terminal end the lead, which then ends them
                    )
                )
        yield
    finally:
        lost = [code for one in running if (code := one.poll())]
        for one in running:
            one.terminate()
        for one in running:
            try:
                one.wait(10)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()
        if lost:
            journal.say(
                f"note    {len(lost)} of {count} processes ended before all was done (exit code "
                f"{', '.join(map(str, lost))}, see {output}); the others have made their pieces"
            )
        else:
            output.unlink(missing_ok=True)


def _gpus() -> list[str]:
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]


@contextmanager
def _on_ray(folder: Path, count: int, threads: int, journal: Journal) -> Iterator[None]:
    """As many processes of a Ray cluster, whose machines see the folder under the same path. Raises SpecError."""
    try:
        import ray
    except ImportError:
        raise SpecError("device.engine = \"ray\" needs Ray: pip install 'atomica-dgl[ray]'") from None
    started_here = not ray.is_initialized()
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    try:
        gpus = ray.cluster_resources().get("GPU", 0) > 0
        # A worker that dies is started again by Ray; until then the others make what it had begun.
        task = ray.remote(num_cpus=max(1, threads), num_gpus=1 if gpus else 0, max_retries=5)(_work)
        tasks = [task.remote(_command(folder, number, count)) for number in range(1, count + 1)]
        yield
        # Those that are well wait for the end of the job, which the lead has yet to write.
        done, late = ray.wait(tasks, num_returns=len(tasks), timeout=0)
        failed = [str(error) for one in done if (error := _error_of(one)) is not None]
        for one in late:
            ray.cancel(one, force=True)
        if failed:
            journal.say(
                f"note    {len(failed)} of {count} workers of Ray failed: {failed[0].splitlines()[-1]}"
            )
    finally:
        if started_here:
            ray.shutdown()


def _error_of(task: Any) -> Exception | None:
    import ray

    try:
        code = ray.get(task)
    except ray.exceptions.RayError as error:
        return error
    return None if code == 0 else SpecError(f"exit code {code}")


def _work(command: list[str]) -> int:
    """What a worker of Ray does; the process it starts ends when it does."""
    environment = {**os.environ, PARENT: str(os.getpid())}
    return subprocess.run(
        [sys.executable, "-m", "atomica.runner", *command], check=False, env=environment
    ).returncode


def pause() -> None:
    """Wait before the next look at what others have done."""
    time.sleep(POLL_SECONDS)
