"""One HTML page that needs nothing but itself: text, facts, charts, tables, structures.

Callers pass plain text; the templates in `assets` escape it, all of it. The page allows its own scripts, named by their
hashes, and no request at all (Content-Security-Policy), so that even text that got in unescaped could neither run
nor send anything.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from atomica.files import write_text
from atomica.report.svg import Chart, number, script_json

__all__ = ["ROWS", "Column", "Page", "asset"]

ROWS = 5000
"""Rows of a table that a page holds at most; it says so where there are more, and where all of them are."""

FIRST = 25
"""Rows that are shown at once, and without scripts."""


@dataclass(frozen=True)
class Column:
    """A column of a table: heading, and one value per row, text or number or None."""

    name: str
    values: Sequence[Any]
    help: str = ""

    @property
    def numeric(self) -> bool:
        """Whether all its values are numbers, or none."""
        return all(value is None or isinstance(value, int | float) for value in self.values)


@dataclass
class _Section:
    """What stands below a heading: names of macros of `pieces.html` with their arguments."""

    ident: str
    title: str
    pieces: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


@dataclass
class Page:
    """A page that is filled from top to bottom and written once.

    title: what it is about. kind: what sort of report. lead: a sentence below the title. status: "", or a word with
    a colour: "done", "interrupted", "failed".
    """

    title: str
    kind: str
    lead: str = ""
    status: str = ""
    scripts: list[str] = field(default_factory=list)
    _sections: list[_Section] = field(default_factory=list)
    _names: int = 0

    # -------------------------------------------------------------------------------------------- content

    def section(self, title: str, text: str = "") -> None:
        """Begin a section, which the navigation lists."""
        self._sections.append(_Section(f"s{len(self._sections) + 1}", title))
        if text:
            self.text(text)

    def add(self, piece: str, **values: Any) -> None:
        """Add what a macro of `pieces.html` makes of the values."""
        if not self._sections:
            self._sections.append(_Section("", ""))
        self._sections[-1].pieces.append((piece, values))

    def name(self, kind: str) -> str:
        """An id that no other element of the page has."""
        self._names += 1
        return f"{kind}{self._names}"

    def subtitle(self, text: str) -> None:
        """A heading within a section."""
        self.add("subtitle", text=text)

    def text(self, text: str, kind: str = "") -> None:
        """A paragraph; kind "warn" sets it off, "note" makes it small."""
        self.add("text", text=text, kind=kind)

    def listing(self, lines: Sequence[str]) -> None:
        """A list of sentences."""
        self.add("listing", lines=lines)

    def tiles(self, facts: Sequence[tuple[str, str, str]]) -> None:
        """The few figures that matter: (name, value, what stands below in small)."""
        self.add("tiles", facts=facts)

    def facts(self, facts: Sequence[tuple[str, str]]) -> None:
        """Names and values, one below the other."""
        self.add("facts", facts=facts)

    def charts(self, charts: Sequence[Chart], *, large: bool = False) -> None:
        """Charts beside one another, as many as fit; of large ones two. They join those right before them."""
        kind = "charts large" if large else "charts"
        before = self._sections[-1].pieces[-1:] if self._sections else []
        if before and before[0][0] == "charts" and before[0][1]["kind"] == kind:
            before[0][1]["charts"].extend(charts)
        elif charts:
            self.add("charts", charts=list(charts), kind=kind)

    def wide(self, chart: Chart) -> None:
        """A chart as wide as the page."""
        self.add("charts", charts=[chart], kind="wide")

    def code(self, text: str, caption: str) -> None:
        """Text as it is, folded away."""
        self.add("code", text=text, caption=caption)

    def matrix(self, names: Sequence[str], counts: Sequence[Sequence[int]], caption: str) -> None:
        """A confusion matrix: rows are the true classes, columns the predicted ones; shaded by share of the row."""
        self.add("matrix", names=names, counts=counts, caption=caption)

    def small_table(self, head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> None:
        """A table of a few rows that is only read; the first column names the rows."""
        self.add("small_table", head=head, rows=rows, caption=caption)

    def table(
        self, columns: Sequence[Column], caption: str, *, name: str, whole: str = "", pick: str = ""
    ) -> None:
        """A table that sorts, filters, turns pages and can be saved as CSV.

        name: of the CSV file. whole: the file that has all rows, named if the page cannot hold them. pick: what a
        chosen row is shown in (the id of a viewer).
        """
        total = len(columns[0].values) if columns else 0
        if total > ROWS:
            where = f"; all of them are in {whole}" if whole else ""
            caption = f"{caption} (the first {ROWS:,} of {total:,}{where})"
        rows = list(zip(*(column.values[:ROWS] for column in columns), strict=True))
        data = {
            "name": name,
            "columns": [column.name for column in columns],
            "numeric": [column.numeric for column in columns],
            "rows": rows,
            "pick": pick,
        }
        self.add(
            "table", ident=self.name("t"), columns=columns, first=rows[:FIRST], caption=caption, data=data
        )

    def versions(self, found: Mapping[str, Any]) -> None:
        """Hardware and versions, as `environment.describe` finds them."""
        facts = [(key, str(found[key])) for key in ("started", "device") if key in found]
        facts += [
            (
                name.replace("_gib", ", GiB"),
                ", ".join(map(str, value)) if isinstance(value, list) else str(value),
            )
            for name, value in found.get("hardware", {}).items()
        ]
        self.facts(facts)
        listed = [[name, str(version)] for name, version in found.get("versions", {}).items()]
        self.small_table(["package", "version"], listed, "Versions")

    # -------------------------------------------------------------------------------------------- writing

    def html(self) -> str:
        """The whole page."""
        return (
            _templates()
            .get_template("page.html")
            .render(
                title=self.title,
                kind=self.kind,
                lead=self.lead,
                status=self.status,
                sections=self._sections,
                style=asset("page.css"),
                scripts=[asset("page.js"), *self.scripts],
                unpacks=bool(self.scripts),  # NGL is unpacked in the page and loaded from a blob
            )
        )

    def write(self, path: Path) -> None:
        """Write the page, whole or not at all."""
        write_text(path, self.html())


@cache
def _templates() -> Environment:
    found = Environment(
        loader=PackageLoader("atomica.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(number=number, cell=_cell, json=_json, sha256=_sha256)
    return found


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    return "" if value is None else str(value)


def _json(value: object) -> Markup:
    return Markup(script_json(value))


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def asset(name: str) -> str:
    """A text file that lies beside this one."""
    return files("atomica.report").joinpath("assets", name).read_text(encoding="utf-8")
