"""The report of the job probe."""

from __future__ import annotations

import json

from atomica.report import labelled
from atomica.report.done import Done
from atomica.report.page import Page
from atomica.report.svg import number


def page(done: Done, page: Page) -> None:
    """The probe beside its controls, what the difference is worth, and the plots of its predictions."""
    path = done.tables.get("evaluation")
    if path is None:
        return
    evaluation = json.loads(path.read_text(encoding="utf-8"))
    page.tiles(labelled.tiles(evaluation))
    entry = evaluation["heads"]["probe"]
    names = list(entry["metrics"])
    page.section("Arms", "The same probe on the vectors, on counts of block types, and on random weights.")
    rows = []
    for name, arm in entry["arms"].items():
        rows.append(
            [f"{name}, ensemble of {arm['models']}", *(number(arm["ensemble"][one], 3) for one in names)]
        )
        if arm["models"] > 1:
            each = [
                f"{number(arm['single'][one]['mean'], 3)} ± {number(arm['single'][one]['sd'], 2)}"
                for one in names
            ]
            rows.append([f"{name}, one model, mean ± deviation", *each])
    page.small_table(["", *names], rows, f"On {entry['complexes']} complexes, {evaluation['split']}")
    if entry["curve"]:
        lines = [
            [
                f"{count} rows, {name}",
                *(f"{number(arm[one]['mean'], 3)} ± {number(arm[one]['sd'], 2)}" for one in names),
            ]
            for count, arms in entry["curve"].items()
            for name, arm in arms.items()
            if name != "difference"
        ]
        page.small_table(["", *names], lines, "From few labelled rows, mean ± deviation over draws")
    for name, test in entry["tests"].items():
        page.text(f"Against {name}: {test['verdict']}")
        if "mcnemar" in test:
            page.text(f"McNemar's exact test of right and wrong: p = {number(test['mcnemar'], 2)}.", "note")
    labelled.sections(
        page,
        done.folder,
        evaluation,
        "Probe",
        f"Frozen vectors of {evaluation['data']}, probed for {entry['label']}.",
    )
