"""The report of the job score."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from atomica import _prep
from atomica.errors import AtomicaError
from atomica.report.done import Done
from atomica.report.page import Column, Page
from atomica.report.svg import Chart, number
from atomica.report.viewer import Structure, viewer

STRUCTURES_SHOWN = 12
LARGEST_STRUCTURE = 3_000_000
ALL_STRUCTURES = 8_000_000
"""Structures in a page: how many, bytes of one, bytes of all."""

CONTACT = 4.5
"""Distance in Å up to which heavy atoms of the two partners are in contact."""

SEQUENCES_SHOWN = 12


# ---------------------------------------------------------------------------------------------- score


def page(done: Done, page: Page) -> None:
    table = pq.read_table(done.tables["scores"])
    if not table.num_rows:
        return
    found = {name: table.column(name).to_pylist() for name in table.column_names}
    change = [1.0 - value for value in found["score"]]
    of_complex: dict[str, list[int]] = {}
    for index, name in enumerate(found["id"]):
        of_complex.setdefault(str(name), []).append(index)
    page.section(
        "Scores along the sequence",
        "The score of a block is the cosine between the embedding of the complex with and without it. Shown is 1 less "
        "the score: how much of the embedding hangs on the block.",
    )
    if len(of_complex) > SEQUENCES_SHOWN:
        page.text(
            f"The first {SEQUENCES_SHOWN} of {len(of_complex)} complexes; the table below has all.", "note"
        )
    for name, mine in list(of_complex.items())[:SEQUENCES_SHOWN]:
        page.wide(_sequence(name, mine, found, change))
    page.section("Structure")
    low, high = 0.0, float(np.percentile(change, 99)) or 1.0
    shown = _structures(done, of_complex, found, change)
    where = ""
    if shown:
        where = viewer(page, shown, "1 − score", low, high)
        if len(shown) < len(of_complex):
            page.text(
                f"{len(shown)} of {len(of_complex)} complexes; the others are in the folder structures.",
                "note",
            )
    else:
        page.text("No structures were written (score.structures), or they are too large for a page.", "note")
    page.section("Blocks")
    order = sorted(range(len(change)), key=lambda i: -change[i])
    names = {"id": "id", "segment": "partner", "chain": "chain", "resnum": "number", "icode": "insertion"}
    names |= {"component": "component", "score": "score"}
    columns = [Column(shown_, [found[key][i] for i in order]) for key, shown_ in names.items()]
    caption = "Blocks, those that matter most first" + (
        "; choose one to see it in the structure" if where else ""
    )
    page.table(columns, caption, name="scores.csv", whole="scores.parquet", pick=where)


def _sequence(
    name: str, mine: Sequence[int], found: Mapping[str, list[Any]], change: Sequence[float]
) -> Chart:
    """Bars along the blocks of a complex, by chain."""
    chart = Chart(
        name,
        "block, in the order of the chains",
        "1 − score",
        f"How much the embedding of {name} changes when each block is masked.",
        width=1000,
        height=220,
    )
    by_chain: dict[str, list[int]] = {}
    for place, index in enumerate(mine):
        by_chain.setdefault(f"partner {found['segment'][index]}, chain {found['chain'][index]}", []).append(
            place
        )
    for rank, (chain, places) in enumerate(by_chain.items()):
        texts = []
        for place in places:
            index = mine[place]
            number_ = f"{found['resnum'][index]}{found['icode'][index] or ''}".strip()
            texts.append(
                f"{found['component'][index]} {found['chain'][index]}:{number_}\n1 − score {number(change[index])}"
            )
        chart.columns(chain, places, [change[mine[place]] for place in places], texts, colour=f"c{rank % 7}")
    return chart


def _structures(
    done: Done, of_complex: Mapping[str, list[int]], found: Mapping[str, list[Any]], change: Sequence[float]
) -> list[Structure]:
    """As many structures as a page should hold, in the order of the table."""
    folder = done.folder / "structures"
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    shown: list[Structure] = []
    left = ALL_STRUCTURES
    for name, mine in of_complex.items():
        if len(shown) == STRUCTURES_SHOWN:
            break
        path = _file_of(files, name)
        size = LARGEST_STRUCTURE + 1 if path is None else path.stat().st_size
        if path is None or size > min(LARGEST_STRUCTURE, left):
            continue
        one = _structure(path, name, mine, found, change)
        if one is not None:
            shown.append(one)
            left -= size
    return shown


def _file_of(files: Sequence[Path], name: str) -> Path | None:
    """The file of a complex: its id, made harmless, and a suffix."""
    plain = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "_" for letter in name
    )
    stems = {
        f"{plain.lstrip('.') or 'complex'}{suffix}" for suffix in (".pdb", ".cif", ".bcif", ".interface.cif")
    }
    return next((path for path in files if path.name in stems), None)


def _structure(
    path: Path, name: str, mine: Sequence[int], found: Mapping[str, list[Any]], change: Sequence[float]
) -> Structure | None:
    """A structure with the values of its blocks, and the contacts between the two partners."""
    kind = path.suffix[1:]
    try:
        read = _prep.read_structure(str(path))
    except AtomicaError:
        return None
    keys = [
        (str(found["chain"][i]), int(found["resnum"][i]), str(found["icode"][i] or "").strip()) for i in mine
    ]
    highest: dict[tuple[str, int, str], float] = {}
    for key, index in zip(keys, mine, strict=True):  # a residue may be several blocks
        highest[key] = max(change[index], highest.get(key, -1.0))
    segment = {key: int(found["segment"][i]) for key, i in zip(keys, mine, strict=True)}
    content = path.read_bytes()
    text = base64.b64encode(content).decode() if kind == "bcif" else content.decode("utf-8", errors="replace")
    lines = _contacts(read, segment)
    strongest = max(highest, key=lambda key: highest[key])
    note = (
        f"{len(highest)} residues with a score; the strongest is {strongest[0]}:{strongest[1]}{strongest[2]} "
        f"({number(highest[strongest])}). {len(lines)} contacts within {CONTACT} Å."
    )
    if path.name.endswith(".interface.cif"):
        note += " The structure file was not found: only the atoms of the interface are shown."
    return Structure(name, text, kind, [(*key, value) for key, value in highest.items()], lines, note)


def _contacts(read: Any, segment: Mapping[tuple[str, int, str], int]) -> list[list[float]]:
    """Lines between the nearest atoms of residues of the two partners that are in contact."""
    columns = read.columns()
    chain, resnum, icode = (columns[name].tolist() for name in ("chain", "resnum", "icode"))
    place = [(str(c), int(r), str(i).strip()) for c, r, i in zip(chain, resnum, icode, strict=True)]
    side = np.array([segment.get(key, -1) for key in place])
    kept = np.flatnonzero((side >= 0) & (columns["element"] > 1))
    xyz = columns["x"][kept]
    first, second = _prep.pairs_within(np.ascontiguousarray(xyz, dtype=np.float32), CONTACT)
    across = side[kept[first]] != side[kept[second]]
    first, second = first[across], second[across]
    distance = np.linalg.norm(xyz[first] - xyz[second], axis=1)
    best: dict[tuple[Any, Any], int] = {}
    for index in np.argsort(distance, kind="stable").tolist():
        best.setdefault((place[kept[first[index]]], place[kept[second[index]]]), index)
    return [[*xyz[first[i]].tolist(), *xyz[second[i]].tolist()] for i in best.values()]
