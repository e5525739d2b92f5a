"""`run.job = "evaluate"`: metrics of a trained model on labelled data, with 95% bootstrap intervals.

The same files as at the end of a training; with baselines where `evaluate.train` names what they can learn from.
Several models answer together, by the mean of what they say; predictions of somebody else can be blended in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from atomica import _prep
from atomica.analysis.bfactors import STRUCTURES, stems
from atomica.analysis.familiarity import learnt_from
from atomica.console import Journal, Meter
from atomica.data.dataset import open_dataset
from atomica.data.labels import BlockLabels, BlockTargets
from atomica.data.sampling import DataConfig, Rows, select_rows
from atomica.errors import AtomicaError, DataError
from atomica.evaluation import baseline
from atomica.evaluation.pooled import blend_weight, read_predictions, spread
from atomica.evaluation.results import (
    Answers,
    Evaluation,
    assess,
    class_names,
    format_comparison,
    measured,
    singles,
)
from atomica.evaluation.statistics import compare, numbered
from atomica.jobs.embed import piece_size
from atomica.jobs.inputs import ColouredConfig, Opened, select
from atomica.jobs.job import Job, Kind, Result
from atomica.jobs.tables import in_pieces
from atomica.keys import GLOBAL_BLOCK
from atomica.model.model import Model
from atomica.model.named import members_of
from atomica.report.evaluate import page
from atomica.spec import Issues, not_among, setting
from atomica.train.loader import Split
from atomica.train.sums import means, merged
from atomica.train.validation import answers_of

__all__ = ["KIND", "EvaluateConfig"]

ANSWERS, LOSSES = "answers", "losses"
"""What the models say row by row, and sums of their losses: tables that are gone when the job is done."""
SUMS = pa.schema([("model", pa.int64()), ("name", pa.utf8()), ("sums", pa.list_(pa.float64()))])


@dataclass(frozen=True)
class EvaluateConfig(ColouredConfig):
    """Section `[evaluate]`: which column answers which head."""

    label: str = setting("label", "label or metadata column of the data that holds the answers")
    labels: Mapping[str, str] = setting({}, "columns of heads that are answered by another one, by head")
    block_labels: str | None = setting(
        None,
        "CSV with columns id, chain, resnum, icode and labels, a row for each residue: what heads on residues are "
        "measured by; absent: they answer all the same, and nothing is measured",
        path=True,
    )
    cluster: str = setting(
        "", "column that names the cluster of each complex; intervals then draw whole clusters"
    )
    train: str | None = setting(
        None,
        "data set with labels, whose rows of split train the baselines learn from; absent: no baselines",
        path=True,
    )
    blend: str | None = setting(
        None,
        "predictions.csv of another model, for the same rows and those of split valid, on which its weight beside "
        "this model is chosen; a model with train.refit has learnt from these, and seems better there than it is",
        path=True,
    )

    def column(self, head: str) -> str:
        """The column that answers a head."""
        return self.labels.get(head, self.label)


def check(job: Job, issues: Issues) -> None:
    """The model must have a head with labels, every head that is named, and the data the columns that answer them."""
    if job.model is None:
        return
    known, options = job.model.answering, job.options
    if not known:
        issues.add(
            ("model", "weights"), "this model has no head that learns from labels: nothing can be evaluated"
        )
        return
    for name in sorted(set(options.labels) - set(known)):
        issues.add(("evaluate", "labels", name), f"no such head; {not_among(name, known)}")
    if set(options.labels) >= set(known) and ("evaluate", "label") in issues.source:
        issues.add(
            ("evaluate", "label"), "has no effect: every head has a column of its own in evaluate.labels"
        )
    try:
        if job.opened is not None:
            _labelled(options, job.opened, job.model)
    except DataError as error:
        issues.add(("evaluate", "label"), str(error), value=("evaluate", "label") in issues.source)
    if options.blend is not None:
        if len(known) > 1:
            issues.add(("evaluate", "blend"), f"the model has {len(known)} heads, and the file answers one")
        if job.data is not None and job.data.split != "test":
            issues.add(
                ("evaluate", "blend"), 'chooses the weight on rows of split valid; set data.split = "test"'
            )
        _tried(lambda: read_predictions(Path(options.blend)), "blend", issues)
    if options.block_labels is not None and not any(job.model.head(name).on_blocks for name in known):
        issues.add(
            ("evaluate", "block_labels"), "has no effect: no head of the model learns from labels of residues"
        )
    options.check_root("evaluate", issues)
    if options.train is not None:
        _tried(lambda: open_dataset(options.train), "train", issues)
    if options.cluster and job.opened is not None:
        opened = job.opened
        _tried(lambda: opened.rows.clusters(options.cluster), "cluster", issues)
    of_complexes = [name for name in known if not job.model.head(name).on_blocks]
    for name, column, problem in _missing(job, of_complexes):
        path = ("evaluate", "labels", name) if name in options.labels else ("evaluate", "label")
        issues.add(path, f"{problem}: it has no column {column!r}", value=path in issues.source)


def _tried(read: Callable[[], Any], key: str, issues: Issues) -> None:
    try:
        read()
    except AtomicaError as error:
        issues.add(("evaluate", key), str(error))


def _missing(job: Job, heads: list[str]) -> list[tuple[str, str, str]]:
    """Heads, and the columns that answer them, which no index that is yet to be built has; and where it was missed."""
    if job.sources is None or job.sources.sets or not job.sources.unbuilt:
        return []
    columns: set[str] = set()
    for path in job.sources.indexes:
        columns |= set(_prep.read_index(path)[0])
    where = ", ".join(job.sources.indexes) or "structures without an index have no labels"
    wanted = {name: job.options.column(name) for name in heads}
    return [(name, column, where) for name, column in wanted.items() if column not in columns]


def _labelled(
    options: EvaluateConfig, data: Opened, model: Model
) -> tuple[Split, dict[str, list[str | None]]]:
    """The rows with the targets of every head, and the label texts by head. Raises DataError if a head has none."""
    rows = data.rows
    targets, known, texts = {}, {}, {}
    blocks = {
        name: _of_blocks(options, model, name, rows, data.input)
        for name in model.answering
        if model.head(name).on_blocks
    }
    for name in model.answering:
        head = model.head(name)
        if name in blocks:
            continue
        texts[name] = rows.texts(options.column(name))
        try:
            targets[name], usable = head.encode_labels(head.config, texts[name])
        except DataError as error:
            raise DataError(f"{rows.dataset.name}: head {name}: {error}") from None
        known[name] = usable.bool()
        if not bool(known[name].any()):
            raise DataError(f"{rows.dataset.name}: no complex has a label that head {name} knows")
    split = Split(
        rows=rows,
        targets=targets,
        known=known,
        input=data.input,
        graph_options=model.config.graph_options(),
        # the original's padding makes predictions depend on the batch: one complex at a time
        batch_blocks=1 if model.config.reference_quirks else data.config.batch_blocks,
        loader_threads=data.config.loader_threads,
        block_targets=blocks,
    )
    return split, texts


def _of_blocks(options: EvaluateConfig, model: Model, name: str, rows: Rows, input: str) -> BlockTargets:
    """The labels of the blocks of some rows, for one head."""
    head, path = model.head(name), options.block_labels
    labels = None if path is None else BlockLabels(path)
    encode = partial(type(head).encode_labels, head.config)
    return BlockTargets.read(labels, options.column(name), rows, input, encode)


def run(job: Job, journal: Journal, data: Opened, model: Model) -> Result:
    """Write `evaluation.json` and, for each head, `predictions.csv` (with several heads `predictions-HEAD.csv`)."""
    rows, options = data.rows, job.options
    with Meter(journal, len(rows)) as meter:
        answers, loss = _asked(job, data, meter)
    if told := _learnt_from(job, rows.ids):
        journal.say(f"note    {told}: of others these figures say nothing")
    evaluation = Evaluation(
        split=rows.split,
        data=rows.dataset.name,
        input=data.input,
        loss=loss,
        metrics={},
        heads=list(answers),
        labelled=len(answers),
    )
    figures: dict[str, Any] = {"complexes": len(rows), "loss": round(loss, 4)}
    for name, each in answers.items():
        head = model.head(name)
        together = replace(each[0], predicted=np.mean([one.predicted for one in each], axis=0))
        together = replace(together, baselines=_baselines(job, data, name, together))
        if job.options.structures and model.head(name).on_blocks and together.predicted.ndim == 1:
            figures |= _structures(job, data, together, name if len(answers) > 1 else "")
        unknown = int((~together.known).sum())
        if unknown and not head.on_blocks:
            journal.say(f"note    {unknown} of {len(rows)} complexes have no label that head {name} can use")
        if not together.known.any():
            evaluation.add(name, model.kinds[name], complexes=0)
            evaluation.predict(name, together.columns())
            continue
        metrics = measured(head.metrics(), together)
        entry: dict[str, Any] = {
            "label": options.column(name),
            "unit": model.made_for.labels.get(name, {}).get("unit", ""),
            "config": asdict(head.config),
            "complexes": int(together.known.sum()),
            **assess(
                together,
                head.metrics(),
                judged=head.monitor,
                seed=0,
                classes=getattr(head.config, "classes", ()),
            ),
        }
        columns = together.columns()
        if len(each) > 1:
            values = [measured(head.metrics(), one) for one in each]
            entry |= {"single": singles(values), "members": values}
            columns.append(("spread", spread([one.predicted for one in each]).tolist()))
            figures[f"one model of {len(each)}"] = {
                metric: f"{one['mean']:.4g} ± {one['sd']:.2g}" for metric, one in entry["single"].items()
            }
        if options.blend is not None:
            found = _blended(job, journal, data, name, together)
            entry["blend"] = found
            figures["blend"] = {"weight of the model": found["weight"], "": found["verdict"]}
        evaluation.content["heads"][name] = {"kind": model.kinds[name], "metrics": metrics, **entry}
        evaluation.content["metrics"] |= {
            f"{name}/{metric}" if len(answers) > 1 else metric: value for metric, value in metrics.items()
        }
        evaluation.predict(name, columns)
        figures[f"head {name}"] = {metric: float(f"{value:.4g}") for metric, value in metrics.items()}
        if "verdict" in entry:
            journal.say(format_comparison(entry))
    written = evaluation.write(job.folder)
    for name in (ANSWERS, LOSSES):
        (job.folder / f"{name}.parquet").unlink()
    return Result(written, figures)


def _structures(job: Job, data: Opened, answers: Answers, head: str) -> dict[str, int]:
    """Write every complex with what a head says of its blocks as B-factors; below `head` if there are several."""
    rows, folder = data.rows, job.folder / STRUCTURES / head
    folder.mkdir(parents=True, exist_ok=True)
    values = answers.predicted * (100 if answers.form == "yes-no" else 1)
    first = 0
    for position, stem in enumerate(stems(rows.ids, rows.rows.tolist())):
        blocks = np.flatnonzero(data.record(position).block_types != GLOBAL_BLOCK)
        by_block = dict(zip(blocks.tolist(), values[first : first + len(blocks)].tolist(), strict=True))
        first += len(blocks)
        data.write_structure(position, by_block, folder / stem, job.options.root, "evaluate.root")
    return {f"structures {head}".strip(): len(rows)}


def _asked(job: Job, data: Opened, meter: Meter | None = None) -> tuple[dict[str, list[Answers]], float]:
    """What each of the models says, by head; and their mean loss. meter: processes that share the job share this."""
    models = [
        one.with_heads(one.answering) for one in job.models
    ]  # the others learn from noise, and there is none
    read = [_labelled(job.options, data, model) for model in models]

    def make(positions: npt.NDArray[np.int64]) -> dict[str, pa.Table]:
        said: dict[str, Any] = {}
        sums: list[dict[str, Any]] = []
        for index, (model, (split, _)) in enumerate(zip(models, read, strict=True)):
            answers, losses = answers_of(model, split, positions)
            said |= {f"{index}/{name}": values for name, values in answers.items()}
            sums += [{"model": index, "name": name, "sums": values} for name, values in losses.items()]
        if meter is not None:
            meter.add(len(positions))
        return {ANSWERS: pa.table(said), LOSSES: pa.Table.from_pylist(sums, SUMS)}

    if meter is None:
        tables = make(np.arange(len(data.rows)))
    else:
        size = piece_size(data.rows)
        paths = in_pieces(job.folder, (ANSWERS, LOSSES), len(data.rows), size, make, meter, job.workers)
        tables = {name: pq.read_table(path) for name, path in paths.items()}
    clusters = data.rows.clusters(job.options.cluster)
    found: dict[str, list[Answers]] = {}
    sums = tables[LOSSES].to_pylist()
    losses = []
    for index, (model, (split, texts)) in enumerate(zip(models, read, strict=True)):
        losses.append(
            means(merged({row["name"]: row["sums"]} for row in sums if row["model"] == index), model)["loss"]
        )
        for name in model.answering:
            own, config = found.setdefault(name, []), model.head(name).config
            values = tables[ANSWERS].column(f"{index}/{name}").to_pylist()
            if name in split.block_targets:
                predicted = torch.from_numpy(np.array(list(chain.from_iterable(values))))
                own.append(
                    Answers.of_blocks(split.block_targets[name], predicted, clusters, data.rows, config)
                )
                continue
            own.append(
                Answers(
                    data.rows.ids,
                    texts[name],
                    split.targets[name].numpy(),
                    split.known[name].numpy(),
                    np.array(values),
                    clusters=clusters,
                    classes=class_names(config),
                )
            )
    return found, float(np.mean(losses))


def _baselines(job: Job, data: Opened, name: str, answers: Answers) -> list[baseline.Baseline]:
    """Baselines of a head that learn from `evaluate.train`."""
    model, options = job.model, job.options
    if options.train is None or model is None or not answers.form or not answers.known.any():
        return []
    config = DataConfig(train=options.train, input=data.input, max_item_blocks=10**6, batch_blocks=10**6)
    train, head = select_rows(open_dataset(options.train), "train", config, own=True), model.head(name)
    if model.head(name).on_blocks:
        target, known = _of_blocks(options, model, name, train, data.input).answered()
    else:
        encoded = head.encode_labels(head.config, train.texts(options.column(name)))
        target, known = encoded[0].numpy(), encoded[1].bool().numpy()
    clusters = train.clusters(options.cluster)
    return baseline.answer(
        head.baseline,
        answers.form,
        [train],
        target,
        data.rows,
        input=data.input,
        classes=answers.predicted.shape[1] if answers.form == "classes" else 2,
        learnt=known,
        groups=None if clusters is None else numbered(clusters),
    )


def _learnt_from(job: Job, ids: Sequence[str]) -> str:
    return "" if job.weights is None else learnt_from(members_of(job.weights.weights), ids)


def _blended(job: Job, journal: Journal, data: Opened, name: str, answers: Answers) -> dict[str, Any]:
    """The models together with the predictions of `evaluate.blend`; their weight is chosen on rows of split valid."""
    file = Path(job.options.blend)
    said = read_predictions(file)
    by_id = dict(zip(said.ids, said.predicted, strict=True))

    def other(ids: Sequence[str]) -> Any:
        lacking = [one for one in ids if one not in by_id]
        if lacking:
            raise DataError(f"{file}: says nothing of {len(lacking)} rows, {lacking[0]} for one")
        return np.stack([by_id[one] for one in ids])

    config = replace(data.config, split="valid")
    held_out = replace(data, config=config, rows=select(data.found, config, data.input))
    each = _asked(job, held_out)[0][name]
    valid, known = each[0], each[0].known
    if told := _learnt_from(job, valid.ids):
        journal.say(
            f"note    split valid: {told}: there this model seems better than it is, and is given more weight"
        )
    mine = np.mean([one.predicted for one in each], axis=0)
    if mine.shape[1:] != said.predicted.shape[1:]:
        raise DataError(
            f"{file}: its predictions are {said.predicted.shape[1:]} each, the model's {mine.shape[1:]}"
        )
    head = job.models[0].head(name)
    weight = blend_weight(valid.target[known], mine[known], other(valid.ids)[known], head.monitor)
    theirs = other(answers.ids)
    blended = replace(answers, predicted=weight * answers.predicted + (1 - weight) * theirs)
    rows = answers.known
    found = compare(
        answers.target[rows],
        blended.predicted[rows],
        {"the model alone": answers.predicted[rows], "the other alone": theirs[rows]},
        seed=0,
        groups=None if answers.clusters is None else numbered(answers.clusters)[rows],
        judged=head.monitor,
    )
    return {"weight": weight, "metrics": measured(head.metrics(), blended), **found}


KIND = Kind(EvaluateConfig, run, page, together=True, check=check)
