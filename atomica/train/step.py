"""One optimiser step over a batch that may be shared between ranks and worked through in shares.

However a batch is cut, the losses of its shares are weighted by what they are means of, so that loss and gradient are
those of the whole batch. A contrastive head is the exception: it compares the complexes of a share with each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from atomica.model.model import Model
from atomica.train.distributed import Ranks
from atomica.train.schedule import factor

if TYPE_CHECKING:
    from atomica.train.config import TrainConfig
    from atomica.train.loader import Batch

__all__ = ["Agreement", "Step", "Stepper", "numbers_of", "shares_of"]

Counts = dict[str, dict[str, float]]


def shares_of(
    draws: npt.NDArray[np.int64], blocks: npt.NDArray[np.int64], count: int
) -> list[npt.NDArray[np.int64]]:
    """A batch in `count` shares with about equal numbers of blocks; each keeps the order, some may be empty.

    >>> [share.tolist() for share in shares_of(np.array([7, 8, 9]), np.array([3, 5, 2]), 2)]
    [[7, 9], [8]]
    """
    if count == 1:
        return [draws]
    filled = np.zeros(count, dtype=np.int64)
    share_of = np.zeros(len(draws), dtype=np.int64)
    for index in np.argsort(-blocks, kind="stable"):
        share_of[index] = filled.argmin()
        filled[share_of[index]] += blocks[index]
    order = {share: first for first, share in enumerate(dict.fromkeys(share_of.tolist()))}
    # Share 0 has the first complex of the batch, so that it is never empty.
    renamed = np.array([order[share] for share in share_of.tolist()])
    return [draws[renamed == share] for share in range(count)]


@dataclass(frozen=True)
class Agreement:
    """What all ranks know before a step: whether one was told to stop, and what the first one wants saved.

    counts: of the whole batch, see `Model.counts`, or None if there is only one share; unperturbed: see `Batch`.
    """

    stop: bool
    save: str
    counts: Counts | None
    unperturbed: int | None


@dataclass(frozen=True)
class Step:
    """What one step has shown: total loss, its terms, the gradient's norm before clipping, rates by module.

    bad: what was not finite, so that the weights were left as they are; empty if all is well.
    """

    loss: float
    terms: Mapping[str, float]
    norm: float
    rates: Mapping[str, float]
    bad: str


class _Loss(nn.Module):
    """The weighted loss of one share of a batch, as a module that DistributedDataParallel can wrap."""

    def __init__(self, model: Model, autocast: bool) -> None:
        super().__init__()
        self.model = model
        self.autocast = autocast

    def forward(
        self, batch: Batch | None, shares: Mapping[str, Mapping[str, float]] | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if batch is None:
            # A rank whose share is empty takes part in the exchange of gradients all the same.
            weight = next(weight for weight in self.model.parameters() if weight.requires_grad)
            return weight.sum() * 0.0, {}
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, torch.bfloat16) if self.autocast else nullcontext():
            outputs = self.model.outputs(batch.graph)
        # Losses are summed up in full precision.
        losses = self.model.loss_of(_full(outputs), batch.targets, batch.rows, shares)
        return losses.total, {name: term.detach() for name, term in losses.terms.items()}


def _full(value: Any) -> Any:
    """Outputs in bfloat16 as float32, also within mappings and named tuples."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype == torch.bfloat16 else value
    if isinstance(value, Mapping):
        return {name: _full(entry) for name, entry in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_full, value))
    return value


class Stepper:
    """Takes steps with an optimiser, on one rank or several, and keeps the average of the weights if asked to."""

    def __init__(
        self, model: Model, optimizer: torch.optim.Optimizer, config: TrainConfig, ranks: Ranks
    ) -> None:
        self.model, self.optimizer, self.config, self.ranks = model, optimizer, config, ranks
        self.loss: nn.Module = _Loss(model, config.precision == "bf16")
        self.wrapped: nn.parallel.DistributedDataParallel | None = None
        if ranks.size > 1:
            device = next(model.parameters()).device
            self.wrapped = self.loss = nn.parallel.DistributedDataParallel(
                self.loss,
                device_ids=[device.index] if device.type == "cuda" else None,
                find_unused_parameters=True,  # heads without a label in this batch
                gradient_as_bucket_view=True,
            )
        self.average: torch.optim.swa_utils.AveragedModel | None = None
        if config.ema:
            average = torch.optim.swa_utils.get_ema_multi_avg_fn(config.ema)
            self.average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average)

    @property
    def averaged(self) -> Model:
        """The model to validate and to keep: the average, if there is one."""
        if self.average is None:
            return self.model
        model = self.average.module
        assert isinstance(model, Model)
        return model

    def agree(self, batches: Sequence[Batch], *, stop: bool, save: str) -> Agreement:
        """Tell the other ranks about this rank's shares of the next batch, and hear about theirs."""
        unperturbed = [batch.unperturbed for batch in batches if batch.unperturbed is not None]
        counts: Counts = {}
        if self.ranks.size > 1 or len(batches) > 1:
            for batch in batches:
                _add(counts, batch.counts)
        told = self.ranks.gather([stop, save, counts, sum(unperturbed) if unperturbed else None])
        whole: Counts = {}
        for _, _, one, _ in told:
            _add(whole, one)
        numbers = [number for *_, number in told if number is not None]
        return Agreement(
            stop=any(one for one, *_ in told),
            save=told[0][1],
            counts=whole or None,
            unperturbed=sum(numbers) if numbers else None,
        )

    def run(self, batches: Sequence[Batch], counts: Counts | None, step: int, total_steps: int) -> Step:
        """One step over this rank's shares of a batch; `counts` as `agree` has found them."""
        scale = factor(self.config.schedule, step, total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * scale
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for index, batch in enumerate(batches or (None,)):
            last = index >= len(batches) - 1
            # Gradients are exchanged once per step, with those of the last share.
            with nullcontext() if self.wrapped is None or last else self.wrapped.no_sync():
                total, terms = self.loss(batch, self._shares(batch, counts))
                # DistributedDataParallel takes the mean over the ranks, and the sum is wanted.
                (total if self.wrapped is None else total * self.ranks.size).backward()
            for name, value in {"": total.detach(), **terms}.items():
                sums[name] = sums[name] + value if name in sums else value
        limit = self.config.clip_norm if self.config.clip_norm > 0 else math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        self._move(sums[""], norm)
        # The one question to the device, after all that it has to do is queued.
        numbers = numbers_of({**sums, "/norm": norm})
        size = numbers.pop("/norm")
        numbers = _total(self.ranks.gather(numbers))
        loss = numbers.pop("")
        bad = "loss" if not math.isfinite(loss) else "gradient norm" if not math.isfinite(size) else ""
        if not bad and self.average is not None:
            self.average.update_parameters(self.model)
        rates = {group["module"]: group["lr"] for group in self.optimizer.param_groups}
        return Step(loss, numbers, size, rates, bad)

    def _move(self, loss: Tensor, norm: Tensor) -> None:
        """The optimiser's step, which leaves weights and its own state alone if a number is not finite, on any rank.

        The device decides that itself: fused optimisers look at `found_inf`, as after a step in half precision.
        """
        bad = (~(torch.isfinite(loss) & torch.isfinite(norm))).float()
        if self.wrapped is not None:
            torch.distributed.all_reduce(bad, torch.distributed.ReduceOp.MAX)
        self.optimizer.found_inf = bad  # type: ignore[attr-defined]
        self.optimizer.step()

    def _shares(self, batch: Batch | None, counts: Counts | None) -> dict[str, dict[str, float]] | None:
        if batch is None or counts is None:
            return None
        return {
            head: {part: count / (counts[head][part] or 1) for part, count in parts.items()}
            for head, parts in batch.counts.items()
        }


def _add(sums: Counts, more: Mapping[str, Mapping[str, float]]) -> None:
    for head, parts in more.items():
        entry = sums.setdefault(head, {})
        for part, count in parts.items():
            entry[part] = entry.get(part, 0) + count


def _total(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The sum of numbers of the same name."""
    total: dict[str, float] = {}
    for one in found:
        for name, value in one.items():
            total[name] = total[name] + value if name in total else value
    return total


def numbers_of(terms: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalar tensors as numbers, fetched from the device at once: the one moment of a step that waits for a GPU."""
    if not terms:
        return {}
    values = torch.stack([value.detach().double() for value in terms.values()]).tolist()
    return dict(zip(terms, values, strict=True))
