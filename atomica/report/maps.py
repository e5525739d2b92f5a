"""Two-dimensional maps of embeddings: UMAP where umap-learn is installed, else the two main components."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from atomica.report.page import Page
from atomica.report.svg import SERIES, STEPS, Chart, number

__all__ = ["draw", "embedded", "principal"]

Floats = npt.NDArray[np.float64]

MOST = 20_000
"""Points of a map; of more complexes as many are drawn by lot."""

LEAST_FOR_UMAP = 15
"""Complexes below which there is no neighbourhood to speak of."""

MOST_COLOURINGS = 4


def principal(values: Floats) -> tuple[Floats, str]:
    """The two main components [N, 2] of rows [N, H], and how much of the variance they show.

    >>> places, how = principal(np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]]))
    >>> np.abs(places[:, 0]).round(6).tolist(), how
    ([1.0, 0.0, 1.0], 'Principal components: 100% and 0% of the variance')
    """
    centred = values - values.mean(axis=0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(values), 2))
    shares = np.zeros(2)
    count = min(2, len(scale))
    places[:, :count] = left[:, :count] * scale[:count]
    total = float((scale**2).sum())
    if total > 0:
        shares[:count] = scale[:count] ** 2 / total
    return places, f"Principal components: {shares[0]:.0%} and {shares[1]:.0%} of the variance"


def embedded(values: Floats) -> tuple[Floats, str]:
    """Places on the map [N, 2], and how they were found. UMAP's are the same for the same rows."""
    if len(values) >= LEAST_FOR_UMAP and importlib.util.find_spec("umap") is not None:
        import umap

        reducer = umap.UMAP(n_neighbors=min(15, len(values) - 1), metric="cosine", random_state=0, n_jobs=1)
        return np.asarray(reducer.fit_transform(values), dtype=np.float64), (
            "UMAP of the cosine distances, 15 neighbours; distances between far groups mean little"
        )
    return principal(values)


def draw(
    page: Page,
    embeddings: Floats,
    texts: Sequence[str],
    colourings: Mapping[str, Sequence[str | None]],
    edges: Sequence[tuple[int, int]] = (),
) -> None:
    """Add a map for each way to colour it, or one in a single colour.

    embeddings [N, H]. texts: what is shown at a point. colourings: name → a value per complex; numbers get colours
    from low to high, anything else one for each of the most frequent values. edges: pairs of points to be joined.
    """
    kept = np.arange(len(embeddings))
    if len(kept) > MOST:
        kept = np.sort(np.random.default_rng(0).choice(len(kept), MOST, replace=False))
    places, how = embedded(embeddings[kept])
    if len(kept) < len(embeddings):
        how += f"; {MOST:,} of {len(embeddings):,} complexes, drawn by lot"
    x, y = places[:, 0].tolist(), places[:, 1].tolist()
    positions = kept.tolist()
    shown = [texts[i] for i in positions]
    useful = {
        name: [values[i] for i in positions] for name, values in colourings.items() if len(set(values)) > 1
    }
    charts = []
    for name, values in list(useful.items())[:MOST_COLOURINGS] or [("", [])]:
        title = f"Embeddings, coloured by {name}" if name else "Embeddings"
        alt = f"A map of {len(kept)} complexes; near ones have similar embeddings. {how}."
        chart = Chart(title, "", "", alt, axes=False, width=520, height=400, note=f"{how}.")
        lines = _lines(edges, kept, x, y)
        if lines[0]:
            chart.line("", *lines, colour="c7", hover=False)
        _points(chart, x, y, shown, values)
        charts.append(chart)
    page.charts(charts, large=True)


def _lines(
    edges: Sequence[tuple[int, int]], kept: npt.NDArray[np.int64], x: list[float], y: list[float]
) -> tuple[list[float], list[float]]:
    """Edges as one broken line."""
    place = {int(index): at for at, index in enumerate(kept)}
    xs: list[float] = []
    ys: list[float] = []
    for one, other in edges:
        if one in place and other in place:
            a, b = place[one], place[other]
            xs += [x[a], x[b], np.nan]
            ys += [y[a], y[b], np.nan]
    return xs, ys


def _points(
    chart: Chart, x: list[float], y: list[float], texts: Sequence[str], values: Sequence[str | None]
) -> None:
    numbers = _numbers(values)
    if numbers is not None:
        low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
        steps = np.clip((numbers - low) / (high - low) * STEPS, 0, STEPS - 1)
        colours = ["c7" if not np.isfinite(step) else f"q{int(step)}" for step in steps]
        chart.points("", x, y, texts, colours=colours)
        chart.note += f" Pale is {number(low)}, strong {number(high)}."
        return
    if not values:
        chart.points("", x, y, texts, colour="c0")
        return
    frequent = [value for value, _ in Counter(v for v in values if v).most_common(SERIES - 1)]
    groups: dict[str, list[int]] = {}
    for index, value in enumerate(values):
        name = "none" if not value else value if value in frequent else "others"
        groups.setdefault(name, []).append(index)
    for rank, name in enumerate([*frequent, "others", "none"]):
        if name in groups:
            mine = groups[name]
            colour = f"c{rank}" if name in frequent else "c7"
            chart.points(
                name, [x[i] for i in mine], [y[i] for i in mine], [texts[i] for i in mine], colour=colour
            )


def _numbers(values: Sequence[str | None]) -> Floats | None:
    """The values as numbers, NaN where there is none; None if they are texts or few."""
    known = [value for value in values if value]
    if len(set(known)) <= SERIES:
        return None
    try:
        found = np.array([float(value) if value else np.nan for value in values])
    except ValueError:
        return None
    return found if np.isfinite(found).sum() > SERIES and np.nanmax(found) > np.nanmin(found) else None
