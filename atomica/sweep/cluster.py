"""Trials on a Ray cluster: each is a task, which Ray places, and starts again elsewhere when its machine is lost.

Optuna chooses and prunes, through the same journal as without Ray, so that a sweep may be gone on with either way. (Ray
Tune would keep a second account of the trials, as pickles, and knows nothing of a trial's checkpoint.)
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

from atomica.console import Journal
from atomica.errors import AtomicaError
from atomica.sweep.plan import Sweep
from atomica.sweep.study import open_study
from atomica.sweep.trials import work
from atomica.train.stopping import Interrupted, Stop

if TYPE_CHECKING:
    from optuna.study import Study

__all__ = ["share_out"]

RETRIES = 5
"""How often a task is started again whose worker has died."""


def share_out(sweep: Sweep, study: Study, journal: Journal, stop: Stop) -> None:
    """Run all trials that are left as tasks; raises Interrupted once `stop` is set and they have ended."""
    # Ray would report its use over the network.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    finished = _finished(study)
    left = sweep.config.number - len(finished)
    started_here = not ray.is_initialized()
    handlers = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    }
    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)  # Ray has put its own in their place
    problems: list[str] = []
    try:
        resources = ray.cluster_resources()
        journal.say(
            f"ray     {left} trials left, for {len(ray.nodes())} machines with {resources.get('CPU', 0):.0f} cores "
            f"and {resources.get('GPU', 0):.0f} GPUs"
        )
        cores, gpus = sweep.config.cpus or 1, sweep.config.gpus or 0
        task = ray.remote(num_cpus=cores, num_gpus=gpus, max_retries=RETRIES)(_one)
        running = [task.remote(sweep, os.getcwd()) for _ in range(left)]
        asked = False
        while running:
            done, running = ray.wait(running, timeout=1.0)
            for one in done:
                try:
                    ray.get(one)
                except ray.exceptions.TaskCancelledError:
                    pass
                except ray.exceptions.RayError as error:
                    problems.append(str(error).strip().rpartition("\n")[2])
            finished = _tell(study, finished)
            if stop.requested and not asked:
                asked = True
                for one in running:
                    ray.cancel(one)
    finally:
        if started_here:
            ray.shutdown()
    if stop.requested:
        raise Interrupted("stopped; the checkpoints of its trials are written")
    if problems:
        raise AtomicaError(f"{len(problems)} tasks of the Ray cluster failed; the last: {problems[-1]}")


def _finished(study: Study) -> set[int]:
    return {trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()}


def _tell(study: Study, before: set[int]) -> set[int]:
    """Show which trials are finished since; the log has it from the tasks already."""
    finished = _finished(study)
    trials = study.get_trials(deepcopy=False)
    for number in sorted(finished - before):
        trial = trials[number]
        value = f" {trial.value:.4f}" if trial.value is not None else ""
        problem = f": {trial.user_attrs['problem']}" if "problem" in trial.user_attrs else ""
        print(f"trial {number + 1} {trial.state.name.lower()}{value}{problem}", flush=True)
    return finished


def _one(sweep: Sweep, folder: str) -> None:
    """A task: run one trial, with paths relative to `folder`, as where the command was given."""
    os.chdir(folder)
    stop, journal = Stop(), Journal()

    def receive(number: int, frame: object) -> None:
        stop.requested = True

    before = signal.signal(signal.SIGINT, receive)  # what ray.cancel sends
    try:
        journal.open(sweep.folder, resume=True)
        work(sweep, open_study(sweep), journal, stop)
    except Interrupted as error:
        journal.say(str(error))
    finally:
        journal.close()
        signal.signal(signal.SIGINT, before)
