"""The report of the job embed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from atomica.report import maps
from atomica.report.done import Done, embeddings, labels_of
from atomica.report.page import Column, Page


def page(done: Done, page: Page) -> None:
    """A map of the complexes, and a table of them."""
    path = done.tables.get("complexes")
    if path is None:
        return
    table = pq.read_table(path)
    if not table.num_rows:
        return
    ids = [str(name) for name in table.column("id").to_pylist()]
    modality, labels = table.column("modality").to_pylist(), labels_of(table)
    values = embeddings(table)
    page.section(
        "Map", "Each point is a complex; point at it to see which. Near points have similar embeddings."
    )
    texts = [
        "\n".join(
            [name, str(kind or ""), *(f"{key}: {column[i]}" for key, column in labels.items() if column[i])]
        )
        for i, (name, kind) in enumerate(zip(ids, modality, strict=True))
    ]
    maps.draw(
        page,
        values,
        texts,
        {**labels, "kind of interface": modality, "split": table.column("split").to_pylist()},
    )
    page.section("Complexes")
    columns = [Column("id", ids), Column("kind", modality)]
    columns += [Column(name, column) for name, column in labels.items()]
    columns += [Column(name, table.column(name).to_pylist()) for name in ("blocks", "atoms")]
    nearest = _nearest(values)
    if nearest is not None:
        columns += [
            Column("nearest", [ids[i] for i in nearest[0]], "the complex with the most similar embedding"),
            Column("cosine", nearest[1].tolist(), "cosine between the two embeddings"),
        ]
    page.table(columns, "Complexes that were embedded", name="complexes.csv", whole=path.name)


def _nearest(values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]] | None:
    """The most similar other row of each, and the cosine; None where there are none, or too many to compare."""
    if not 2 <= len(values) <= 5000:
        return None
    unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    best = cosine.argmax(axis=1)
    return best, cosine[np.arange(len(unit)), best]
