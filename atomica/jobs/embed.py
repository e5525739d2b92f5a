"""`run.job = "embed"`: vectors of complexes, blocks and atoms as Parquet, with names to map them back.

Which vectors, the metadata of a file say: `representation` the name, `columns` what the numbers of a vector are, part
by part, `constant` those that are the same in all rows, and `dropped` whether these are left out.

Shapes: B blocks and A atoms of one complex, H, h and k numbers of a complex, a block and an atom.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from atomica import compat
from atomica._prep import atom_symbols, block_symbols
from atomica.console import Journal, Meter
from atomica.data.dataset import Complexes
from atomica.data.record import Record
from atomica.data.sampling import Rows, plan_batches, prefetch, within_memory
from atomica.errors import DataError
from atomica.files import replacing
from atomica.jobs.inputs import InputConfig, Opened, find, listed, open_data, warn_of
from atomica.jobs.job import Job, Kind, Result, without_effect
from atomica.jobs.tables import in_pieces
from atomica.keys import MODALITIES
from atomica.model.contract import Contract
from atomica.model.model import Model
from atomica.nn.representations import NAMES, POOLS, Representation
from atomica.report.embed import page
from atomica.spec import Issues, Problems, setting

__all__ = ["KIND", "EmbedConfig", "Embedded", "Embeddings", "embed", "encode"]


Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
TABLES = {
    "complexes": ("h_graph", "z_graph", "h_interface", "z_interface"),
    "blocks": ("h_block", "z_block"),
    "atoms": ("h_atom", "z_atom"),
}
"""The tables, and the representations that each can hold; the first if none is named."""
PIECE_BLOCKS = 1 << 12
"""Blocks, on average, of the complexes of one piece of the tables: some batches, so that processes can share them."""


@dataclass(frozen=True)
class EmbedConfig:
    """Section `[embed]`: which vectors, and which tables of them are written."""

    representation: str | tuple[str, ...] = setting(
        (),
        f"which vectors, one name or one for each table: {', '.join(NAMES)} (h: what the encoder's last layer gives; "
        "z: rotation invariants of all its features; interface: of one partner alone); tables for which none is named "
        "have h_graph, h_block, h_atom",
    )
    pool: str = setting("mean_std_global", "of z_graph and z_interface: how blocks are pooled", choices=POOLS)
    segment: int = setting(0, "of h_interface and z_interface: which partner", choices=(0, 1))
    tables: tuple[str, ...] | None = setting(
        None,
        'which tables to write: of "complexes", of "blocks" (residues, fragments), of "atoms"; absent: those of the '
        "representations that are named, else all",
    )
    drop_constant: bool = setting(
        False, "leave out numbers that are the same in all rows of a table; its metadata name them either way"
    )

    def __post_init__(self) -> None:
        """Check that something is asked for, once."""
        names, tables = self.names, self.tables if self.tables is not None else tuple(TABLES)
        unknown = sorted(set(names) - set(NAMES))
        of = [table for name in names for table, held in TABLES.items() if name in held]
        Problems.check(
            (not tables, "tables", f"the list is empty; name some of {', '.join(TABLES)}"),
            (
                not set(tables) <= set(TABLES),
                "tables",
                f"may hold {', '.join(TABLES)}, not {', '.join(sorted(set(tables) - set(TABLES)))}",
            ),
            (len(set(tables)) < len(tables), "tables", "names a table twice"),
            (
                bool(unknown),
                "representation",
                f"there is no {', '.join(unknown)}; name some of {', '.join(NAMES)}",
            ),
            (
                len(set(of)) < len(of),
                "representation",
                "names two of one table; run a job for each",
            ),
            (
                not set(of) <= set(tables),
                "representation",
                f"is of the table {', '.join(sorted(set(of) - set(tables)))}, which embed.tables leaves out",
            ),
            config=self,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The representations that are named."""
        return (self.representation,) if isinstance(self.representation, str) else self.representation

    @property
    def chosen(self) -> dict[str, Representation]:
        """The tables to write, and what each holds."""
        asked = {table: name for name in self.names for table, held in TABLES.items() if name in held}
        tables = self.tables if self.tables is not None else (asked or TABLES)
        return {
            table: Representation(asked.get(table, held[0]), self.pool, self.segment)
            for table, held in TABLES.items()
            if table in tables
        }


class Embedded(NamedTuple):
    """One complex: its place among the rows, its record as the model saw it, and its vectors.

    complex [H], block [B, h], atom [A, k]; float32. Rows of embeddings h_* have unit length (complex and atom rows
    always; block rows unless external features are mixed in).
    """

    position: int
    record: Record
    complex: Floats
    block: Floats
    atom: Floats


def encode(
    model: Model,
    data: Opened,
    positions: Indices | None = None,
    chosen: Mapping[str, Representation] | None = None,
) -> Iterator[Embedded]:
    """Vectors of some of the rows of `data` (default: all), in the order of their sizes.

    positions [N]: which of the rows. chosen: the representations of tables, if not h_*. Values do not depend on what
    else is in a batch, to 2·10⁻⁶ of the largest in float32, since sums are rounded in another order. A model with
    `reference_quirks` gets complexes one at a time: the original's padding makes them depend on their batch.
    """
    wanted = np.arange(len(data.rows)) if positions is None else positions
    return _encoded(model, data.record, data.rows.blocks, wanted, data.config, chosen)


def _encoded(
    model: Model,
    record: Callable[[int], Record],
    blocks: Indices,
    wanted: Indices,
    config: InputConfig,
    chosen: Mapping[str, Representation] | None,
) -> Iterator[Embedded]:
    """The same for complexes that come from anywhere. record: position → complex; blocks [N]: their sizes."""
    order = wanted[np.argsort(blocks[wanted], kind="stable")]
    plan = plan_batches(order, blocks, 1 if model.config.reference_quirks else config.batch_blocks)

    def load(batch: Indices) -> tuple[Indices, list[Record], Any]:
        records = [record(position) for position in batch]
        return batch, records, model.inputs(records).planned()

    wanted_of = EmbedConfig().chosen | dict(chosen or {})
    training = model.training
    model.eval()
    try:
        for batch, records, inputs in prefetch(plan, load, threads=config.loader_threads):

            def found(places: Indices, records: list[Record] = records, inputs: Any = inputs) -> list[Floats]:
                own = [records[place] for place in places]
                given = inputs if len(own) == len(records) else model.inputs(own)
                with torch.no_grad():
                    wanted = model.represent(given, *(wanted_of[table] for table in TABLES))
                return [one.float().cpu().numpy() for one in wanted]

            for places, (complex_, block, atom) in within_memory(np.arange(len(records)), found):
                own = [records[place] for place in places]
                ends_of_blocks = np.cumsum([len(record.block_types) for record in own])
                ends_of_atoms = np.cumsum([len(record.atom_types) for record in own])
                parts, atoms = np.split(block, ends_of_blocks[:-1]), np.split(atom, ends_of_atoms[:-1])
                for index, one in enumerate(own):
                    position = int(batch[places[index]])
                    yield Embedded(position, one, complex_[index], parts[index], atoms[index])
    finally:
        model.train(training)


# -------------------------------------------------------------------------------------------------- tables


def vectors(values: Floats) -> pa.Array:
    """Rows [N, H] as a column of lists of fixed length, without a copy."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def repeated(texts: Sequence[str], counts: Sequence[int]) -> pa.Array:
    """A column that holds each text as often as its count says."""
    return pa.array(list(texts), pa.utf8()).take(pa.array(np.repeat(np.arange(len(counts)), counts)))


def complex_columns(rows: Rows, found: Sequence[Embedded]) -> dict[str, Any]:
    """What tells complexes apart: row in the data, id, kind of interface, split, label columns, source, sizes."""
    records = [one.record for one in found]
    kinds = rows.dataset.modalities[rows.rows[[one.position for one in found]]]
    return {
        "row": pa.array([int(rows.rows[one.position]) for one in found], pa.int64()),
        "id": pa.array([record.id for record in records], pa.utf8()),
        "modality": pa.array([MODALITIES[kind] if kind >= 0 else None for kind in kinds], pa.utf8()),
        "split": pa.array([record.split for record in records], pa.utf8()),
        "labels": pa.array(
            [list(record.labels.items()) for record in records], pa.map_(pa.utf8(), pa.utf8())
        ),
        "source_path": pa.array([record.source_path for record in records], pa.utf8()),
        "blocks": pa.array([len(record.block_types) for record in records], pa.int32()),
        "atoms": pa.array([len(record.atom_types) for record in records], pa.int32()),
    }


def block_columns(records: Sequence[Record], rows: Sequence[int]) -> dict[str, Any]:
    """What tells blocks apart: row and id of the complex, number in it, partner, residue, name of the block type."""
    counts = [len(record.block_types) for record in records]
    names = block_symbols()
    types = np.concatenate([record.block_types for record in records]).astype(np.int64)
    return {
        "row": pa.array(np.repeat(np.array(rows, dtype=np.int64), counts)),
        "id": repeated([record.id for record in records], counts),
        "block": pa.array(np.concatenate([np.arange(count, dtype=np.int32) for count in counts])),
        "segment": pa.array(np.concatenate([record.segment_ids for record in records])),
        "chain": pa.array([chain for record in records for chain in record.block_chains], pa.utf8()),
        "resnum": pa.array(np.concatenate([record.block_resnums for record in records])),
        "icode": pa.array([icode for record in records for icode in record.block_icodes], pa.utf8()),
        "component": pa.array([name for record in records for name in record.block_components], pa.utf8()),
        "type": pa.array(
            [names[t] if t < len(names) else f"fragment {t - len(names) + 1}" for t in types], pa.utf8()
        ),
    }


def atom_columns(records: Sequence[Record], blocks: pa.Table) -> dict[str, Any]:
    """What tells atoms apart: the labels of their block, their number, name, element and place (Å)."""
    counts = np.concatenate([record.block_lengths for record in records])
    of_block = pa.array(np.repeat(np.arange(len(counts)), counts))
    labels = ("row", "id", "block", "segment", "chain", "resnum", "icode", "component")
    elements = pa.array(atom_symbols(), pa.utf8())
    types = np.concatenate([record.atom_types for record in records]).astype(np.int64)
    sizes = [len(record.atom_types) for record in records]
    return {
        **{name: blocks.column(name).take(of_block) for name in labels},
        "atom": pa.array(np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])),
        "name": pa.array([name for record in records for name in record.atom_names], pa.utf8()),
        "element": elements.take(pa.array(types)),
        "position": vectors(np.concatenate([record.positions for record in records])),
    }


def described(one: Representation, parts: Mapping[str, int]) -> dict[str, str]:
    """The metadata of a table: what its vectors are, and how many numbers each part has."""
    return {"representation": str(one), "columns": json.dumps(parts)}


def constant(path: Path) -> Indices:
    """The numbers of a table's vectors that are the same in all rows; none of a table of a single row."""
    low, high, rows = None, None, 0
    for batch in pq.ParquetFile(path).iter_batches(4096, columns=["embedding"]):
        column = batch.column(0)
        values = column.flatten().to_numpy().reshape(len(column), -1)
        rows += len(values)
        low = values.min(axis=0) if low is None else np.minimum(low, values.min(axis=0))
        high = values.max(axis=0) if high is None else np.maximum(high, values.max(axis=0))
    none = np.zeros(0, dtype=np.int64)
    return none if rows < 2 or low is None else np.flatnonzero(low == high)


def named(columns: Indices, parts: Mapping[str, int]) -> dict[str, int]:
    """How many of some columns each part has.

    >>> named(np.array([0, 5, 6]), {"mean.h": 4, "global.h": 4})
    {'mean.h': 1, 'global.h': 2}
    """
    ends = np.cumsum(list(parts.values()))
    counts = np.bincount(np.searchsorted(ends, columns, side="right"), minlength=len(parts)).tolist()
    return {name: count for name, count in zip(parts, counts, strict=True) if count}


def settle(path: Path, parts: Mapping[str, int], *, drop: bool) -> dict[str, int]:
    """Say in the metadata of a finished table which numbers are constant, and leave them out if asked to.

    Returns how many there are, by part. A table that says so already is left as it is.
    """
    schema = pq.read_schema(path)
    known = schema.metadata or {}
    if b"constant" in known:
        return named(np.array(json.loads(known[b"constant"]), dtype=np.int64), parts)
    columns = constant(path)
    width, index = sum(parts.values()), schema.get_field_index("embedding")
    kept = np.setdiff1d(np.arange(width), columns) if drop and len(columns) < width else np.arange(width)
    schema = schema.set(index, pa.field("embedding", pa.list_(pa.float32(), len(kept)))).with_metadata(
        {**known, "constant": json.dumps(columns.tolist()), "dropped": json.dumps(len(kept) < width)}
    )
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for batch in pq.ParquetFile(path).iter_batches(4096):
            columns_of = list(batch.columns)
            values = batch.column(index).flatten().to_numpy().reshape(batch.num_rows, -1)
            columns_of[index] = vectors(values[:, kept])
            writer.write_batch(pa.record_batch(columns_of, schema=schema))
    return named(columns, parts)


def tables_of(rows: Rows, found: Sequence[Embedded], wanted: Sequence[str]) -> dict[str, pa.Table]:
    """The tables `wanted` of some complexes, in the order of their rows."""
    ordered = sorted(found, key=lambda one: one.position)
    tables = {}
    if "complexes" in wanted:
        columns = complex_columns(rows, ordered)
        tables["complexes"] = pa.table(
            {**columns, "embedding": vectors(np.stack([one.complex for one in ordered]))}
        )
    if "blocks" in wanted or "atoms" in wanted:
        records = [one.record for one in ordered]
        labels = pa.table(block_columns(records, [int(rows.rows[one.position]) for one in ordered]))
        if "blocks" in wanted:
            tables["blocks"] = labels.append_column(
                "embedding", vectors(np.concatenate([one.block for one in ordered]))
            )
        if "atoms" in wanted:
            columns = atom_columns(records, labels)
            tables["atoms"] = pa.table(
                {**columns, "embedding": vectors(np.concatenate([o.atom for o in ordered]))}
            )
    return tables


def piece_size(rows: Rows) -> int:
    """Complexes per piece, so that a piece holds about PIECE_BLOCKS blocks; a function of the data alone."""
    return max(1, int(PIECE_BLOCKS / max(float(rows.blocks.mean()), 1.0)))


def run(job: Job, journal: Journal, data: Opened, model: Model) -> Result:
    """Write `complexes.parquet`, `blocks.parquet` and `atoms.parquet`, those that are asked for."""
    rows, chosen = data.rows, job.options.chosen
    _check_partners(data, chosen.values())
    parts = {table: one.parts_of(model.config) for table, one in chosen.items()}
    told = {table: described(one, parts[table]) for table, one in chosen.items()}

    def make(positions: Indices) -> dict[str, pa.Table]:
        found = []
        for one in encode(model, data, positions, chosen):
            found.append(one)
            meter.add(1)
        made = tables_of(rows, found, tuple(chosen))
        return {name: table.replace_schema_metadata(told[name]) for name, table in made.items()}

    with Meter(journal, len(rows)) as meter:
        tables = in_pieces(job.folder, tuple(chosen), len(rows), piece_size(rows), make, meter, job.workers)
    figures: dict[str, Any] = {"complexes": len(rows)}
    for name, one in chosen.items():
        same = settle(tables[name], parts[name], drop=job.options.drop_constant)
        width = sum(parts[name].values())
        figures[name] = f"{one}, {width} numbers"
        if same:
            listed = ", ".join(f"{count} {part}" for part, count in same.items())
            left = ", left out" if job.options.drop_constant and sum(same.values()) < width else ""
            journal.say(
                f"note    {name}: {sum(same.values())} numbers are the same in all rows{left}: {listed}"
            )
    figures["speed"] = f"{meter.rate:.1f} complexes/s"
    return Result(tables, figures)


def check(job: Job, issues: Issues) -> None:
    """What the encoder can give, and the data have, of what is asked for."""
    options: EmbedConfig = job.options
    chosen = options.chosen.values()
    if not any(one.pools for one in chosen):
        without_effect("embed", options, ("pool",), "neither z_graph nor z_interface is asked for", issues)
    if not any(one.level == "interface" for one in chosen):
        without_effect("embed", options, ("segment",), "no interface is asked for", issues)
    if job.model is not None:
        for one in chosen:
            if problem := one.unserved(job.model.config):
                issues.add(("embed", "representation"), problem)
    if job.opened is not None:
        try:
            _check_partners(job.opened, chosen)
        except DataError as error:
            issues.add(("embed", "segment"), str(error), value=("embed", "segment") in issues.source)


def _check_partners(data: Opened, chosen: Iterable[Representation]) -> None:
    """Raise DataError if a complex lacks the partner that an interface is asked of."""
    for one in chosen:
        if one.level != "interface":
            continue
        rows = data.rows
        lacking = np.flatnonzero(rows.dataset.block_counts(f"segment{one.segment}")[rows.rows] <= 1)
        other = data.input not in ("complex", f"segment{one.segment}")
        if other or len(lacking):
            which = "all complexes" if other else f"{len(lacking)} of {len(rows)} complexes"
            named = "" if other else f", {rows.ids[lacking[0]]} for one,"
            raise DataError(
                f"{which}{named} lack partner {one.segment}, of which {one} is asked; leave them out, or embed z_graph"
            )


KIND = Kind(EmbedConfig, run, page, check=check)


# --------------------------------------------------------------------------------------------------- Python


@dataclass(frozen=True)
class Embeddings:
    """What `embed` gives: ids, and for each of them the vectors of the complex, its blocks and its atoms.

    complex [N, H] float32; blocks: N arrays [B, h]; atoms: N arrays [A, k]; records: N records with the labels of
    blocks and atoms, in the same order. failures: inputs that could not be read, as in `failures.jsonl`.
    representation: what the vectors of "complexes", "blocks" and "atoms" are; columns: the same of the numbers of
    `complex`, part by part.
    """

    ids: tuple[str, ...]
    complex: Floats
    blocks: tuple[Floats, ...]
    atoms: tuple[Floats, ...]
    records: tuple[Record, ...]
    failures: tuple[dict[str, Any], ...]
    representation: Mapping[str, str]
    columns: Mapping[str, int]

    @property
    def constant(self) -> Indices:
        """The columns of `complex` that are the same in all rows; none if there is one row."""
        return np.flatnonzero(np.ptp(self.complex, axis=0) == 0) if len(self) > 1 else np.zeros(0, np.int64)

    def __len__(self) -> int:
        """Number of complexes."""
        return len(self.ids)


def embed(
    paths: str | Path | Complexes | Record | Sequence[str | Path] | Sequence[Record],
    weights: Model | str | Path,
    *,
    representation: str | Sequence[str] = (),
    pool: str = "mean_std_global",
    segment: int = 0,
    input: str | None = None,
    cutoff: float | None = None,
    rule: str | None = None,
    fragments: str | None = None,
    batch_blocks: int = 2048,
    device: str = "auto",
    force: bool = False,
) -> Embeddings:
    """Vectors of data sets, indexes, structure files or folders of them, in memory.

    paths: one or several, of any kind that `data.source` takes, or an open data set, or records; interfaces of
    structures without an index are found as by `atomica-prep build-graphs --discover`. weights: a model, which stays
    as it was, or what `atomica.load` reads. representation, pool, segment: which vectors, as in section [embed] of a
    spec; those of complexes, blocks and atoms for which none is named are h_graph, h_block and h_atom. input:
    "complex", or "segment0" or "segment1" for one partner alone. cutoff (Å), rule and fragments: how interfaces are cut
    where they are not yet. What is left out is as the model was trained with. Raises DataError if nothing can be read,
    or is not what the model was made for, unless `force`; SpecError for a representation that there is not or that the
    encoder cannot give.

    >>> import atomica
    >>> model = atomica.Model(atomica.EncoderConfig(atom_hidden=16, block_hidden=16, layers=1))
    >>> found = atomica.embed("demo://pockets", model, representation="z_graph", pool="mean_std")
    >>> found.complex.shape, found.representation["complexes"]
    ((163, 528), 'z_graph.mean_std')
    """
    asked = EmbedConfig(
        representation if isinstance(representation, str) else tuple(representation),
        pool,
        segment,
        tuple(TABLES),
    ).chosen
    model = weights if isinstance(weights, Model) else compat.load(weights, device)
    given: Any = [paths] if isinstance(paths, Record) else paths
    there = isinstance(given, Complexes) or (
        isinstance(given, Sequence) and bool(len(given)) and all(isinstance(one, Record) for one in given)
    )
    config = InputConfig(
        () if there else listed(given),
        input=input,
        cutoff=cutoff,
        rule=rule,
        fragments=fragments,
        batch_blocks=batch_blocks,
        loader_threads=0,
        force=force,
    )
    if wrong := config.strange([model.made_for]):
        raise DataError(*(text.replace("set data.force = true", "say force=True") for text in wrong.values()))
    failures: tuple[dict[str, Any], ...] = ()
    before = model.made_for
    seen = input or model.made_for.view or "complex"
    try:
        if force:
            model.made_for = Contract(view=input or before.view)
        if there:
            view = None if model.segment is None else f"segment{model.segment}"
            records = [record.view(view or input or before.view or record.seen) for record in given]
            blocks = np.array([len(record.block_types) for record in records], dtype=np.int64)
            found = _encoded(model, records.__getitem__, blocks, np.arange(len(records)), config, asked)
            done = sorted(found, key=lambda one: one.position)
        else:
            with tempfile.TemporaryDirectory(prefix="atomica-") as folder:
                seen = seen if model.segment is None else f"segment{model.segment}"
                data = open_data(find(config.paths), config, seen, [model], Path(folder), quiet=True)
                warn_of(data.found.failures)
                _check_partners(data, asked.values())
                done = sorted(encode(model, data, chosen=asked), key=lambda one: one.position)
                failures = data.found.failures
    finally:
        model.made_for = before
    return Embeddings(
        ids=tuple(one.record.id for one in done),
        complex=np.stack([one.complex for one in done]),
        blocks=tuple(one.block for one in done),
        atoms=tuple(one.atom for one in done),
        records=tuple(one.record for one in done),
        failures=failures,
        representation={table: str(one) for table, one in asked.items()},
        columns=asked["complexes"].parts_of(model.config),
    )
