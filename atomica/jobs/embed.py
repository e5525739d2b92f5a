"""`run.job = "embed"`: embeddings of complexes, blocks and atoms as Parquet, with names to map them back.

Shapes: B blocks and A atoms of one complex, H width of the block level and of the complex, h of the atom level.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from atomica import compat
from atomica._prep import atom_symbols, block_symbols
from atomica.console import Journal, Meter
from atomica.data.dataset import Complexes
from atomica.data.record import Record
from atomica.data.sampling import Rows, plan_batches, prefetch
from atomica.errors import DataError
from atomica.jobs.inputs import InputConfig, Opened, find, open_data
from atomica.jobs.job import Job, Kind, Result
from atomica.jobs.tables import in_pieces
from atomica.keys import MODALITIES
from atomica.model.contract import Contract
from atomica.model.model import Model
from atomica.report.embed import page
from atomica.spec import Problems, setting

__all__ = ["KIND", "EmbedConfig", "Embedded", "Embeddings", "embed", "encode"]


Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
TABLES = ("complexes", "blocks", "atoms")
PIECE_BLOCKS = 1 << 15
"""Blocks, on average, of the complexes of one piece of the tables: some dozen megabytes of embeddings."""


@dataclass(frozen=True)
class EmbedConfig:
    """Section `[embed]`: which tables are written."""

    tables: tuple[str, ...] = setting(
        TABLES,
        'which embeddings to write: of "complexes", of "blocks" (residues, fragments), of "atoms"',
    )

    def __post_init__(self) -> None:
        """Check that something is asked for, once."""
        Problems.check(
            (not self.tables, "tables", f"the list is empty; name some of {', '.join(TABLES)}"),
            (
                not set(self.tables) <= set(TABLES),
                "tables",
                f"may hold {', '.join(TABLES)}, not {', '.join(sorted(set(self.tables) - set(TABLES)))}",
            ),
            (len(set(self.tables)) < len(self.tables), "tables", "names a table twice"),
        )


class Embedded(NamedTuple):
    """One complex: its place among the rows, its record as the model saw it, and its embeddings.

    complex [H], block [B, H], atom [A, h]; float32, each row of unit length (complex and atom rows always; block
    rows unless external features are mixed in).
    """

    position: int
    record: Record
    complex: Floats
    block: Floats
    atom: Floats


def encode(model: Model, data: Opened, positions: Indices | None = None) -> Iterator[Embedded]:
    """Embeddings of some of the rows of `data` (default: all), in the order of their sizes.

    positions [N]: which of the rows. Values do not depend on what else is in a batch, to 2·10⁻⁶ in float32, since
    sums are rounded in another order. A model with `reference_quirks` gets complexes one at a time: the original's
    padding makes them depend on their batch.
    """
    wanted = np.arange(len(data.rows)) if positions is None else positions
    return _encoded(model, data.record, data.rows.blocks, wanted, data.config)


def _encoded(
    model: Model, record: Callable[[int], Record], blocks: Indices, wanted: Indices, config: InputConfig
) -> Iterator[Embedded]:
    """The same for complexes that come from anywhere. record: position → complex; blocks [N]: their sizes."""
    order = wanted[np.argsort(blocks[wanted], kind="stable")]
    plan = plan_batches(order, blocks, 1 if model.config.reference_quirks else config.batch_blocks)

    def load(batch: Indices) -> tuple[Indices, list[Record], Any]:
        records = [record(position) for position in batch]
        return batch, records, model.inputs(records).planned()

    training = model.training
    model.eval()
    try:
        for batch, records, inputs in prefetch(plan, load, threads=config.loader_threads):
            with torch.no_grad():
                encoding = model.encode(inputs)
            atom, block, complex_ = (part.float().cpu().numpy() for part in encoding)
            ends_of_blocks = np.cumsum([len(record.block_types) for record in records])
            ends_of_atoms = np.cumsum([len(record.atom_types) for record in records])
            parts, atoms = np.split(block, ends_of_blocks[:-1]), np.split(atom, ends_of_atoms[:-1])
            for index, one in enumerate(records):
                yield Embedded(int(batch[index]), one, complex_[index], parts[index], atoms[index])
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
    rows = data.rows
    wanted = tuple(name for name in TABLES if name in job.options.tables)

    def make(positions: Indices) -> dict[str, pa.Table]:
        found = []
        for one in encode(model, data, positions=positions):
            found.append(one)
            meter.add(1)
        return tables_of(rows, found, wanted)

    with Meter(journal, len(rows)) as meter:
        tables = in_pieces(job.folder, wanted, len(rows), piece_size(rows), make, meter)
    figures = {
        "complexes": len(rows),
        "width": model.config.block_hidden,
        "speed": f"{meter.rate:.1f} complexes/s",
    }
    return Result(tables, figures)


KIND = Kind(EmbedConfig, run, page)


# --------------------------------------------------------------------------------------------------- Python


@dataclass(frozen=True)
class Embeddings:
    """What `embed` gives: ids, and for each of them the embeddings of the complex, its blocks and its atoms.

    complex [N, H] float32; blocks: N arrays [B, H]; atoms: N arrays [A, h]; records: N records with the labels of
    blocks and atoms, in the same order. failures: inputs that could not be read, as in `failures.jsonl`.
    """

    ids: tuple[str, ...]
    complex: Floats
    blocks: tuple[Floats, ...]
    atoms: tuple[Floats, ...]
    records: tuple[Record, ...]
    failures: tuple[dict[str, Any], ...]

    def __len__(self) -> int:
        """Number of complexes."""
        return len(self.ids)


def embed(
    paths: str | Path | Complexes | Record | Sequence[str | Path] | Sequence[Record],
    weights: Model | str | Path,
    *,
    input: str | None = None,
    cutoff: float | None = None,
    rule: str | None = None,
    fragments: str | None = None,
    batch_blocks: int = 2048,
    device: str = "auto",
    force: bool = False,
) -> Embeddings:
    """Embeddings of data sets, indexes, structure files or folders of them, in memory.

    paths: one or several, of any kind that `data.source` takes, or an open data set, or records; interfaces of
    structures without an index are found as by `atomica-prep build-graphs --discover`. weights: a model, which stays
    as it was, or what `atomica.load` reads. input: "complex", or "segment0" or "segment1" for one partner alone.
    cutoff (Å), rule and fragments: how interfaces are cut where they are not yet. What is left out is as the model was
    trained with. Raises DataError if nothing can be read, or is not what the model was made for, unless `force`.

    >>> import atomica
    >>> model = atomica.Model(atomica.EncoderConfig(atom_hidden=16, block_hidden=16, layers=1))
    >>> atomica.embed("demo://pockets", model).complex.shape
    (163, 16)
    """
    model = weights if isinstance(weights, Model) else compat.load(weights, device)
    given: Sequence[Any] = [paths] if isinstance(paths, str | Path | Record) else paths
    there = isinstance(given, Complexes) or (
        bool(len(given)) and all(isinstance(one, Record) for one in given)
    )
    config = InputConfig(
        () if there else tuple(str(path) for path in given),
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
            found = _encoded(model, records.__getitem__, blocks, np.arange(len(records)), config)
            done = sorted(found, key=lambda one: one.position)
        else:
            with tempfile.TemporaryDirectory(prefix="atomica-") as folder:
                seen = seen if model.segment is None else f"segment{model.segment}"
                data = open_data(find(config.paths), config, seen, [model], Path(folder))
                done = sorted(encode(model, data), key=lambda one: one.position)
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
    )
