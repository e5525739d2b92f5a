"""The files that hold an evaluation: predictions.csv and evaluation.json."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from atomica.evaluation.statistics import METRICS

__all__ = ["format_comparison", "predictions_csv"]


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
