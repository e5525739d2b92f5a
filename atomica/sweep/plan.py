"""A checked sweep: what its trials share, its folder, and whether it may start, go on or join others there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from atomica import spec
from atomica.errors import SpecError
from atomica.files import Lock
from atomica.jobs.job import Request
from atomica.jobs.train.assembly import Assembled, assemble
from atomica.jobs.train.spec import Spec, read_spec
from atomica.spec import Issues
from atomica.sweep.config import Range, SweepConfig, check_values, read_sweep
from atomica.train.distributed import Ranks
from atomica.train.validation import monitor_of

__all__ = [
    "BASE",
    "GATE",
    "MEMBERS",
    "PLAN",
    "STORE",
    "TABLE",
    "TRIALS",
    "Sweep",
    "check_plan",
    "plan_sweep",
]

TRIALS, TABLE, BASE, STORE, PLAN = "trials", "trials.csv", "trial.toml", "optuna.jsonl", "sweep.json"
"""What the folder of a sweep holds: folders of the trials, a table of them, what they share, Optuna's journal, and what
was asked for."""

GATE, MEMBERS = ".gate.lock", ".members.lock"
"""Locks in the folder of a sweep: of whoever changes what all share, and of all that work on it."""

BEGINNINGS = {TRIALS, BASE, STORE, f"{STORE}.lock", f".{BASE}.tmp", f".{PLAN}.tmp", GATE, MEMBERS}
"""What may be there before the plan, which is written last."""

ELSEWHERE = ("trials", "engine", "cpus", "gpus")
"""Settings that may be others when a sweep goes on: they do not decide which trials there are, but for their number."""


@dataclass(frozen=True)
class Sweep:
    """A sweep whose spec is checked.

    base: the spec its trials share. monitor, mode: the metric, and "max" or "min". resume: None goes on, or starts.
    options: further arguments of the command for each trial.
    """

    config: SweepConfig
    base: Spec
    monitor: str
    mode: str
    folder: Path
    resume: bool | None
    options: Sequence[str] = ()

    @property
    def plan(self) -> dict[str, Any]:
        """What was asked for: a sweep goes on only if it is asked for the same, but for the settings in `ELSEWHERE`."""
        space = {
            name: asdict(values) if isinstance(values, Range) else list(values)
            for name, values in self.config.keys.items()
        }
        config = {**asdict(replace(self.config, keys={})), "keys": space}
        for name in ELSEWHERE:
            del config[name]
        return dict(json.loads(json.dumps({"sweep": config, "monitor": self.monitor, "mode": self.mode})))

    @property
    def spec_text(self) -> str:
        """The spec that all trials share."""
        head = "# What all trials of the sweep share; each changes some keys, and run.name and run.out.\n\n"
        return head + spec.dump(self.base.sections())

    def trial(self, number: int) -> Path:
        """The folder of a trial. Optuna counts from 0, people from 1."""
        return self.folder / TRIALS / f"{number + 1:04d}"

    def gate(self) -> Lock:
        """Held by the one process that changes what all share: the journal's trials, the table, the report."""
        return Lock(self.folder / GATE, wait=True)


def plan_sweep(source: spec.Source, request: Request) -> tuple[Sweep, Assembled]:
    """Check a spec with a section `[sweep]`: everything but the trials themselves. Raises SpecError.

    The second is what the spec describes without the sweep.
    """
    if request.ranks.size > 1:
        raise SpecError("a sweep starts its trials itself; leave out torchrun, --devices is for each trial")
    options = ["--devices", str(request.devices)] if request.devices > 1 else []
    issues = Issues(source)
    config = read_sweep(source, issues)
    plain = source.without("sweep")
    if config is not None:
        base_issues = Issues(plain)
        read_spec(plain, base_issues)
        if not base_issues.found:  # what is wrong with the spec itself is wrong with every value
            check_values(plain, config, issues)
    train = plain.tree.get("train")
    for key in ("seeds", "folds"):
        if isinstance(train, dict) and train.get(key, 1) not in (0, 1):
            issues.add(
                ("train", key), "trials of a sweep are single trainings; remove it, and train the best one so"
            )
    alone = replace(request, resume=False, dry=True, ranks=Ranks(local_size=request.devices))
    job = assemble(plain, alone, issues=issues)
    assert config is not None
    monitor, mode = monitor_of(job.model, job.spec.train)
    sweep = Sweep(config, job.spec, monitor, mode, job.folder, request.resume, options)
    if not request.dry:
        _check_folder(sweep, issues)
        issues.raise_any()
    return sweep, job


def _check_folder(sweep: Sweep, issues: Issues) -> None:
    folder = sweep.folder
    if (folder / PLAN).is_file():
        check_plan(sweep)
    elif sweep.resume:
        issues.add(("run", "out"), f"{folder} holds no sweep to resume; leave out --resume", value=False)
    elif folder.exists() and not folder.is_dir():
        issues.add(("run", "out"), f"{folder} is a file", value=False)
    elif folder.exists() and {path.name for path in folder.iterdir()} - BEGINNINGS:
        issues.add(("run", "out"), f"{folder} is not empty; give another run.out", value=False)


def check_plan(sweep: Sweep) -> None:
    """Raise SpecError if this sweep may not go on with, or join, the one in its folder."""
    folder = sweep.folder
    if sweep.resume is False and nobody_works(folder):
        raise SpecError(
            f"{folder} holds a sweep already; add --resume to go on with it, or change run.name or run.out"
        )
    then, now = json.loads((folder / PLAN).read_text(encoding="utf-8")), sweep.plan
    changed = [f"  {key}: {then[key]} then, {now[key]} now" for key in now if then[key] != now[key]]
    tables = [
        spec.tomllib.loads(text) for text in ((folder / BASE).read_text(encoding="utf-8"), sweep.spec_text)
    ]
    changed += [
        f"  [{name}]: {tables[0].get(name)} then, {table} now"
        for name, table in tables[1].items()
        if tables[0].get(name) != table
    ]
    if changed:
        raise SpecError(f"cannot resume {folder}: the sweep was started otherwise\n" + "\n".join(changed))


def nobody_works(folder: Path) -> bool:
    """Whether no process works on the sweep in a folder."""
    with Lock(folder / MEMBERS) as lock:
        return lock.held


def outlook(sweep: Sweep) -> list[str]:
    """What is about to be tried, for a person."""
    config = sweep.config
    pruned = "" if config.prune == "none" else f", pruned by {config.prune}"
    where = ", on a Ray cluster" if config.engine == "ray" else ""
    lines = [
        f"sweep   {config.number} trials, {config.method}{pruned}, by valid {sweep.monitor} ({sweep.mode}){where}"
    ]
    for name, values in config.keys.items():
        if isinstance(values, Range):
            scale = " on a logarithmic scale" if values.log else f" by {values.step}" if values.step else ""
            lines.append(f"try     {name} from {values.low} to {values.high}{scale}")
        else:
            lines.append(f"try     {name} = {' or '.join(values)}")
    return lines
