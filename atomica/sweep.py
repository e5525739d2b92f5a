"""Sweeps: one spec, many trials with other values of some keys; chosen, pruned and kept by Optuna.

Each trial is a run of its own, in a process and a folder of its own, so that one that fails takes nothing with it. What
is known of the trials lies in Optuna's journal in the sweep's folder: a sweep that was stopped goes on where it stood,
its trials in the middle of an epoch, and several processes can share it.
"""

from __future__ import annotations

import csv
import fcntl
import importlib.util
import io
import itertools
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomica import spec
from atomica.assembly import CHECKPOINTS, Job, assemble
from atomica.errors import SpecError
from atomica.journal import Journal
from atomica.runspec import read_spec
from atomica.spec import Issues, KeyPath, Problems, setting
from atomica.train.distributed import ALONE, Ranks

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

    from atomica.train.stopping import Stop

__all__ = ["Sweep", "SweepConfig", "assemble_sweep", "outlook", "perform"]

DONE, FAILED, SOME_FAILED = 0, 1, 3

TRIALS, TABLE, BASE, STORE, PLAN = "trials", "trials.csv", "trial.toml", "optuna.jsonl", "sweep.json"
"""What the folder of a sweep holds: folders of the trials, a table of them, what they share, Optuna's journal, and what
was asked for."""

OWN = ("run.name", "run.out", "run.job", "sweep", *spec.DERIVING)
"""Keys that no sweep can change, since it needs them itself."""

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Range:
    """A range of numbers: `{ low = 1e-4, high = 1e-2, log = true }`. Whole limits mean whole numbers."""

    low: int | float = setting(doc="smallest value")
    high: int | float = setting(doc="largest value")
    log: bool = setting(False, "drawn evenly on a logarithmic scale")
    step: int | float | None = setting(None, "distance between values; absent: any value", above=0)

    def __post_init__(self) -> None:
        """Check keys against each other."""
        Problems.check(
            (self.low >= self.high, "high", f"must be more than low ({self.low})"),
            (self.log and self.low <= 0, "low", "must be more than 0 on a logarithmic scale"),
            (
                self.log and self.step is not None,
                "step",
                "has no effect on a logarithmic scale; remove one of them",
            ),
            (
                self.whole and isinstance(self.step, float),
                "step",
                "must be a whole number, as low and high are",
            ),
        )

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def distribution(self) -> BaseDistribution:
        """It in Optuna's terms."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(float(self.low), float(self.high), log=self.log, step=self.step)

    def values(self) -> tuple[str, ...]:
        """All its values, as TOML; none if it has no step."""
        step = self.step if self.step is not None or not self.whole else 1
        if step is None or self.log:
            return ()
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        return tuple(spec.show(self.low + index * step) for index in range(count))


@dataclass(frozen=True)
class SweepConfig:
    """Section `[sweep]`: which keys of the spec are tried with which values, and how."""

    method: str = setting(
        "tpe",
        "how values are chosen",
        choices={
            "grid": "every combination",
            "random": "at random",
            "tpe": "at random at first, then where good trials are dense (tree-structured Parzen estimator)",
        },
    )
    trials: int | None = setting(None, "number of trials; absent: 20, with grid all combinations", low=1)
    prune: str = setting(
        "none",
        "which trials are stopped early",
        choices={
            "none": "none",
            "median": "those worse than the median of the others after as many epochs",
            "hyperband": "those not among the best third after 1, 3, 9, … epochs",
        },
    )
    prune_after: int | None = setting(
        None, "epochs that every trial gets before it may be pruned; absent: 1", low=1
    )
    keys: Mapping[str, Any] = setting(
        {},
        "keys of this spec, such as train.learning_rate, each with a list of values or a range "
        "{ low, high, log, step }",
    )

    def __post_init__(self) -> None:
        """Check keys against each other, and that the package is there."""
        Problems.check(
            (
                self.method == "grid" and self.trials is not None,
                "trials",
                'has no effect with method = "grid", which tries every combination; remove it',
            ),
            (
                self.prune == "none" and self.prune_after is not None,
                "prune_after",
                'has no effect with prune = "none"; choose another one, or remove it',
            ),
            (
                importlib.util.find_spec("optuna") is None,
                "method",
                "sweeps need the package optuna: pip install 'atomica-dgl[sweep]'",
            ),
        )

    @property
    def number(self) -> int:
        """Trials in all."""
        if self.method == "grid":
            return math.prod(len(_listed(values)) for values in self.keys.values())
        return self.trials or 20


def _listed(values: Range | tuple[str, ...]) -> tuple[str, ...]:
    return values.values() if isinstance(values, Range) else values


# ------------------------------------------------------------------------------------------------- the spec


def read_sweep(source: spec.Source, issues: Issues) -> SweepConfig | None:
    """The section `[sweep]`, its keys as lists of TOML values or `Range`; None, and issues added, if it is wrong."""
    before = len(issues.found)
    config = spec.read(SweepConfig, source, ("sweep",), issues, exclude=("keys",), ignore=("keys",))
    section = source.tree["sweep"]
    table = section.get("keys") if isinstance(section, dict) else None
    if not isinstance(table, dict) or not table:
        issues.add(
            ("sweep", "keys"), "name the keys to try, such as train.learning_rate = [1e-3, 1e-2]", value=False
        )
        return None
    space: dict[str, Range | tuple[str, ...]] = {}
    for name, (here, value) in _named(table).items():
        if any(name == own or name.startswith(f"{own}.") for own in OWN):
            issues.add(here, "is not for a sweep to change: each trial has its own")
        elif isinstance(value, dict):
            found = spec.read(Range, source, here, issues)
            if found is not None:
                space[name] = found
        elif isinstance(value, list) and len(set(map(spec.show, value))) == len(value) > 1:
            space[name] = tuple(spec.show(item) for item in value)
        else:
            issues.add(here, "expected a list of different values, or a range such as { low = 1, high = 9 }")
    if config is not None and config.method == "grid":
        for name, values in space.items():
            if not _listed(values):
                issues.add(
                    _named(table)[name][0],
                    "a grid needs a list of values, or a range with a step",
                )
    return None if config is None or len(issues.found) > before else replace(config, keys=space)


def _named(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[str, tuple[KeyPath, Any]]:
    """The values of a table of tables by dotted name, with their path; a table with a `low` or `high` is a value."""
    found: dict[str, tuple[KeyPath, Any]] = {}
    for key, value in table.items():
        here = (*path, key)
        if isinstance(value, dict) and not {"low", "high"} & value.keys():
            found |= _named(value, here)
        else:
            found[".".join(here)] = ("sweep", "keys", *here), value
    return found


def _check_values(source: spec.Source, config: SweepConfig, issues: Issues) -> None:
    """Try each value alone, so that a trial does not fail for what can be known now."""
    paths = _named(issues.source.tree["sweep"]["keys"])
    for name, values in config.keys.items():
        path = paths[name][0]
        tried = (spec.show(values.low), spec.show(values.high)) if isinstance(values, Range) else values
        for value in tried:
            try:
                changed = source.changed([f"{name}={value}"])
            except SpecError as error:
                issues.add(path, str(error).partition(": ")[2], value=False)
                continue
            wrong = Issues(changed)
            read_spec(changed, wrong)
            for issue in wrong.found:
                other = "" if issue.key.startswith(name) else f"{issue.key}: "
                issues.add(path, f"{value}: {other}{issue.message}", value=False)


@dataclass
class Sweep:
    """A sweep whose spec is checked. base: what its trials share; monitor, mode: the metric, and "max" or "min"."""

    config: SweepConfig
    base: Job
    monitor: str
    mode: str
    folder: Path
    resume: bool
    options: Sequence[str] = ()

    @property
    def plan(self) -> dict[str, Any]:
        """What was asked for: a sweep goes on only if it is asked for the same, but for the number of trials."""
        space = {
            name: asdict(values) if isinstance(values, Range) else list(values)
            for name, values in self.config.keys.items()
        }
        config = {**asdict(replace(self.config, keys={})), "keys": space}
        del config["trials"]
        return dict(json.loads(json.dumps({"sweep": config, "monitor": self.monitor, "mode": self.mode})))

    @property
    def spec_text(self) -> str:
        """The spec that all trials share."""
        head = "# What all trials of the sweep share; each changes some keys, and run.name and run.out.\n\n"
        return head + spec.dump(self.base.spec.sections())


def assemble_sweep(
    source: spec.Source, *, resume: bool | None, dry: bool, ranks: Ranks = ALONE, options: Sequence[str] = ()
) -> Sweep:
    """Check a spec with a section `[sweep]`: everything but the trials themselves. Raises SpecError.

    resume, ranks: as for `assemble`. options: further arguments of the command for each trial.
    """
    issues = Issues(source)
    config = read_sweep(source, issues)
    plain = source.without("sweep")
    if config is not None:
        base_issues = Issues(plain)
        read_spec(plain, base_issues)
        if not base_issues.found:  # what is wrong with the spec itself is wrong with every value
            _check_values(plain, config, issues)
    job = assemble(plain, resume=False, dry=True, ranks=ranks, issues=issues)
    assert config is not None

    from atomica.train.validation import monitor_of

    monitor, mode = monitor_of(job.model, job.spec.train)
    if resume is None:
        resume = (job.folder / PLAN).is_file()
    sweep = Sweep(config, job, monitor, mode, job.folder, resume, options)
    if not dry:
        _check_folder(sweep, issues)
        issues.raise_any()
    return sweep


def _check_folder(sweep: Sweep, issues: Issues) -> None:
    folder = sweep.folder
    plan, shared = folder / PLAN, folder / BASE
    if not sweep.resume:
        if plan.is_file():
            issues.add(
                ("run", "out"),
                f"{folder} holds a sweep already; add --resume to go on with it, or change run.name or run.out",
                value=False,
            )
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            issues.add(("run", "out"), f"{folder} is not empty; give another run.out", value=False)
        return
    if not plan.is_file() or not shared.is_file():
        issues.add(("run", "out"), f"{folder} holds no sweep to resume; leave out --resume", value=False)
        return
    then, now = json.loads(plan.read_text(encoding="utf-8")), sweep.plan
    changed = [f"  {key}: {then[key]} then, {now[key]} now" for key in now if then[key] != now[key]]
    tables = [spec.tomllib.loads(text) for text in (shared.read_text(encoding="utf-8"), sweep.spec_text)]
    changed += [
        f"  [{name}]: {tables[0].get(name)} then, {table} now"
        for name, table in tables[1].items()
        if tables[0].get(name) != table
    ]
    if changed:
        raise SpecError(f"cannot resume {folder}: the sweep was started otherwise\n" + "\n".join(changed))


def outlook(sweep: Sweep) -> list[str]:
    """What is about to be tried, for a person."""
    config = sweep.config
    pruned = "" if config.prune == "none" else f", pruned by {config.prune}"
    lines = [
        f"sweep   {config.number} trials, {config.method}{pruned}, by valid {sweep.monitor} ({sweep.mode})"
    ]
    for name, values in config.keys.items():
        if isinstance(values, Range):
            scale = " on a logarithmic scale" if values.log else f" by {values.step}" if values.step else ""
            lines.append(f"try     {name} from {values.low} to {values.high}{scale}")
        else:
            lines.append(f"try     {name} = {' or '.join(values)}")
    return lines


# ------------------------------------------------------------------------------------------------ the trials


def perform(sweep: Sweep, journal: Journal, stop: Stop) -> int:
    """Run trials until there are as many as wanted; returns the exit code.

    Raises Interrupted once `stop` is set and the present trial has written its checkpoint.
    """
    from atomica.train.checkpoint import write_text

    (sweep.folder / TRIALS).mkdir(parents=True, exist_ok=True)
    if not sweep.resume:
        write_text(sweep.folder / BASE, sweep.spec_text)
        write_text(sweep.folder / PLAN, json.dumps(sweep.plan, indent=1) + "\n")
    journal.open(sweep.folder, resume=sweep.resume)
    study = _study(sweep)
    while (found := _next(sweep, study)) is not None:
        trial, lock = found
        with lock:
            _perform_trial(sweep, study, trial, lock, journal, stop)
        write_text(sweep.folder / TABLE, _table(sweep, study))
    return _conclude(sweep, study, journal)


def _study(sweep: Sweep) -> Study:
    """The trials so far, in Optuna's journal, which several processes may write."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config = sweep.config
    # Few trials are compared early: waiting for five, as Optuna does by default, would prune none of them.
    first = min(5, max(1, config.number // 4))
    after = config.prune_after or 1
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if config.prune == "median":
        pruner = optuna.pruners.MedianPruner(n_startup_trials=first, n_warmup_steps=after - 1)
    elif config.prune == "hyperband":
        epochs = sweep.base.spec.train.epochs
        pruner = optuna.pruners.HyperbandPruner(min_resource=after, max_resource=max(after, epochs))
    study = optuna.create_study(
        study_name="sweep",
        storage=JournalStorage(JournalFileBackend(str(sweep.folder / STORE))),
        pruner=pruner,
        direction="maximize" if sweep.mode == "max" else "minimize",
        load_if_exists=True,
    )
    if config.method == "grid" and not study.get_trials(deepcopy=False):
        for values in itertools.product(*(_listed(found) for found in config.keys.values())):
            study.enqueue_trial(dict(zip(config.keys, values, strict=True)))
    return study


def _next(sweep: Sweep, study: Study) -> tuple[Trial, Lock] | None:
    """A trial whose process is gone, else a new one; None if there are enough. Its lock is held by this process."""
    import optuna
    from optuna.distributions import CategoricalDistribution
    from optuna.trial import Trial, TrialState

    config = sweep.config
    with Lock(sweep.folder / f"{TRIALS}.lock", wait=True):
        trials = study.get_trials(deepcopy=False)
        for left in trials:
            if left.state is TrialState.RUNNING:
                lock = Lock(_folder(sweep, left.number).with_suffix(".lock"))
                if lock.held:
                    return Trial(study, left._trial_id), lock
        started = sum(trial.state is not TrialState.WAITING for trial in trials)
        if started >= config.number:
            return None
        # A seed of its own for each trial: a sweep that was stopped would draw the same values again.
        seed = (sweep.base.spec.run.seed * 1_000_003 + started) % 2**32
        if config.method == "tpe":
            study.sampler = optuna.samplers.TPESampler(seed=seed)
        else:
            study.sampler = optuna.samplers.RandomSampler(seed=seed)
        listed = config.method == "grid"
        distributions = {
            name: values.distribution()
            if isinstance(values, Range) and not listed
            else CategoricalDistribution(_listed(values))
            for name, values in config.keys.items()
        }
        trial = study.ask(fixed_distributions=distributions)
        return trial, Lock(_folder(sweep, trial.number).with_suffix(".lock"))


class Lock:
    """A file locked for as long as this process, or one it has started with it, lives."""

    def __init__(self, path: Path, *, wait: bool = False) -> None:
        self._file = path.open("a")
        self.held = True
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            self.held = False
            self._file.close()

    def fileno(self) -> int:
        """The open file, for another process to inherit."""
        return self._file.fileno()

    def __enter__(self) -> Lock:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Let go of it."""
        self._file.close()


def _folder(sweep: Sweep, number: int) -> Path:
    # Optuna counts from 0, people from 1.
    return sweep.folder / TRIALS / f"{number + 1:04d}"


def _values(trial: Trial | FrozenTrial) -> dict[str, str]:
    """What a trial changes, as TOML."""
    return {
        name: value if isinstance(value, str) else spec.show(value) for name, value in trial.params.items()
    }


def _perform_trial(
    sweep: Sweep, study: Study, trial: Trial, lock: Lock, journal: Journal, stop: Stop
) -> None:
    """Run one trial to its end and tell Optuna; raises Interrupted if it was stopped, to go on later."""
    from optuna.trial import TrialState

    from atomica.train.stopping import Interrupted

    folder, values = _folder(sweep, trial.number), _values(trial)
    shown = " ".join(f"{name}={value}" for name, value in values.items())
    journal.say(f"trial   {trial.number + 1} of {sweep.config.number}: {shown}")
    began = time.monotonic()
    reports = _Reports(sweep, study, trial, folder / "metrics.jsonl")
    output = folder.with_suffix(".txt")
    pruned = False
    with (
        output.open("ab") as stream,
        subprocess.Popen(
            _command(sweep, folder, values),
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            pass_fds=[lock.fileno()],
            start_new_session=True,  # signals from the terminal are passed on once, not twice
        ) as process,
    ):
        asked = False
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            reports.read()
            pruned = pruned or (sweep.config.prune != "none" and trial.should_prune())
            if (pruned or stop.requested) and not asked:
                process.send_signal(signal.SIGTERM)
                asked = True
        code = process.returncode
    reports.read()
    trial.set_user_attr("seconds", round(trial.user_attrs.get("seconds", 0.0) + time.monotonic() - began, 1))
    if code == DONE and reports.best is not None:
        study.tell(trial, reports.best)
        outcome = f"valid {sweep.monitor} {reports.best:.4f}"
    elif pruned:
        study.tell(trial, state=TrialState.PRUNED)
        outcome = f"pruned after epoch {reports.epoch}"
    elif stop.requested:
        raise Interrupted(f"stopped in trial {trial.number + 1}; its checkpoint is written")
    else:
        reason = _last_line(output) or f"exit code {code}"
        trial.set_user_attr("error", reason)
        study.tell(trial, state=TrialState.FAIL)
        outcome = f"failed: {reason}"
    journal.say(f"        {outcome}, {time.monotonic() - began:.0f} s")


def _command(sweep: Sweep, folder: Path, values: Mapping[str, str]) -> list[str]:
    base = sweep.base.spec
    changes = {"run.name": f"{base.run.name}-{folder.name}", "run.out": str(folder), **values}
    if base.log.wandb.mode != "off" and not base.log.wandb.group:
        changes["log.wandb.group"] = base.run.name
    command = [sys.executable, "-m", "atomica.runner", str(sweep.folder / BASE), *sweep.options]
    command += [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    return [*command, "--resume"] if (folder / CHECKPOINTS / "last").is_dir() else command


class _Reports:
    """The epochs that a trial has recorded, passed on to Optuna."""

    def __init__(self, sweep: Sweep, study: Study, trial: Trial, path: Path) -> None:
        self.sweep, self.trial, self.path = sweep, trial, path
        self.known = set(study.get_trials(deepcopy=False)[trial.number].intermediate_values)
        self.best: float | None = None
        self.epoch = 0

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


def _last_line(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.removeprefix("atomica-run: ") for line in reversed(lines) if line.strip()), "")


# ----------------------------------------------------------------------------------------------- the results


def _rows(sweep: Sweep, study: Study) -> list[list[str]]:
    """One row per trial that has started, the best first; then those that were pruned, that failed, that run."""
    from optuna.trial import TrialState

    order = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)
    sign = -1 if sweep.mode == "max" else 1
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state in order]
    trials.sort(
        key=lambda t: (order.index(t.state), sign * t.value if t.value is not None else 0.0, t.number)
    )
    return [
        [
            str(trial.number + 1),
            {"complete": "done", "fail": "failed"}.get(trial.state.name.lower(), trial.state.name.lower()),
            "" if trial.value is None else f"{trial.value:.6g}",
            str(trial.last_step or 0),
            str(trial.user_attrs.get("seconds", "")),
            *(_values(trial).get(name, "") for name in sweep.config.keys),
            f"{TRIALS}/{_folder(sweep, trial.number).name}",
        ]
        for trial in trials
    ]


def _header(sweep: Sweep) -> list[str]:
    return ["trial", "state", f"valid {sweep.monitor}", "epochs", "seconds", *sweep.config.keys, "folder"]


def _table(sweep: Sweep, study: Study) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([_header(sweep), *_rows(sweep, study)])
    return stream.getvalue()


def _conclude(sweep: Sweep, study: Study, journal: Journal) -> int:
    """Tell the outcome; returns the exit code."""
    rows = [_header(sweep), *_rows(sweep, study)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    journal.say("")
    for row in rows:
        journal.say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    journal.say("")
    states = [row[1] for row in rows[1:]]
    if running := states.count("running"):
        journal.say(f"note    {running} trials still run in other processes")
    if failed := states.count("failed"):
        journal.say(f"failed  {failed} trials; what they said is in {sweep.folder / TRIALS}/NNNN.txt")
    if "done" in states:
        best = rows[1]
        journal.say(f"best    trial {best[0]}, valid {sweep.monitor} {best[2]}: {sweep.folder / best[-1]}")
    journal.say(f"written {sweep.folder / TABLE}")
    if not failed:
        return DONE
    return SOME_FAILED if "done" in states else FAILED
