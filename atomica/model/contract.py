"""What a model was made for: how its data were made, and what of them it was shown. A saved model has it beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from atomica.data.origin import EDGES, INPUTS, Origin, differences, row_of
from atomica.errors import DataError

__all__ = ["Contract"]


@dataclass(frozen=True)
class Contract:
    """What data must be for a model. None, or empty: nothing says so.

    view: what it sees of a complex, one of `data.record.INPUTS`; origin: how its data were made. features: the files of
    external features it learnt from, by name, with SHA-256 over their headers. labels: head → the label column, and its
    classes and unit if it has some.
    """

    view: str | None = None
    origin: Origin = field(default_factory=Origin)
    features: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def description(self, edges: Mapping[str, Any]) -> dict[str, Any]:
        """As plain data for `model.json`; edges: the options of graphs that the encoder's settings ask for."""
        return {
            "view": self.view,
            "edges": dict(edges),
            "data": asdict(self.origin),
            "features": dict(self.features),
            "labels": {name: dict(entry) for name, entry in self.labels.items()},
            "units": {"positions": "angstrom", "cutoff": "angstrom"},
        }

    @classmethod
    def from_description(cls, found: Mapping[str, Any]) -> Contract:
        """Back from plain data. Raises DataError saying what is not as `description` gives it."""
        view = found.get("view")
        if view is not None and view not in INPUTS:
            raise DataError(f"inputs.view = {view!r}: must be one of {', '.join(INPUTS)}")
        try:
            return cls(
                view,
                Origin(**found.get("data", {})),
                dict(found.get("features", {})),
                dict(found.get("labels", {})),
            )
        except (TypeError, ValueError) as error:
            raise DataError(f"inputs: {error}") from None

    def mendable(self, made: Sequence[Sequence[int]], edges: Mapping[str, Any]) -> bool:
        """Whether a graph must be made anew for the model; made: rows of its frame `block.made`.

        Raises DataError for what no new graph mends, with both values.
        """
        wanted = row_of({**EDGES, **edges}, self.view, self.origin, [])
        loose: dict[str, str] = {}
        firm: dict[str, str] = {}
        for row in made:
            for known, new in zip((firm, loose), differences(row, wanted), strict=True):
                known.update(new)
        if firm:
            raise DataError(*(f"the model was made for other graphs: {text}" for text in firm.values()))
        return bool(loose)

    def problems(self, origin: Origin, view: str | None = None) -> dict[str, str]:
        """What data are other than the model's were, by kind ("view", "cutoff", "rule", "fragments"), for a person.

        Data without fragments suit a model that knows some.

        >>> Contract(origin=Origin(cutoff=8.0)).problems(Origin(cutoff=6.0))
        {'cutoff': 'cutoff 6 Å, and the model was trained with 8 Å'}
        """
        own, found = self.origin, {}
        if None not in (own.cutoff, origin.cutoff) and own.cutoff != origin.cutoff:
            found["cutoff"] = f"cutoff {origin.cutoff:g} Å, and the model was trained with {own.cutoff:g} Å"
        if None not in (own.rule, origin.rule) and own.rule != origin.rule:
            found["rule"] = f"interface rule {origin.rule!r}, and the model was trained with {own.rule!r}"
        differ = own.fragments_sha256 != origin.fragments_sha256
        if None not in (own.fragments, origin.fragments) and origin.fragments != "none" and differ:
            found["fragments"] = f"fragments {_named(origin)}, and the model was trained with {_named(own)}"
        if None not in (self.view, view) and view != self.view:
            found["view"] = f"data.input = {view!r}, and the model was trained with {self.view!r}"
        return found


def _named(origin: Origin) -> str:
    sha256 = f" (SHA-256 {origin.fragments_sha256[:12]})" if origin.fragments_sha256 else ""
    return f"{origin.fragments!r}{sha256}"
