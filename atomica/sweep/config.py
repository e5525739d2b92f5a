"""Section `[sweep]` of a spec: which keys are tried with which values, and how."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from atomica import spec
from atomica.jobs.train.spec import read_spec
from atomica.spec import Issues, KeyPath, Problems, setting

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["Range", "SweepConfig", "check_values", "listed", "read_sweep"]

OWN = ("run.name", "run.out", "run.job", "sweep", *spec.DERIVING)
"""Keys that no sweep can change, since it needs them itself."""


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
    engine: str = setting(
        "local",
        "where trials run",
        choices={
            "local": "one after the other, started by this process; others may join",
            "ray": "on a Ray cluster, each trial a task; a cluster of this machine's cores if there is no other",
        },
    )
    cpus: int | None = setting(None, "with Ray: cores that a trial gets; absent: 1", low=1)
    gpus: int | None = setting(None, "with Ray: GPUs that a trial gets; absent: none", low=1)
    keys: Mapping[str, Any] = setting(
        {},
        "keys of this spec, such as train.learning_rate, each with a list of values or a range "
        "{ low, high, log, step }",
    )

    def __post_init__(self) -> None:
        """Check keys against each other, and that the packages are there."""
        alone = 'has no effect without engine = "ray"; remove it'
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
            (
                self.engine == "ray" and importlib.util.find_spec("ray") is None,
                "engine",
                "needs the package ray: pip install 'atomica-dgl[ray]'",
            ),
            (self.engine != "ray" and self.cpus is not None, "cpus", alone),
            (self.engine != "ray" and self.gpus is not None, "gpus", alone),
        )

    @property
    def number(self) -> int:
        """Trials in all."""
        if self.method == "grid":
            return math.prod(len(listed(values)) for values in self.keys.values())
        return self.trials or 20


def listed(values: Range | tuple[str, ...]) -> tuple[str, ...]:
    """Values one by one, as TOML; none of a range without steps."""
    return values.values() if isinstance(values, Range) else values


# ------------------------------------------------------------------------------------------------- the spec


def read_sweep(source: spec.Source, issues: Issues) -> SweepConfig | None:
    """The section `[sweep]`, its keys as lists of TOML values or `Range`; None, and issues added, if it is wrong."""
    before = len(issues.found)
    config = spec.read(SweepConfig, source, ("sweep",), issues, exclude=("keys",), ignore=("keys",))
    train = source.tree.get("train")
    if isinstance(train, dict) and train.get("refit") and train.get("epochs", 1):
        issues.add(
            ("train", "refit"),
            "trains on the rows that trials are compared by; set it to false, and train the best one with it",
        )
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
            if not listed(values):
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


def check_values(source: spec.Source, config: SweepConfig, issues: Issues) -> None:
    """Try each value alone, so that a trial does not fail for what can be known now."""
    paths = _named(issues.source.tree["sweep"]["keys"])
    for name, values in config.keys.items():
        path = paths[name][0]
        tried = (spec.show(values.low), spec.show(values.high)) if isinstance(values, Range) else values
        for value in tried:
            try:
                changed = source.changed([f"{name}={value}"])
            except Problems as error:
                for _, message in error.problems:
                    issues.add(path, message, value=False)
                continue
            wrong = Issues(changed)
            read_spec(changed, wrong)
            for issue in wrong.found:
                other = "" if issue.key.startswith(name) else f"{issue.key}: "
                issues.add(path, f"{value}: {other}{issue.message}", value=False)
