"""Jobs for what comes after training: structures and a model in, tables out.

Each job is a module of this package with a `KIND`; `job` reads its spec, opens what it needs and runs it.
"""

from __future__ import annotations

__all__ = ["JOBS"]


JOBS = {
    "annotate": "atomica.jobs.annotate",
    "embed": "atomica.jobs.embed",
    "evaluate": "atomica.jobs.evaluate",
    "network": "atomica.jobs.network",
    "score": "atomica.jobs.score",
}
"""`run.job` → the module whose `KIND` it is."""
