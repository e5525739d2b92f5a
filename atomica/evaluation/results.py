"""What an evaluation leaves: evaluation.json and predictions.csv, and what a person is told of a comparison."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from atomica.evaluation.statistics import METRICS, is_binary
from atomica.files import EVALUATION, PREDICTIONS, write_json, write_text

__all__ = ["Answers", "Evaluation", "format_comparison", "predictions_csv"]


@dataclass(frozen=True)
class Answers:
    """What a head says of some complexes, and what is known of them.

    ids, texts [N]: names and labels as the data have them; target [N], and where it is known [N]; predicted [N] or
    [N, C].
    """

    ids: Sequence[str]
    texts: Sequence[str | None]
    target: npt.NDArray[Any]
    known: npt.NDArray[np.bool_]
    predicted: npt.NDArray[np.float64]

    @property
    def binary(self) -> bool:
        """Whether it says yes or no."""
        return is_binary(self.target[self.known], self.predicted[self.known])

    def columns(self, **more: Sequence[Any]) -> list[tuple[str, Sequence[Any]]]:
        """The columns of predictions.csv, and more of them."""
        values = self.predicted.tolist()
        flat = values if self.predicted.ndim == 1 else [json.dumps(row) for row in values]
        return [
            ("id", self.ids),
            ("label", [text or "" for text in self.texts]),
            ("probability" if self.binary else "prediction", flat),
            *more.items(),
        ]


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


def format_comparison(result: Mapping[str, Any], positive: str) -> str:
    """The comparison as a small table of text."""
    if not result["conclusions"]:
        return (
            f"The {result['complexes']} test complexes are all of one class: AUROC and AUPRC are undefined."
        )

    def cell(value: Mapping[str, float], sign: str = "") -> str:
        # Adding 0 turns a rounded -0 into 0.
        middle, low, high = (round(value[name], 3) + 0.0 for name in ("value", "low", "high"))
        return f"{middle:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"

    rate = result["base_rate"]
    table = [
        ("", "AUROC [95% interval]", "AUPRC [95% interval]"),
        ("this model", *(cell(result["model"][metric]) for metric in METRICS)),
        ("residue composition", *(cell(result["baseline"][metric]) for metric in METRICS)),
        ("difference", *(cell(result["difference"][metric], "+") for metric in METRICS)),
        ("guessing", "0.500", f"{rate:.3f} (base rate of {positive})"),
    ]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    return "\n".join([*lines, *result["conclusions"]])


def predictions_csv(columns: Sequence[tuple[str, Sequence[Any]]]) -> str:
    """CSV text of named columns of equal length; floats with six significant digits."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([name for name, _ in columns])
    for row in zip(*(values for _, values in columns), strict=True):
        writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in row])
    return stream.getvalue()
