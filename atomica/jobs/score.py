"""`run.job = "score"`: which blocks the embedding of a complex hangs on.

The interaction score of a block is the cosine between the embedding of the complex and that of the complex with the
block masked (Fang, Zhang, Zhou, Zitnik 2025): 1 where nothing changes, lower the more the block matters.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from atomica.analysis.bfactors import INTERFACE, LABEL_IDS, STRUCTURES, stems, write
from atomica.analysis.masking import cosines, maskable
from atomica.console import Journal, Meter
from atomica.data.origin import Origin
from atomica.data.record import Record
from atomica.errors import DataError
from atomica.evaluation.pooled import spread
from atomica.files import replacing
from atomica.jobs.embed import block_columns
from atomica.jobs.inputs import Opened
from atomica.jobs.job import Job, Kind, Result
from atomica.jobs.tables import in_pieces
from atomica.model.model import Model
from atomica.report.score import page
from atomica.spec import Issues, setting

__all__ = ["KIND", "ScoreConfig", "colours", "scores"]


Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
PIECE_BLOCKS = 2048
"""Blocks, on average, of the complexes of one piece of the table; what an interruption may cost."""


@dataclass(frozen=True)
class ScoreConfig:
    """Section `[score]`: what is written beside the table."""

    structures: bool = setting(
        True, "write every complex as a structure file with the scores in the B-factor column"
    )
    root: str = setting(
        "",
        "folder that the structure paths of ready data sets start from; where a file is not found, the atoms of the "
        "interface alone are written",
        path=True,
    )


def check(job: Job, issues: Issues) -> None:
    """A root must be a folder, and something must be looked for in it."""
    if job.options.root and not Path(job.options.root).is_dir():
        issues.add(("score", "root"), "no such folder")
    if job.options.root and not job.options.structures:
        issues.add(("score", "root"), "has no effect with score.structures = false")


def scores(model: Model, record: Record, *, batch_blocks: int = 2048) -> tuple[Indices, Floats]:
    """The blocks of a complex but the global ones [M], and their scores [M], from −1 to 1.

    record: as the model is to see it (`record.view(...)`), or whole for one that was trained on a partner alone.
    Raises DataError for a record of data that the model was not made for. batch_blocks: blocks that are computed at
    once, about; no effect on the result but for rounding.

    >>> import atomica
    >>> model = atomica.Model(atomica.EncoderConfig(atom_hidden=8, block_hidden=8, layers=2))
    >>> blocks, values = scores(model, atomica.open_dataset("demo://pockets")[40].view("segment0"))
    >>> blocks[0], len(blocks) == len(values), bool((values <= 1 + 1e-6).all())
    (np.int64(1), True, True)
    """
    record = record.view(model.made_for.view or record.seen)
    if found := model.made_for.problems(record.origin or Origin(), record.seen):
        raise DataError(f"{record.id}: {'; '.join(found.values())}")
    training = model.training
    model.eval()
    try:
        return maskable(record), cosines(model, record, batch_blocks=batch_blocks)
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
    """Write `scores.parquet`, the same as `scores.csv`, and the coloured structures."""
    rows = data.rows
    names = stems(rows.ids, rows.rows.tolist())
    by_label = [row for row in rows.rows.tolist() if data.found.label_ids(row)]
    if job.options.structures:
        (job.folder / STRUCTURES).mkdir(exist_ok=True)

    def make(positions: Indices) -> dict[str, pa.Table]:
        found = []
        for position in positions.tolist():
            found.append(_scored(job, data, position, names[position]))
            meter.add(1)
        return {"scores": pa.concat_tables(found).replace_schema_metadata({LABEL_IDS: json.dumps(by_label)})}

    size = max(1, int(PIECE_BLOCKS / max(float(rows.blocks.mean()), 1.0)))
    with Meter(journal, len(rows)) as meter:
        tables = in_pieces(job.folder, ("scores",), len(rows), size, make, meter, job.workers)
    table = pq.read_table(tables["scores"])
    tables["scores.csv"] = job.folder / "scores.csv"
    with replacing(tables["scores.csv"]) as temporary:
        pc.write_csv(table, temporary)
    figures = {"complexes": len(rows), "blocks": table.num_rows, "speed": f"{meter.rate:.2f} complexes/s"}
    if job.options.structures:
        written = [path.name for path in (job.folder / STRUCTURES).iterdir() if not path.name.startswith(".")]
        figures["structures"] = len(written)
        figures["of them the interface alone"] = sum(name.endswith(INTERFACE) for name in written)
    return Result(tables, figures)


def _scored(job: Job, data: Opened, position: int, name: str) -> pa.Table:
    """The rows of one complex; its structure is written on the way, as `name` with a suffix."""
    row, record = int(data.rows.rows[position]), data.record(position)
    each = [scores(one, record, batch_blocks=data.config.batch_blocks) for one in job.models]
    blocks, values = each[0][0], np.mean([found for _, found in each], axis=0)
    if job.options.structures:
        by_block = dict(zip(blocks.tolist(), colours(values).tolist(), strict=True))
        source = data.found.structure(row)
        if source is None and job.options.root:
            source = Path(job.options.root) / record.source_path
        target = job.folder / STRUCTURES / name
        label_ids = data.found.label_ids(row)
        write(source, record, by_block, target, label_ids=label_ids, setting="score.root")
    table = pa.table(block_columns([record], [row])).take(pa.array(blocks))
    table = table.append_column("score", pa.array(values))
    if len(each) == 1:
        return table
    return table.append_column("spread", pa.array(spread([found for _, found in each])))


KIND = Kind(ScoreConfig, run, page, together=True, check=check)
