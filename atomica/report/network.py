"""The report of the job network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from atomica.report import maps
from atomica.report.done import Done, embeddings, labels_of, number_or_text, rows
from atomica.report.page import Column, Page
from atomica.report.svg import Chart

MAP_EDGES = 3000


def page(done: Done, page: Page) -> None:
    """Map, similarities, groups and components of the network, and a table of its complexes."""
    nodes, edges = (pq.read_table(done.tables[name]).to_pydict() for name in ("nodes", "edges"))
    page.section("Network", "Two complexes are joined if one is among the most similar of the other.")
    _map(done, page, nodes, edges)
    charts = []
    if edges["cosine"]:
        counts, borders = np.histogram(edges["cosine"], 30)
        chart = Chart(
            "Similarity",
            "cosine of joined complexes",
            "edges",
            "Histogram of the cosines of edges.",
            height=230,
        )
        chart.bars("", borders.tolist(), counts.tolist(), colour="c0")
        charts.append(chart)
    if nodes["degree"]:
        degrees = Counter(nodes["degree"])
        chart = Chart(
            "Neighbours",
            "neighbours of a complex",
            "complexes",
            "Complexes by number of neighbours.",
            height=230,
        )
        top = max(degrees)
        size = max(1, -(-(top + 1) // 40))
        borders_ = [low - 0.5 for low in range(0, top + size + 1, size)]
        chart.bars("", borders_, np.histogram(nodes["degree"], borders_)[0].tolist(), colour="c0")
        charts.append(chart)
    page.charts(charts)
    for name, title, caption in (
        ("groups", "Groups", "Groups of entities, and whether they are more connected than chance"),
        ("components", "Components", "Connected components of at least two complexes, the largest first"),
    ):
        path = done.tables.get(name)
        if path is not None:
            found = rows(path)
            if found:
                page.section(title)
                columns = [Column(key, [_typed(row[key], key) for row in found]) for key in found[0]]
                page.table(columns, caption, name=path.name, whole=path.name)
    page.section("Complexes")
    columns = [Column(key, nodes[key]) for key in ("id", "modality", "entity", "degree", "component")]
    columns.append(Column("groups", ["; ".join(one) for one in nodes["groups"]]))
    page.table(
        columns, "Complexes; component 0 is the largest of its kind", name="nodes.csv", whole="nodes.parquet"
    )


def _typed(text: str, key: str) -> float | str | None:
    return text if key in ("modality", "group", "ids") else number_or_text(text)


def _map(done: Done, page: Page, nodes: Mapping[str, list[Any]], edges: Mapping[str, list[Any]]) -> None:
    """A map of the embeddings with the edges, if their file is still there."""
    named = Path(str(done.spec["network"]["embeddings"]))
    path = named / "complexes.parquet" if named.is_dir() else named
    if not path.is_file():
        return
    table = pq.read_table(path)
    ids = [str(name) for name in table.column("id").to_pylist()]
    place = {name: index for index, name in enumerate(ids)}
    component: list[str | None] = [None] * len(ids)
    several = len(set(nodes["modality"])) > 1
    sizes = Counter(zip(nodes["modality"], nodes["component"], strict=True))
    for name, kind, number_ in zip(nodes["id"], nodes["modality"], nodes["component"], strict=True):
        if name in place and sizes[kind, number_] > 1:
            component[place[name]] = f"{kind} {number_}" if several else f"component {number_}"
    joined = [
        (place[a], place[b])
        for a, b in zip(edges["source"], edges["target"], strict=True)
        if a in place and b in place
    ]
    if len(joined) > MAP_EDGES:
        strongest = np.argsort(-np.array(edges["cosine"]), kind="stable")[:MAP_EDGES]
        joined = [joined[i] for i in strongest.tolist() if i < len(joined)]
        page.text(f"The map shows the {MAP_EDGES:,} strongest of {len(edges['cosine']):,} edges.", "note")
    texts = [f"{name}\n{kind or ''}" for name, kind in zip(ids, component, strict=True)]
    maps.draw(page, embeddings(table), texts, {"component": component, **labels_of(table)}, joined)
