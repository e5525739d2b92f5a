"""Jobs: what a spec can ask for, one file each.

How to add a job NAME:

1. `jobs/NAME.py` with a frozen dataclass that owns section `[NAME]` of the spec, a function that does the work, and
   `KIND = Kind(...)`, which names both, says which common sections it reads and which page its report has; see
   `jobs.job.Kind`, and `jobs/evaluate.py` as an example.
2. A row in `JOBS` below. `run.job`, `atomica-run --list` and `--schema` and the table of settings follow from it.
3. `report/NAME.py` with the function `page`, and `runs/NAME.toml`, commented for a person; every spec there is run by
   `tests/e2e/test_specs.py`.
"""

from __future__ import annotations

__all__ = ["JOBS", "SHARED"]


JOBS = {
    "train": "atomica.jobs.train.run",
    "predict": "atomica.jobs.predict",
    "embed": "atomica.jobs.embed",
    "score": "atomica.jobs.score",
    "annotate": "atomica.jobs.annotate",
    "network": "atomica.jobs.network",
    "evaluate": "atomica.jobs.evaluate",
    "probe": "atomica.jobs.probe",
}
"""`run.job` → the module whose `KIND` it is."""

SHARED = ("predict", "embed", "score", "annotate", "evaluate", "probe")
"""Those of which what a model says is made in pieces, which several processes can share; see `jobs.workers`."""
