"""Structures in a page: drawn by NGL in the browser, coloured by a value per residue, with contacts as lines."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from atomica.report.page import Page, asset
from atomica.report.svg import STEPS, number

__all__ = ["LIBRARY", "Structure", "step_of", "viewer"]


LIBRARY = "ngl.js.gz"


@dataclass(frozen=True)
class Structure:
    """A structure to show.

    text, format: the file and how it is read, "pdb" or "cif". values: (chain, residue number, insertion code, value).
    contacts: by kind lines from atom to atom, x y z x y z in Å. note: what is said of it. names: residues that a table
    calls otherwise → what they are called here. partner: residues without a value that are shown as well.
    """

    name: str
    text: str
    format: str
    values: Sequence[tuple[str, int, str, float]]
    contacts: Mapping[str, Sequence[Sequence[float]]]
    note: str = ""
    names: Mapping[tuple[str, int, str], tuple[str, int, str]] = field(default_factory=dict)
    partner: Sequence[tuple[str, int, str]] = ()


def step_of(value: float, low: float, high: float) -> int:
    """Which of the colours from low to high a value has.

    >>> [step_of(value, 0.0, 1.0) for value in (-1.0, 0.0, 0.5, 1.0)]
    [0, 0, 4, 8]
    """
    share = (value - low) / (high - low) if high > low else 0.0
    return min(STEPS - 1, max(0, int(share * STEPS)))


def _place(chain: str, residue: int, icode: str) -> str:
    """What the script of the viewer calls a residue."""
    return f"{chain}|{residue}|{icode.strip()}"


def _scores(one: Structure, low: float, high: float | None) -> list[tuple[str, float, int]]:
    """Place, value and colour of what has a value."""
    if high is None:
        high = max((value for *_, value in one.values), default=low)
    return [
        (_place(chain, residue, icode), value, step_of(value, low, high))
        for chain, residue, icode, value in one.values
    ]


def viewer(
    page: Page,
    structures: Sequence[Structure],
    label: str,
    low: float,
    high: float | None,
    kinds: Mapping[str, str],
) -> str:
    """Add a viewer, with a choice of structures; returns its id, for tables whose rows it is to show.

    label: what the values are. low, high: the values of the first and the last colour; without `high`, that is the
    highest of each structure. kinds: of contacts, those that there are in any of the structures get a switch, with
    their colour, such as "c0".
    """
    present = {
        kind: colour for kind, colour in kinds.items() if any(one.contacts.get(kind) for one in structures)
    }
    if not page.scripts:
        page.scripts.append(asset("viewer.js"))
        packed = files("atomica.report").joinpath("assets", LIBRARY).read_bytes()
        page.add("library", packed=base64.b64encode(packed).decode())
    name = page.name("viewer")
    data = {
        "label": label,
        "kinds": present,
        "structures": [
            {
                "name": one.name,
                "text": one.text,
                "format": one.format,
                "note": one.note,
                "scores": _scores(one, low, high),
                "partner": [_place(*place) for place in one.partner],
                "names": {_place(*table): _place(*here) for table, here in one.names.items()},
                "contacts": {
                    kind: [[round(float(x), 2) for x in line] for line in one.contacts.get(kind, ())]
                    for kind in present
                },
            }
            for one in structures
        ],
    }
    most = "the highest of the structure" if high is None else number(high)
    page.add("ramp", label=label, low=number(low), high=most, steps=STEPS)
    page.add(
        "viewer", ident=name, names=[one.name for one in structures], label=label, kinds=present, data=data
    )
    return name
