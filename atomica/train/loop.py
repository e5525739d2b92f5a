"""The training loop: epochs over the training rows, validation, the best and the last checkpoint.

Everything that decides the numbers is a function of the settings, the data and the seed; a resumed run goes
on, in the middle of an epoch if need be, to the same losses as one that was never interrupted.
"""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atomica.errors import AtomicaError, DataError
from atomica.graph import GraphInputs
from atomica.heads import Head
from atomica.model import Model
from atomica.records import Rows, epoch_order, plan_batches, prefetch
from atomica.spec import setting
from atomica.train import checkpoint
from atomica.train.logging import Display, RunLog
from atomica.train.schedule import ScheduleConfig, factor

__all__ = [
    "Batch",
    "Interrupted",
    "Outcome",
    "Part",
    "Stop",
    "StopRequested",
    "TrainConfig",
    "TrainingError",
    "fit",
    "predict",
]

BEST, LAST = "best", "last"


@dataclass(frozen=True)
class TrainConfig:
    """Section `[train]`: how long and how the model is trained."""

    epochs: int = setting(20, "passes over the training rows", low=1)
    learning_rate: float = setting(1e-3, "step size before the schedule", above=0)
    weight_decay: float = setting(0.0, "decay of the weights, see optimizer", low=0)
    optimizer: str = setting(
        "adamw",
        "adamw: decay apart from the gradient; adam: decay added to the gradient (L2)",
        choices=("adamw", "adam"),
    )
    clip_norm: float = setting(1.0, "gradients are scaled down to this norm; 0: never", low=0)
    patience: int = setting(0, "stop after so many epochs without a better metric; 0: never", low=0)
    monitor: str = setting(
        "",
        "validation metric that decides which epoch is best: loss or a metric of the first head; "
        "empty: the head's own choice",
    )
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)


class TrainingError(AtomicaError):
    """Training cannot go on: a loss or gradient is not finite."""


class Interrupted(AtomicaError):
    """Training was asked to stop and has written a checkpoint to go on from."""


class StopRequested(Exception):
    """Leaves the loop at a point where the state is consistent, unlike a KeyboardInterrupt."""


@dataclass
class Stop:
    """A request to stop, set by a signal handler and looked at between steps."""

    requested: bool = False


@dataclass(frozen=True)
class Batch:
    """What one step needs: the tensors of the graphs, the targets of each head, and the ids for messages."""

    ids: tuple[str, ...]
    blocks: int
    graph: GraphInputs
    targets: Mapping[str, Tensor]


@dataclass(frozen=True)
class Part:
    """Rows of one part of the data with their targets, ready to be batched.

    targets: head name → tensor whose first dimension follows `rows`. classes [N]: for balanced sampling.
    """

    rows: Rows
    targets: Mapping[str, Tensor]
    input: str
    graph_options: Mapping[str, Any]
    batch_blocks: int
    loader_threads: int = 0
    classes: npt.NDArray[np.int64] | None = None

    def plan(self, order: npt.NDArray[np.int64] | None = None) -> list[npt.NDArray[np.int64]]:
        """Batches, as positions in `rows`; in row order without `order`."""
        return plan_batches(
            np.arange(len(self.rows)) if order is None else order, self.rows.blocks, self.batch_blocks
        )

    def epoch_plan(self, seed: int, epoch: int) -> list[npt.NDArray[np.int64]]:
        """Batches of one training epoch."""
        return self.plan(epoch_order(len(self.rows), seed=seed, epoch=epoch, classes=self.classes))

    def load(self, positions: npt.NDArray[np.int64], model: Model) -> Batch:
        """Read and join the complexes at `positions`, and move them to the model's device."""
        rows = self.rows.rows[positions]
        graph = self.rows.dataset.graphs(rows, input=self.input, **self.graph_options)
        ids = self.rows.dataset.ids
        index = torch.from_numpy(positions)
        return Batch(
            ids=tuple(ids[row] for row in rows),
            blocks=int(self.rows.blocks[positions].sum()),
            graph=model.inputs(graph),
            targets={name: target[index] for name, target in self.targets.items()},
        )

    def batches(self, plan: Sequence[npt.NDArray[np.int64]], model: Model) -> Any:
        """Iterate over the batches of a plan, the next ones prepared by other threads."""
        return prefetch(plan, lambda positions: self.load(positions, model), threads=self.loader_threads)


@dataclass
class _State:
    """Where a run stands. Every field but the tensors of the optimiser and the generators is in here."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    complexes: int = 0
    best: float | None = None
    best_epoch: int = 0
    since_best: int = 0
    finished: bool = False
    train_seconds: float = 0.0
    trained_complexes: int = 0


@dataclass(frozen=True)
class Outcome:
    """How a training ended: epochs and steps done, the best epoch (from 1) and its metric, complexes/s."""

    epochs: int
    steps: int
    best_epoch: int
    monitor: str
    best: float
    stopped_early: bool
    complexes_per_s: float


def head_of(model: Model, name: str) -> Head:
    """A head of the model, by name."""
    return cast(Head, model.heads[name])


def predict(
    model: Model, part: Part, stop: Stop | None = None
) -> tuple[dict[str, Tensor], float, dict[str, float]]:
    """Predictions of every head for the rows of `part`, in order; the mean loss; the heads' metrics.

    Metric names are those of the head, with `HEAD/` in front if there are several heads.
    """
    predictions: dict[str, list[Tensor]] = {name: [] for name in model.heads}
    metrics = {name: head_of(model, name).metrics() for name in model.heads}
    loss_sum = 0.0
    model.eval()
    with torch.no_grad():
        for batch in part.batches(part.plan(), model):
            if stop is not None and stop.requested:
                raise StopRequested
            outputs = model.outputs(batch.graph)
            loss_sum += float(model.loss_of(outputs, batch.targets).total) * len(batch.ids)
            for name, output in outputs.items():
                predicted = head_of(model, name).predict(output).cpu()
                predictions[name].append(predicted)
                metrics[name].update(predicted, batch.targets[name].cpu())
    several = len(metrics) > 1
    values = {
        f"{head}/{name}" if several else name: _value(metric)
        for head, collection in metrics.items()
        for name, metric in collection.items()
    }
    return {name: torch.cat(found) for name, found in predictions.items()}, loss_sum / len(part.rows), values


def _value(metric: Any) -> float:
    """A metric's value; NaN where torchmetrics says that the targets leave it undefined, and would give 0."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = float(metric.compute())
    undefined = any(re.search(r"No (positive|negative) samples", str(w.message)) for w in caught)
    return math.nan if undefined else value


def monitor_of(model: Model, config: TrainConfig) -> tuple[str, str]:
    """The metric that decides which epoch is best, and "max" or "min".

    Raises DataError if `train.monitor` names a metric that no head has.
    """
    several = len(model.heads) > 1
    modes = {"loss": "min"}
    for name in model.heads:
        head = head_of(model, name)
        prefix = f"{name}/" if several else ""
        for metric, instance in head.metrics().items():
            higher = getattr(instance, "higher_is_better", None)
            modes[prefix + metric] = "min" if higher is False else "max"
        if head.monitor != "loss":
            modes[prefix + head.monitor] = head.monitor_mode
    if config.monitor:
        if config.monitor not in modes:
            raise DataError(f"train.monitor = {config.monitor!r}: must be one of {', '.join(modes)}")
        return config.monitor, modes[config.monitor]
    first = next(iter(model.heads))
    chosen = head_of(model, first).monitor
    name = f"{first}/{chosen}" if several and chosen != "loss" else chosen
    return name, modes[name]


def make_optimizer(model: Model, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser that `[train]` asks for, over all parameters that are trained."""
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optimizer]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return kind(trained, lr=config.learning_rate, weight_decay=config.weight_decay)


def fit(
    model: Model,
    train: Part,
    valid: Part,
    config: TrainConfig,
    *,
    seed: int,
    folder: Path,
    log: RunLog,
    display: Display,
    every_steps: int,
    stop: Stop,
    identity: Mapping[str, Any],
    resume: checkpoint.Checkpoint | None = None,
) -> Outcome:
    """Train `model` and leave checkpoints `best` and `last` in `folder`.

    identity: what the checkpoint must remember of spec and data, stored as it is. resume: the checkpoint to
    go on from; its weights must be in `model` already.

    Raises TrainingError if a loss or gradient is not finite, with the ids of the complexes of that step;
    Interrupted once `stop` is set and a checkpoint is written.
    """
    optimizer = make_optimizer(model, config)
    steps_per_epoch = [len(train.epoch_plan(seed, epoch)) for epoch in range(config.epochs)]
    total_steps = sum(steps_per_epoch)
    monitor, mode = monitor_of(model, config)
    state = _State()
    if resume is not None:
        state = _State(**resume.state["progress"])
        checkpoint.load_optimizer(optimizer, resume.state["optimizer"], resume.tensors)
        checkpoint.restore_random(resume.state["random"], resume.tensors)
        # More epochs than before may have been asked for.
        state.finished = state.finished and _is_over(state, config)

    def save_last() -> None:
        optimizer_state, optimizer_tensors = checkpoint.pack_optimizer(optimizer)
        random_state, random_tensors = checkpoint.pack_random()
        checkpoint.write(
            folder / LAST,
            model.save,
            {
                "progress": asdict(state),
                "optimizer": optimizer_state,
                "random": random_state,
                "identity": identity,
            },
            {**optimizer_tensors, **random_tensors},
        )

    if resume is None:
        save_last()
    display.start(total_steps, state.step)
    try:
        while not state.finished:
            epoch = state.epoch
            plan = train.epoch_plan(seed, epoch)
            model.train()
            began, seen = time.perf_counter(), 0
            for batch in train.batches(plan[state.step_in_epoch :], model):
                loss, norm, rate = _step(model, batch, optimizer, config, state.step, total_steps)
                state.step += 1
                state.step_in_epoch += 1
                state.loss_sum += loss * len(batch.ids)
                state.complexes += len(batch.ids)
                seen += len(batch.ids)
                if state.step % every_steps == 0:
                    values = {"loss": loss, "gradient_norm": norm, "learning_rate": rate}
                    log.record("step", epoch + 1, state.step, values)
                display.step(epoch + 1, state.step, loss, seen / (time.perf_counter() - began))
                if stop.requested:
                    break
            seconds = time.perf_counter() - began
            state.train_seconds += seconds
            state.trained_complexes += seen
            if stop.requested:
                raise StopRequested

            train_loss = state.loss_sum / state.complexes
            _, valid_loss, metrics = predict(model, valid, stop)
            metrics = {"loss": valid_loss, **metrics}
            value = metrics[monitor]
            better = math.isfinite(value) and (
                state.best is None or (value > state.best if mode == "max" else value < state.best)
            )
            state.epoch, state.step_in_epoch = epoch + 1, 0
            state.loss_sum, state.complexes = 0.0, 0
            if better:
                state.best, state.best_epoch, state.since_best = value, epoch + 1, 0
            else:
                state.since_best += 1
            state.finished = _is_over(state, config)
            rate = seen / seconds if seconds else 0.0
            log.record(
                "epoch",
                epoch + 1,
                state.step,
                {
                    "train_loss": train_loss,
                    **{f"valid_{name}": number for name, number in metrics.items()},
                    "complexes_per_s": round(rate, 2),
                },
            )
            shown = {
                "train loss": train_loss,
                **{f"valid {name}": number for name, number in metrics.items()},
            }
            display.epoch(epoch + 1, config.epochs, {**shown, "complexes/s": rate}, better)
            if better:
                progress = {"epoch": epoch + 1, "step": state.step, "monitor": monitor, "value": value}
                checkpoint.write(folder / BEST, model.save, {"progress": progress, "identity": identity}, {})
            save_last()
    except StopRequested:
        save_last()
        raise Interrupted(f"stopped after step {state.step} of {total_steps}; checkpoint written") from None
    finally:
        display.stop()
    if state.best is None:
        raise TrainingError(
            f"the validation metric {monitor} was not finite in any epoch, so there is no best one"
        )
    return Outcome(
        epochs=state.epoch,
        steps=state.step,
        best_epoch=state.best_epoch,
        monitor=monitor,
        best=state.best,
        stopped_early=state.epoch < config.epochs,
        complexes_per_s=state.trained_complexes / state.train_seconds if state.train_seconds else 0.0,
    )


def _is_over(state: _State, config: TrainConfig) -> bool:
    impatient = config.patience > 0 and state.since_best >= config.patience
    return state.epoch >= config.epochs or impatient


def _step(
    model: Model,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    step: int,
    total_steps: int,
) -> tuple[float, float, float]:
    """One optimiser step; returns loss, gradient norm before clipping, and learning rate."""
    rate = config.learning_rate * factor(config.schedule, step, total_steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    total = model.loss(batch.graph, batch.targets).total
    loss = float(total.detach())
    if not math.isfinite(loss):
        raise TrainingError(_not_finite("loss", loss, step, rate, batch.ids))
    total.backward()
    limit = config.clip_norm if config.clip_norm > 0 else math.inf
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), limit))
    if not math.isfinite(norm):
        raise TrainingError(_not_finite("gradient norm", norm, step, rate, batch.ids))
    optimizer.step()
    return loss, norm, rate


def _not_finite(what: str, value: float, step: int, rate: float, ids: Sequence[str]) -> str:
    return (
        f"the {what} is {value} in step {step + 1} (learning rate {rate:.3g}); complexes of this step: "
        f"{', '.join(ids)}. Lower train.learning_rate or train.clip_norm, or look at these complexes"
    )
