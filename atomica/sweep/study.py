"""The trials of a sweep in Optuna's journal: which there are, which one comes next."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from atomica import spec
from atomica.errors import SpecError
from atomica.files import Lock, write_json, write_text
from atomica.sweep.config import Range, listed
from atomica.sweep.plan import BASE, MEMBERS, PLAN, STORE, TRIALS, Sweep, check_plan, nobody_works

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

__all__ = ["joined", "next_trial", "open_study", "values_of"]


@contextmanager
def joined(sweep: Sweep) -> Iterator[tuple[Study, bool]]:
    """Work on a sweep, alone or beside others: its study, and whether it was begun before."""
    folder = sweep.folder
    (folder / TRIALS).mkdir(parents=True, exist_ok=True)
    with sweep.gate():
        begun = (folder / PLAN).is_file()
        if begun:
            check_plan(sweep)
        elif sweep.resume:
            raise SpecError(f"{folder} holds no sweep to resume; leave out --resume")
        else:
            (folder / STORE).unlink(missing_ok=True)  # of a sweep that was killed before it had a plan
            write_text(folder / BASE, sweep.spec_text)
        if nobody_works(folder):
            _mend(folder / STORE)
        member = Lock(folder / MEMBERS, wait=True, shared=True)
        study = open_study(sweep)
        if not begun:
            write_json(folder / PLAN, sweep.plan)
    with member:
        yield study, begun


def _mend(journal: Path) -> None:
    """Remove what a kill or a full disk has left: a lock, and half a line, after which Optuna reads no other."""
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if not journal.is_file():
        return
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with journal.open("r+b") as stream:
            stream.truncate(whole)


def open_study(sweep: Sweep) -> Study:
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
        epochs = sweep.base.train.epochs
        pruner = optuna.pruners.HyperbandPruner(min_resource=after, max_resource=max(after, epochs))
    study = optuna.create_study(
        study_name="sweep",
        storage=JournalStorage(JournalFileBackend(str(sweep.folder / STORE))),
        pruner=pruner,
        direction="maximize" if sweep.mode == "max" else "minimize",
        load_if_exists=True,
    )
    if config.method == "grid":
        # Trial number N is combination number N; those that are missing if this was cut short before.
        there = len(study.get_trials(deepcopy=False))
        combinations = itertools.product(*(listed(found) for found in config.keys.values()))
        for values in itertools.islice(combinations, there, None):
            study.enqueue_trial(dict(zip(config.keys, values, strict=True)))
    return study


def next_trial(sweep: Sweep, study: Study) -> tuple[Trial, Lock] | None:
    """A trial whose process is gone, else a new one; None if there are enough. Its lock is held by this process."""
    from optuna.trial import Trial, TrialState

    config = sweep.config
    with sweep.gate():
        trials = study.get_trials(deepcopy=False)
        for left in trials:
            if left.state is TrialState.RUNNING:
                lock = _lock(sweep, left.number)
                if lock.held:
                    study.sampler = _sampler(sweep, left.number)
                    trial = Trial(study, left._trial_id)
                    for name, distribution in _distributions(sweep).items():
                        trial._suggest(
                            name, distribution
                        )  # keeps what is drawn; a kill may have come before the rest
                    return trial, lock
        started = sum(trial.state is not TrialState.WAITING for trial in trials)
        if started >= config.number:
            return None
        study.sampler = _sampler(sweep, started)
        trial = study.ask(fixed_distributions=_distributions(sweep))
        return trial, _lock(sweep, trial.number)


def _lock(sweep: Sweep, number: int) -> Lock:
    return Lock(sweep.trial(number).with_suffix(".lock"))


def _sampler(sweep: Sweep, number: int) -> BaseSampler:
    """What draws the values of a trial; with a seed of its own, as a sweep that goes on would draw the same again."""
    import optuna

    seed = (sweep.base.run.seed * 1_000_003 + number) % 2**32
    if sweep.config.method != "tpe":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # Trials that others run count as bad for now, so that not all draw values near the same best one.
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)


def _distributions(sweep: Sweep) -> dict[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution

    grid = sweep.config.method == "grid"
    return {
        name: values.distribution()
        if isinstance(values, Range) and not grid
        else CategoricalDistribution(listed(values))
        for name, values in sweep.config.keys.items()
    }


def values_of(trial: Trial | FrozenTrial) -> dict[str, str]:
    """What a trial changes, as TOML."""
    return {
        name: value if isinstance(value, str) else spec.show(value) for name, value in trial.params.items()
    }
