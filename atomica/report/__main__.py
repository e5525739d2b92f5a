"""`python -m atomica.report FOLDER`: make the report of a run, a job or a sweep again, from what is in its folder."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from atomica.files import EVALUATION, MEMBERS, METRICS, RESULT
from atomica.report import done, members, sweeps, training


def page_of(job: object) -> done.Draw | None:
    """The function that draws the page of a job, which the file of its name has; None if there is none.

    >>> page_of("embed").__module__, page_of("svg"), page_of("no job")
    ('atomica.report.embed', None, None)
    """
    name = f"atomica.report.{job}"
    known = str(job).isidentifier() and importlib.util.find_spec(name) is not None
    return getattr(importlib.import_module(name), "page", None) if known else None


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m atomica.report", description=__doc__)
    parser.add_argument(
        "folder", type=Path, help="folder of a training run, of another job that is done, or of a sweep"
    )
    folder = parser.parse_args(argv).folder
    if (folder / sweeps.TABLE).is_file():
        print(sweeps.write(folder))
    elif (folder / MEMBERS).is_file():
        print(members.write(folder))
    elif (folder / METRICS).is_file():
        finished = (folder / EVALUATION).is_file()
        print(training.write(folder, status="done" if finished else "interrupted"))
    elif (folder / RESULT).is_file():
        job = json.loads((folder / RESULT).read_text(encoding="utf-8"))["job"]
        draw = page_of(job)
        if draw is None:
            print(
                f"{folder}: its job is called {job!r}, for which this version has no report", file=sys.stderr
            )
            return 2
        print(done.write(folder, draw))
    else:
        print(
            f"{folder}: neither a training run ({METRICS}), nor a job that is done ({RESULT}), nor a sweep "
            f"({sweeps.TABLE})",
            file=sys.stderr,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
