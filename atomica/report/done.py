"""Reports of the jobs after training, made from the tables they wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from atomica import environment
from atomica.files import REPORT, RESULT, SPEC
from atomica.report.page import Page
from atomica.report.svg import number
from atomica.report.training import versions
from atomica.spec import tomllib

__all__ = ["write"]


@dataclass(frozen=True)
class Done:
    """A finished job: its folder, its spec, what it left behind."""

    folder: Path
    spec: Mapping[str, Any]
    tables: Mapping[str, Path]
    figures: Mapping[str, Any]


def write(folder: Path, draw: Callable[[Done, Page], None], overview: Sequence[str]) -> Path:
    """Write `report.html` into the folder of a job that is done; returns its path.

    draw: the page of the kind of job, which fills in its part. overview: what the job said of itself when it started.
    """
    result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    text = (folder / SPEC).read_text(encoding="utf-8")
    done = Done(
        folder,
        tomllib.loads(text),
        {name: folder / path for name, path in result["tables"].items()},
        result["figures"],
    )
    page = Page(
        title=str(done.spec["run"]["name"]),
        kind=f"{result['job']} report",
        lead=f"Took {result['seconds']:.1f} s.",
        status="done",
    )
    page.section("Summary")
    tiles = [(name, figure(value), "") for name, value in done.figures.items() if not isinstance(value, dict)]
    if tiles:
        page.tiles(tiles)
    if result["failed"]:
        page.text(f"{result['failed']} inputs are missing here; failures.jsonl says which, and why.", "warn")
    draw(done, page)
    page.section("Run", "What the job said of itself when it started, and every setting:")
    page.facts([(line[:8].strip(), line[8:]) for line in overview])
    page.code(text, SPEC)
    versions(page, environment.describe())
    path = folder / REPORT
    page.write(path)
    return path


def figure(value: Any) -> str:
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def embeddings(table: Any) -> npt.NDArray[np.float64]:
    values = table.column("embedding").combine_chunks()
    return values.flatten().to_numpy(zero_copy_only=False).astype(np.float64).reshape(table.num_rows, -1)


def labels_of(table: Any) -> dict[str, list[str | None]]:
    """Label columns of a table of complexes."""
    if "labels" not in table.column_names:
        return {}
    rows = [dict(row or ()) for row in table.column("labels").to_pylist()]
    return {
        name: [row.get(name) for row in rows] for name in dict.fromkeys(key for row in rows for key in row)
    }


def maybe_number(text: str) -> float | str | None:
    try:
        return float(text)
    except ValueError:
        return text or None
