"""The report of the job score."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from atomica import _prep
from atomica.analysis.bfactors import INTERFACE, LABEL_IDS, STRUCTURES, file_of, stems
from atomica.analysis.contacts import KINDS
from atomica.errors import StructureError
from atomica.prep import pockets
from atomica.prep.pockets import Place
from atomica.report.done import Done
from atomica.report.page import Column, Page
from atomica.report.svg import Chart, number
from atomica.report.viewer import Structure, viewer

STRUCTURES_SHOWN = 12
LARGEST_STRUCTURE = 3_000_000
ALL_STRUCTURES = 8_000_000
"""Structures in a page: how many, bytes of one, bytes of all."""

CONTACT = 4.5
"""Distance in Å up to which heavy atoms of the two partners are near each other."""
NEAR = f"within {CONTACT} Å"
COLOURS = dict(zip((*KINDS, NEAR), ("c0", "c2", "c3", "c4", "c5", "c6", "c7"), strict=True))
"""The kinds of lines between the partners, and their colours."""
CONTACTS = "contacts: "
"""How figures are called that say how well scores tell contacts of a kind."""

SEQUENCES_SHOWN = 12


@dataclass(frozen=True)
class _Complex:
    """One of the complexes. title: its id, with its row if others have the same. blocks: its rows of the table.

    label_ids: whether the table names its residues by the archive's ids.
    """

    title: str
    stem: str
    blocks: Sequence[int]
    label_ids: bool


def page(done: Done, page: Page) -> None:
    """Scores along the sequence, on the structure, and as a table of blocks."""
    table = pq.read_table(done.tables["scores"])
    if not table.num_rows:
        return
    found = {name: table.column(name).to_pylist() for name in table.column_names}
    change = [1.0 - value for value in found["score"]]
    by_label = json.loads((table.schema.metadata or {}).get(LABEL_IDS.encode(), b"[]"))
    complexes = _complexes(found, set(by_label))
    page.section(
        "Scores along the sequence",
        _said_of(done.spec.get("score", {})) + " Shown is 1 less the score: how much hangs on the block.",
    )
    if len(complexes) > SEQUENCES_SHOWN:
        page.text(
            f"The first {SEQUENCES_SHOWN} of {len(complexes)} complexes; the table below has all.", "note"
        )
    for one in complexes[:SEQUENCES_SHOWN]:
        page.wide(_sequence(one, found, change))
    page.section("Structure")
    shown = _structures(done.folder / STRUCTURES, complexes, found, change, _touching(done))
    where = ""
    if shown:
        where = viewer(page, shown, "1 − score", 0.0, None, COLOURS)
        if len(shown) < len(complexes):
            page.text(
                f"{len(shown)} of {len(complexes)} complexes; the others are in the folder structures.",
                "note",
            )
    else:
        page.text("No structures were written (score.structures), or they are too large for a page.", "note")
    _judged(done, page)
    page.section("Blocks")
    order = sorted(range(len(change)), key=lambda i: -change[i])
    names = {"segment": "partner", "chain": "chain", "resnum": "number", "icode": "insertion"}
    names |= {"component": "component", "score": "score"}
    names |= {name: name for name in ("contacts",) if name in found}
    titles = {index: one.title for one in complexes for index in one.blocks}
    columns = [Column("id", [titles[i] for i in order])]
    columns += [Column(heading, [found[key][i] for i in order]) for key, heading in names.items()]
    caption = "Blocks, those that matter most first" + (
        "; choose one to see it in the structure" if where else ""
    )
    page.table(columns, caption, name="scores.csv", whole="scores.parquet", pick=where)


def _said_of(options: Mapping[str, Any]) -> str:
    """What a score is."""
    if options.get("readout") == "ligand":
        return (
            "The score of an amino acid is the cosine between what the ligand's side is told with and without it: the "
            "invariants of the ligand's blocks, after messages between all."
        )
    how = (
        ", estimated for all blocks at once by gradients: the order of blocks is about that of masking, not the same."
        if options.get("method") == "gradient"
        else "."
    )
    return f"The score of a block is the cosine between the embedding of the complex with and without it{how}"


def _judged(done: Done, page: Page) -> None:
    """How well the scores tell which blocks touch the partner, by kind of contact."""
    judged = {
        name.removeprefix(CONTACTS): one for name, one in done.figures.items() if name.startswith(CONTACTS)
    }
    if not judged:
        return
    page.section(
        "Scores and contacts",
        "Whether the blocks that matter most touch the partner. P@k: of as many blocks as have a contact, "
        "those that matter most, the share that has one; by chance it is the base rate. AUROC: the chance that a block "
        "with a contact matters more than one without; by chance 0.5. Means over complexes; of five or more, with 95% "
        "intervals. What lies near changes most, so that weights that were never trained tell contacts, too.",
    )

    def shown(one: Mapping[str, float], name: str) -> str:
        if f"{name} low" not in one:
            return f"{one[name]:.3f}"
        return f"{one[name]:.3f} [{one[f'{name} low']:.3f}, {one[f'{name} high']:.3f}]"

    rows = [
        [kind, str(one["complexes"]), *(shown(one, name) for name in ("P@k", "AUROC", "base rate"))]
        for kind, one in judged.items()
    ]
    head = ["contact", "complexes", "P@k", "AUROC", "base rate"]
    page.small_table(head, rows, "Of contacts between heavy atoms by rules; contacts.csv lists each")


@dataclass(frozen=True)
class _Touching:
    """The contacts of a complex: lines by kind, of a ring of several blocks one; and the residues that have one."""

    lines: dict[str, list[list[float]]] = field(default_factory=dict)
    residues: dict[Place, None] = field(default_factory=dict)


def _touching(done: Done) -> dict[int, _Touching]:
    """The contacts of each complex, by row."""
    found: dict[int, _Touching] = {}
    if "contacts" in done.tables:
        places = [f"{axis}{side}" for side in (1, 2) for axis in "xyz"]
        for one in pq.read_table(done.tables["contacts"]).to_pylist():
            own, line = found.setdefault(one["row"], _Touching()), [one[name] for name in places]
            if line not in own.lines.setdefault(one["kind"], []):
                own.lines[one["kind"]].append(line)
            for side in (1, 2):
                own.residues[one[f"chain{side}"], one[f"resnum{side}"], one[f"icode{side}"] or ""] = None
    return found


def _complexes(found: Mapping[str, list[Any]], by_label: Collection[int]) -> list[_Complex]:
    """The complexes in the order of the table; other data may have given the same id, but not the same row."""
    blocks: dict[int, list[int]] = {}
    for index, row in enumerate(found["row"]):
        blocks.setdefault(row, []).append(index)
    ids = [str(found["id"][mine[0]]) for mine in blocks.values()]
    counts = Counter(ids)
    return [
        _Complex(name if counts[name] == 1 else f"{name}, row {row}", stem, mine, row in by_label)
        for (row, mine), name, stem in zip(blocks.items(), ids, stems(ids, list(blocks)), strict=True)
    ]


def _sequence(one: _Complex, found: Mapping[str, list[Any]], change: Sequence[float]) -> Chart:
    """Bars along the blocks of a complex, by chain."""
    mine = one.blocks
    chart = Chart(
        one.title,
        "block, in the order of the chains",
        "1 − score",
        f"How much the embedding of {one.title} changes when each block is masked.",
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
    folder: Path,
    complexes: Sequence[_Complex],
    found: Mapping[str, list[Any]],
    change: Sequence[float],
    touching: Mapping[int, _Touching],
) -> list[Structure]:
    """As many structures as a page should hold, in the order of the table."""
    shown: list[Structure] = []
    left = ALL_STRUCTURES
    for one in complexes:
        if len(shown) == STRUCTURES_SHOWN:
            break
        path = file_of(folder, one.stem)
        size = LARGEST_STRUCTURE + 1 if path is None else path.stat().st_size
        if path is None or size > min(LARGEST_STRUCTURE, left):
            continue
        structure = _structure(
            path, one, found, change, touching.get(found["row"][one.blocks[0]], _Touching())
        )
        if structure is not None:
            shown.append(structure)
            left -= size
    return shown


def _structure(
    path: Path,
    one: _Complex,
    found: Mapping[str, list[Any]],
    change: Sequence[float],
    touching: _Touching,
) -> Structure | None:
    """A structure with the values of its blocks, and the contacts between the two partners."""
    mine = one.blocks
    kind = path.suffix[1:]
    # What is written of an interface alone has the ids of the table, as if they were the author's.
    label_ids = one.label_ids and not path.name.endswith(INTERFACE)
    try:
        read = _prep.read_structure(path, label_ids=label_ids)
        # The viewer knows residues by the author's ids.
        sites = [_prep.read_sites(path, label_ids=ids).atoms for ids in (True, False) if label_ids]
    except StructureError:
        return None
    names = dict(zip(*map(pockets.places, sites), strict=True)) if sites else {}
    keys = [(str(found["chain"][i]), int(found["resnum"][i]), str(found["icode"][i] or "")) for i in mine]
    highest: dict[Place, float] = {}
    for key, index in zip(keys, mine, strict=True):  # a residue may be several blocks
        highest[key] = max(change[index], highest.get(key, -1.0))
    segment = {key: int(found["segment"][i]) for key, i in zip(keys, mine, strict=True)}
    content = path.read_bytes()
    text = base64.b64encode(content).decode() if kind == "bcif" else content.decode("utf-8", errors="replace")
    near = _contacts(read, segment)
    strongest = max(highest, key=lambda key: highest[key])
    note = (
        f"{len(highest)} residues with a score; the strongest is {strongest[0]}:{strongest[1]}{strongest[2]} "
        f"({number(highest[strongest])})."
    )
    counts = {name: len(lines) for name, lines in touching.lines.items()} | (
        {NEAR: len(near)} if near else {}
    )
    if counts:
        told = [f"{count} {f'contacts {name}' if name == NEAR else name}" for name, count in counts.items()]
        note += f" {', '.join(told)}."
    if path.name.endswith(INTERFACE):
        note += " The structure file was not found: only the atoms of the interface are shown."
    values = [(*names.get(key, key), value) for key, value in highest.items()]
    shown = {key: name for key, name in names.items() if key in highest}
    partner = [names.get(place, place) for place in touching.residues if place not in highest]
    return Structure(one.title, text, kind, values, {**touching.lines, NEAR: near}, note, shown, partner)


def _contacts(read: _prep.Structure, segment: Mapping[Place, int]) -> list[list[float]]:
    """Lines between the nearest atoms of residues of the two partners that are in contact."""
    place = list(pockets.places(read))
    side = np.array([segment.get(key, -1) for key in place])
    kept = np.flatnonzero((side >= 0) & (read.element > 1))
    xyz = read.x[kept]
    first, second = _prep.pairs_within(np.ascontiguousarray(xyz, dtype=np.float32), CONTACT)
    across = side[kept[first]] != side[kept[second]]
    first, second = first[across], second[across]
    distance = np.linalg.norm(xyz[first] - xyz[second], axis=1)
    best: dict[tuple[Any, Any], int] = {}
    for index in np.argsort(distance, kind="stable").tolist():
        best.setdefault((place[kept[first[index]]], place[kept[second[index]]]), index)
    return [[*xyz[first[i]].tolist(), *xyz[second[i]].tolist()] for i in best.values()]
