"""One HTML page that needs nothing but itself: text, facts, charts, tables, structures.

All text is escaped here and nowhere else; callers pass plain text. The page allows its own scripts, named by their
hashes, and no request at all (Content-Security-Policy), so that even text that got in unescaped could neither run
nor send anything.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from atomica.files import write_text
from atomica.report.svg import Chart, number, script_json

__all__ = ["REPORT", "ROWS", "Column", "Page", "asset"]

REPORT = "report.html"
"""The page of a run, in its folder."""

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
    viewers: int = 0
    _body: list[str] = field(default_factory=list)
    _sections: list[tuple[str, str]] = field(default_factory=list)
    _tables: int = 0
    _open: bool = False

    # -------------------------------------------------------------------------------------------- content

    def section(self, title: str, text: str = "") -> None:
        """Begin a section, which the navigation lists."""
        self._close()
        name = f"s{len(self._sections) + 1}"
        self._sections.append((name, title))
        self._body.append(
            f'<section id="{name}" aria-labelledby="{name}-h"><h2 id="{name}-h">{escape(title)}</h2>'
        )
        self._open = True
        if text:
            self.text(text)

    def _close(self) -> None:
        if self._open:
            self._body.append("</section>")
            self._open = False

    def subtitle(self, text: str) -> None:
        """A heading within a section."""
        self._body.append(f"<h3>{escape(text)}</h3>")

    def text(self, text: str, kind: str = "") -> None:
        """A paragraph; kind "warn" sets it off, "note" makes it small."""
        self._body.append(f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>")

    def listing(self, lines: Sequence[str]) -> None:
        """A list of sentences."""
        self._body.append("<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>")

    def tiles(self, facts: Sequence[tuple[str, str, str]]) -> None:
        """The few figures that matter: (name, value, what stands below in small)."""
        items = "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(more)}</small></dd></div>"
            for name, value, more in facts
        )
        self._body.append(f'<dl class="tiles">{items}</dl>')

    def facts(self, facts: Sequence[tuple[str, str]]) -> None:
        """Names and values, one below the other."""
        items = "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts
        )
        self._body.append(f'<dl class="facts">{items}</dl>')

    def charts(self, charts: Sequence[Chart], *, large: bool = False) -> None:
        """Charts beside one another, as many as fit; of large ones two. They join those right before them."""
        if not charts:
            return
        start = f'<div class="{"charts large" if large else "charts"}">'
        drawn = "".join(chart.render() for chart in charts)
        if self._body and self._body[-1].startswith(start):
            drawn = self._body.pop().removeprefix(start).removesuffix("</div>") + drawn
        self._body.append(f"{start}{drawn}</div>")

    def wide(self, chart: Chart) -> None:
        """A chart as wide as the page."""
        self._body.append(f'<div class="wide">{chart.render()}</div>')

    def code(self, text: str, caption: str) -> None:
        """Text as it is, folded away."""
        self._body.append(
            f'<details><summary>{escape(caption)}</summary><pre tabindex="0">{escape(text)}</pre></details>'
        )

    def matrix(self, names: Sequence[str], counts: Sequence[Sequence[int]], caption: str) -> None:
        """A confusion matrix: rows are the true classes, columns the predicted ones; shaded by share of the row."""
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
        rows = []
        for name, row in zip(names, counts, strict=True):
            total = sum(row)
            cells = []
            for other, value in zip(names, row, strict=True):
                share = value / total if total else 0.0
                hit = "hit" if other == name else "miss"
                cells.append(
                    f'<td class="{hit}" style="--share:{share:.3f}" title="{share:.0%} of {escape(name)}">{value}</td>'
                )
            rows.append(
                f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}<td class="sum">{total}</td></tr>'
            )
        self._body.append(
            f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(caption)}"><table class="matrix">'
            f"<caption>{escape(caption)}</caption><thead><tr><th>true ↓ predicted →</th>{head}"
            f'<th scope="col">all</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        )

    def small_table(self, head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> None:
        """A table of a few rows that is only read; the first column names the rows."""
        top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
        body = "".join(
            f'<tr><th scope="row">{escape(row[0])}</th>'
            + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
            + "</tr>"
            for row in rows
        )
        self._body.append(
            f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(caption)}"><table class="small">'
            f"<caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def table(
        self, columns: Sequence[Column], caption: str, *, name: str, whole: str = "", pick: str = ""
    ) -> None:
        """A table that sorts, filters, turns pages and can be saved as CSV.

        name: of the CSV file. whole: the file that has all rows, named if the page cannot hold them. pick: what a
        chosen row is shown in (the id of a viewer).
        """
        total = len(columns[0].values) if columns else 0
        rows = list(zip(*(column.values[:ROWS] for column in columns), strict=True))
        self._tables += 1
        ident = f"t{self._tables}"
        if total > ROWS:
            where = f"; all of them are in {whole}" if whole else ""
            caption = f"{caption} (the first {ROWS:,} of {total:,}{where})"
        numeric = [column.numeric for column in columns]
        head = "".join(
            f'<th scope="col" aria-sort="none"{_class("num" if is_number else "")}><button type="button" '
            f'title="{escape(column.help or "sort by " + column.name)}">{escape(column.name)}</button></th>'
            for column, is_number in zip(columns, numeric, strict=True)
        )
        body = "".join(
            "<tr>"
            + "".join(
                f"<td{_class('num' if is_number else '')}>{escape(_cell(value))}</td>"
                for value, is_number in zip(row, numeric, strict=True)
            )
            + "</tr>"
            for row in rows[:FIRST]
        )
        data = {
            "name": name,
            "columns": [c.name for c in columns],
            "numeric": numeric,
            "rows": rows,
            "pick": pick,
        }
        self._body.append(
            f'<div class="table" id="{ident}"><div class="tools"><label>Filter '
            f'<input type="search" placeholder="text, or column&gt;number" aria-controls="{ident}-b"></label>'
            f'<span class="count" role="status"></span><span class="pager"><button type="button" class="back" '
            'aria-label="previous rows">‹</button><button type="button" class="on" aria-label="next rows">›</button>'
            '</span><button type="button" class="csv">Save as CSV</button></div>'
            f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(caption)}"><table>'
            f'<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody id="{ident}-b">{body}</tbody>'
            f'</table></div><script type="application/json">{script_json(data)}</script></div>'
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

    def raw(self, html: str) -> None:
        """HTML that the caller has escaped."""
        self._body.append(html)

    # -------------------------------------------------------------------------------------------- writing

    def html(self) -> str:
        """The whole page."""
        self._close()
        scripts = [asset("page.js"), *self.scripts]
        hashes = " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
            for script in scripts
        )
        # NGL is unpacked in the page and loaded from a blob.
        blob = " blob:" if self.scripts else ""
        policy = (
            f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src {hashes}{blob}"
        )
        links = "".join(f'<li><a href="#{name}">{escape(title)}</a></li>' for name, title in self._sections)
        status = (
            f'<span class="status {escape(self.status)}">{escape(self.status)}</span>' if self.status else ""
        )
        lead = f'<p class="lead">{escape(self.lead)}</p>' if self.lead else ""
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
            f"<title>{escape(self.title)} · {escape(self.kind)} · Atomica</title>"
            f"<style>{asset('page.css')}</style></head>"
            f'<body><a class="skip" href="#main">Skip to content</a><header><div><p class="kind">Atomica · '
            f"{escape(self.kind)}</p><h1>{escape(self.title)} {status}</h1>{lead}</div>"
            '<button type="button" id="theme" aria-label="switch between light and dark">◐</button></header>'
            f'<nav aria-label="sections"><ul>{links}</ul></nav><main id="main">{"".join(self._body)}</main>'
            + "".join(f"<script>{script}</script>" for script in scripts)
            + "</body></html>\n"
        )

    def write(self, path: Path) -> None:
        """Write the page, whole or not at all."""
        write_text(path, self.html())


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    return "" if value is None else str(value)


def asset(name: str) -> str:
    """A text file that lies beside this one."""
    return files("atomica.report").joinpath("assets", name).read_text(encoding="utf-8")
