"""A sweep as the runner sees it: a job that performs trials, in this process or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from atomica.console import Journal
from atomica.jobs.job import Request
from atomica.jobs.train.assembly import Assembled
from atomica.jobs.train.overview import dry_run, overview
from atomica.spec import Source
from atomica.sweep import table
from atomica.sweep.cluster import share_out
from atomica.sweep.plan import Sweep, outlook, plan_sweep
from atomica.sweep.study import joined
from atomica.sweep.trials import work
from atomica.train.stopping import Stop

__all__ = ["Trials", "perform", "prepare"]


@dataclass(frozen=True)
class Trials:
    """A sweep that is checked. job: what its spec describes without it; request: what the command line asked."""

    sweep: Sweep
    job: Assembled
    request: Request
    heeds: bool = True

    def overview(self) -> list[str]:
        """What is about to be tried, and what each trial is."""
        return [*outlook(self.sweep), *overview(self.job)]

    def rehearse(self) -> list[str]:
        """What steps of a trial show."""
        return dry_run(self.job, self.request.devices)

    def take(self) -> None:
        """Nothing: several processes may work on one sweep, and `joined` makes its folder."""

    def perform(self, journal: Journal, stop: Stop, told: Sequence[str]) -> int:
        """Run the trials; gives the exit code."""
        return perform(self.sweep, journal, stop)


def perform(sweep: Sweep, journal: Journal, stop: Stop) -> int:
    """Run trials until there are as many as wanted, alone or beside other processes; returns the exit code.

    Raises Interrupted once `stop` is set and the trials under way have written their checkpoints.
    """
    with joined(sweep) as (study, begun):
        journal.open(sweep.folder, resume=begun)
        if sweep.config.engine == "ray":
            share_out(sweep, study, journal, stop)
        else:
            while work(sweep, study, journal, stop):
                pass
        table.write(sweep, study)
        return table.conclude(sweep, study, journal)


def prepare(source: Source, request: Request) -> Trials:
    """Check a spec with a section `[sweep]`. Raises SpecError with all that is wrong."""
    return Trials(*plan_sweep(source, request), request)
