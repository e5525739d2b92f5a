"""Running the trials of a sweep: each in a process of its own, watched, pruned, and told to Optuna."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from atomica.console import Journal
from atomica.files import DONE, INTERRUPTED, METRICS
from atomica.sweep import table
from atomica.sweep.plan import BASE, Sweep
from atomica.sweep.process import POLL_SECONDS, Training, wait_until_free
from atomica.sweep.study import next_trial, values_of
from atomica.train.stopping import Interrupted, Stop

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import Trial

__all__ = ["work"]


def work(sweep: Sweep, study: Study, journal: Journal, stop: Stop) -> bool:
    """Run one trial; whether there was one to run. Raises Interrupted if it was stopped, or was to begin after that."""
    if stop.requested:
        raise Interrupted("stopped between two trials")
    found = next_trial(sweep, study)
    if found is None:
        return False
    trial, lock = found
    with lock:
        try:
            _perform_trial(sweep, study, trial, journal, stop)
        finally:
            table.write(sweep, study)
    return True


def _perform_trial(sweep: Sweep, study: Study, trial: Trial, journal: Journal, stop: Stop) -> None:
    """Run one trial to its end and tell Optuna; raises Interrupted if it was stopped, to go on later."""
    from optuna.trial import TrialState

    folder, values = sweep.trial(trial.number), values_of(trial)
    shown = " ".join(f"{name}={value}" for name, value in values.items())
    name = f"trial {trial.number + 1}"
    journal.say(f"{name:7} of {sweep.config.number}: {shown}")
    wait_until_free(folder, stop)
    began = time.monotonic()
    reports = _Reports(sweep, study, trial, folder / METRICS)
    pruned = False
    with Training(sweep.folder / BASE, folder, _changes(sweep, folder, values), sweep.options) as training:
        while training.runs():
            time.sleep(POLL_SECONDS)
            reports.read()
            pruned = pruned or (sweep.config.prune != "none" and trial.should_prune())
            if pruned or stop.requested:
                training.ask_to_stop()
        code = training.code
    reports.read()
    seconds = time.monotonic() - began
    trial.set_user_attr("seconds", round(trial.user_attrs.get("seconds", 0.0) + seconds, 1))
    if code == DONE and reports.best is not None:
        study.tell(trial, reports.best)
        outcome = f"valid {sweep.monitor} {reports.best:.4f}"
    elif pruned:
        study.tell(trial, state=TrialState.PRUNED)
        outcome = f"pruned after epoch {reports.epoch}"
    elif stop.requested or code == INTERRUPTED:
        stop.requested = True  # a scheduler may tell the trial alone
        raise Interrupted(f"stopped in {name}; its checkpoint is written")
    else:
        reason = training.reason
        trial.set_user_attr("problem", reason)
        study.tell(trial, state=TrialState.FAIL)
        outcome = f"failed: {reason}"
    journal.say(f"        {name}: {outcome}, {seconds:.0f} s")


def _changes(sweep: Sweep, folder: Path, values: Mapping[str, str]) -> dict[str, str]:
    base = sweep.base
    changes = {"run.name": f"{base.run.name}-{folder.name}", **values}
    if base.log.wandb.mode != "off" and not base.log.wandb.group:
        changes["log.wandb.group"] = base.run.name
    return changes


class _Reports:
    """The epochs that a trial has recorded, passed on to Optuna."""

    def __init__(self, sweep: Sweep, study: Study, trial: Trial, path: Path) -> None:
        self.sweep, self.trial, self.path = sweep, trial, path
        self.known = set(study.get_trials(deepcopy=False)[trial.number].intermediate_values)
        self.best: float | None = None
        self.epoch = -1

    def read(self) -> None:
        """Look at the records; those that a resumed run drops and writes again are the same."""
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue  # being written
            if record["event"] == "epoch" and record["epoch"] > self.epoch:
                self.add(record["epoch"], record[f"valid_{self.sweep.monitor}"])

    def add(self, epoch: int, value: float | None) -> None:
        self.epoch = epoch
        if value is None or not math.isfinite(value):
            return
        better = max if self.sweep.mode == "max" else min
        self.best = value if self.best is None else better(self.best, value)
        if epoch not in self.known:
            self.trial.report(value, epoch)
