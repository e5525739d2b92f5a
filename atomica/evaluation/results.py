"""What an evaluation leaves: evaluation.json and predictions.csv, and what a person is told of a comparison."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atomica.data.labels import BlockTargets
from atomica.data.sampling import Rows
from atomica.evaluation.baseline import Baseline
from atomica.evaluation.statistics import (
    MEASURES,
    auroc,
    bounds,
    compare,
    form_of,
    intervals,
    monotony,
    numbered,
    undefined,
)
from atomica.files import EVALUATION, PREDICTIONS, write_json, write_text

__all__ = [
    "Answers",
    "Evaluation",
    "assess",
    "class_names",
    "format_comparison",
    "measured",
    "predictions_csv",
    "singles",
    "tell",
]


@dataclass(frozen=True)
class Answers:
    """What a head says of some complexes, and what is known of them.

    ids, texts [N]: names and labels as the data have them; target [N] or [N, C], and where it is known [N]; predicted
    [N] or [N, C]. baselines: what they say of the same. clusters [N]: name of the cluster of each, if that is known.
    classes: names of the classes, see `class_names`. of [N]: of answers of blocks, the complex of each.
    """

    ids: Sequence[str]
    texts: Sequence[str | None]
    target: npt.NDArray[Any]
    known: npt.NDArray[np.bool_]
    predicted: npt.NDArray[np.float64]
    baselines: Sequence[Baseline] = ()
    clusters: Sequence[str] | None = None
    classes: Sequence[str] = ()
    of: Sequence[str] = ()

    @classmethod
    def of_blocks(
        cls, labels: BlockTargets, predicted: Tensor, clusters: Sequence[str] | None, rows: Rows, config: Any
    ) -> Answers:
        """What a head on blocks says of all blocks but global ones, which are named by complex, chain and residue.

        predicted [B] or [B, C], global blocks too; clusters [N]: of the complexes, each its own where none is known.
        """
        target, known = labels.answered()
        return cls(
            labels.names,
            [text for text, ordinary in zip(labels.texts, labels.ordinary, strict=True) if ordinary],
            target,
            known,
            predicted.double().numpy()[labels.ordinary],
            clusters=labels.of_ordinary(rows.ids if clusters is None else clusters),
            classes=class_names(config),
            of=[complex_of(name) for name in labels.names],
        )

    @property
    def form(self) -> str:
        """Of what form they are, see `statistics.form_of`."""
        return form_of(self.target[self.known], self.predicted[self.known])

    def columns(self) -> list[tuple[str, Sequence[Any]]]:
        """The columns of predictions.csv: what is known, what the model says, and what each of the baselines."""
        return [
            ("id", self.ids),
            ("label", [text or "" for text in self.texts]),
            ("probability" if self.form == "yes-no" else "prediction", cells(self.predicted)),
            *self._classes(),
            *((one.name, cells(one.predicted)) for one in self.baselines),
            *([] if self.clusters is None else [("cluster", self.clusters)]),
        ]

    def _classes(self) -> list[tuple[str, Sequence[Any]]]:
        """The predicted class by name, and of several classes the probability of each under its name."""
        form = self.form
        if form == "yes-no" and len(self.classes) == 2:
            return [(PREDICTED, [self.classes[one >= 0.5] for one in self.predicted.tolist()])]
        if form not in ("classes", "labels") or len(self.classes) != self.predicted.shape[1]:
            return []
        taken = {
            "id",
            "label",
            "prediction",
            PREDICTED,
            "cluster",
            "spread",
            *(one.name for one in self.baselines),
        }
        each = [
            (f"P({name})" if name in taken else name, self.predicted[:, index].tolist())
            for index, name in enumerate(self.classes)
        ]
        if form == "labels":
            return each
        return [(PREDICTED, [self.classes[index] for index in self.predicted.argmax(axis=1)]), *each]


PREDICTED = "predicted"
"""Column with the name of the predicted class."""


def class_names(config: Any) -> list[str]:
    """Names of the classes that a head with these settings answers with, no before yes; none of other heads."""
    if hasattr(config, "classes"):
        return [str(name) for name in config.classes]
    if getattr(config, "positive", ""):
        return [str(getattr(config, "negative", "") or f"not {config.positive}"), str(config.positive)]
    return []


def cells(predicted: npt.NDArray[np.float64]) -> list[Any]:
    """Predictions as cells of a CSV: numbers, or of several numbers each a JSON list with six significant digits.

    >>> cells(np.array([[0.25, 0.75]]))
    ['[0.25, 0.75]']
    """
    if predicted.ndim == 1:
        return list(predicted.tolist())
    return [json.dumps([float(f"{value:.6g}") for value in row]) for row in predicted.tolist()]


def measured(metrics: Any, answers: Answers) -> dict[str, float]:
    """A head's metrics by name, NaN where undefined. metrics: a `torchmetrics.MetricCollection`."""
    metrics.reset()
    predicted = torch.from_numpy(answers.predicted[answers.known]).float()
    target = answers.target[answers.known]
    metrics.update(predicted, torch.from_numpy(target))
    unknown = undefined(target, predicted.numpy())
    return {name: math.nan if name in unknown else float(one) for name, one in metrics.compute().items()}


def singles(values: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over models of each of their metrics.

    >>> singles([{"rmse": 1.0}, {"rmse": 3.0}])["rmse"]["mean"]
    2.0
    """
    each = {name: [one[name] for one in values] for name in values[0]}
    return {
        name: {"mean": float(np.mean(found)), "sd": float(np.std(found, ddof=min(1, len(found) - 1)))}
        for name, found in each.items()
    }


def assess(
    answers: Answers, metrics: Any, *, judged: str, seed: int, classes: Sequence[str] = ()
) -> dict[str, Any]:
    """What evaluation.json says of a head beside its metrics: intervals, and the comparison with its baselines.

    metrics: a `torchmetrics.MetricCollection`; judged: the metric that decides; classes: their
    names.
    """
    known = answers.known
    target, predicted = answers.target[known], answers.predicted[known]
    inside = within(answers)
    groups = None if answers.clusters is None else numbered(answers.clusters)[known]
    entry: dict[str, Any] = {"intervals": intervals(metrics, target, predicted, seed=seed, groups=groups)}
    if answers.baselines and answers.form:
        others = {one.name: one.predicted[known] for one in answers.baselines}
        found = compare(target, predicted, others, seed=seed, groups=groups, judged=judged)
        entry |= {**found, "intervals": {**entry["intervals"], **bounds(found)}}
        entry["methods"] = {one.name: one.method for one in answers.baselines}
    if answers.of:
        entry["of"] = "blocks"
    if inside:
        entry["within"] = inside
    if same := monotony(target, predicted, classes):
        entry["monotony"] = same
    return entry


def within(answers: Answers) -> dict[str, float]:
    """Of yes-no answers of blocks: the mean AUROC among the blocks of one complex, of the model and of each baseline.

    Complexes that have blocks of one kind alone are left out; "complexes" says how many are not. Empty of others.
    """
    if not answers.of or answers.form != "yes-no":
        return {}
    known = answers.known
    complexes, truth = numbered(answers.of)[known], answers.target[known]
    parts = [np.flatnonzero(complexes == one) for one in np.unique(complexes)]
    parts = [rows for rows in parts if 0 < truth[rows].sum() < len(rows)]
    said = {"this model": answers.predicted, **{one.name: one.predicted for one in answers.baselines}}
    if not parts:
        return {}
    return {
        "complexes": len(parts),
        **{
            who: float(np.mean([auroc(truth[rows], one[known][rows]) for rows in parts]))
            for who, one in said.items()
        },
    }


def tell(title: str, entry: Mapping[str, Any], metrics: Mapping[str, float], positive: str) -> str:
    """What a person is told of a head on the test complexes. positive: what yes stands for."""
    what = f"test {entry.get('of', 'complexes')}"
    lines = [f"{title}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())]
    if "verdict" in entry:
        some = f", {entry['positives']} of them {positive}" if "positives" in entry else ""
        drawn = f", {entry['clusters']} clusters" if entry["clusters"] else ""
        lines += [f"{entry['complexes']} {what}{some}{drawn}", format_comparison(entry)]
    if "within" in entry:
        lines.append(describe_within(entry["within"]))
    if "monotony" in entry:
        lines.append(f"note    it says {entry['monotony']} {what}: it has learnt nothing that differs")
    return "\n".join(lines)


def complex_of(block: str) -> str:
    """The complex of a block that is named as `BlockTargets.names` does.

    >>> complex_of("1abc A 12B")
    '1abc'
    """
    return block.rsplit(" ", 2)[0]


def describe_within(found: Mapping[str, float]) -> str:
    """What `within` found, in words."""
    each = ", ".join(f"{who} {value:.3f}" for who, value in found.items() if who != "complexes")
    return f"mean AUROC among the blocks of one complex, {found['complexes']:g} complexes: {each}"


def predictions_name(head: str) -> str:
    """The file of the predictions of one head of several.

    >>> predictions_name("size")
    'predictions-size.csv'
    """
    path = Path(PREDICTIONS)
    return f"{path.stem}-{head}{path.suffix}"


class Evaluation:
    """Gathers what an evaluation finds of the heads of a model, and writes it.

    split: which rows; data: their name; input: what the model saw of each; metrics: of all heads, with `HEAD/` in
    front of their names if there are several. labelled: how many of the heads learn from labels. more: further entries.
    """

    def __init__(
        self,
        *,
        split: str,
        data: str,
        input: str,
        loss: float,
        metrics: Mapping[str, float],
        heads: Sequence[str],
        labelled: int,
        **more: Any,
    ) -> None:
        self.metrics, self.several, self.labelled = metrics, len(heads) > 1, labelled
        self.content: dict[str, Any] = {
            "split": split,
            "data": data,
            "input": input,
            **more,
            "loss": loss,
            "metrics": dict(metrics),
            "heads": {},
        }
        self.predictions: dict[str, str] = {}

    def own(self, head: str) -> dict[str, float]:
        """The metrics of one head, under their own names.

        >>> both = Evaluation(
        ...     split="test", data="d", input="complex", loss=1.0, metrics={"a/loss": 1.0, "b/loss": 2.0},
        ...     heads=["a", "b"], labelled=2,
        ... )
        >>> both.own("b")
        {'loss': 2.0}
        """
        return {
            name.removeprefix(f"{head}/"): value
            for name, value in self.metrics.items()
            if not self.several or name.startswith(f"{head}/")
        }

    def add(self, head: str, kind: str, **entry: Any) -> None:
        """Note what was found of a head."""
        self.content["heads"][head] = {"kind": kind, "metrics": self.own(head), **entry}

    def predict(self, head: str, columns: Sequence[tuple[str, Sequence[Any]]]) -> None:
        """Note the predictions of a head: predictions.csv, or of several heads with labels predictions-HEAD.csv."""
        name = PREDICTIONS if self.labelled == 1 else predictions_name(head)
        self.predictions[name] = predictions_csv(columns)

    def write(self, folder: Path, **more: Any) -> dict[str, Path]:
        """Write everything into a folder; gives the files by name. more: further entries of evaluation.json."""
        for name, text in self.predictions.items():
            write_text(folder / name, text)
        write_json(folder / EVALUATION, {**self.content, **more})
        names = (EVALUATION, *self.predictions)
        return {Path(name).stem: folder / name for name in names}


def format_comparison(result: Mapping[str, Any]) -> str:
    """The comparison of a model with its baselines as a small table of text, with what it shows in words."""
    titles = {name: one.title for measures in MEASURES.values() for name, one in measures.items()}
    names = list(result["model"])

    def cell(value: Mapping[str, float | None], sign: str = "") -> str:
        if value["value"] is None:
            return "–"
        # Adding 0 turns a rounded -0 into 0.
        middle, *ends = (None if one is None else round(one, 3) + 0.0 for one in value.values())
        return f"{middle:{sign}.3f}" + (
            "" if None in ends else f" [{ends[0]:{sign}.3f}, {ends[1]:{sign}.3f}]"
        )

    table = [("", *(f"{titles[name]} [95% interval]" for name in names))]
    for who, scores in {"this model": result["model"], **result["baselines"]}.items():
        table.append((who, *(cell(scores[name]) for name in names)))
    empty = {"value": None}
    table.append(
        ("less the best of them", *(cell(result["difference"].get(name, empty), "+") for name in names))
    )
    widths = [max(len(row[column]) for row in table) for column in range(len(names) + 1)]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=False)).rstrip()
        for row in table
    ]
    return "\n".join([*lines, *result["conclusions"], result["verdict"]])


def predictions_csv(columns: Sequence[tuple[str, Sequence[Any]]]) -> str:
    """CSV text of named columns of equal length; floats with six significant digits."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([name for name, _ in columns])
    for row in zip(*(values for _, values in columns), strict=True):
        writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in row])
    return stream.getvalue()
