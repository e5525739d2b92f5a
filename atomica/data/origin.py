"""How complexes and graphs were made, as far as a model must be given those of one making alone.

A graph has it in its frame `block.made`, as DGL and pickle keep frames and nothing else: a row of whole numbers, the
same for all blocks, in the order of `COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["COLUMNS", "EDGES", "INPUTS", "RULES", "Origin", "differences", "row_of"]

INPUTS = ("complex", "segment0", "segment1")
"""What of each record a model sees: both partners, or one of them with the other removed."""

RULES = ("all-pairs", "reference")
"""Rules by which blocks near the partner are found, as manifests name them."""

UNKNOWN = -1
"""What a column says that nothing is known of."""

EDGES = {"k_neighbors": 8, "atom_global": False, "block_global": True, "reference_quirks": False}
"""The options that decide the edges of a graph, and what they are where nothing is asked for."""

COLUMNS = ("asked", *EDGES, "view", "cutoff", "rule", "vocabulary")
"""asked: bit i is set if option i of EDGES, or last the view, was asked for, and did not just come to pass."""

_DIGITS = 12
"""Hexadecimal digits of the vocabulary's checksum that a graph has."""


@dataclass(frozen=True)
class Origin:
    """How a data set was made. None where nothing says so.

    cutoff: Å; rule: of the interface; fragments: name of the fragment vocabulary, "none" without, and its SHA-256;
    schema: version of the shards.
    """

    cutoff: float | None = None
    rule: str | None = None
    fragments: str | None = None
    fragments_sha256: str | None = None
    schema: int | None = None

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, Any]) -> Origin:
        """That of the data set with this manifest.

        >>> Origin.of_manifest({"cutoff": 8.0, "vocabulary": {"fragments": "none"}, "schema_version": 2}).cutoff
        8.0
        """
        options, vocabulary = manifest.get("options", {}), manifest["vocabulary"]
        cutoff = options.get("cutoff", manifest.get("cutoff"))
        sha256 = vocabulary.get("fragments_sha256")
        return cls(
            cutoff=None if cutoff is None else float(cutoff),
            rule=None if options.get("interface_rule") is None else str(options["interface_rule"]),
            fragments=str(vocabulary["fragments"]),
            fragments_sha256=None if sha256 is None else str(sha256),
            schema=int(manifest["schema_version"]),
        )

    def others(self, than: Origin) -> list[str]:
        """What of cutoff and rule differs, with both values.

        >>> Origin(cutoff=6.0).others(Origin(cutoff=8.0))
        ['built with cutoff 6 Å, and 8 Å']
        """
        found = []
        if None not in (self.cutoff, than.cutoff) and self.cutoff != than.cutoff:
            found.append(f"built with cutoff {self.cutoff:g} Å, and {than.cutoff:g} Å")
        if None not in (self.rule, than.rule) and self.rule != than.rule:
            found.append(f"built with the interface rule {self.rule}, and {than.rule}")
        return found

    @property
    def vocabulary(self) -> int:
        """The fragment vocabulary as a number: 0 without fragments."""
        if self.fragments == "none":
            return 0
        return UNKNOWN if self.fragments_sha256 is None else int(self.fragments_sha256[:_DIGITS], 16)


def row_of(
    edges: Mapping[str, Any], view: str | None, origin: Origin | None, asked: Sequence[str]
) -> list[int]:
    """A row of `block.made`. asked: the options, or "view", that somebody asked for.

    >>> row_of(EDGES, "complex", None, ["view"])
    [16, 8, 0, 1, 0, 0, -1, -1, -1]
    """
    known = origin or Origin()
    bits = sum(1 << index for index, name in enumerate((*EDGES, "view")) if name in asked)
    return [
        bits,
        *(int(edges[name]) for name in EDGES),
        INPUTS.index(view) if view in INPUTS else UNKNOWN,
        UNKNOWN if known.cutoff is None else round(known.cutoff * 1e6),
        RULES.index(known.rule) if known.rule in RULES else UNKNOWN,
        known.vocabulary,
    ]


_MEANING = {
    "view": "what is seen of the complex (data.input)",
    "cutoff": "the cutoff of the interface",
    "rule": "the rule of the interface",
    "vocabulary": "the fragment vocabulary (start of its SHA-256)",
}


def differences(own: Sequence[int], wanted: Sequence[int]) -> tuple[dict[str, str], dict[str, str]]:
    """What a row of `block.made` says other than a model wants it, by column: what cannot be mended, and what can.

    Edges and views that nobody asked for can be made anew from the nodes.

    >>> plain, other = row_of(EDGES, "complex", None, []), row_of({**EDGES, "k_neighbors": 4}, None, None, [])
    >>> differences(plain, other)
    ({}, {'k_neighbors': 'k_neighbors: 8 in the graph, 4 in the model'})
    """
    firm: dict[str, str] = {}
    loose: dict[str, str] = {}
    for index, name in enumerate(COLUMNS[1:]):
        here, there = own[index + 1], wanted[index + 1]
        # Blocks of data without fragments are known to every model.
        if here == there or UNKNOWN in (here, there) or (name == "vocabulary" and not here):
            continue
        text = f"{_MEANING.get(name, name)}: {_shown(name, here)} in the graph, {_shown(name, there)} in the model"
        free = name in (*EDGES, "view") and not own[0] >> index & 1
        # What is gone with the other partner does not come back.
        mendable = free and (name != "view" or here == 0)
        (loose if mendable else firm)[name] = text
    return firm, loose


def _shown(name: str, value: int) -> str:
    if name == "view":
        return INPUTS[value]
    if name == "cutoff":
        return f"{value / 1e6:g} Å"
    if name == "rule":
        return RULES[value]
    if name == "vocabulary":
        return f"{value:0{_DIGITS}x}" if value else "none"
    return str(value if name == "k_neighbors" else bool(value))
