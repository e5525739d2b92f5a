"""The training loop: epochs over the training rows, validation, the best and the last checkpoint.

Everything that decides the numbers is a function of the settings, the data and the seed; a resumed run goes
on, in the middle of an epoch if need be, to the same losses as one that was never interrupted.
"""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atomica import graph as graphs
from atomica import keys, noise
from atomica.errors import AtomicaError, DataError
from atomica.features import BlockFeatures
from atomica.graph import GraphInputs
from atomica.model import Model
from atomica.noise import NoiseConfig
from atomica.records import Rows, Sampling, epoch_order, occurrences, plan_batches, prefetch
from atomica.spec import Problems, not_among, setting
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
FIXED = 2**32 - 1
"""The epoch that noise of validation and test complexes is drawn for, so that it does not change between epochs."""

Draws = npt.NDArray[np.int64]

OPTIMIZERS = {
    "adamw": "decay of the weights apart from the gradient",
    "adam": "decay added to the gradient (L2)",
}


@dataclass(frozen=True)
class TrainConfig:
    """Section `[train]`: how long and how the model is trained."""

    epochs: int = setting(20, "passes over the training rows", low=1)
    learning_rate: float = setting(1e-3, "step size before the schedule", above=0)
    weight_decay: float = setting(0.0, "decay of the weights, see optimizer", low=0)
    optimizer: str = setting("adamw", "how gradients move the weights", choices=OPTIMIZERS)
    betas: tuple[float, ...] = setting(
        (0.9, 0.999),
        "decay of the running means of gradients and of their squares, in each step",
        low=0,
        below=1,
    )
    epsilon: float = setting(1e-8, "added to the denominator of the optimizer", above=0)
    amsgrad: bool = setting(False, "divide by the largest mean of squares so far, not the present one")
    decay_all: bool = setting(True, "decay biases and scales of norms too; false: only matrices of weights")
    clip_norm: float = setting(1.0, "gradients are scaled down to this norm; 0: never", low=0)
    patience: int = setting(0, "stop after so many epochs without a better metric; 0: never", low=0)
    monitor: str = setting(
        "",
        "validation metric that decides which epoch is best: loss, or a metric, with several heads as "
        "HEAD/METRIC; empty: the first head's own choice",
    )
    freeze: tuple[str, ...] = setting(
        (), "parts that keep their weights, without dropout: encoder, encoder.atoms, heads.NAME, …"
    )
    rates: Mapping[str, float] = setting(
        {}, "learning rates of parts that have one of their own, such as encoder = 1e-4", above=0
    )
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        """Check keys against each other."""
        Problems.check(
            (len(self.betas) != 2, "betas", "must be two numbers, such as [0.9, 0.999]"),
            (
                not self.decay_all and self.weight_decay == 0,
                "decay_all",
                "has no effect without train.weight_decay; give it a value, or remove decay_all",
            ),
        )


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
    """What one step needs: the tensors of the graphs, the targets of each head, and the ids for messages.

    known: for each head with labels, a bool [G] that is False where a complex has none for it. unperturbed: number
    of complexes that were to be perturbed, but have no segment that could be; None without such noise.
    """

    ids: tuple[str, ...]
    blocks: int
    graph: GraphInputs
    targets: Mapping[str, Any]
    known: Mapping[str, Tensor]
    unperturbed: int | None = None


@dataclass(frozen=True)
class Part:
    """Rows of one part of the data with their targets, ready to be batched.

    targets: head name → tensor whose first dimension follows `rows`, for heads that learn from labels; known:
    the same heads → bool [N]. seed: of order and noise. sampling, epoch_complexes: how a training epoch is
    drawn. noise: what is done to the complexes, if anything; max_blocks: what larger ones are cropped to.
    features: external features of blocks, for a model that reads them.
    """

    rows: Rows
    targets: Mapping[str, Tensor]
    known: Mapping[str, Tensor]
    input: str
    graph_options: Mapping[str, Any]
    batch_blocks: int
    seed: int = 0
    loader_threads: int = 0
    sampling: Sampling | None = None
    epoch_complexes: int = 0
    noise: NoiseConfig | None = None
    max_blocks: int | None = None
    features: BlockFeatures | None = None

    def plan(self) -> list[Draws]:
        """Batches that hold every row once, in row order."""
        return plan_batches(np.arange(len(self.rows)), self.rows.blocks, self.batch_blocks)

    def epoch_plan(self, epoch: int) -> list[Draws]:
        """Batches of one training epoch, as draws: position in `rows` + number of rows × how often it came before."""
        order = epoch_order(
            len(self.rows), seed=self.seed, epoch=epoch, sampling=self.sampling, length=self.epoch_complexes
        )
        plan = plan_batches(order, self.rows.blocks, self.batch_blocks)
        draws = order + len(self.rows) * occurrences(order)
        return np.split(draws, np.cumsum([len(batch) for batch in plan])[:-1])

    def blocks_of(self, draws: Draws) -> int:
        """Blocks that the model sees in a batch."""
        return int(self.rows.blocks[draws % len(self.rows)].sum())

    def load(self, draws: Draws, model: Model, epoch: int = FIXED) -> Batch:
        """Read and join the complexes of one batch, perturb them, and move them to the model's device.

        epoch: what the noise depends on beside the seed and the complex.
        """
        positions, times = draws % len(self.rows), draws // len(self.rows)
        dataset, rows = self.rows.dataset, self.rows.rows[positions]
        index = torch.from_numpy(positions)
        targets: dict[str, Any] = {name: target[index] for name, target in self.targets.items()}
        unperturbed = None
        records = [dataset[row] for row in rows]
        seen = [record.view(self.input) for record in records]
        made = None
        if self.noise is None and self.max_blocks is None:
            graph = graphs.batch(seen, **self.graph_options)
        else:
            seeds = noise.seeds(self.seed, epoch, rows + times * len(dataset))
            graph, made = graphs.perturbed(
                seen,
                self.noise or noise.NoiseConfig(),
                seeds,
                max_blocks=self.max_blocks,
                **self.graph_options,
            )
            if made.perturbation is not None:
                unperturbed = int(made.unperturbed.sum())
            found = {"perturbation": made.perturbation, "masks": made.mask_labels}
            for name in model.heads:
                source = model.head(name).targets
                if source in found:
                    targets[name] = found[source]
        if self.features is not None:
            frames = model.config.embeddings.frames
            for name, values in zip(frames, self.features.rows(records, self.input), strict=True):
                if made is not None:
                    values = values[made.kept_blocks]
                    values[made.masked] = 0.0  # they would tell what is hidden
                graph.nodes[keys.BLOCK].data[name] = torch.from_numpy(values)
        return Batch(
            ids=tuple(record.id for record in records),
            blocks=self.blocks_of(draws),
            graph=model.inputs(graph),
            targets=targets,
            known={name: known[index] for name, known in self.known.items()},
            unperturbed=unperturbed,
        )

    def batches(self, jobs: Iterable[tuple[Draws, int]], model: Model) -> Generator[Batch, None, None]:
        """What `load` makes of pairs of draws and epoch, the next ones prepared by other threads."""
        return prefetch(jobs, lambda job: self.load(job[0], model, job[1]), threads=self.loader_threads)


UNPERTURBED = "unperturbed"

Sums = dict[str, list[float]]
"""Name → [sum, count] of numbers to be averaged; plain data, since a checkpoint in mid-epoch holds it."""


def _add(sums: Sums, batch: Batch, terms: Mapping[str, float]) -> None:
    """Count a batch's loss terms, each for as many complexes as its head had targets for."""
    for name, value in terms.items():
        known = batch.known.get(name.partition("/")[0])
        count = len(batch.ids) if known is None else int(known.sum())
        entry = sums.setdefault(name, [0.0, 0.0])
        entry[0] += value * count
        entry[1] += count
    if batch.unperturbed is not None:
        entry = sums.setdefault(UNPERTURBED, [0.0, 0.0])
        entry[0] += batch.unperturbed
        entry[1] += len(batch.ids)


def _means(sums: Sums, model: Model) -> dict[str, float]:
    """`loss`, the weighted sum of the heads' mean losses, then these and what heads log beside them.

    Names are those of the head with several heads, else bare; a single number is not repeated. `unperturbed` is a
    share of complexes.
    """
    means = {name: total / count for name, (total, count) in sums.items() if count}
    own = {name: means.pop(name) for name in (UNPERTURBED,) if name in means}
    loss = sum(weight * means[name] for name, weight in model.weights.items() if name in means)
    return {"loss": loss, **_shown(model, means), **own}


def _shown(model: Model, terms: Mapping[str, float]) -> dict[str, float]:
    """Loss terms under the names they are recorded by."""
    if len(model.heads) == 1:
        return {name.partition("/")[2]: value for name, value in terms.items() if "/" in name}
    return {name if "/" in name else f"{name}/loss": value for name, value in terms.items()}


@dataclass
class _State:
    """Where a run stands. Every field but the tensors of the optimiser and the generators is in here."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    sums: Sums = field(default_factory=dict)
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


def predict(
    model: Model, part: Part, stop: Stop | None = None
) -> tuple[dict[str, Tensor], float, dict[str, float]]:
    """Predictions for the rows of `part`, in order; the loss; the heads' metrics.

    Predictions are those of heads with labels, for all rows, labelled or not. The loss of a head is the mean over
    the complexes it has targets for; a head without any has no metrics. Metric names are those of the head, with
    `HEAD/` in front if there are several heads. Noise, if any, is the same in every call.
    """
    predictions: dict[str, list[Tensor]] = {
        name: [] for name in model.heads if model.head(name).targets == "labels"
    }
    device = next(model.parameters()).device
    metrics = {name: model.head(name).metrics().to(device) for name in model.heads}
    sums: Sums = {}
    measured: set[str] = set()
    model.eval()
    with torch.no_grad():
        for batch in part.batches(((draws, FIXED) for draws in part.plan()), model):
            if stop is not None and stop.requested:
                raise StopRequested
            inputs = model.attach(batch.graph, batch.targets)
            outputs = model.outputs(inputs)
            losses = model.loss_of(outputs, batch.targets, batch.known)
            _add(sums, batch, _numbers(losses.terms))
            for name, output in outputs.items():
                head, target = model.head(name), batch.targets.get(name)
                predicted = head.predict(output)
                if name in predictions:
                    predictions[name].append(predicted.cpu())
                if target is not None:
                    target = target.to(device)
                if name in batch.known and target is not None:
                    known = batch.known[name].to(device)
                    predicted, target = predicted[known], target[known]
                if not isinstance(target, Tensor) or len(target):
                    metrics[name].update(predicted, target)
                    measured.add(name)
    several = len(metrics) > 1
    means = _means(sums, model)
    values = {
        f"{head}/{name}" if several else name: _value(metric)
        for head, collection in metrics.items()
        if head in measured
        for name, metric in collection.items()
    }
    loss = means.pop("loss", math.nan)
    return {name: torch.cat(found) for name, found in predictions.items()}, loss, {**means, **values}


def _numbers(terms: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalar tensors as numbers, fetched from the device at once."""
    if not terms:
        return {}
    values = torch.stack([value.detach().double() for value in terms.values()]).tolist()
    return dict(zip(terms, values, strict=True))


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
            raise DataError(f"train.monitor = {config.monitor!r}: must be one of {', '.join(modes)}")
        return config.monitor, modes[config.monitor]
    first = next(iter(model.heads))
    chosen = model.head(first).monitor
    name = f"{first}/{chosen}" if several and chosen != "loss" else chosen
    return name, modes[name]


def part_problems(model: Model, config: TrainConfig) -> list[tuple[str, str]]:
    """What is wrong with `train.freeze` and `train.rates` for this model: pairs of key and message."""
    names = model.part_names()
    problems: list[tuple[str, str]] = []
    for key, parts in (("freeze", config.freeze), ("rates", config.rates)):
        for part in parts:
            if part not in names:
                problems.append((key, f"{part!r} is no part of the model: it {not_among(part, names)}"))
    frozen = {part for part in config.freeze if part in names}
    trained = _trained(model, config)
    if not trained:
        problems.append(("freeze", "leaves nothing to train"))
    for part in config.rates:
        if part in names and trained and not any(_within(name, part) for name in trained):
            cause = "it is frozen" if any(_within(part, one) for one in frozen) else "it is not trained"
            problems.append(("rates", f"{part!r} has no effect: {cause}"))
    return problems


def _within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def _trained(model: Model, config: TrainConfig) -> dict[str, torch.nn.Parameter]:
    """The parameters that are trained, by name."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not any(_within(name, part) for part in config.freeze)
    }


def make_optimizer(model: Model, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser that `[train]` asks for, over all parameters that are trained.

    One group of parameters for each learning rate and decay; its `peak` is the rate before the schedule, `part` the
    name it is logged under. The longest name in `train.rates` that a parameter lies within decides.
    """
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optimizer]
    rates = {"": config.learning_rate, **config.rates}
    members: dict[tuple[str, float], list[torch.nn.Parameter]] = {}
    for name, parameter in _trained(model, config).items():
        part = max((part for part in config.rates if _within(name, part)), key=len, default="")
        decay = config.weight_decay if config.decay_all or parameter.ndim > 1 else 0.0
        members.setdefault((part, decay), []).append(parameter)
    groups = [
        {"params": found, "part": part, "peak": rates[part], "lr": rates[part], "weight_decay": decay}
        for (part, decay), found in sorted(members.items(), key=lambda item: item[0])
    ]
    first, second = config.betas
    return kind(groups, betas=(first, second), eps=config.epsilon, amsgrad=config.amsgrad)


def freeze(model: Model, config: TrainConfig) -> None:
    """Training mode for all but the frozen parts, which get no gradients and no dropout."""
    model.train()
    for part in config.freeze:
        model.get_submodule(part).eval().requires_grad_(False)


def fit(
    model: Model,
    train: Part,
    valid: Part,
    config: TrainConfig,
    *,
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
    state = _State() if resume is None else _State(**resume.state["progress"])
    plan = lru_cache(maxsize=2)(train.epoch_plan)
    # From here on batches are prepared, also those of the next epoch while this one is validated.
    batches = train.batches(_draws(plan, state, config.epochs), model)
    # Epochs differ by few steps, if at all; planning all of them would take long for a large data set.
    total_steps = config.epochs * len(plan(0))
    optimizer = make_optimizer(model, config)
    monitor, mode = monitor_of(model, config)
    if resume is not None:
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
            freeze(model, config)
            began, waited, seen = time.perf_counter(), 0.0, 0
            for _ in range(state.step_in_epoch, len(plan(epoch))):
                asked = time.perf_counter()
                batch = next(batches)
                waited += time.perf_counter() - asked
                step = _step(model, batch, optimizer, config, state.step, total_steps)
                state.step += 1
                state.step_in_epoch += 1
                _add(state.sums, batch, step.terms)
                seen += len(batch.ids)
                if state.step % every_steps == 0:
                    log.record("step", epoch + 1, state.step, step.values(model))
                display.step(epoch + 1, state.step, step.loss, seen / (time.perf_counter() - began))
                if stop.requested:
                    break
            seconds = time.perf_counter() - began
            state.train_seconds += seconds
            state.trained_complexes += seen
            if stop.requested:
                raise StopRequested

            trained = _means(state.sums, model)
            _, valid_loss, metrics = predict(model, valid, stop)
            metrics = {"loss": valid_loss, **metrics}
            value = metrics[monitor]
            better = math.isfinite(value) and (
                state.best is None or (value > state.best if mode == "max" else value < state.best)
            )
            state.epoch, state.step_in_epoch = epoch + 1, 0
            state.sums = {}
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
                    **{f"train_{name}": number for name, number in trained.items()},
                    **{f"valid_{name}": number for name, number in metrics.items()},
                    "complexes_per_s": round(rate, 2),
                    "wait": round(waited / seconds, 4) if seconds else 0.0,
                },
            )
            shown = {
                "train loss": trained["loss"],
                **{f"valid {name}": number for name, number in metrics.items()},
            }
            display.epoch(epoch + 1, config.epochs, {**shown, "complexes/s": rate}, better)
            if better:
                progress = {"epoch": epoch + 1, "step": state.step, "monitor": monitor, "value": value}
                checkpoint.write(folder / BEST, model.save, {"progress": progress, "identity": identity}, {})
            save_last()
    except StopRequested:
        save_last()
        raise Interrupted(
            f"stopped after step {state.step} of about {total_steps}; checkpoint written"
        ) from None
    finally:
        batches.close()
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


def _draws(
    plan: Callable[[int], Sequence[Draws]], state: _State, epochs: int
) -> Generator[tuple[Draws, int], None, None]:
    """All that lies before a run that stands at `state`: the draws of each batch, and its epoch."""
    done = state.step_in_epoch
    for epoch in range(state.epoch, epochs):
        yield from ((draws, epoch) for draws in plan(epoch)[done:])
        done = 0


def _is_over(state: _State, config: TrainConfig) -> bool:
    impatient = config.patience > 0 and state.since_best >= config.patience
    return state.epoch >= config.epochs or impatient


@dataclass(frozen=True)
class _Step:
    """What one step has shown: total loss, its terms, the gradient's norm before clipping, rates by part."""

    loss: float
    terms: Mapping[str, float]
    norm: float
    rates: Mapping[str, float]

    def values(self, model: Model) -> dict[str, float]:
        """What is recorded of it; the learning rate of a part under its name."""
        named = {
            f"learning_rate/{part}" if part else "learning_rate": rate for part, rate in self.rates.items()
        }
        return {"loss": self.loss, **_shown(model, self.terms), "gradient_norm": self.norm, **named}


def _step(
    model: Model,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    step: int,
    total_steps: int,
) -> _Step:
    """One optimiser step."""
    scale = factor(config.schedule, step, total_steps)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * scale
    rate = config.learning_rate * scale
    optimizer.zero_grad(set_to_none=True)
    losses = model.loss(batch.graph, batch.targets, batch.known)
    total, terms = losses.total, _numbers({"": losses.total, **losses.terms})
    loss = terms.pop("")
    if not math.isfinite(loss):
        raise TrainingError(_not_finite("loss", loss, step, rate, batch.ids))
    total.backward()
    limit = config.clip_norm if config.clip_norm > 0 else math.inf
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), limit))
    if not math.isfinite(norm):
        raise TrainingError(_not_finite("gradient norm", norm, step, rate, batch.ids))
    optimizer.step()
    return _Step(loss, terms, norm, {group["part"]: group["lr"] for group in optimizer.param_groups})


def _not_finite(what: str, value: float, step: int, rate: float, ids: Sequence[str]) -> str:
    return (
        f"the {what} is {value} in step {step + 1} (learning rate {rate:.3g}); complexes of this step: "
        f"{', '.join(ids)}. Lower train.learning_rate or train.clip_norm, or look at these complexes"
    )
