"""Thresholds of an ensemble's classes: learnt on labelled pockets by a stated rule, kept in a file.

Shape letter: N labelled pockets.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from atomica.errors import DataError
from atomica.files import write_json
from atomica.model.named import is_name

__all__ = ["RULES", "ClassRule", "Learnt", "learn", "read_ensemble", "write_ensemble"]


Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

RULES = ("f1", "precision")
FORMAT = 1


@dataclass(frozen=True)
class Learnt:
    """A threshold, the rule that chose it, and how the class does with it on the pockets it was chosen on.

    These figures flatter: the threshold was fitted to the same pockets.
    """

    threshold: float
    rule: str
    pockets: int
    positives: int
    precision: float
    recall: float
    f1: float


def learn(labels: Labels, probabilities: Floats, rule: str, precision: float = 0.9) -> Learnt:
    """The threshold of one class; a pocket is called if its probability is at least the threshold.

    labels [N] 0 or 1, probabilities [N]. Thresholds half-way between two neighbouring probabilities, and half-way
    from the smallest one to 0, are tried. Rule f1: the highest F1; precision: the highest recall among those whose
    precision is at least `precision`. Of several equally good ones the highest. Raises DataError if there is no
    positive pocket, or none of the thresholds reaches the precision.

    >>> learn(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.6, 0.9]), "f1").threshold
    0.5
    """
    positives = int(labels.sum())
    if not positives or positives == len(labels):
        raise DataError(f"{positives} of {len(labels)} pockets are of this class; both kinds are needed")
    values, place = np.unique(probabilities, return_inverse=True)
    # How many pockets, and how many of the class, each distinct probability calls, the highest first.
    values, size = values[::-1], len(values)
    called = np.cumsum(np.bincount(place, minlength=size)[::-1])
    hits = np.cumsum(np.bincount(place[labels == 1], minlength=size)[::-1])
    precisions, recalls = hits / called, hits / positives
    f1 = 2 * hits / (called + positives)
    score = f1 if rule == "f1" else np.where(precisions >= precision, recalls, -1.0)
    best = int(np.argmax(score))
    if score[best] < 0 or not hits[best]:
        raise DataError(
            f"no threshold has a precision of {precision:g} on these {len(labels)} pockets; the best is "
            f"{precisions.max():.3f}"
        )
    below = values[best + 1] if best + 1 < len(values) else 0.0
    return Learnt(
        threshold=float((values[best] + below) / 2),
        rule=rule if rule == "f1" else f"precision {precision:g}",
        pockets=len(labels),
        positives=positives,
        precision=float(precisions[best]),
        recall=float(recalls[best]),
        f1=float(f1[best]),
    )


@dataclass(frozen=True)
class ClassRule:
    """One class of an ensemble: the folders or files of its members, its threshold, and how that was learnt."""

    members: tuple[str, ...]
    threshold: float
    learnt: Learnt | None = None


def checksum(path: Path) -> str:
    """SHA-256 of a member's weights, hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_ensemble(path: Path, classes: Mapping[str, ClassRule], sums: Mapping[str, str]) -> None:
    """Write an ensemble with its thresholds as JSON; members that are paths are named
    relative to the file.

    sums: SHA-256 of the weights of each member, by its path as in `classes`.
    """
    content = {
        "format": FORMAT,
        "classes": {
            name: {
                "members": [
                    {"path": _beside(member, path.parent), "sha256": sums[member]} for member in rule.members
                ],
                "threshold": rule.threshold,
                "learnt": None if rule.learnt is None else asdict(rule.learnt),
            }
            for name, rule in classes.items()
        },
    }
    write_json(path, content)


def _beside(member: str, folder: Path) -> str:
    """A member as an ensemble file in a folder names it: by its path from there, if it is no name."""
    path = os.path.relpath(member, folder)
    return member if is_name(member) else f"./{path}" if is_name(path) else path


def _from(member: str, folder: Path) -> str:
    """The member that an ensemble file in a folder names."""
    return member if is_name(member) else os.path.normpath(folder / member)


def read_ensemble(path: str | Path) -> tuple[dict[str, ClassRule], dict[str, str]]:
    """The classes of an ensemble file, members as paths from here, and the checksums that their weights must have.

    Raises DataError if it cannot be read.
    """
    file = Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path}: is no JSON: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise DataError(
            f"{path}: is no ensemble of format {FORMAT}, as a job of kind annotate writes it: {found!r}"
        )
    sums: dict[str, str] = {}
    classes: dict[str, ClassRule] = {}
    try:
        for name, entry in content["classes"].items():
            members = [(_from(one["path"], file.parent), str(one["sha256"])) for one in entry["members"]]
            sums.update(members)
            learnt = None if entry["learnt"] is None else Learnt(**entry["learnt"])
            classes[name] = ClassRule(
                tuple(member for member, _ in members), float(entry["threshold"]), learnt
            )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: is damaged: {error!r}") from None
    return classes, sums
