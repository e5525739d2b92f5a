"""The report of the job predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from atomica.analysis.bfactors import STRUCTURES, file_of, stems
from atomica.report.done import Done
from atomica.report.page import Column, Page
from atomica.report.svg import Chart, number
from atomica.report.viewer import Structure, viewer

LABELS = ("row", "modality", "source_path", "ligand_path", "ligand_index")
"""Columns of the table that a page has no room for."""
MOST_ROWS = 20_000
"""Rows that are read for a page; all are in the table's file."""
MOST_SEQUENCES, MOST_STRUCTURES = 12, 8
"""Complexes whose blocks are drawn along the sequence, and on the structure."""
LARGEST_STRUCTURE = 1_500_000
"""Bytes of a structure file that a page should hold."""


def page(done: Done, page: Page) -> None:
    """What the heads say: how it is spread, how far from the training complexes, and of each complex and block."""
    path = done.tables.get("predictions")
    if path is None:
        return
    table = _head(pq.ParquetFile(path), MOST_ROWS)
    if not table.num_rows:
        return
    page.section("Predictions", "What the model says; nothing is known here of how well it fits.")
    units = {
        name.removeprefix("head "): one.get("unit", "")
        for name, one in done.figures.items()
        if isinstance(one, dict)
    }
    alone = next(iter(units.values()), "")
    for name in table.column_names:
        page.charts(_spread(name, table.column(name), units.get(name.rpartition("/")[0], alone)))
    columns = [
        Column(name, table.column(name).to_pylist(), _HELP.get(name, ""))
        for name in table.column_names
        if name not in LABELS
    ]
    page.table(columns, "Complexes, in the order of the data", name="predictions.csv", whole=path.name)
    blocks = done.tables.get("blocks")
    if blocks is not None:
        _blocks(done, page, pq.ParquetFile(blocks))


_HELP = {
    "spread": "standard deviation over the members",
    "nearest_training": "the nearest of the complexes that the model has learnt from",
    "distance": "to the nearest training complex, between principal components",
    "percentile": "share of the training complexes that are nearer to their own nearest neighbour; near 100: far from "
    "all that was learnt from",
}
_COUNTED = ("probability", "prediction", "predicted", "percentile")


def _head(file: pq.ParquetFile, rows: int) -> pa.Table:
    batches = next(file.iter_batches(rows), None)
    return file.schema_arrow.empty_table() if batches is None else pa.Table.from_batches([batches])


def _spread(name: str, column: pa.ChunkedArray, unit: str) -> list[Chart]:
    """How often the values of a column of answers come; of other columns nothing."""
    last = name.rpartition("/")[2]
    if last not in _COUNTED:
        return []
    label = f"{name}, {unit}" if unit and last == "prediction" else name
    chart = Chart(name, label, "complexes", f"How often the values of {name} come.")
    if pa.types.is_string(column.type):
        counts = column.value_counts().to_pylist()
        counts.sort(key=lambda one: -one["counts"])
        texts = [f"{one['values'] or 'none'}: {one['counts']}" for one in counts]
        places = list(range(len(counts)))
        chart.x_names = [str(one["values"] or "none") for one in counts]
        chart.columns("", places, [one["counts"] for one in counts], texts, colour="c0")
        return [chart]
    values = column.to_numpy()
    counts, edges = np.histogram(values, bins=min(30, max(5, int(len(values) ** 0.5))))
    chart.bars("", edges.tolist(), counts.tolist())
    return [chart]


def _blocks(done: Done, page: Page, file: pq.ParquetFile) -> None:
    """What heads on blocks say, along the sequence, on the structure, and as a table."""
    table = _head(file, MOST_ROWS)
    found = {name: table.column(name).to_pylist() for name in table.column_names}
    said = next((n for n in found if n.rpartition("/")[2] in ("probability", "prediction")), None)
    rows: dict[int, list[int]] = {}
    for index, row in enumerate(found["row"]):
        rows.setdefault(row, []).append(index)
    page.section("Along the sequence" if said else "Blocks", "What is said of each block.")
    where = ""
    if said is not None:
        for mine in list(rows.values())[:MOST_SEQUENCES]:
            page.wide(_sequence(found, said, mine))
        if len(rows) > MOST_SEQUENCES:
            page.text(f"The first {MOST_SEQUENCES} of {len(rows)} complexes; the table has all.", "note")
        shown = _structures(done, found, said, rows)
        if shown:
            page.section("Structure")
            values = [value for one in shown for *_, value in one.values]
            where = viewer(page, shown, said, min(values), max(values), {})
    columns = [Column(name, values) for name, values in found.items() if name not in ("row", "block")]
    page.table(columns, "Blocks", name="blocks.csv", whole="blocks.parquet", pick=where)


def _sequence(found: Mapping[str, list[Any]], said: str, mine: Sequence[int]) -> Chart:
    title = str(found["id"][mine[0]])
    chart = Chart(
        title,
        "block, in the order of the chains",
        said,
        f"What is said of each block of {title}.",
        width=1000,
        height=220,
    )
    chains: dict[str, list[int]] = {}
    for place, index in enumerate(mine):
        chains.setdefault(f"chain {found['chain'][index]}", []).append(place)
    for rank, (chain, places) in enumerate(chains.items()):
        values = [float(found[said][mine[place]]) for place in places]
        texts = [
            f"{found['component'][mine[p]]} {found['chain'][mine[p]]}:{found['resnum'][mine[p]]}"
            f"{found['icode'][mine[p]] or ''}\n{number(value)}"
            for p, value in zip(places, values, strict=True)
        ]
        chart.columns(chain, places, values, texts, colour=f"c{rank % 7}")
    return chart


def _structures(
    done: Done, found: Mapping[str, list[Any]], said: str, rows: Mapping[int, Sequence[int]]
) -> list[Structure]:
    """As many of the structures as a page should hold."""
    folder = done.folder / STRUCTURES
    if "/" in said:
        folder = folder / said.partition("/")[0]
    shown: list[Structure] = []
    ids = [str(found["id"][mine[0]]) for mine in rows.values()]
    for (_, mine), name, stem in zip(rows.items(), ids, stems(ids, list(rows)), strict=True):
        path = file_of(folder, stem)
        if path is None or path.suffix == ".bcif" or path.stat().st_size > LARGEST_STRUCTURE:
            continue
        values = [
            (
                str(found["chain"][i]),
                int(found["resnum"][i]),
                str(found["icode"][i] or ""),
                float(found[said][i]),
            )
            for i in mine
        ]
        text = path.read_text(encoding="utf-8", errors="replace")
        shown.append(Structure(name, text, path.suffix[1:], values, {}, f"{len(values)} blocks"))
        if len(shown) == MOST_STRUCTURES:
            break
    return shown
