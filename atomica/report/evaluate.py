"""The report of the job evaluate."""

from __future__ import annotations

import json

from atomica.report import labelled
from atomica.report.done import Done
from atomica.report.page import Page


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
