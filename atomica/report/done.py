"""What a finished job left behind, and the report made of it.

It reads the folder of the job and nothing else, so that it can be made again: `python -m atomica.report FOLDER`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from atomica import environment
from atomica.files import REPORT, RESULT, SPEC
from atomica.report.page import Page
from atomica.report.svg import number
from atomica.spec import tomllib

__all__ = ["Done", "Draw", "embeddings", "figure", "labels_of", "number_or_text", "rows", "write"]


@dataclass(frozen=True)
class Done:
    """A finished job: its folder, its spec, the tables it wrote by name, and the figures it told."""

    folder: Path
    spec: Mapping[str, Any]
    tables: Mapping[str, Path]
    figures: Mapping[str, Any]


Draw = Callable[[Done, Page], None]
"""What a page module's function `page` is: it adds the sections of one kind of job to a page."""


def write(folder: Path, draw: Draw) -> Path:
    """Write `report.html` into the folder of a job that is done; returns its path. draw: the page of its kind."""
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
    page.facts([(line[:8].strip(), line[8:]) for line in result.get("overview", [])])
    page.code(text, SPEC)
    for start in environment.read(folder)[-1:]:
        page.versions(start)
    path = folder / REPORT
    page.write(path)
    return path


# ------------------------------------------------------------------------------------- for the pages of jobs


def figure(value: Any) -> str:
    """A number for a person; anything else as text."""
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def number_or_text(cell: str) -> float | str | None:
    """A cell of a CSV as the number that it is, if it is one; None if it is empty.

    >>> number_or_text("0.5"), number_or_text("f1"), number_or_text("")
    (0.5, 'f1', None)
    """
    try:
        return float(cell)
    except ValueError:
        return cell or None


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV, by column."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def embeddings(table: Any) -> npt.NDArray[np.float64]:
    """Column embedding of a table as an array [N, H]."""
    values = table.column("embedding").combine_chunks()
    return values.flatten().to_numpy(zero_copy_only=False).astype(np.float64).reshape(table.num_rows, -1)


def labels_of(table: Any) -> dict[str, list[str | None]]:
    """Label columns of a table of complexes, by name; a value or None for each."""
    if "labels" not in table.column_names:
        return {}
    found = [dict(row or ()) for row in table.column("labels").to_pylist()]
    return {
        name: [row.get(name) for row in found] for name in dict.fromkeys(key for row in found for key in row)
    }
