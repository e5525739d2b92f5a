"""Means of losses over batches, as sums and counts that a checkpoint can hold and ranks can put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from atomica.model.model import Model

__all__ = ["Sums", "count_batch", "means", "merged", "shown"]

UNPERTURBED = "unperturbed"

Sums = dict[str, list[float]]
"""Name → [sum, count] of numbers to be averaged; plain data, since a checkpoint in mid-epoch holds it."""


def _count(sums: Sums, name: str, total: float, count: float) -> None:
    entry = sums.setdefault(name, [0.0, 0.0])
    entry[0] += total
    entry[1] += count


def count_batch(
    sums: Sums,
    complexes: int,
    labelled: Mapping[str, float],
    unperturbed: int | None,
    terms: Mapping[str, float],
) -> None:
    """Count a batch's loss terms, each for as many complexes, or blocks, as its head had targets for.

    >>> sums: Sums = {}
    >>> count_batch(sums, 4, {"binding": 3}, None, {"binding": 0.5, "noise": 1.0})
    >>> sums
    {'binding': [1.5, 3.0], 'noise': [4.0, 4.0]}
    """
    for name, value in terms.items():
        count = labelled.get(name.partition("/")[0], complexes)
        _count(sums, name, value * count, count)
    if unperturbed is not None:
        _count(sums, UNPERTURBED, unperturbed, complexes)


def merged(several: Iterable[Sums]) -> Sums:
    """The sums of several ranks as those of all."""
    whole: Sums = {}
    for sums in several:
        for name, (total, count) in sums.items():
            _count(whole, name, total, count)
    return whole


def means(sums: Sums, model: Model) -> dict[str, float]:
    """`loss`, the weighted sum of the heads' mean losses, then these and what heads log beside them.

    Names are those of the head with several heads, else bare; a single number is not repeated. `unperturbed` is a
    share of complexes.
    """
    found = {name: total / count for name, (total, count) in sums.items() if count}
    own = {name: found.pop(name) for name in (UNPERTURBED,) if name in found}
    loss = sum(weight * found[name] for name, weight in model.weights.items() if name in found)
    return {"loss": loss, **shown(model, found), **own}


def shown(model: Model, terms: Mapping[str, float]) -> dict[str, float]:
    """Loss terms under the names they are recorded by."""
    if len(model.heads) == 1:
        return {name.partition("/")[2]: value for name, value in terms.items() if "/" in name}
    return {name if "/" in name else f"{name}/loss": value for name, value in terms.items()}
