"""Charts as SVG text: lines, points, bands, bars. Drawn once, in Python, so that they print and need no script.

Colours are classes (`c0` … `c7` for series, `q0` … `q8` for values from low to high) that the page's style sheet
fills in for light and dark. A script of the page shows the nearest point under the pointer or the arrow keys.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import count

__all__ = ["SERIES", "STEPS", "Chart", "number", "script_json", "ticks"]

SERIES, STEPS = 8, 9
"""How many colours there are for series, and for values from low to high."""

WIDTH, HEIGHT = 400, 276
LEFT, RIGHT, TOP, BOTTOM = 68, 14, 12, 46
LETTERS = 3
"""Of names on an axis that say anything; where there is no room for so many, points alone say what they are."""

_ids = count(1)


def number(value: float | None, digits: int = 4) -> str:
    """A number for a person: significant digits, no exponent where it can be avoided; a dash for none.

    >>> number(0.123456), number(1234567.0), number(3.0), number(float("nan")), number(1e-9)
    ('0.1235', '1,234,567', '3', '–', '1e-09')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}" if abs(value) < 1e15 else f"{value:.{digits}g}"
    return f"{value:.{digits}g}"


def script_json(value: object) -> str:
    """JSON that can stand inside a script element, whatever the text in it says; NaN and infinities are null.

    >>> script_json({"id": "</script>", "x": float("nan")})
    '{"id":"\\\\u003c/script\\\\u003e","x":null}'
    """
    text = json.dumps(_finite(value), separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers between `low` and `high`, about `wanted` of them.

    >>> ticks(0.0, 1.0), ticks(-3.0, 12.0)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 5.0, 10.0])
    """
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((factor * power for factor in (1, 2, 5) if factor * power >= rough * 0.9999), 10 * power)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) + 0.0 for index in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass
class _Series:
    kind: str
    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    high: Sequence[float] = ()
    texts: Sequence[str] = ()
    colours: Sequence[str] = ()


@dataclass
class Chart:
    """A chart that is filled series by series and rendered once.

    title, x_label, y_label: plain text. alt: what the chart shows, for those who cannot see it. x_range, y_range:
    fixed limits instead of those of the data. axes: False for a map, whose coordinates mean nothing. x_names: what
    stands at 0, 1, … instead of these numbers, as far as there is room.
    """

    title: str
    x_label: str
    y_label: str
    alt: str
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    height: int = HEIGHT
    width: int = WIDTH
    axes: bool = True
    x_whole: bool = False
    x_names: Sequence[str] = ()
    note: str = ""
    series: list[_Series] = field(default_factory=list)

    def _colour(self, colour: str | None) -> str:
        named = {one.name for one in self.series if one.name}
        return colour or f"c{len(named) % SERIES}"

    def line(
        self,
        name: str,
        x: Sequence[float],
        y: Sequence[float],
        *,
        colour: str | None = None,
        dashed: bool = False,
        hover: bool = True,
    ) -> None:
        """A line; where y is not finite it is broken. hover: whether its points say what they are."""
        texts = [
            f"{name + ': ' if name else ''}{number(b)} at {number(a)}" for a, b in zip(x, y, strict=True)
        ]
        kind = "dashed" if dashed else "line"
        self.series.append(
            _Series(kind, name, x, y, self._colour(colour), texts=texts if hover and not dashed else ())
        )

    def points(
        self,
        name: str,
        x: Sequence[float],
        y: Sequence[float],
        texts: Sequence[str],
        *,
        colour: str | None = None,
        colours: Sequence[str] = (),
    ) -> None:
        """Points with a text each; `colours` gives each one its own."""
        self.series.append(_Series("points", name, x, y, self._colour(colour), texts=texts, colours=colours))

    def band(
        self, name: str, x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str
    ) -> None:
        """A shaded band between two lines."""
        self.series.append(_Series("band", name, x, low, colour, high=high))

    def whiskers(self, x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str) -> None:
        """Vertical intervals."""
        self.series.append(_Series("whiskers", "", x, low, colour, high=high))

    def bars(
        self, name: str, edges: Sequence[float], counts: Sequence[float], *, colour: str | None = None
    ) -> None:
        """Bars from 0 to the counts, between edges, one more of these than of counts."""
        middles = [(a + b) / 2 for a, b in zip(edges, edges[1:], strict=False)]
        texts = [
            f"{name + ': ' if name else ''}{number(height)} from {number(a)} to {number(b)}"
            for height, a, b in zip(counts, edges, edges[1:], strict=False)
        ]
        self.series.append(
            _Series("bars", name, middles, counts, self._colour(colour), high=edges, texts=texts)
        )

    def columns(
        self, name: str, x: Sequence[float], y: Sequence[float], texts: Sequence[str], *, colour: str
    ) -> None:
        """A thin bar from 0 at each of the whole numbers x, with a text each."""
        self.series.append(_Series("columns", name, x, y, colour, texts=texts))

    # ------------------------------------------------------------------------------------------ drawing

    def _limits(self) -> tuple[tuple[float, float], tuple[float, float]]:
        xs = [v for s in self.series for v in (s.high if s.kind == "bars" else s.x) if math.isfinite(v)]
        xs += [v + side for s in self.series if s.kind == "columns" for v in s.x for side in (-0.5, 0.5)]
        ys = [v for s in self.series for v in s.y if math.isfinite(v)]
        ys += [v for s in self.series if s.kind in ("band", "whiskers") for v in s.high if math.isfinite(v)]
        based = any(s.kind in ("bars", "columns") for s in self.series)
        if based:
            ys.append(0.0)
        flush = self.axes and any(s.kind in ("line", "bars", "columns") for s in self.series)
        x_limits = self.x_range or _padded(xs, 0.0 if flush else 0.04)
        low, high = self.y_range or _padded(ys, 0.04)
        return x_limits, (max(low, 0.0) if based and min(ys) >= 0 else low, high)

    def render(self) -> str:
        """The chart as HTML: a figure with title, legend, picture, and what to show at each point."""
        (x0, x1), (y0, y1) = self._limits()
        left, bottom = (LEFT, BOTTOM) if self.axes else (10, 10)
        across, up = self.width - left - RIGHT, self.height - TOP - bottom

        def at(x: float, y: float) -> tuple[float, float]:
            return left + (x - x0) / (x1 - x0) * across, TOP + (y1 - y) / (y1 - y0) * up

        grid = self._grid(x0, x1, y0, y1, left, bottom) if self.axes else ""
        drawn: list[str] = []
        spots: list[list[float | str]] = []
        for series in self.series:
            drawn.append(_draw(series, at))
            for x, y, text in zip(series.x, series.y, series.texts, strict=False):
                if math.isfinite(x) and math.isfinite(y):
                    px, py = at(x, y)
                    spots.append([round(px, 1), round(py, 1), text])
        name = f"chart-{next(_ids)}"
        clip = (
            f'<clipPath id="{name}-c"><rect x="{left}" y="{TOP}" width="{across}" height="{up}"/></clipPath>'
        )
        note = f'<p class="note">{escape(self.note)}</p>' if self.note else ""
        return (
            f'<figure class="chart"><figcaption id="{name}">{escape(self.title)}</figcaption>{self._legend()}'
            f'<div class="plot" tabindex="0" role="group" aria-labelledby="{name}">'
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-labelledby="{name} {name}-d">'
            f'<desc id="{name}-d">{escape(self.alt)}</desc><defs>{clip}</defs>'
            f'{grid}<g clip-path="url(#{name}-c)">{"".join(drawn)}</g></svg>'
            f'<script type="application/json" class="spots">{script_json(spots)}</script></div>{note}</figure>'
        )

    def _grid(self, x0: float, x1: float, y0: float, y1: float, left: int, bottom: int) -> str:
        right, low = self.width - RIGHT, self.height - bottom
        shapes = []
        for value in ticks(y0, y1):
            y = low - (value - y0) / (y1 - y0) * (low - TOP)
            shapes.append(f'<path class="grid" d="M{left} {y:.1f}H{right}"/>')
            shapes.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>')
        room = max(1, round((right - left) / 7 / max(1, len(self.x_names))))  # letters, of about 7 units
        told = {
            value: number(value) for value in ticks(x0, x1, 6) if not self.x_whole or value == round(value)
        }
        if self.x_names:
            told = {
                at: name if len(name) <= room else f"{name[: room - 1]}…"
                for at, name in enumerate(self.x_names)
            }
        if room < LETTERS and len(self.x_names) > 1:
            told = {}
        for value, text in told.items():
            x = left + (value - x0) / (x1 - x0) * (right - left)
            shapes.append(f'<path class="tick" d="M{x:.1f} {low}v4"/>')
            shapes.append(f'<text x="{x:.1f}" y="{low + 17}" text-anchor="middle">{escape(text)}</text>')
        shapes.append(f'<path class="axis" d="M{left} {low}H{right}"/>')
        middle = (TOP + low) / 2
        shapes.append(
            f'<text class="label" x="{(left + right) / 2:.0f}" y="{self.height - 8}" text-anchor="middle">'
            f"{escape(self.x_label)}</text>"
            f'<text class="label" transform="translate(13 {middle:.0f}) rotate(-90)" text-anchor="middle">'
            f"{escape(self.y_label)}</text>"
        )
        return "".join(shapes)

    def _legend(self) -> str:
        named = {s.name: s for s in self.series if s.name}
        if len(named) < 2:
            return ""
        items = "".join(
            f'<li><span class="swatch {s.colour} {s.kind}"></span>{escape(name)}</li>'
            for name, s in named.items()
        )
        return f'<ul class="legend">{items}</ul>'


def _padded(values: Sequence[float], margin: float) -> tuple[float, float]:
    """Limits around values; never empty."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if not high > low:
        pad = abs(low) * 0.1 or 0.5
        return low - pad, high + pad
    return low - margin * (high - low), high + margin * (high - low)


def _draw(series: _Series, place: Callable[[float, float], tuple[float, float]]) -> str:
    """One series as SVG; `place` turns values into places in the picture."""
    finite = [math.isfinite(x) and math.isfinite(y) for x, y in zip(series.x, series.y, strict=True)]
    if series.kind in ("line", "dashed"):
        path, pen = [], "M"
        for x, y, there in zip(series.x, series.y, finite, strict=True):
            if there:
                px, py = place(x, y)
                path.append(f"{pen}{px:.1f} {py:.1f}")
            pen = "L" if there else "M"
        return f'<path class="{series.kind} {series.colour}" d="{"".join(path)}"/>'
    if series.kind == "points":
        # Points of one colour share a path of strokes without length: a tenth of the size of circles.
        paths: dict[str, list[str]] = {}
        colours = series.colours or [series.colour] * len(series.x)
        for x, y, there, colour in zip(series.x, series.y, finite, colours, strict=True):
            if there:
                px, py = place(x, y)
                paths.setdefault(colour, []).append(f"M{px:.1f} {py:.1f}h0")
        return "".join(
            f'<path class="dots {colour}" d="{"".join(d)}"/>' for colour, d in sorted(paths.items())
        )
    if series.kind == "columns":
        shapes = []
        for x, height in zip(series.x, series.y, strict=True):
            (ax, ay), (bx, by) = place(x - 0.42, height), place(x + 0.42, 0.0)
            shapes.append(f"M{ax:.1f} {by:.1f}V{ay:.1f}H{bx:.1f}V{by:.1f}Z")
        return f'<path class="bars {series.colour}" d="{"".join(shapes)}"/>'
    if series.kind == "bars":
        shapes = []
        for (left, right), height in zip(
            zip(series.high, series.high[1:], strict=False), series.y, strict=True
        ):
            (ax, ay), (bx, by) = place(left, height), place(right, 0.0)
            shapes.append(f"M{ax + 0.5:.1f} {by:.1f}V{ay:.1f}H{max(bx - 0.5, ax + 0.6):.1f}V{by:.1f}Z")
        return f'<path class="bars {series.colour}" d="{"".join(shapes)}"/>'
    if series.kind == "whiskers":
        shapes = []
        for x, low, high in zip(series.x, series.y, series.high, strict=True):
            if math.isfinite(low) and math.isfinite(high):
                (px, a), (_, b) = place(x, low), place(x, high)
                shapes.append(f"M{px:.1f} {a:.1f}V{b:.1f}M{px - 4:.1f} {a:.1f}h8M{px - 4:.1f} {b:.1f}h8")
        return f'<path class="whiskers {series.colour}" d="{"".join(shapes)}"/>'
    edge = [place(x, y) for x, y in zip(series.x, series.high, strict=True)]
    edge += [place(x, y) for x, y in zip(series.x, series.y, strict=True)][::-1]
    points = " ".join(f"{px:.1f},{py:.1f}" for px, py in edge)
    return f'<polygon class="band {series.colour}" points="{points}"/>'
