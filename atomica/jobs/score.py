"""`run.job = "score"`: which blocks the embedding of a complex hangs on.

The interaction score of a block is the cosine between the embedding of the complex and that of the complex with the
block masked (Fang, Zhang, Zhou, Zitnik 2025): 1 where nothing changes, lower the more the block matters. As redefined
by its authors in 2026 it compares what the ligand alone is told: the invariants of its side, and of amino acids on the
other side alone. Gradients estimate the first for all blocks at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from atomica import keys
from atomica.analysis.bfactors import INTERFACE, LABEL_IDS, STRUCTURES, stems
from atomica.analysis.contacts import Contact, agreement, contacts
from atomica.analysis.gradient import gradient_scores
from atomica.analysis.masking import WHOLE, cosines, maskable
from atomica.console import Journal, Meter
from atomica.data.origin import INPUTS, Origin
from atomica.data.record import Record
from atomica.errors import DataError
from atomica.evaluation.pooled import spread
from atomica.jobs.embed import block_columns
from atomica.jobs.inputs import ColouredConfig, Opened
from atomica.jobs.job import Job, Kind, Result, without_effect
from atomica.jobs.tables import in_pieces, write_csv
from atomica.model.model import Model
from atomica.nn.equivariant import EquivariantEncoder
from atomica.nn.representations import Representation
from atomica.report.score import page
from atomica.spec import Issues, setting

__all__ = ["KIND", "ScoreConfig", "colours", "ligand_of", "scored_blocks", "scores"]


Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
PIECE_BLOCKS = 2048
"""Blocks, on average, of the complexes of one piece of the table; what an interruption may cost."""
CHECKED, CHECKED_BLOCKS, TRUSTED = 8, (10, 200), 0.3
"""Complexes of which gradients are held against masks, how large they are, and the rho from which they are of use."""


@dataclass(frozen=True)
class ScoreConfig(ColouredConfig):
    """Section `[score]`: what is compared and how, and what is written beside the table."""

    readout: str = setting(
        "complex",
        "what a mask changes: the embedding of the complex, for all blocks; or of the ligand's side the invariants "
        "(z_interface, mean_component_normalized), for amino acids of the other side: the score as redefined in 2026",
        choices=("complex", "ligand"),
    )
    ligand: str = setting(
        "auto",
        "of the readout ligand: which partner that is; auto: the one without amino acids, which all must have",
        choices=("auto", "segment0", "segment1"),
    )
    method: str = setting(
        "masking",
        "masking: exact, a copy of the complex for each block; gradient: an estimate for all blocks at once, by 2 "
        "forward passes and 4 backward ones, of the readout complex; how far it ranks blocks as masking does is told, "
        "which of models that were trained for a question it may, and of base hardly",
        choices=("masking", "gradient"),
    )
    contacts: bool = setting(
        True, "find the contacts between the partners by kind, and judge the scores by them"
    )


def check(job: Job, issues: Issues) -> None:
    """A root must be a folder, and something must be looked for in it; the readout must suit the model and method."""
    options: ScoreConfig = job.options
    options.check_root("score", issues)
    if options.readout == "complex":
        without_effect("score", options, ("ligand",), 'score.readout is "complex"', issues)
    elif job.input != "complex":
        issues.add(("score", "readout"), f"needs both partners, and the model is given {job.input} alone")
    elif options.method == "gradient":
        issues.add(("score", "method"), 'gradients estimate the readout "complex" alone')
    elif job.opened is not None:
        try:
            _ligands(job.opened, options)
        except DataError as error:
            issues.add(("score", "ligand"), str(error), value=("score", "ligand") in issues.source)
    for model in job.models[:1]:
        if options.readout == "ligand" and (why := LIGAND[0].unserved(model.config)):
            issues.add(("score", "readout"), why)
        if options.method == "gradient" and not isinstance(model.encoder, EquivariantEncoder):
            issues.add(("score", "method"), f"gradients need an equivariant encoder, not {model.config.kind}")


LIGAND = tuple(Representation("z_interface", "mean_component_normalized", segment) for segment in (0, 1))
"""What is read of a ligand that is segment 0, or segment 1."""


def ligand_of(record: Record) -> int:
    """The segment of a complex that is the ligand: the only one without amino acids. Raises DataError if none is."""
    amino = _amino_acids(record)
    found = [
        one
        for one in (0, 1)
        if (record.segment_ids == one).any() and not amino[record.segment_ids == one].any()
    ]
    if len(found) != 1 or not amino.any():
        which = "both partners have" if not found else "no partner has"
        raise DataError(f"{record.id}: {which} amino acids; score.ligand says which partner is the ligand")
    return found[0]


def _ligands(data: Opened, options: ScoreConfig) -> list[int | None]:
    """The ligand's segment of every complex; None for the readout complex. Raises DataError if some have none."""
    count = len(data.rows)
    if options.readout == "complex":
        return [None] * count
    if options.ligand != "auto":
        return [int(options.ligand[-1])] * count
    found: list[int | None] = []
    wrong = []
    for position in range(count):
        try:
            found.append(ligand_of(data.record(position)))
        except DataError as error:
            wrong.append(str(error))
    if wrong:
        raise DataError(f"{len(wrong)} of {count} complexes have no ligand side: {wrong[0]}")
    return found


def _amino_acids(record: Record) -> npt.NDArray[np.bool_]:
    """Which blocks are one of the 20 amino acids."""
    return (record.block_types >= keys.SPECIAL_BLOCKS) & (record.block_types < keys.SPECIAL_BLOCKS + 20)


def scored_blocks(record: Record, ligand: int | None = None) -> Indices:
    """The blocks that have a score: all but the global ones; with a ligand, the amino acids of the other partner."""
    if ligand is None:
        return maskable(record)
    return np.flatnonzero(_amino_acids(record) & (record.segment_ids != ligand))


def scores(
    model: Model,
    record: Record,
    *,
    batch_blocks: int = 2048,
    method: str = "masking",
    ligand: int | None = None,
) -> tuple[Indices, Floats]:
    """The blocks of a complex that are scored [M], and their scores [M], from −1 to 1.

    record: as the model is to see it (`record.view(...)`), or whole for one that was trained on a partner alone.
    batch_blocks: blocks that are computed at once, about; no effect on the result but for rounding. method: "masking",
    or "gradient", see `analysis.gradient`. ligand: the segment whose invariants are compared (`ligand_of` finds it);
    None: the embedding of the complex is, for all blocks but global ones. Raises DataError for a record of data that
    the model was not made for, and for a ligand that it cannot read.

    >>> import atomica
    >>> model = atomica.Model(atomica.EncoderConfig(atom_hidden=8, block_hidden=8, layers=2))
    >>> blocks, values = scores(model, atomica.open_dataset("demo://pockets")[40].view("segment0"))
    >>> blocks[0], len(blocks) == len(values), bool((values <= 1 + 1e-6).all())
    (np.int64(1), True, True)
    """
    record = record.view(model.made_for.view or record.seen)
    if found := model.made_for.problems(record.origin or Origin(), record.seen):
        raise DataError(f"{record.id}: {'; '.join(found.values())}")
    blocks, readout = scored_blocks(record, ligand), WHOLE if ligand is None else LIGAND[ligand]
    if ligand is not None and not {0, 1} <= set(record.segment_ids.tolist()):
        raise DataError(f"{record.id}: one partner alone has no ligand to read")
    training = model.training
    model.eval()
    try:
        if method == "gradient":
            if ligand is not None:
                raise DataError(
                    "gradients estimate scores of the whole complex, not those of a ligand's side"
                )
            return blocks, gradient_scores(model, record)
        return blocks, cosines(model, record, batch_blocks=batch_blocks, readout=readout, blocks=blocks)
    finally:
        model.train(training)


def colours(values: Floats) -> Floats:
    """Scores as B-factors: 100 for the block that matters most, 0 for one that does not matter.

    >>> colours(np.array([1.0, 0.9, 0.95])).round(6).tolist()
    [0.0, 100.0, 50.0]
    """
    change = np.clip(1.0 - values, 0.0, None)
    return 100.0 * (change / max(float(change.max(initial=0.0)), 1e-12))


def run(job: Job, journal: Journal, data: Opened, model: Model) -> Result:
    """Write `scores.parquet` and `contacts.parquet`, both as CSV too, and the coloured structures."""
    rows, options = data.rows, job.options
    names, ligands = stems(rows.ids, rows.rows.tolist()), _ligands(data, options)
    by_label = [row for row in rows.rows.tolist() if data.found.label_ids(row)]
    if options.structures:
        (job.folder / STRUCTURES).mkdir(exist_ok=True)
    wanted = ("scores", "contacts") if options.contacts else ("scores",)

    def make(positions: Indices) -> dict[str, pa.Table]:
        found = []
        for position in positions.tolist():
            found.append(_scored(job, data, position, names[position], ligands[position]))
            meter.add(1)
        tables = {name: pa.concat_tables(one[name] for one in found) for name in wanted}
        tables["scores"] = tables["scores"].replace_schema_metadata({LABEL_IDS: json.dumps(by_label)})
        return tables

    size = max(1, int(PIECE_BLOCKS / max(float(rows.blocks.mean()), 1.0)))
    with Meter(journal, len(rows)) as meter:
        tables = in_pieces(job.folder, wanted, len(rows), size, make, meter, job.workers)
    table = pq.read_table(tables["scores"])
    for name in wanted:
        tables[f"{name}.csv"] = job.folder / f"{name}.csv"
        write_csv(tables[name], tables[f"{name}.csv"])
    figures: dict[str, Any] = {"complexes": len(rows), "blocks": table.num_rows}
    figures["speed"] = f"{meter.rate:.2f} complexes/s"
    if options.structures:
        written = [path.name for path in (job.folder / STRUCTURES).iterdir() if not path.name.startswith(".")]
        figures["structures"] = len(written)
        figures["of them the interface alone"] = sum(name.endswith(INTERFACE) for name in written)
    if options.method == "gradient" and (alike := _alike(job, data)):
        rho = float(np.mean(alike))
        advice = '; that is no estimate of them: take score.method = "masking"' if rho < TRUSTED else ""
        journal.say(
            f"note    gradients rank blocks as masks do with rho {rho:.2f}, of {len(alike)} complexes{advice}"
        )
        figures["rank correlation with masking"] = f"{rho:.2f}"
    if options.contacts:
        found = {name: table.column(name).to_numpy() for name in ("row", "score")}
        kinds = [text.split("; ") if text else [] for text in table.column("contacts").to_pylist()]
        figures |= agreement(found["row"], 1.0 - found["score"], kinds)
    return Result(tables, figures)


def _alike(job: Job, data: Opened) -> list[float]:
    """Spearman's rho of scores by gradient and by masking, of some complexes that are not large."""
    from scipy.stats import spearmanr

    sizes = data.rows.blocks
    found = np.flatnonzero((sizes >= CHECKED_BLOCKS[0]) & (sizes <= CHECKED_BLOCKS[1]))
    places = found[np.unique(np.linspace(0, len(found) - 1, min(CHECKED, len(found))).astype(np.int64))]
    both = [
        [scores(job.models[0], data.record(place), method=method)[1] for method in ("gradient", "masking")]
        for place in places.tolist()
    ]
    return [rho for one in both if np.isfinite(rho := float(spearmanr(*one)[0]))]


def _scored(job: Job, data: Opened, position: int, name: str, ligand: int | None) -> dict[str, pa.Table]:
    """The rows of one complex in each table; its structure is written on the way, as `name` with a suffix."""
    row, record, options = int(data.rows.rows[position]), data.record(position), job.options
    each = [
        scores(one, record, batch_blocks=data.config.batch_blocks, method=options.method, ligand=ligand)
        for one in job.models
    ]
    blocks, values = each[0][0], np.mean([found for _, found in each], axis=0)
    if options.structures:
        by_block = dict(zip(blocks.tolist(), colours(values).tolist(), strict=True))
        data.write_structure(position, by_block, job.folder / STRUCTURES / name, options.root, "score.root")
    table = pa.table(block_columns([record], [row])).take(pa.array(blocks))
    table = table.append_column("score", pa.array(values))
    if len(each) > 1:
        table = table.append_column("spread", pa.array(spread([found for _, found in each])))
    if not options.contacts:
        return {"scores": table}
    whole = data.rows.dataset[row]
    found = contacts(whole)
    seen = np.arange(len(whole.block_types))
    if data.input != "complex":
        seen = np.flatnonzero(whole.segment_ids == INPUTS.index(data.input) - 1)
    kinds: dict[int, dict[str, None]] = {}
    for contact in found:
        for block in contact.blocks:
            kinds.setdefault(block, {})[contact.kind] = None
    texts = ["; ".join(kinds.get(block, ())) for block in seen[blocks].tolist()]
    return {
        "scores": table.append_column("contacts", pa.array(texts, pa.utf8())),
        "contacts": _contact_table(whole, row, found),
    }


def _contact_table(record: Record, row: int, found: Sequence[Contact]) -> pa.Table:
    """A row for each contact: id, kind, the block of either partner, its atoms and the place (Å) of the contact."""
    labels = pa.table(block_columns([record], [row]))
    columns: dict[str, pa.Array] = {
        "row": pa.array([row] * len(found), pa.int64()),
        "id": pa.array([record.id] * len(found), pa.utf8()),
        "kind": pa.array([one.kind for one in found], pa.utf8()),
    }
    for side in (0, 1):
        own = labels.take(pa.array([one.blocks[side] for one in found], pa.int64()))
        for name in ("block", "chain", "resnum", "icode", "component"):
            columns[f"{name}{side + 1}"] = own.column(name).combine_chunks()
        columns[f"atoms{side + 1}"] = pa.array([one.atoms[side] for one in found], pa.utf8())
    columns["distance"] = pa.array([round(one.distance, 3) for one in found], pa.float64())
    for side in (0, 1):
        for index, axis in enumerate("xyz"):
            places = [round(one.ends[side][index], 3) for one in found]
            columns[f"{axis}{side + 1}"] = pa.array(places, pa.float64())
    return pa.table(columns)


KIND = Kind(ScoreConfig, run, page, together=True, check=check)
