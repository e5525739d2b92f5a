"""`run.job = "network"`: which interfaces are alike, as networks, and whether groups of them belong together.

Two complexes are joined if one is among the nearest of the other by the cosine of their embeddings; each kind of
interface has a network of its own. Complexes of one entity (a protein, a file) are never joined, and groups are
tested on the network of entities, in which two are joined if any of their complexes are: copies of one interface in
one protein would otherwise count as evidence of their own.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from atomica.analysis.groups import NULLS, Connectedness, adjacency, components, connectedness, strata
from atomica.analysis.similar import Edges, approximate, exact, unit_rows
from atomica.console import Journal
from atomica.errors import DataError
from atomica.evaluation.results import predictions_csv
from atomica.files import write_text
from atomica.jobs.job import Job, Kind, Result, without_effect
from atomica.jobs.tables import write_table
from atomica.report.network import page
from atomica.spec import Issues, Problems, setting

__all__ = ["KIND", "NetworkConfig", "read_embeddings", "read_groups"]


Indices = npt.NDArray[np.int64]
Groups = dict[str, set[str]]
"""Name of a group → entities in it."""

EMBEDDINGS = "complexes.parquet"
OTHER = "other"
"""Name of the kind of interface of complexes that have none of the known ones."""
ALL = "all"

GRAPHML_EDGES = 1_000_000
"""GraphML of larger networks is left out: programs that read it hold all of it in memory, as does its writer."""


@dataclass(frozen=True)
class NetworkConfig:
    """Section `[network]`: from which embeddings, which complexes are joined, which groups are tested."""

    embeddings: str = setting(
        doc="complexes.parquet as a job of kind embed writes it, or the folder of that job; any Parquet file with "
        "columns id, modality and embedding will do",
        path=True,
    )
    by_modality: bool = setting(
        True, "a network for each kind of interface; false: one for all, where unlike kinds may be joined"
    )
    neighbors: int = setting(
        10, "each complex is joined to this many of the most similar ones; 0: to all with the cutoff", low=0
    )
    cutoff: float = setting(0.0, "least cosine between complexes that are joined", low=-1, high=1)
    entity: str = setting(
        "id",
        "column of the embeddings, or label, that says what a complex belongs to, such as source_path: complexes "
        "of one entity are never joined, and groups are of entities",
    )
    search: str = setting(
        "auto",
        "exact compares all pairs; approximate (faiss) only the most promising, its recall is measured and "
        "written; auto is exact up to exact_up_to complexes",
        choices=("auto", "exact", "approximate"),
    )
    exact_up_to: int = setting(50_000, "of auto: complexes of one network", low=0)
    probes: int = setting(
        32, "of an approximate search: cells searched for each complex; more find more", low=1
    )
    groups: str | None = setting(
        None,
        "CSV with columns id (an entity) and group: groups tested for being more connected than chance",
        path=True,
    )
    null: str = setting(
        "degree",
        "what chance means: degree draws random groups whose members have about as many neighbours as the "
        "group's, uniform any; groups of hubs are connected without being alike",
        choices=NULLS,
    )
    permutations: int = setting(1000, "random groups drawn for each test", low=19, high=10**6)

    def __post_init__(self) -> None:
        """Check keys against each other."""
        Problems.check(
            (
                self.neighbors == 0 and self.cutoff <= 0,
                "neighbors",
                "0 joins all complexes with the cutoff; give a cutoff above 0, or a number of neighbours",
            ),
        )


# -------------------------------------------------------------------------------------------------- reading


class Embedded(NamedTuple):
    """What a table of embeddings holds: ids, kinds of interface and entities [N], and unit rows [N, H].

    representation: what the rows are, as a job of kind embed says; empty in tables of others.
    """

    ids: list[str]
    modalities: list[str]
    entities: list[str]
    unit: npt.NDArray[np.float32]
    representation: str = ""


def embeddings_file(path: str) -> Path:
    """The table that `network.embeddings` names."""
    return Path(path) / EMBEDDINGS if Path(path).is_dir() else Path(path)


def read_embeddings(path: str | Path, entity: str = "id") -> Embedded:
    """Read a table of embeddings; `entity` is a column of texts or a label. Raises DataError for what does not fit.

    Complexes whose entity is empty are entities of their own, under their id.
    """
    file = embeddings_file(str(path))
    try:
        table = pq.read_table(file)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; run a job of kind embed first (runs/embed.toml)") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: cannot be read as Parquet: {error}") from None
    missing = [name for name in ("id", "modality", "embedding") if name not in table.column_names]
    if missing:
        raise DataError(
            f"{file}: has no column {', '.join(missing)}; expected a table of complexes as a job of kind embed "
            f"writes it, found {', '.join(table.column_names)}"
        )
    ids = [str(name) for name in table.column("id").to_pylist()]
    if len(set(ids)) < len(ids):
        raise DataError(
            f"{file}: the id {_repeated(ids)!r} occurs twice; embed data with ids that are unique"
        )
    return Embedded(
        ids,
        [OTHER if kind is None else str(kind) for kind in table.column("modality").to_pylist()],
        [own or name for own, name in zip(_column(table, entity, file), ids, strict=True)],
        _unit(table.column("embedding"), ids, file),
        (table.schema.metadata or {}).get(b"representation", b"").decode(),
    )


def _repeated(values: Sequence[str]) -> str:
    seen: set[str] = set()
    return next(value for value in values if value in seen or seen.add(value))  # type: ignore[func-returns-value]


def _column(table: pa.Table, name: str, file: Path) -> list[str]:
    """A column of texts or numbers, or a label of that name, as texts; empty where there is none."""
    if name in table.column_names:
        column = table.column(name)
        if not pa.types.is_nested(column.type):
            return ["" if value is None else str(value) for value in column.to_pylist()]
    labels = table.column("labels").to_pylist() if "labels" in table.column_names else []
    found = [dict(row or ()).get(name) for row in labels]
    if not any(found):
        known = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
        known += sorted({key for row in labels for key in dict(row or ())})
        raise DataError(
            f"{file}: has no column or label {name!r} (network.entity); it has {', '.join(known)}"
        )
    return [value or "" for value in found]


def _unit(column: pa.ChunkedArray, ids: Sequence[str], file: Path) -> npt.NDArray[np.float32]:
    """The embeddings as unit rows."""
    values = column.combine_chunks()
    lists = pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type)
    if not len(ids) or not lists or not pa.types.is_floating(values.type.value_type) or values.null_count:
        raise DataError(f"{file}: column embedding must hold a list of numbers for every complex")
    flat = values.flatten().to_numpy(zero_copy_only=False)
    lengths = np.unique(np.asarray(values.value_lengths()))
    if len(lengths) > 1 or not lengths[0]:
        raise DataError(f"{file}: embeddings have different lengths: {', '.join(map(str, lengths[:5]))}")
    try:
        return unit_rows(flat.reshape(len(ids), -1))
    except DataError as error:
        raise DataError(f"{file}: {error}") from None


def read_groups(path: str | Path) -> Groups:
    """Read the CSV of groups. Raises DataError naming the line of what is wrong with it."""
    groups: Groups = {}
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in ("id", "group") if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"{path}: line 1: has no column {', '.join(missing)}; write id,group there")
            for row in reader:
                entity, group = (row["id"] or "").strip(), (row["group"] or "").strip()
                if not entity or not group:
                    raise DataError(
                        f"{path}: line {reader.line_num}: {'id' if not entity else 'group'} is empty"
                    )
                groups.setdefault(group, set()).add(entity)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is no CSV in UTF-8: {error}") from None
    if not groups:
        raise DataError(f"{path}: has no rows below its header")
    return groups


def check(job: Job, issues: Issues) -> None:
    """Everything that the job reads, before anything is written."""
    options: NetworkConfig = job.options
    known: set[str] = set()
    try:
        known = set(read_embeddings(options.embeddings, options.entity).entities)
    except DataError as error:
        issues.add(("network", "embeddings"), str(error))
    if options.groups is None:
        without_effect("network", options, ("null", "permutations"), "network.groups is not given", issues)
        return
    try:
        groups = read_groups(options.groups)
    except DataError as error:
        issues.add(("network", "groups"), str(error))
        return
    if known and not known & set().union(*groups.values()):
        issues.add(
            ("network", "groups"),
            f"none of its ids is an entity of the embeddings (network.entity = {options.entity!r}), "
            f"such as {min(known)!r}",
        )


# -------------------------------------------------------------------------------------------------- the work


@dataclass
class Network:
    """The network of one kind of interface: its nodes, as rows of the embeddings, and edges between them.

    rows [N]; edges count nodes within the network; entity [N]; component and degree [N].
    """

    modality: str
    rows: Indices
    entity: Indices
    edges: Edges
    component: Indices
    degree: Indices


def build(found: Embedded, options: NetworkConfig, seed: int) -> Iterator[Network]:
    """The networks, one for each kind of interface, in alphabetical order."""
    kinds = np.array(found.modalities if options.by_modality else [ALL] * len(found.ids))
    _, entities = np.unique(found.entities, return_inverse=True)
    for kind in np.unique(kinds).tolist():
        rows = np.flatnonzero(kinds == kind)
        _, entity = np.unique(entities[rows], return_inverse=True)
        limits: dict[str, Any] = {"neighbors": options.neighbors, "cutoff": options.cutoff, "entity": entity}
        if options.search == "exact" or (options.search == "auto" and len(rows) <= options.exact_up_to):
            edges = exact(found.unit[rows], **limits)
        else:
            edges = approximate(found.unit[rows], seed=seed, probes=options.probes, **limits)
        matrix = adjacency(len(rows), edges.first, edges.second)
        degree = np.bincount(np.concatenate([edges.first, edges.second]), minlength=len(rows))
        yield Network(str(kind), rows, entity, edges, components(matrix), degree)


def tested(
    network: Network, names: Sequence[str], groups: Groups, options: NetworkConfig, seed: Sequence[int]
) -> Iterator[tuple[str, int, Connectedness | None]]:
    """Group, entities of it in the network, and its test; None where fewer than two are there.

    names: the entity of each node [N].
    """
    first, second = network.entity[network.edges.first], network.entity[network.edges.second]
    count = int(network.entity.max()) + 1
    joined = np.unique(np.minimum(first, second) * count + np.maximum(first, second))
    first, second = np.divmod(joined, count)
    matrix = adjacency(count, first, second)
    stratum = strata(np.bincount(np.concatenate([first, second]), minlength=count), options.null)
    number = dict(zip(names, network.entity.tolist(), strict=True))
    for index, (group, members) in enumerate(sorted(groups.items())):
        inside = np.array(sorted({number[name] for name in members if name in number}), dtype=np.int64)
        result = None
        if len(inside) >= 2:
            draws = options.permutations
            result = connectedness(matrix, inside, stratum, draws=draws, seed=[*seed, index])
        yield group, len(inside), result


def run(job: Job, journal: Journal) -> Result:
    """Write nodes, edges, components and tests as tables, and each network as GraphML."""
    options: NetworkConfig = job.options
    found = read_embeddings(options.embeddings, options.entity)
    groups = {} if options.groups is None else read_groups(options.groups)
    of_entity: dict[str, list[str]] = {}
    for group, members in sorted(groups.items()):
        for member in members:
            of_entity.setdefault(member, []).append(group)
    networks = list(build(found, options, job.run.seed))
    tables = {"nodes": job.folder / "nodes.parquet", "edges": job.folder / "edges.parquet"}
    write_table(tables["nodes"], nodes_table(found, networks, of_entity))
    write_table(tables["edges"], edges_table(found, networks))
    tables["components"] = job.folder / "components.csv"
    write_text(tables["components"], components_csv(found, networks))
    if found.representation.startswith("z") and not found.representation.endswith("component_normalized"):
        journal.say(
            f"note    the parts of {found.representation} differ in size, and the largest decides the cosines; "
            'embed with pool = "mean_component_normalized" for a network'
        )
    figures: dict[str, Any] = {
        **({"representation": found.representation} if found.representation else {}),
        "complexes": len(found.ids),
        "edges": sum(len(network.edges.first) for network in networks),
        "components": sum(int(network.component.max()) + 1 for network in networks),
        "recall": {
            network.modality: round(network.edges.recall, 4)
            for network in networks
            if network.edges.recall < 1
        },
    }
    if groups:
        tables["groups"] = job.folder / "groups.csv"
        tests = [
            (network.modality, *row)
            for index, network in enumerate(networks)
            for row in tested(
                network,
                [found.entities[row] for row in network.rows],
                groups,
                options,
                (job.run.seed, index),
            )
        ]
        write_text(tables["groups"], groups_csv(tests))
        absent = set(of_entity) - set(found.entities)
        figures["groups"] = len(groups)
        figures["group_ids_not_found"] = len(absent)
        figures["tests"] = sum(test is not None for *_, test in tests)
    for network in networks:
        if len(network.edges.first) > GRAPHML_EDGES:
            journal.say(f"note    {network.modality}: too large for GraphML, see {tables['edges'].name}")
            continue
        path = job.folder / f"{network.modality}.graphml"
        write_text(path, graphml(found, network, of_entity))
        tables[path.name] = path
    return Result(tables, {name: value for name, value in figures.items() if value != {}})


# -------------------------------------------------------------------------------------------------- tables


def nodes_table(found: Embedded, networks: Sequence[Network], of_entity: dict[str, list[str]]) -> pa.Table:
    """One row per complex: kind of interface, id, entity, neighbours, component (0: the largest), groups."""
    rows = np.concatenate([network.rows for network in networks])
    entities = [found.entities[row] for row in rows]
    names = [network.modality for network in networks for _ in network.rows]
    return pa.table(
        {
            "modality": pa.array(names, pa.utf8()),
            "id": pa.array([found.ids[row] for row in rows], pa.utf8()),
            "entity": pa.array(entities, pa.utf8()),
            "degree": pa.array(np.concatenate([network.degree for network in networks])),
            "component": pa.array(np.concatenate([network.component for network in networks])),
            "groups": pa.array([of_entity.get(name, []) for name in entities], pa.list_(pa.utf8())),
        }
    )


def edges_table(found: Embedded, networks: Sequence[Network]) -> pa.Table:
    """One row per edge: kind of interface, the two ids, cosine."""
    ids = pa.array(found.ids, pa.utf8())
    ends = {
        name: np.concatenate([network.rows[getattr(network.edges, end)] for network in networks])
        for name, end in (("source", "first"), ("target", "second"))
    }
    names = pa.array([network.modality for network in networks], pa.utf8())
    counts = [len(network.edges.first) for network in networks]
    return pa.table(
        {
            "modality": names.take(pa.array(np.repeat(np.arange(len(networks)), counts))),
            **{name: ids.take(pa.array(rows)) for name, rows in ends.items()},
            "cosine": pa.array(np.concatenate([network.edges.cosine for network in networks]), pa.float32()),
        }
    )


def components_csv(found: Embedded, networks: Sequence[Network]) -> str:
    """One row per component of at least two complexes: how many, the edges and mean cosine, the ids."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("modality", "component", "complexes", "edges", "mean_cosine", "ids")
    }
    for network in networks:
        order = np.argsort(network.component, kind="stable")
        sizes = np.bincount(network.component)
        of_edge = network.component[network.edges.first]
        edges = np.bincount(of_edge, minlength=len(sizes))
        cosine = np.bincount(of_edge, weights=network.edges.cosine, minlength=len(sizes))
        for number, members in enumerate(np.split(network.rows[order], np.cumsum(sizes)[:-1])):
            if len(members) < 2:
                break  # components come in the order of their sizes
            row = (network.modality, number, len(members), int(edges[number]))
            ids = " ".join(found.ids[member] for member in members)
            for name, value in zip(columns, (*row, float(cosine[number] / edges[number]), ids), strict=True):
                columns[name].append(value)
    return predictions_csv(list(columns.items()))


def groups_csv(tests: Sequence[tuple[str, str, int, Connectedness | None]]) -> str:
    """One row per test; q: the false-discovery rate (Benjamini-Hochberg) over all tests of the column."""
    from scipy.stats import false_discovery_control

    fields = [name for name in Connectedness._fields if name != "members"]
    made = [test for *_, test in tests if test is not None]
    columns: list[tuple[str, list[Any]]] = [
        ("modality", [modality for modality, *_ in tests]),
        ("group", [group for _, group, *_ in tests]),
        ("entities", [inside for _, _, inside, _ in tests]),
    ]
    for name in fields:
        columns.append((name, ["" if test is None else getattr(test, name) for *_, test in tests]))
        if name.endswith("_p"):
            rates = iter(false_discovery_control([getattr(test, name) for test in made]) if made else [])
            own = ["" if test is None else float(next(rates)) for *_, test in tests]
            columns.append((f"{name.removesuffix('_p')}_q", own))
    return predictions_csv(columns)


_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def graphml(found: Embedded, network: Network, of_entity: dict[str, list[str]]) -> str:
    """The network as GraphML; nodes are named by their ids and have all that `nodes.parquet` says."""
    import networkx

    def text(value: str) -> str:
        return _NOT_XML.sub("\ufffd", value)  # XML cannot hold these characters at all

    graph = networkx.Graph(modality=network.modality)
    ids = [text(found.ids[row]) for row in network.rows]
    for index, row in enumerate(network.rows):
        entity = found.entities[row]
        graph.add_node(
            ids[index],
            entity=text(entity),
            degree=int(network.degree[index]),
            component=int(network.component[index]),
            groups=text("; ".join(of_entity.get(entity, []))),
        )
    first, second, cosine = (values.tolist() for values in network.edges[:3])
    graph.add_weighted_edges_from(
        ((ids[a], ids[b], value) for a, b, value in zip(first, second, cosine, strict=True)), weight="cosine"
    )
    return "\n".join(networkx.generate_graphml(graph)) + "\n"


KIND = Kind(NetworkConfig, run, page, reads=(), seeded=True, check=check)
