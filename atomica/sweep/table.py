"""What is known of all trials of a sweep: as a table in a file, as a report, and in words at the end."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from atomica.console import Journal
from atomica.files import DONE, FAILED, SOME_FAILED, write_text
from atomica.report import sweeps
from atomica.sweep.plan import TABLE, TRIALS, Sweep
from atomica.sweep.study import values_of

if TYPE_CHECKING:
    from optuna.study import Study

__all__ = ["conclude", "write"]


def write(sweep: Sweep, study: Study) -> None:
    """Write table and report as they are now."""
    stream = io.StringIO()
    with sweep.gate():
        csv.writer(stream, lineterminator="\n").writerows([_header(sweep), *_rows(sweep, study)])
        write_text(sweep.folder / TABLE, stream.getvalue())
        sweeps.write(sweep.folder)


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
            *(values_of(trial).get(name, "") for name in sweep.config.keys),
            f"{TRIALS}/{sweep.trial(trial.number).name}",
            str(trial.user_attrs.get("problem", "")),
        ]
        for trial in trials
    ]


def _header(sweep: Sweep) -> list[str]:
    return [
        "trial",
        "state",
        f"valid {sweep.monitor}",
        "epochs",
        "seconds",
        *sweep.config.keys,
        "folder",
        "problem",
    ]


def conclude(sweep: Sweep, study: Study, journal: Journal) -> int:
    """Tell the outcome; returns the exit code."""
    rows = [row[:-1] for row in (_header(sweep), *_rows(sweep, study))]  # problems are long, and told before
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
    journal.say(f"written {sweep.folder / TABLE}, report.html")
    if not failed:
        return DONE
    return SOME_FAILED if "done" in states else FAILED
