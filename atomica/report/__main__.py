"""`python -m atomica.report FOLDER`: make the report of a run, a job or a sweep again, from what is in its folder."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from atomica.files import EVALUATION, MEMBERS, METRICS, RESULT
from atomica.report import PAGES, done, members, sweeps, training


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
        print(done.write(folder, importlib.import_module(PAGES[job]).page))
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
