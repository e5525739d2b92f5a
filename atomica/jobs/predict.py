"""`run.job = "predict"`: what the heads of a model, or of several together, say of complexes without labels.

A row for each complex in `predictions.parquet`, the same in `predictions.csv`; heads on blocks have theirs in
`blocks.parquet`, and as B-factors of the structures. Beside every answer stand its spread over the members, and how far
the complex is from all that the model has learnt from.

Shapes: N complexes, B blocks of one that are not global, C classes.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import torch

from atomica.analysis.bfactors import STRUCTURES, stems
from atomica.analysis.familiarity import TrainingSet, learn, representation_of
from atomica.console import Journal, Meter
from atomica.data.dataset import open_dataset
from atomica.data.record import Record
from atomica.data.sampling import DataConfig, plan_batches, prefetch, select_rows, within_memory
from atomica.errors import AtomicaError, DataError
from atomica.evaluation.pooled import spread
from atomica.evaluation.results import PREDICTED, class_names
from atomica.files import replacing
from atomica.heads import Head
from atomica.heads.binary import YesOrNo
from atomica.heads.multilabel import MultilabelHead
from atomica.jobs.embed import block_columns, piece_size
from atomica.jobs.inputs import ColouredConfig, InputConfig, Opened, listed, open_data, warn_of
from atomica.jobs.job import Job, Kind, Result, loaded, without_effect
from atomica.jobs.tables import in_pieces, write_csv
from atomica.keys import GLOBAL_BLOCK, MODALITIES
from atomica.model.model import Model
from atomica.nn.representations import Representation
from atomica.report.predict import page
from atomica.spec import Issues, not_among, setting

__all__ = ["KIND", "PredictConfig", "Predictions", "predict"]

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

FAR = 99.0
"""Percentile of the distance to the training complexes from which on one is called far from them."""


@dataclass(frozen=True)
class PredictConfig(ColouredConfig):
    """Section `[predict]`: which heads answer, and what is written beside what they say."""

    heads: tuple[str, ...] | None = setting(
        None, "heads that answer; absent: all that learn from labels", shortest=1, distinct=True
    )
    train: str | None = setting(
        None,
        "data set whose rows of split train the model has learnt from, for models that do not know theirs: how far "
        "each complex is from them is told",
        path=True,
    )
    rank: str = setting(
        "",
        "column of predictions.csv by which complexes are ranked, the highest first, or with a minus before it the "
        "lowest: ranked.csv has the best",
    )
    top: int = setting(10_000, "rows of ranked.csv", low=1)


# ------------------------------------------------------------------------------------------------- columns


def head_columns(head: Head, each: Sequence[Floats], prefix: str = "") -> dict[str, Any]:
    """What members say, as columns: their mean, by class where there are some, and its spread if there are several.

    each: of every member [N] or [N, C]. The names are those of predictions.csv of an evaluation, after `prefix`.
    """
    mean, names = np.mean(each, axis=0), class_names(head.config)
    found: dict[str, Any] = {}
    if mean.ndim == 1 and isinstance(head.config, YesOrNo):
        found["probability"] = mean
        if len(names) == 2:
            found[PREDICTED] = [names[int(value >= 0.5)] for value in mean.tolist()]
    elif mean.ndim == 1:
        found["prediction"] = mean
    else:
        names = names if len(names) == mean.shape[1] else [str(index) for index in range(mean.shape[1])]
        if isinstance(head, MultilabelHead):
            separator = f"{head.config.separator} "
            found[PREDICTED] = [
                separator.join(name for name, value in zip(names, row, strict=True) if value >= 0.5)
                for row in mean.tolist()
            ]
        else:
            found[PREDICTED] = [names[index] for index in mean.argmax(axis=1).tolist()]
        found |= {f"P({name})": mean[:, index] for index, name in enumerate(names)}
    if len(each) > 1:
        found["spread"] = spread(each)
    return {prefix + name: pa.array(values) for name, values in found.items()}


def partner(record: Record, segment: int) -> str:
    """A partner of a complex by its chains, or its residue if it is a single one: `A,B`, `A HEM 154`; empty without.

    >>> import atomica
    >>> record = atomica.open_dataset("demo://pockets")[0]
    >>> partner(record, 0), partner(record, 1)
    ('A', 'B')
    """
    mine = np.flatnonzero((record.segment_ids == segment) & (record.block_types != GLOBAL_BLOCK)).tolist()
    labels = (record.block_chains, record.block_components, record.block_resnums, record.block_icodes)
    residues = list(dict.fromkeys(tuple(column[block] for column in labels) for block in mine))
    if len(residues) == 1:
        chain, component, number, icode = residues[0]
        return f"{chain} {component} {number}{icode or ''}".strip()
    return ",".join(dict.fromkeys(str(one[0]) for one in residues))


def complex_columns(data: Opened, rows: Indices, records: Sequence[Record]) -> dict[str, Any]:
    """What tells complexes apart: row and id, both partners, kind of interface, structure; of molecules that are docked
    into a receptor their file and number there, from 0. records: whole."""
    kinds = data.rows.dataset.modalities[rows]
    docked = ("ligand_path", "ligand_index") if data.config.receptor is not None else ()
    return {
        "row": pa.array(rows),
        "id": pa.array([record.id for record in records], pa.utf8()),
        "partner0": pa.array([partner(record, 0) for record in records], pa.utf8()),
        "partner1": pa.array([partner(record, 1) for record in records], pa.utf8()),
        "modality": pa.array([MODALITIES[kind] if kind >= 0 else None for kind in kinds], pa.utf8()),
        "source_path": pa.array([record.source_path for record in records], pa.utf8()),
        **{name: pa.array([record.metadata.get(name) for record in records], pa.utf8()) for name in docked},
    }


# ------------------------------------------------------------------------------------------------- answers


class Answer(NamedTuple):
    """What is said of one complex.

    record: as the models saw it; said: by member and head, of the complex a number or [C], or of each of its blocks,
    global ones too; vector: what tells how far it is from the training complexes, if these are known.
    """

    record: Record
    said: Sequence[Mapping[str, Floats]]
    vector: Any


class Asked:
    """Some models, which answer together, and what the first has learnt from, if that is known."""

    def __init__(
        self, models: Sequence[Model], heads: Sequence[str] | None, training_set: TrainingSet | None
    ) -> None:
        names = list(heads) if heads is not None else models[0].answering
        self.models = [model.with_heads(names).eval() for model in models]
        self.training_set = training_set
        self.complexes = [name for name in names if not models[0].head(name).on_blocks]
        self.blocks = [name for name in names if models[0].head(name).on_blocks]

    @property
    def first(self) -> Model:
        """The first of the models."""
        return self.models[0]

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables that `answer` gives."""
        return ("predictions", "blocks") if self.blocks else ("predictions",)

    @property
    def column_names(self) -> list[str]:
        """The columns of answers of heads on complexes that hold numbers."""
        found = []
        for name in self.complexes:
            head = self.first.head(name)
            classes = class_names(head.config)
            width = len(classes) if hasattr(head.config, "classes") else 0
            each = [np.zeros((1, width) if width else 1)] * len(self.models)
            columns = head_columns(head, each, self.prefix(name))
            found += [title for title, column in columns.items() if not pa.types.is_string(column.type)]
        return found

    def answer(self, data: Opened, positions: Indices) -> dict[str, pa.Table]:
        """The tables of some of the rows of `data`, in their order."""
        rows = data.rows
        found = [one for _, one in sorted(self._answers(data, positions), key=lambda pair: pair[0])]
        whole = [rows.dataset[int(row)] for row in rows.rows[positions]]
        columns = complex_columns(data, rows.rows[positions], whole)
        for name in self.complexes:
            each = [np.stack([one.said[member][name] for one in found]) for member in range(len(self.models))]
            columns |= head_columns(self.first.head(name), each, self.prefix(name))
        if self.training_set is not None:
            nearest, distance, percentile = self.training_set.nearest(np.stack([one.vector for one in found]))
            columns |= {"nearest_training": pa.array(nearest, pa.utf8())}
            columns |= {"distance": pa.array(distance), "percentile": pa.array(percentile)}
        tables = {"predictions": pa.table(columns)}
        if self.blocks:
            records = [one.record for one in found]
            ordinary = np.concatenate([record.block_types != GLOBAL_BLOCK for record in records])
            of = pa.table(block_columns(records, rows.rows[positions].tolist())).filter(pa.array(ordinary))
            for name in self.blocks:
                each = [
                    np.concatenate([one.said[member][name] for one in found])[ordinary]
                    for member in range(len(self.models))
                ]
                for title, column in head_columns(self.first.head(name), each, self.prefix(name)).items():
                    of = of.append_column(title, column)
            tables["blocks"] = of
        return tables

    def prefix(self, name: str) -> str:
        """What stands before the columns of a head: nothing if it is alone in its table."""
        return f"{name}/" if len(self.blocks if name in self.blocks else self.complexes) > 1 else ""

    def _answers(self, data: Opened, positions: Indices) -> Iterator[tuple[int, Answer]]:
        """Place among the positions, and what is said there, in the order of sizes."""
        sizes = data.rows.blocks[positions]
        order = np.argsort(sizes, kind="stable")
        alone = any(model.config.reference_quirks for model in self.models)
        plan = plan_batches(order, sizes, 1 if alone else data.config.batch_blocks)
        wanted = () if self.training_set is None else (representation_of(self.first),)

        def load(batch: Indices) -> tuple[Indices, list[Record]]:
            return batch, [data.record(int(positions[place])) for place in batch]

        for batch, records in prefetch(plan, load, threads=data.config.loader_threads):

            def said(places: Indices, records: list[Record] = records) -> list[Answer]:
                return self._said([records[place] for place in places], *wanted)

            for places, answers in within_memory(np.arange(len(records)), said):
                yield from zip(batch[places].tolist(), answers, strict=True)

    def _said(self, records: list[Record], *wanted: Representation) -> list[Answer]:
        """What all members say of these complexes, and the representation of the first that is wanted."""
        ends = np.cumsum([len(record.block_types) for record in records])[:-1]
        said: list[dict[str, Sequence[Floats]]] = []
        vectors: Sequence[Any] = [None] * len(records)
        with torch.no_grad():
            for index, model in enumerate(self.models):
                outputs, near = model.answer(records, *(wanted if index == 0 else ()))
                vectors = list(near[0].float().cpu().numpy()) if near else vectors
                values = {name: one.double().cpu().numpy() for name, one in outputs.items()}
                said.append(
                    {
                        name: np.split(one, ends) if name in self.blocks else one
                        for name, one in values.items()
                    }
                )
        return [
            Answer(
                record,
                [{name: one[index] for name, one in member.items()} for member in said],
                vectors[index],
            )
            for index, record in enumerate(records)
        ]


def training_set(models: Sequence[Model], folder: Path | None, options: PredictConfig) -> TrainingSet | None:
    """What the first model has learnt from: the data set that is named, else what is kept beside its weights."""
    if options.train is None:
        return None if folder is None else TrainingSet.load(folder)
    view = models[0].made_for.view or "complex"
    config = DataConfig(train=options.train, input=view, max_item_blocks=10**6, batch_blocks=10**6)
    return learn(models[0], select_rows(open_dataset(options.train), "train", config, own=True), view)


# ------------------------------------------------------------------------------------------------- the job


def check(job: Job, issues: Issues) -> None:
    """The model must have heads that answer, and those that are named."""
    options, model = job.options, job.model
    if model is None:
        return
    known = model.answering
    if not known:
        issues.add(
            ("model", "weights"),
            "this model has no head that learns from labels: nothing can be predicted; embed gives its vectors",
        )
    for name in sorted(set(options.heads or ()) - set(known)):
        issues.add(("predict", "heads"), f"no such head that answers: {not_among(name, known)}")
    if options.rank:
        asked = Asked(job.models, options.heads, None) if not issues.found else None
        names = [] if asked is None else asked.column_names
        if asked is not None and options.rank.removeprefix("-") not in names:
            issues.add(
                ("predict", "rank"), f"no such column; {not_among(options.rank.removeprefix('-'), names)}"
            )
    else:
        without_effect("predict", options, ("top",), "predict.rank names no column", issues)
    options.check_root("predict", issues)
    try:
        if options.train is not None:
            open_dataset(options.train)
        else:
            TrainingSet.load(job.weights_folder)
    except AtomicaError as error:
        issues.add(("predict", "train") if options.train else ("model", "weights"), str(error))


def run(job: Job, journal: Journal, data: Opened, model: Model) -> Result:
    """Write `predictions.parquet`, the same as `predictions.csv`, and of heads on blocks the same of these."""
    asked = Asked(job.models, job.options.heads, training_set(job.models, job.weights_folder, job.options))
    rows = data.rows
    coloured = [
        name for name in asked.blocks if job.options.structures and _is_number(asked.first.head(name))
    ]
    names = stems(rows.ids, rows.rows.tolist()) if coloured else []
    for name in coloured:
        _folder(job, coloured, name).mkdir(parents=True, exist_ok=True)

    def make(positions: Indices) -> dict[str, pa.Table]:
        tables = asked.answer(data, positions)
        for name in coloured:
            _colour(job, data, positions, names, tables["blocks"], asked, name, coloured)
        meter.add(len(positions))
        return tables

    with Meter(journal, len(rows)) as meter:
        tables = in_pieces(job.folder, asked.tables, len(rows), piece_size(rows), make, meter, job.workers)
    for name in asked.tables:
        tables[f"{name}.csv"] = job.folder / f"{name}.csv"
        write_csv(tables[name], tables[f"{name}.csv"])
    if job.options.rank:
        tables["ranked"] = job.folder / "ranked.csv"
        with replacing(tables["ranked"]) as temporary:
            pyarrow.csv.write_csv(ranked(tables["predictions"], job.options.rank, job.options.top), temporary)
    figures: dict[str, Any] = {"complexes": len(rows), **summary(tables["predictions"], asked)}
    if asked.training_set is None:
        journal.say(
            "note    nothing is known of what these weights have learnt from, so that nothing says how far from it a "
            "complex is; name its data as predict.train"
        )
    if data.config.receptor is not None and data.input == "segment0":
        journal.say(
            "note    the model sees the receptor alone: of a molecule it knows only which residues are near"
        )
    figures["speed"] = f"{meter.rate:.1f} complexes/s"
    return Result(tables, figures)


def _is_number(head: Head) -> bool:
    """Whether it says one number of each block, which a B-factor can hold."""
    return len(getattr(head.config, "classes", ())) == 0


def _folder(job: Job, coloured: Sequence[str], name: str) -> Path:
    return job.folder / STRUCTURES / (name if len(coloured) > 1 else "")


def _colour(
    job: Job,
    data: Opened,
    positions: Indices,
    names: Sequence[str],
    blocks: pa.Table,
    asked: Asked,
    head: str,
    coloured: Sequence[str],
) -> None:
    """Write some complexes with what a head says of their blocks as B-factors."""
    prefix = asked.prefix(head)
    percent = isinstance(asked.first.head(head).config, YesOrNo)
    values = blocks.column(prefix + ("probability" if percent else "prediction")).to_numpy()
    of, numbers = blocks.column("row").to_numpy(), blocks.column("block").to_numpy()
    for position in positions.tolist():
        row = int(data.rows.rows[position])
        mine = np.flatnonzero(of == row)
        by_block = dict(
            zip(numbers[mine].tolist(), (values[mine] * (100 if percent else 1)).tolist(), strict=True)
        )
        target = _folder(job, coloured, head) / names[position]
        data.write_structure(position, by_block, target, job.options.root, "predict.root")


def ranked(path: Path, rank: str, top: int) -> pa.Table:
    """The rows of a table that are best by a column (lowest: with a minus before it), after their rank."""
    name, order = rank.removeprefix("-"), "ascending" if rank.startswith("-") else "descending"
    file = pq.ParquetFile(path)
    best = file.schema_arrow.empty_table()
    for batch in file.iter_batches(1 << 16):
        both = pa.concat_tables([best, pa.Table.from_batches([batch])])
        best = both.take(pc.sort_indices(both, [(name, order), ("row", "ascending")])[:top])
    return best.add_column(0, "rank", pa.array(range(1, best.num_rows + 1)))


def summary(path: Path, asked: Asked) -> dict[str, Any]:
    """What a person is told of a table of predictions: classes by how often, ranges of numbers, what is far."""
    found: dict[str, Any] = {}
    names = pq.read_schema(path).names
    for name in asked.complexes:
        prefix = asked.prefix(name)
        unit = asked.first.made_for.labels.get(name, {}).get("unit", "")
        if prefix + PREDICTED in names:
            column = pq.read_table(path, columns=[prefix + PREDICTED]).column(0)
            found[f"head {name}"] = dict(Counter(column.to_pylist()).most_common(20))
        else:
            title = prefix + ("prediction" if f"{prefix}prediction" in names else "probability")
            column = pq.read_table(path, columns=[title]).column(0)
            low, high = (float(pc.min_max(column)[end].as_py()) for end in ("min", "max"))
            mean = float(pc.mean(column).as_py())
            found[f"head {name}"] = {
                **{
                    end: float(f"{value:.4g}")
                    for end, value in (("low", low), ("mean", mean), ("high", high))
                },
                **({"unit": unit} if unit else {}),
            }
    if asked.training_set is not None:
        far = pq.read_table(path, columns=["percentile"]).column(0).to_numpy() >= FAR
        found["far from all that was learnt from"] = int(far.sum())
    return found


KIND = Kind(PredictConfig, run, page, together=True, check=check)


# -------------------------------------------------------------------------------------------------- Python


@dataclass(frozen=True)
class Predictions:
    """What `predict` gives: a table with a row for each complex, one for blocks of heads on these, what failed.

    table, blocks: Arrow tables, columns as of predictions.csv. Data frames are made of it in one call:
    `found.to_pandas()`, `polars.from_arrow(found.table)`, or of it itself where Arrow's protocol is known,
    `polars.DataFrame(found)`. units: of the numbers, by head. failures: inputs that could not be read.
    """

    table: pa.Table
    blocks: pa.Table | None
    units: Mapping[str, str]
    failures: tuple[dict[str, Any], ...]

    def to_pandas(self) -> Any:
        """The table as a pandas DataFrame."""
        return self.table.to_pandas()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """The table for whoever knows Arrow's protocol."""
        return self.table.__arrow_c_stream__(requested_schema)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """A column of the table as an array."""
        return np.asarray(self.table.column(name).to_numpy())

    def __len__(self) -> int:
        """Number of complexes."""
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        """How many, and what is said of them."""
        failed = f", {len(self.failures)} inputs failed" if self.failures else ""
        return f"Predictions({len(self)} complexes{failed}; {', '.join(self.table.column_names)})"


def predict(
    paths: str | Path | Sequence[str | Path],
    weights: Model | str | Path | Sequence[Model | str | Path],
    *,
    heads: str | Sequence[str] | None = None,
    train: str | Path | None = None,
    batch_blocks: int = 2048,
    device: str = "auto",
    **data: Any,
) -> Predictions:
    """What a model says of data sets, indexes, structure files or folders of them, in memory; labels are not needed.

    paths: one or several, of any kind that `data.source` takes. weights: a model, several that answer together, or the
    folder of one or of a run of several trainings. heads: those that answer, all that can if none is named. train: what
    it has learnt from, see section [predict] of a spec. data: further keys of section [data], such as cutoff, input or
    force, or receptor and ligands with `paths` empty. Raises DataError if nothing can be read, or is not what the model
    was made for.

    >>> import atomica
    >>> from atomica.heads.binary import BinaryConfig, BinaryHead
    >>> config = atomica.EncoderConfig(atom_hidden=8, block_hidden=8, edge_size=4, layers=1)
    >>> model = atomica.Model(config, {"binary": BinaryHead(BinaryConfig(positive="MG"), config)})
    >>> found = atomica.predict("demo://pockets", model)
    >>> len(found), found.table.column_names[6:]
    (163, ['probability', 'predicted'])
    """
    models, folder = loaded(weights, device)
    heads = [heads] if isinstance(heads, str) else heads
    if unknown := sorted(set(heads or ()) - set(models[0].answering)):
        raise DataError(f"no such head that answers: {not_among(unknown[0], models[0].answering)}")
    if not models[0].answering:
        raise DataError("this model has no head that learns from labels; atomica.embed gives its vectors")
    options = PredictConfig(train=None if train is None else str(train))
    config = InputConfig(listed(paths), batch_blocks=batch_blocks, loader_threads=0, **data)
    contracts = [model.made_for for model in models]
    if wrong := config.strange(contracts):
        raise DataError(*(text.replace("set data.force = true", "say force=True") for text in wrong.values()))
    sources = config.find()
    config = config.suited(contracts, build=sources.unbuilt)
    asked = Asked(models, heads, training_set(models, folder, options))
    first = models[0]
    seen = f"segment{first.segment}" if first.segment is not None else config.input or "complex"
    with tempfile.TemporaryDirectory(prefix="atomica-") as work:
        opened = open_data(sources, config, seen, models, Path(work), quiet=True)
        warn_of(opened.found.failures)
        tables = asked.answer(opened, np.arange(len(opened.rows)))
        units = {name: entry.get("unit", "") for name, entry in first.made_for.labels.items()}
        return Predictions(tables["predictions"], tables.get("blocks"), units, opened.found.failures)
