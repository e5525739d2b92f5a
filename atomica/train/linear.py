"""The linear path of heads, solved before the first step on what the encoder gives as it starts.

A head that is drawn at random spends its first epochs on finding what can be read, and bends the encoder while it does.
Solved first, training begins where a linear probe of the same vectors ends (Kumar et al., ICLR 2022).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from atomica.data.labels import known_of
from atomica.data.record import Indices
from atomica.data.sampling import plan_batches
from atomica.heads import Head
from atomica.heads.readout import ReadoutHead
from atomica.model.model import Model
from atomica.train.distributed import ALONE, Ranks
from atomica.train.loader import Batch, Draws, Split

__all__ = ["Solution", "refit", "solve"]

ROWS, BLOCKS = 5_000, 100_000
"""Complexes, and about so many blocks of these, at most, from which it is solved and its strength chosen."""
STRENGTHS = tuple(10.0 ** (-0.5 * step) for step in range(11))
"""What half the sum of squared weights is multiplied by, beside the mean loss: from 1 to 1e-5."""
ITERATIONS = 100
PARTS, MOST = 5, 2_000
"""Of cross-validation; and rows up to which it chooses."""


Weights = tuple[list[list[float]], list[float]]
"""Weights and biases of a linear path."""


@dataclass(frozen=True)
class Solution:
    """Of a head that was solved: the strengths that were chosen, and its linear path from training and validation rows
    together with these, if it was asked for."""

    strengths: tuple[float, ...]
    together: Weights | None = None


def solve(
    model: Model,
    fresh: Sequence[str],
    train: Split,
    valid: Split,
    ranks: Ranks = ALONE,
    *,
    both: Split | None = None,
) -> dict[str, Solution]:
    """Solve the linear path of the heads `fresh` that have one from the training rows; what was found, by name.

    The strength is that with the least loss on `valid`, whose rows count alike. Those that are learnt from weigh as
    often as `data.sampler` draws their complexes. both: these rows as one split, train first, to solve them from
    besides; as long as they are few, cross-validation over them, clusters kept whole, chooses, and the mean is taken
    over what it does not tell apart.
    """
    heads = {
        name: head
        for name in fresh
        if isinstance(head := model.head(name), ReadoutHead)
        and head.linear is not None
        and head.linear.weight.requires_grad  # else train.freeze says that it stays as it is
        and (
            not head.on_blocks
            or (name in train.block_targets and train.max_blocks is None and valid.max_blocks is None)
        )
    }
    if not heads:
        return {}
    seen, held = _read(model, train, tuple(heads), ranks), _read(model, valid, tuple(heads), ranks)
    found, weights = {}, None if both is None else both.weights
    of_train, of_valid = (
        (None, None) if weights is None else weights.split([len(train.rows), len(valid.rows)])
    )
    for name, head in heads.items():
        own, other = seen[name], held[name]
        if len(own.read) < 2 or not len(other.read):
            continue
        # A copy: the weights of the model tell other ranks of every gradient.
        solved, device = copy.deepcopy(head), linear_of(head).weight.device
        learnt, judged = (_moved(rows, device) for rows in (own.weighed(train.weights), other.weighed(None)))
        rows = _joined(own.weighed(of_train), other.weighed(of_valid), device) if both else None
        parts = _parts(rows[1], [*own.groups(train), *other.groups(valid)]) if rows else []
        if rows and parts:
            strengths = _alike(_cross_validated(solved, rows, parts), [len(left) for _, left in parts])
            _reach(solved, learnt, strengths)
        else:
            strengths = (_solve(solved, learnt, judged),)
        _take(linear_of(head), _agreed(solved, ranks))
        if rows:
            _reach(solved, rows, strengths)
        together = _agreed(solved, ranks) if rows else None
        found[name] = Solution(strengths, together)
    return found


def refit(model: Model, solved: Mapping[str, Solution]) -> None:
    """Give the model the linear paths that were solved from training and validation rows together."""
    for name, one in solved.items():
        if one.together:
            _take(linear_of(model.head(name)), one.together)


def _agreed(head: ReadoutHead, ranks: Ranks) -> Weights:
    """The linear path of the first rank: others with other processors may differ in a last digit."""
    linear = linear_of(head)
    first, *_ = ranks.gather([linear.weight.tolist(), linear.bias.tolist()])
    return first[0], first[1]


def _take(linear: nn.Linear, weights: Weights) -> None:
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(weights[0]))
        linear.bias.copy_(torch.tensor(weights[1]))


def linear_of(head: Head) -> nn.Linear:
    """The linear path of a head that has one."""
    assert isinstance(head, ReadoutHead)
    assert head.linear is not None
    return head.linear


Rows = tuple[Tensor, Tensor, Tensor]
"""What a head reads [N, W], its targets [N, …], how much each row weighs [N]."""


@dataclass(frozen=True)
class _Labelled:
    """What a head reads of labelled complexes or blocks [N, W], its targets [N, …], the place of their complex [N]."""

    read: Tensor
    target: Tensor
    place: Tensor

    def weighed(self, weights: Tensor | None) -> Rows:
        """With what each weighs, of the weights of complexes; None: all alike."""
        ones = torch.ones(len(self.read))
        return self.read, self.target, ones if weights is None else weights[self.place]

    def groups(self, split: Split) -> list[str]:
        """The cluster of each, or where none is known its complex."""
        names = split.clusters or [f"{split.rows.split} {place}" for place in range(len(split.rows))]
        return [names[place] for place in self.place.tolist()]


def _read(model: Model, split: Split, names: Sequence[str], ranks: Ranks) -> dict[str, _Labelled]:
    """What heads read of labelled rows, of complexes spread over all of them if there are too many."""
    split = replace(split, keep_blocks=1.0)
    labelled = [split.known[name].numpy() for name in names if name in split.known]
    whole = np.ones(len(split.rows), dtype=bool)
    found = np.flatnonzero(whole if len(labelled) < len(names) else np.any(labelled, axis=0))
    most = min(ROWS, len(found), int(BLOCKS / max(1.0, float(split.rows.blocks.mean()))) + 1)
    places = found[np.linspace(0, len(found) - 1, most).astype(np.int64)]
    of_blocks = {name: _OfBlocks(split, name, places) for name in names if name in split.block_targets}
    own = plan_batches(places, split.rows.blocks, split.batch_blocks)[ranks.rank :: ranks.size]
    number = {int(place): row for row, place in enumerate(places)}
    read: dict[str, dict[int, Tensor]] = {name: {} for name in names}

    def add(draws: Draws, batch: Batch) -> None:
        rows = [number[int(place)] for place in draws]
        for name, values in model.read(batch.graph, names).items():
            each = of_blocks[name].numbers(rows) if name in of_blocks else rows
            read[name] |= dict(zip(each, values.float().cpu(), strict=True))

    training = model.training
    model.eval()
    with torch.no_grad():
        for _ in split.each(own, model, add):
            pass
    model.train(training)
    index = torch.from_numpy(places)
    answers: dict[str, _Labelled] = {}
    for name in names:
        if name in of_blocks:
            target, known = of_blocks[name].target, known_of(of_blocks[name].target)
            place = index.repeat_interleave(of_blocks[name].counts)
        else:
            target, known, place = split.targets[name][index], split.known[name][index], index
        rows = ranks.rows(len(target), read[name])
        answers[name] = _Labelled(rows[known], target[known], place[known])
    return answers


class _OfBlocks:
    """The ordinary blocks of some complexes, and their targets."""

    def __init__(self, split: Split, head: str, places: Indices) -> None:
        labels = split.block_targets[head]
        each = [labels.rows(places[row : row + 1]) for row in range(len(places))]
        each = [rows[labels.ordinary[rows]] for rows in each]
        self.counts = torch.tensor([len(rows) for rows in each])
        self.ends = self.counts.cumsum(0).numpy()
        self.target = labels.values[torch.from_numpy(np.concatenate(each))]

    def numbers(self, rows: Sequence[int]) -> list[int]:
        """The numbers of the blocks of some complexes, given by their place among all."""
        starts = np.concatenate([[0], self.ends])
        return [block for row in rows for block in range(int(starts[row]), int(self.ends[row]))]


def _solve(head: ReadoutHead, seen: Rows, held: Rows) -> float:
    """Solve the linear path of `head` with the strength that is best on the rows held out; that strength."""
    linear = linear_of(head)
    best = (torch.inf, 0.0, copy.deepcopy(linear.state_dict()))
    for strength in _path(head, seen, STRENGTHS):
        with torch.no_grad():
            value = float(_loss(head, held))
        if value < best[0]:
            best = (value, strength, copy.deepcopy(linear.state_dict()))
    linear.load_state_dict(best[2])
    return best[1]


def _parts(target: Tensor, groups: Sequence[str]) -> list[tuple[Indices, Indices]]:
    """Rows to learn from and rows to judge by, for each part; none of too many rows, too few groups, small classes."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    numbers = np.unique(np.array(groups), return_inverse=True)[1]
    if len(target) > MOST or len(np.unique(numbers)) < PARTS:
        return []
    classes = not target.is_floating_point() and target.ndim == 1
    parts = (StratifiedGroupKFold if classes else GroupKFold)(PARTS, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with fewer members than there are parts
        try:
            return list(parts.split(numbers, target.cpu().numpy() if classes else None, numbers))
        except ValueError:  # no class has as many
            return []


def _cross_validated(
    head: ReadoutHead, rows: Rows, parts: Sequence[tuple[Indices, Indices]]
) -> npt.NDArray[np.float64]:
    """How well each part is answered by what was learnt from the others with each of `STRENGTHS`: losses [P, S]."""
    head, losses = copy.deepcopy(head), np.zeros((len(parts), len(STRENGTHS)))
    for part, (learnt, left) in enumerate(parts):
        read, target, weight = _at(rows, left)
        judged = read, target, torch.ones_like(weight)
        with torch.no_grad():
            losses[part] = [float(_loss(head, judged)) for _ in _path(head, _at(rows, learnt), STRENGTHS)]
    return losses


def _alike(losses: npt.NDArray[np.float64], sizes: Sequence[int], errors: float = 1.0) -> tuple[float, ...]:
    """The strength that is best in parts of some sizes, and those which the parts do not tell from it.

    Their loss exceeds its by no more than so many standard errors of the excess over the parts.
    """
    best = int((sizes @ losses).argmin())
    more = losses - losses[:, [best]]
    chosen = sizes @ more / np.sum(sizes) <= errors * more.std(axis=0, ddof=1) / len(sizes) ** 0.5
    return tuple(one for one, good in zip(STRENGTHS, chosen, strict=True) if good)


def _at(rows: Rows, places: Indices) -> Rows:
    read, target, weight = rows
    return read[places], target[places], weight[places]


def _reach(head: ReadoutHead, rows: Rows, strengths: Sequence[float]) -> None:
    """The mean of the linear paths of `head` that are solved with each of some of `STRENGTHS`."""
    linear = linear_of(head)
    path = _path(head, rows, [one for one in STRENGTHS if one >= min(strengths)])
    found = [copy.deepcopy(linear.state_dict()) for strength in path if strength in strengths]
    linear.load_state_dict({key: torch.stack([one[key] for one in found]).mean(0) for key in found[0]})


def _path(head: ReadoutHead, rows: Rows, strengths: Sequence[float]) -> Iterator[float]:
    """Solve the linear path of `head` with each strength, from strong to weak, each from where the one before ended."""
    linear = linear_of(head)
    head.eval()
    for strength in strengths:
        optimizer = torch.optim.LBFGS(
            linear.parameters(), max_iter=ITERATIONS, history_size=20, line_search_fn="strong_wolfe"
        )

        def closure(strength: float = strength) -> Tensor:
            linear.zero_grad()
            loss = _loss(head, rows) + strength / 2 * linear.weight.square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)
        yield strength


def _moved(rows: Rows, device: torch.device) -> Rows:
    read, target, weight = rows
    return read.to(device), target.to(device), weight.to(device)


def _joined(one: Rows, other: Rows, device: torch.device) -> Rows:
    read, target, weight = (torch.cat(pair) for pair in zip(one, other, strict=True))
    return _moved((read, target, weight), device)


def _loss(head: ReadoutHead, rows: Rows) -> Tensor:
    """The mean loss, of rows that weigh alike; else the mean over groups of one weight, by what each group weighs."""
    read, target, weight = rows
    output = head.answer(read)
    groups = weight.unique()
    if len(groups) < 2:
        return head.loss(output, target)
    each = [(weight == one, one) for one in groups]
    losses = [head.loss(output[of], target[of]) * one * of.sum() for of, one in each]
    return torch.stack(losses).sum() / weight.sum()
