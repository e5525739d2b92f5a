"""The report of the job annotate."""

from __future__ import annotations

import numpy as np

from atomica.report.done import Done, figure, number_or_text, rows
from atomica.report.page import Column, Page
from atomica.report.svg import Chart


def page(done: Done, page: Page) -> None:
    """Classes with their thresholds, and what was called for every pocket."""
    path = done.tables["pockets"]
    pockets = rows(path)
    thresholds = done.figures.get("thresholds", {})
    called = done.figures.get("called", {})
    page.section(
        "Classes", "A class is called where the mean probability of its members reaches its threshold."
    )
    names = ("threshold", "members", "rule", "pockets", "precision", "recall", "f1")
    page.small_table(
        ["class", "called", *names[:4], *names[4:]],
        [
            [name, str(called.get(name, 0)), *(figure(rule.get(key, "–")) for key in names)]
            for name, rule in thresholds.items()
        ],
        "Classes, how many pockets they were called for, and where their thresholds come from",
    )
    if not pockets:
        return
    charts = []
    for name, rule in thresholds.items():
        values = [float(row[f"P({name})"]) for row in pockets]
        chart = Chart(
            name,
            f"mean probability of {name}",
            "pockets",
            f"Histogram of the probability of {name}, and its threshold.",
            x_range=(0, 1),
            height=230,
        )
        counts, edges = np.histogram(values, np.linspace(0, 1, 26))
        chart.bars("pockets", edges.tolist(), counts.tolist(), colour="c0")
        top = float(counts.max()) * 1.05
        chart.line("threshold", [rule["threshold"]] * 2, [0, top], colour="c1", dashed=True)
        charts.append(chart)
    page.charts(charts)
    page.section("Pockets")
    columns = [
        Column(key, [number_or_text(row[key]) if key.startswith("P(") else row[key] for row in pockets])
        for key in pockets[0]
    ]
    page.table(columns, "Pockets with the classes that were called", name="annotations.csv", whole=path.name)
