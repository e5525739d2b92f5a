"""Reports of the jobs after training, made from the tables they wrote."""

from __future__ import annotations

import base64
import csv
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from atomica import _prep
from atomica.errors import AtomicaError
from atomica.report import environment, labelled, maps
from atomica.report.page import Column, Page
from atomica.report.structures import Structure, viewer
from atomica.report.svg import Chart, number
from atomica.report.training import REPORT, versions
from atomica.spec import tomllib

__all__ = ["write"]

STRUCTURES_SHOWN = 12
LARGEST_STRUCTURE = 3_000_000
ALL_STRUCTURES = 8_000_000
"""Structures in a page: how many, bytes of one, bytes of all."""

CONTACT = 4.5
"""Distance in Å up to which heavy atoms of the two partners are in contact."""

SEQUENCES_SHOWN = 12
MAP_EDGES = 3000


@dataclass(frozen=True)
class _Done:
    """A finished job: its folder, its spec, what it left behind."""

    folder: Path
    spec: Mapping[str, Any]
    tables: Mapping[str, Path]
    figures: Mapping[str, Any]


def write(folder: Path, overview: Sequence[str]) -> Path:
    """Write `report.html` into the folder of a job that is done; returns its path.

    overview: what the job said of itself when it started.
    """
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    text = (folder / "spec.toml").read_text(encoding="utf-8")
    done = _Done(
        folder,
        tomllib.loads(text),
        {name: folder / path for name, path in result["tables"].items()},
        result["figures"],
    )
    page = Page(
        title=str(done.spec["run"]["name"]),
        kind=f"{result['job']} report",
        lead=f"Took {result['seconds']:.1f} s.",
        status="done",
    )
    page.section("Summary")
    tiles = [
        (name, _figure(value), "") for name, value in done.figures.items() if not isinstance(value, dict)
    ]
    if tiles:
        page.tiles(tiles)
    if result["failed"]:
        page.text(f"{result['failed']} inputs are missing here; failures.jsonl says which, and why.", "warn")
    draw = _REPORTS.get(result["job"])
    if draw is not None:
        draw(page, done)
    page.section("Run", "What the job said of itself when it started, and every setting:")
    page.facts([(line[:8].strip(), line[8:]) for line in overview])
    page.code(text, "spec.toml")
    versions(page, environment.describe())
    path = folder / REPORT
    page.write(path)
    return path


def _figure(value: Any) -> str:
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _embeddings(table: Any) -> npt.NDArray[np.float64]:
    values = table.column("embedding").combine_chunks()
    return values.flatten().to_numpy(zero_copy_only=False).astype(np.float64).reshape(table.num_rows, -1)


def _labels(table: Any) -> dict[str, list[str | None]]:
    """Label columns of a table of complexes."""
    if "labels" not in table.column_names:
        return {}
    rows = [dict(row or ()) for row in table.column("labels").to_pylist()]
    return {
        name: [row.get(name) for row in rows] for name in dict.fromkeys(key for row in rows for key in row)
    }


# ---------------------------------------------------------------------------------------------- embed


def _embed(page: Page, done: _Done) -> None:
    path = done.tables.get("complexes")
    if path is None:
        return
    table = pq.read_table(path)
    if not table.num_rows:
        return
    ids = [str(name) for name in table.column("id").to_pylist()]
    modality, labels = table.column("modality").to_pylist(), _labels(table)
    values = _embeddings(table)
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


# ---------------------------------------------------------------------------------------------- score


def _score(page: Page, done: _Done) -> None:
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
    done: _Done, of_complex: Mapping[str, list[int]], found: Mapping[str, list[Any]], change: Sequence[float]
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


# ------------------------------------------------------------------------------------------- annotate


def _annotate(page: Page, done: _Done) -> None:
    path = done.tables["pockets"]
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    thresholds = done.figures.get("thresholds", {})
    called = done.figures.get("called", {})
    page.section(
        "Classes", "A class is called where the mean probability of its members reaches its threshold."
    )
    names = ("threshold", "members", "rule", "pockets", "precision", "recall", "f1")
    page.small_table(
        ["class", "called", *names[:4], *names[4:]],
        [
            [name, str(called.get(name, 0)), *(_figure(rule.get(key, "–")) for key in names)]
            for name, rule in thresholds.items()
        ],
        "Classes, how many pockets they were called for, and where their thresholds come from",
    )
    if not rows:
        return
    charts = []
    for name, rule in thresholds.items():
        values = [float(row[f"P({name})"]) for row in rows]
        chart = Chart(
            name,
            f"mean probability of {name}",
            "pockets",
            f"Histogram of the probability of {name}, and its threshold.",
            x_range=(0, 1),
            height=230,
        )
        counts, edges = np.histogram(values, np.linspace(0, 1, 26))
        chart.bars("pockets", edges.tolist(), counts.tolist(), colour="c0")
        top = float(counts.max()) * 1.05
        chart.line("threshold", [rule["threshold"]] * 2, [0, top], colour="c1", dashed=True)
        charts.append(chart)
    page.charts(charts)
    page.section("Pockets")
    columns = [
        Column(key, [_maybe_number(row[key]) if key.startswith("P(") else row[key] for row in rows])
        for key in rows[0]
    ]
    page.table(columns, "Pockets with the classes that were called", name="annotations.csv", whole=path.name)


def _maybe_number(text: str) -> float | str | None:
    try:
        return float(text)
    except ValueError:
        return text or None


# -------------------------------------------------------------------------------------------- network


def _network(page: Page, done: _Done) -> None:
    nodes, edges = (pq.read_table(done.tables[name]).to_pydict() for name in ("nodes", "edges"))
    page.section("Network", "Two complexes are joined if one is among the most similar of the other.")
    _network_map(page, done, nodes, edges)
    charts = []
    if edges["cosine"]:
        counts, borders = np.histogram(edges["cosine"], 30)
        chart = Chart(
            "Similarity",
            "cosine of joined complexes",
            "edges",
            "Histogram of the cosines of edges.",
            height=230,
        )
        chart.bars("", borders.tolist(), counts.tolist(), colour="c0")
        charts.append(chart)
    if nodes["degree"]:
        degrees = Counter(nodes["degree"])
        chart = Chart(
            "Neighbours",
            "neighbours of a complex",
            "complexes",
            "Complexes by number of neighbours.",
            height=230,
        )
        top = max(degrees)
        size = max(1, -(-(top + 1) // 40))
        borders_ = [low - 0.5 for low in range(0, top + size + 1, size)]
        chart.bars("", borders_, np.histogram(nodes["degree"], borders_)[0].tolist(), colour="c0")
        charts.append(chart)
    page.charts(charts)
    for name, title, caption in (
        ("groups", "Groups", "Groups of entities, and whether they are more connected than chance"),
        ("components", "Components", "Connected components of at least two complexes, the largest first"),
    ):
        path = done.tables.get(name)
        if path is not None:
            with path.open(encoding="utf-8", newline="") as stream:
                rows = list(csv.DictReader(stream))
            if rows:
                page.section(title)
                columns = [Column(key, [_typed(row[key], key) for row in rows]) for key in rows[0]]
                page.table(columns, caption, name=path.name, whole=path.name)
    page.section("Complexes")
    columns = [Column(key, nodes[key]) for key in ("id", "modality", "entity", "degree", "component")]
    columns.append(Column("groups", ["; ".join(one) for one in nodes["groups"]]))
    page.table(
        columns, "Complexes; component 0 is the largest of its kind", name="nodes.csv", whole="nodes.parquet"
    )


def _typed(text: str, key: str) -> float | str | None:
    return text if key in ("modality", "group", "ids") else _maybe_number(text)


def _network_map(
    page: Page, done: _Done, nodes: Mapping[str, list[Any]], edges: Mapping[str, list[Any]]
) -> None:
    """A map of the embeddings with the edges, if their file is still there."""
    named = Path(str(done.spec["network"]["embeddings"]))
    path = named / "complexes.parquet" if named.is_dir() else named
    if not path.is_file():
        return
    table = pq.read_table(path)
    ids = [str(name) for name in table.column("id").to_pylist()]
    place = {name: index for index, name in enumerate(ids)}
    component: list[str | None] = [None] * len(ids)
    several = len(set(nodes["modality"])) > 1
    sizes = Counter(zip(nodes["modality"], nodes["component"], strict=True))
    for name, kind, number_ in zip(nodes["id"], nodes["modality"], nodes["component"], strict=True):
        if name in place and sizes[kind, number_] > 1:
            component[place[name]] = f"{kind} {number_}" if several else f"component {number_}"
    joined = [
        (place[a], place[b])
        for a, b in zip(edges["source"], edges["target"], strict=True)
        if a in place and b in place
    ]
    if len(joined) > MAP_EDGES:
        strongest = np.argsort(-np.array(edges["cosine"]), kind="stable")[:MAP_EDGES]
        joined = [joined[i] for i in strongest.tolist() if i < len(joined)]
        page.text(f"The map shows the {MAP_EDGES:,} strongest of {len(edges['cosine']):,} edges.", "note")
    texts = [f"{name}\n{kind or ''}" for name, kind in zip(ids, component, strict=True)]
    maps.draw(page, _embeddings(table), texts, {"component": component, **_labels(table)}, joined)


# ------------------------------------------------------------------------------------------- evaluate


def _evaluate(page: Page, done: _Done) -> None:
    path = done.tables.get("evaluation")
    if path is None:
        return
    evaluation = json.loads(path.read_text(encoding="utf-8"))
    page.tiles(labelled.tiles(evaluation))
    part = f", part {evaluation['part']}" if evaluation.get("part") else ""
    labelled.sections(
        page, done.folder, evaluation, "Evaluation", f"The model on {evaluation['data']}{part}."
    )


_REPORTS: dict[str, Callable[[Page, _Done], None]] = {
    "embed": _embed,
    "score": _score,
    "annotate": _annotate,
    "network": _network,
    "evaluate": _evaluate,
}
