"""The report of the job evaluate."""

from __future__ import annotations

import json

from atomica.report import labelled
from atomica.report.done import Done
from atomica.report.page import Page

# ------------------------------------------------------------------------------------------- evaluate


def page(done: Done, page: Page) -> None:
    path = done.tables.get("evaluation")
    if path is None:
        return
    evaluation = json.loads(path.read_text(encoding="utf-8"))
    page.tiles(labelled.tiles(evaluation))
    part = f", part {evaluation['part']}" if evaluation.get("part") else ""
    labelled.sections(
        page, done.folder, evaluation, "Evaluation", f"The model on {evaluation['data']}{part}."
    )
