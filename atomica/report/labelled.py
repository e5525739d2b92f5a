"""What a report says of a model on complexes whose labels are known: metrics, baselines, the plots of its heads."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from atomica.errors import AtomicaError
from atomica.evaluation.results import class_names, describe_within, predictions_name
from atomica.evaluation.statistics import MEASURES
from atomica.files import PREDICTIONS
from atomica.heads import head_class
from atomica.report.page import Page
from atomica.report.predictions import Answers, metric_rows, show
from atomica.report.svg import number

__all__ = ["comparison", "sections", "tiles"]


def tiles(evaluation: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str, str]]:
    """The metric that each head is judged by, with its interval; evaluation: as in evaluation.json."""
    found = []
    for name, entry in evaluation.get("heads", {}).items():
        intervals = entry.get("intervals", {})
        for metric in _foremost(entry):
            value, bounds = entry["metrics"][metric], intervals.get(metric)
            more = (
                f"95% interval {number(bounds['low'], 3)} to {number(bounds['high'], 3)}"
                if bounds
                else "no interval"
            )
            whose = f", {name}" if len(evaluation["heads"]) > 1 else ""
            found.append((f"{prefix}{metric}{whose}", number(value, 3), more))
    return found


def _foremost(entry: Mapping[str, Any]) -> list[str]:
    """The metric of a head that is shown first: the one it is judged by."""
    metrics = entry.get("metrics", {})
    try:
        judged = head_class(entry["kind"]).monitor
    except (AtomicaError, KeyError):
        judged = ""
    return [judged] if judged in metrics else list(metrics)[:1]


def sections(page: Page, folder: Path, evaluation: Mapping[str, Any], title: str, lead: str) -> None:
    """A section for each head, with the predictions that lie in `folder`."""
    heads = evaluation.get("heads", {})
    for name, entry in heads.items():
        page.section(f"{title}: {name}" if len(heads) > 1 else title)
        _head(page, folder, name, entry, lead)


def _head(page: Page, folder: Path, name: str, entry: Mapping[str, Any], lead: str) -> None:
    """Metrics and plots of one head."""
    if not entry.get("metrics"):
        page.text("Not evaluated: no complex has a label for this head.", "warn")
        return
    what = entry.get("of", "complexes")
    counted = f" {entry['complexes']} {what} have a label." if "complexes" in entry else ""
    page.text(lead + counted)
    page.small_table(
        ["metric", "value", "95% interval"],
        metric_rows(entry["metrics"], entry.get("intervals", {})),
        f"Head of kind {entry['kind']}; intervals by resampling the complexes",
    )
    if "verdict" in entry:
        comparison(page, entry)
    if "within" in entry:
        page.text(f"{describe_within(entry['within']).replace('mean', 'Mean', 1)}.")
    if "monotony" in entry:
        page.text(f"It says {entry['monotony']} {what}: it has learnt nothing that differs.", "warn")
    answers = _answers(folder, name, entry)
    if isinstance(answers, Answers):
        show(page, answers, head_class(entry["kind"]).plots)
    elif answers:
        page.text(f"No plots: {answers}", "warn")


def comparison(page: Page, entry: Mapping[str, Any], who: str = "this model") -> None:
    """Model and baselines side by side, and what that shows. entry: as of `statistics.compare`."""
    titles = {name: one.title for measures in MEASURES.values() for name, one in measures.items()}
    names = list(entry["model"])

    def cell(value: Mapping[str, float | None]) -> str:
        if value["value"] is None:
            return "–"
        ends = "" if value["low"] is None else f" [{number(value['low'], 3)}, {number(value['high'], 3)}]"
        return number(value["value"], 3) + ends

    nothing = {"value": None}
    rows = [[who, *(cell(entry["model"][name]) for name in names)]]
    rows += [[other, *(cell(scores[name]) for name in names)] for other, scores in entry["baselines"].items()]
    rows.append(["less the best of them", *(cell(entry["difference"].get(name, nothing)) for name in names)])
    drawn = f"{entry['clusters']} clusters" if entry["clusters"] else "complexes"
    page.text(entry["verdict"])
    page.small_table(
        ["", *(titles[name] for name in names)],
        rows,
        f"Beside baselines that know nothing of geometry, or count it; 95% intervals by resampling {drawn}",
    )
    if "methods" in entry:
        page.facts(list(entry["methods"].items()))
    page.listing(entry["conclusions"])


def _answers(folder: Path, name: str, entry: Mapping[str, Any]) -> Answers | str:
    """The predictions of a head for the complexes that have a label, from the file they were written to.

    Or why there are none; empty for a head that does not learn from labels.
    """
    if "label" not in entry:
        return ""
    places = tuple(folder / file for file in (predictions_name(name), PREDICTIONS))
    path = next((path for path in places if path.is_file()), None)
    if path is None:
        return f"{places[1].name} is not there any more."
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    try:
        head = head_class(entry["kind"])
        config = head.Config(**entry["config"])
        target, known = head.encode_labels(config, [row["label"] or None for row in rows])
    except (
        AtomicaError,
        KeyError,
        TypeError,
    ) as error:  # the head is gone, or has other settings than it had
        return f"the head of kind {entry['kind']} cannot be made as it was: {error}"
    rows = [row for row, there in zip(rows, known.tolist(), strict=True) if there]
    column = "probability" if rows and "probability" in rows[0] else "prediction"
    best = entry.get("best", {}).get(entry.get("judged"))
    based = bool(rows) and best in rows[0]
    return Answers(
        ids=[row["id"] for row in rows],
        texts=[row["label"] for row in rows],
        targets=target[known].numpy(),
        predicted=np.array([json.loads(row[column]) for row in rows], dtype=np.float64),
        classes=class_names(config),
        unit=str(entry["label"]),
        file=path.name,
        baseline=np.array([json.loads(row[best]) for row in rows], dtype=np.float64) if based else None,
    )
