"""Structures in a page: drawn by NGL in the browser, coloured by a value per residue, with contacts as lines."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from atomica.report.page import Page, asset
from atomica.report.svg import STEPS, number, script_json

__all__ = ["LIBRARY", "Structure", "ramp", "step_of", "viewer"]


LIBRARY = "ngl.js.gz"


@dataclass(frozen=True)
class Structure:
    """A structure to show.

    text, format: the file and how it is read, "pdb" or "cif". values: (chain, residue number, insertion code, value).
    contacts: lines from atom to atom, x y z x y z in Å. note: what is said of it.
    """

    name: str
    text: str
    format: str
    values: Sequence[tuple[str, int, str, float]]
    contacts: Sequence[Sequence[float]]
    note: str = ""


def step_of(value: float, low: float, high: float) -> int:
    """Which of the colours from low to high a value has.

    >>> [step_of(value, 0.0, 1.0) for value in (-1.0, 0.0, 0.5, 1.0)]
    [0, 0, 4, 8]
    """
    share = (value - low) / (high - low) if high > low else 0.0
    return min(STEPS - 1, max(0, int(share * STEPS)))


def ramp(page: Page, label: str, low: float, high: float) -> None:
    """The colours from low to high, as a legend."""
    boxes = "".join(f'<span class="box q{step}"></span>' for step in range(STEPS))
    page.raw(
        f'<p class="ramp" role="img" aria-label="{escape(label)}: pale is {number(low)}, strong is {number(high)}">'
        f"{escape(label)} <span>{number(low)}</span>{boxes}<span>{number(high)}</span></p>"
    )


def viewer(page: Page, structures: Sequence[Structure], label: str, low: float, high: float) -> str:
    """Add a viewer, with a choice of structures; returns its id, for tables whose rows it is to show.

    label: what the values are. low, high: the values of the first and the last colour.
    """
    first = not page.scripts
    if first:
        page.scripts.append(asset("viewer.js"))
        packed = files("atomica.report").joinpath("assets", LIBRARY).read_bytes()
        page.raw(f'<script type="text/plain" id="ngl">{base64.b64encode(packed).decode()}</script>')
    name = f"viewer{page.viewers}"
    page.viewers += 1
    data = {
        "label": label,
        "structures": [
            {
                "name": one.name,
                "text": one.text,
                "format": one.format,
                "note": one.note,
                "scores": [
                    [f"{chain}|{residue}|{icode.strip()}", value, step_of(value, low, high)]
                    for chain, residue, icode, value in one.values
                ],
                "contacts": [[round(float(x), 2) for x in line] for line in one.contacts],
            }
            for one in structures
        ],
    }
    options = "".join(f"<option>{escape(one.name)}</option>" for one in structures)
    ramp(page, label, low, high)
    page.raw(
        f'<div class="viewer" id="{name}"><div class="tools"><label>Structure <select>{options}</select></label>'
        '<label><input type="checkbox" class="contacts" checked> contacts</label>'
        '<label><input type="checkbox" class="rest" checked> rest of the chains</label>'
        '<button type="button" class="reset">Reset view</button></div>'
        f'<div class="stage" tabindex="0" role="img" aria-label="Structure coloured by {escape(label)}; the table '
        'below has the same values. Drag or use the arrow keys to turn, + and - to zoom."></div>'
        '<p class="said" role="status">Loading the structure…</p>'
        f'<script type="application/json">{script_json(data)}</script></div>'
    )
    return name
