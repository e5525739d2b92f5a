"""The report of the job evaluate."""

from __future__ import annotations

import json

from atomica.report import labelled
from atomica.report.done import Done
from atomica.report.page import Page
from atomica.report.svg import number


def page(done: Done, page: Page) -> None:
    """Metrics and plots of every head."""
    path = done.tables.get("evaluation")
    if path is None:
        return
    evaluation = json.loads(path.read_text(encoding="utf-8"))
    page.tiles(labelled.tiles(evaluation))
    split = f", split {evaluation['split']}" if evaluation.get("split") else ""
    labelled.sections(
        page, done.folder, evaluation, "Evaluation", f"The model on {evaluation['data']}{split}."
    )
    for name, entry in evaluation["heads"].items():
        if "single" in entry:
            rows = [
                [
                    metric,
                    f"{number(one['mean'], 3)} ± {number(one['sd'], 2)}",
                    number(entry["metrics"][metric], 3),
                ]
                for metric, one in entry["single"].items()
            ]
            heads = ["metric", "one model, mean ± deviation", "together"]
            page.small_table(heads, rows, f"{name}: {len(entry['members'])} models")
        if "blend" in entry:
            page.text(f"Blended with other predictions, weight of the model {entry['blend']['weight']:g}.")
            labelled.comparison(page, entry["blend"], "the blend")
