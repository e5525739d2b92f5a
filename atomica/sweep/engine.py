"""Who performs the trials of a sweep: this process, or a Ray cluster."""

from __future__ import annotations

from atomica.console import Journal
from atomica.sweep import table
from atomica.sweep.plan import Sweep
from atomica.sweep.study import joined
from atomica.sweep.trials import work
from atomica.train.stopping import Stop

__all__ = ["perform"]


def perform(sweep: Sweep, journal: Journal, stop: Stop) -> int:
    """Run trials until there are as many as wanted, alone or beside other processes; returns the exit code.

    Raises Interrupted once `stop` is set and the trials under way have written their checkpoints.
    """
    with joined(sweep) as (study, begun):
        journal.open(sweep.folder, resume=begun)
        if sweep.config.engine == "ray":
            from atomica.sweep.cluster import share_out

            share_out(sweep, study, journal, stop)
        else:
            while work(sweep, study, journal, stop):
                pass
        table.write(sweep, study)
        return table.conclude(sweep, study, journal)
