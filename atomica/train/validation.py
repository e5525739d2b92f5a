"""Predictions for a split of the data, with loss and metrics; which of them decides what epoch is best."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from atomica.evaluation.statistics import undefined
from atomica.model.model import Model
from atomica.spec import Problems
from atomica.train.config import TrainConfig
from atomica.train.distributed import ALONE, Ranks
from atomica.train.loader import Batch, Draws, Split
from atomica.train.step import numbers_of
from atomica.train.stopping import Stop, StopRequested
from atomica.train.sums import Sums, count_batch, merged
from atomica.train.sums import means as means_of

__all__ = ["answers_of", "monitor_of", "predict"]


def predict(
    model: Model, split: Split, stop: Stop | None = None, ranks: Ranks = ALONE
) -> tuple[dict[str, Tensor], float, dict[str, float]]:
    """Predictions for the rows of `split`, in order; the loss; the heads' metrics.

    Predictions are those of heads with labels, for all rows, labelled or not, and of heads on blocks for all blocks.
    The loss of a head is the mean over the complexes or blocks with targets; a head without any has no metrics. Metric
    names are those of the head, with `HEAD/` in front if there are several heads. Noise, if any, is the same in every
    call. Ranks share the batches, and all get the result.
    """
    device = next(model.parameters()).device
    metrics = {name: model.head(name).metrics().to(device) for name in model.heads}
    plan, found = split.plan(), _Found(model)
    rounds = -(-len(plan) // ranks.size)
    own = plan[ranks.rank :: ranks.size]

    def add(draws: Draws, batch: Batch) -> None:
        found.add(model, draws, batch, metrics, apart=ranks.size > 1)

    model.eval()
    with torch.no_grad(), closing(split.each(own, model, add)) as batches:
        for index in range(rounds):
            if stop is not None and ranks.any(stop.requested):
                raise StopRequested
            if index < len(own):
                next(batches)
    means = means_of(merged(ranks.gather(found.sums)), model)
    measured = {name for names in ranks.gather(sorted(found.measured)) for name in names}
    predictions = {name: ranks.rows(len(split.rows), own) for name, own in found.rows.items()}
    predictions |= {name: _joined(ranks.gather(own)) for name, own in found.blocks.items()}
    if ranks.size > 1:
        measured |= _measure_all(model, split, predictions, metrics)
    several = len(metrics) > 1
    unknown = {name: _undefined(split, name, predicted) for name, predicted in predictions.items()}
    values = {
        f"{head}/{name}" if several else name: math.nan if name in unknown.get(head, ()) else _value(metric)
        for head, collection in metrics.items()
        if head in measured
        for name, metric in collection.items()
    }
    loss = means.pop("loss", math.nan)
    return predictions, loss, {**means, **values}


def answers_of(model: Model, split: Split, positions: Draws) -> tuple[dict[str, list[Any]], Sums]:
    """What heads with labels say of some rows of `split`, and the sums of their losses, see `train.sums`.

    positions [N]: which rows. By head N answers: a number or C of them, of a head on blocks a list of them.
    """
    found = _Found(model)

    def add(draws: Draws, batch: Batch) -> None:
        found.add(model, draws, batch, {}, apart=True)

    model.eval()
    with torch.no_grad():
        for _ in split.each(split.plan(positions), model, add):
            pass
    answers = {name: [rows[row].tolist() for row in positions.tolist()] for name, rows in found.rows.items()}
    blocks = {name: [rows[str(row)] for row in positions.tolist()] for name, rows in found.blocks.items()}
    return {**answers, **blocks}, found.sums


class _Found:
    """What a rank finds in its batches: predictions by row, sums of losses, the heads whose metrics saw something."""

    def __init__(self, model: Model) -> None:
        of = {name: model.head(name).targets for name in model.heads}
        self.rows: dict[str, dict[int, Tensor]] = {name: {} for name in of if of[name] == "labels"}
        self.blocks: dict[str, dict[str, Any]] = {name: {} for name in of if of[name] == "block_labels"}
        self.sums: Sums = {}
        self.measured: set[str] = set()

    def add(
        self, model: Model, draws: Draws, batch: Batch, metrics: Mapping[str, Any], *, apart: bool
    ) -> None:
        """Run the model on a batch. apart: metrics of heads with labels are left for later."""
        outputs = model.outputs(batch.graph)
        losses = model.loss_of(outputs, batch.targets, batch.rows)
        count_batch(self.sums, len(batch.ids), batch.labelled, batch.unperturbed, numbers_of(losses.terms))
        for name, output in outputs.items():
            head, target = model.head(name), batch.targets.get(name)
            predicted = head.predict(output)
            if name in self.rows:
                self.rows[name] |= dict(zip(draws.tolist(), predicted.cpu(), strict=True))
                if apart:
                    continue
            if name in batch.rows and target is not None:
                predicted, target = predicted[batch.rows[name]], target[batch.rows[name]]
            if head.targets == "block_labels":
                each = torch.bincount(batch.graph.graph_of_block, minlength=len(draws)).tolist()
                self.blocks[name] |= {
                    str(row): one.tolist()
                    for row, one in zip(draws.tolist(), predicted.split(each), strict=True)
                }
                if apart:
                    continue
                predicted, target = head.measured(predicted, target)
            if not isinstance(target, Tensor) or len(target):
                metrics[name].update(predicted, target)
                self.measured.add(name)


def _joined(found: Sequence[Mapping[str, Any]]) -> Tensor:
    """Predictions for the blocks of each row, by its number on each rank, as one tensor in the order of rows."""
    rows = {int(row): values for one in found for row, values in one.items()}
    return torch.tensor([value for _, values in sorted(rows.items()) for value in values])


def _measure_all(
    model: Model, split: Split, predictions: Mapping[str, Tensor], metrics: Mapping[str, Any]
) -> set[str]:
    """Metrics of heads with labels from all ranks' predictions; says which heads have any.

    Their states are lists, which torchmetrics cannot put together where a rank's is empty.
    """
    measured: set[str] = set()
    device = next(model.parameters()).device
    for name, predicted in predictions.items():
        target, known = split.truth(name)
        for metric in metrics[name].values():
            metric.distributed_available_fn = lambda: False
        if bool(known.any()):
            metrics[name].update(predicted[known].to(device), target[known].to(device))
            measured.add(name)
    return measured


def _undefined(split: Split, head: str, predicted: Tensor) -> frozenset[str]:
    """Names of metrics of a head that mean nothing for the labels of a split."""
    target, known = split.truth(head)
    return undefined(target[known].numpy(), predicted[known].float().cpu().numpy())


def _value(metric: Any) -> float:
    """A metric's value; NaN where torchmetrics says that the targets leave it undefined, and would give 0."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = float(metric.compute())
    undefined = any(re.search(r"No (positive|negative) samples", str(w.message)) for w in caught)
    return math.nan if undefined else value


def monitor_of(model: Model, config: TrainConfig) -> tuple[str, str]:
    """The metric that decides which epoch is best, and "max" or "min".

    Raises Problems if `train.monitor` names a metric that no head has.
    """
    several = len(model.heads) > 1
    modes = {"loss": "min"}
    for name in model.heads:
        head = model.head(name)
        prefix = f"{name}/" if several else ""
        modes[f"{prefix}loss"] = "min"
        for metric, instance in head.metrics().items():
            higher = getattr(instance, "higher_is_better", None)
            modes[prefix + metric] = "min" if higher is False else "max"
        if head.monitor != "loss":
            modes[prefix + head.monitor] = head.monitor_mode
    if config.monitor:
        if config.monitor not in modes:
            raise Problems(("monitor", f"must be one of {', '.join(modes)}"), config=config)
        return config.monitor, modes[config.monitor]
    first = next(iter(model.heads))
    chosen = model.head(first).monitor
    name = f"{first}/{chosen}" if several and chosen != "loss" else chosen
    return name, modes[name]
