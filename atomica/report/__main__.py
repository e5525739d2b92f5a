"""`python -m atomica.report FOLDER`: make the report of a training run or a sweep again, from what is in its folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from atomica.files import EVALUATION, METRICS
from atomica.report import sweeps, training


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m atomica.report", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of a training run or a sweep")
    folder = parser.parse_args(argv).folder
    if (folder / sweeps.TABLE).is_file():
        print(sweeps.write(folder))
        return 0
    if not (folder / METRICS).is_file():
        print(
            f"{folder}: neither a training run ({METRICS}) nor a sweep ({sweeps.TABLE})",
            file=sys.stderr,
        )
        return 2
    done = (folder / EVALUATION).is_file()
    print(training.write(folder, status="done" if done else "interrupted"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
