"""The training loop: epochs over the training rows, validation, the best and the last checkpoint.

Everything that decides the numbers is a function of the settings, the data and the seed; a resumed run goes
on, in the middle of an epoch if need be, to the same losses as one that was never interrupted.
"""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
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
from atomica.sampling import Rows, Sampling, epoch_order, occurrences, plan_batches, prefetch
from atomica.spec import Problems, not_among, setting
from atomica.train import checkpoint
from atomica.train.distributed import ALONE, Ranks
from atomica.train.logging import Display, RunLog
from atomica.train.schedule import ScheduleConfig
from atomica.train.step import Agreement, Step, Stepper, numbers_of, split

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
BAD_STEPS, KEPT_BAD_STEPS = "bad_steps", 10
"""Folder of batches with a loss or gradient that was not finite, and how many of them a run keeps."""

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
    precision: str = setting(
        "float32",
        "arithmetic of the model; weights, convolutions and losses are always float32",
        choices={"float32": "single precision", "bf16": "bfloat16 where PyTorch's autocast finds it safe"},
    )
    ema: float = setting(
        0.0,
        "keep a running average of the weights with this decay per step, such as 0.999, and validate and save that as "
        "best; 0: none",
        low=0,
        below=1,
    )
    max_skipped: int = setting(
        0,
        "steps whose loss or gradient is not finite are skipped and counted, up to so many; one more ends the run",
        low=0,
    )
    checkpoints: checkpoint.CheckpointConfig = field(default_factory=checkpoint.CheckpointConfig)
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

    @property
    def labelled(self) -> dict[str, int]:
        """For each head with labels, how many complexes have one."""
        return {name: int(known.sum()) for name, known in self.known.items()}


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

    def blocks_each(self, draws: Draws) -> Draws:
        """Blocks that the model sees of each complex of a batch."""
        return self.rows.blocks[draws % len(self.rows)]

    def blocks_of(self, draws: Draws) -> int:
        """Blocks that the model sees in a batch."""
        return int(self.blocks_each(draws).sum())

    def ids_of(self, draws: Draws) -> list[str]:
        """Names of the complexes of a batch."""
        ids = self.rows.dataset.ids
        return [ids[row] for row in self.rows.rows[draws % len(self.rows)]]

    def add(self, sums: Sums, draws: Draws, terms: Mapping[str, float], unperturbed: int | None) -> None:
        """Count the loss terms of a batch that may have been shared between ranks."""
        index = torch.from_numpy(draws % len(self.rows))
        labelled = {name: int(known[index].sum()) for name, known in self.known.items()}
        _add(sums, len(draws), labelled, unperturbed, terms)

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

    def batches(
        self, jobs: Iterable[tuple[Sequence[Draws], int]], model: Model
    ) -> Generator[list[Batch], None, None]:
        """What `load` makes of parts of batches with their epoch, the next ones prepared by other threads."""
        return prefetch(
            jobs,
            lambda job: [self.load(draws, model, job[1]) for draws in job[0]],
            threads=self.loader_threads,
        )


UNPERTURBED = "unperturbed"

Sums = dict[str, list[float]]
"""Name → [sum, count] of numbers to be averaged; plain data, since a checkpoint in mid-epoch holds it."""


def _add(
    sums: Sums,
    complexes: int,
    labelled: Mapping[str, int],
    unperturbed: int | None,
    terms: Mapping[str, float],
) -> None:
    """Count a batch's loss terms, each for as many complexes as its head had targets for."""
    for name, value in terms.items():
        count = labelled.get(name.partition("/")[0], complexes)
        entry = sums.setdefault(name, [0.0, 0.0])
        entry[0] += value * count
        entry[1] += count
    if unperturbed is not None:
        entry = sums.setdefault(UNPERTURBED, [0.0, 0.0])
        entry[0] += unperturbed
        entry[1] += complexes


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
    skipped: int = 0
    out_of_memory: int = 0
    top: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """How a training ended: epochs and steps done, the best epoch (from 1) and its metric, complexes/s.

    skipped: steps left out since loss or gradient was not finite; out_of_memory: how often a batch had to be cut.
    """

    epochs: int
    steps: int
    best_epoch: int
    monitor: str
    best: float
    stopped_early: bool
    complexes_per_s: float
    skipped: int = 0
    out_of_memory: int = 0


def predict(
    model: Model, part: Part, stop: Stop | None = None, ranks: Ranks = ALONE
) -> tuple[dict[str, Tensor], float, dict[str, float]]:
    """Predictions for the rows of `part`, in order; the loss; the heads' metrics.

    Predictions are those of heads with labels, for all rows, labelled or not. The loss of a head is the mean over
    the complexes it has targets for; a head without any has no metrics. Metric names are those of the head, with
    `HEAD/` in front if there are several heads. Noise, if any, is the same in every call. Ranks share the batches, and
    all get the result.
    """
    device = next(model.parameters()).device
    metrics = {name: model.head(name).metrics().to(device) for name in model.heads}
    labelled = [name for name in model.heads if model.head(name).targets == "labels"]
    plan, found = part.plan(), _Found(labelled)
    rounds = -(-len(plan) // ranks.size)
    own = plan[ranks.rank :: ranks.size]
    model.eval()
    with torch.no_grad(), closing(part.batches((([draws], FIXED) for draws in own), model)) as batches:
        for index in range(rounds):
            if stop is not None and ranks.any(stop.requested):
                raise StopRequested
            if index < len(own):
                found.add(model, own[index], next(batches)[0], metrics, apart=ranks.size > 1)
    means = _means(found.reduced(ranks), model)
    measured = {name for names in ranks.gather(sorted(found.measured)) for name in names}
    predictions = {name: ranks.rows(len(part.rows), found.rows[name]) for name in labelled}
    if ranks.size > 1:
        measured |= _measure_all(model, part, predictions, metrics)
    several = len(metrics) > 1
    values = {
        f"{head}/{name}" if several else name: _value(metric)
        for head, collection in metrics.items()
        if head in measured
        for name, metric in collection.items()
    }
    loss = means.pop("loss", math.nan)
    return predictions, loss, {**means, **values}


class _Found:
    """What a rank finds in its batches: predictions by row, sums of losses, the heads whose metrics saw something."""

    def __init__(self, labelled: Sequence[str]) -> None:
        self.rows: dict[str, dict[int, Tensor]] = {name: {} for name in labelled}
        self.sums: Sums = {}
        self.measured: set[str] = set()

    def add(
        self, model: Model, draws: Draws, batch: Batch, metrics: Mapping[str, Any], *, apart: bool
    ) -> None:
        """Run the model on a batch. apart: metrics of heads with labels are left for later."""
        inputs = model.attach(batch.graph, batch.targets)
        outputs = model.outputs(inputs)
        losses = model.loss_of(outputs, batch.targets, batch.known)
        _add(self.sums, len(batch.ids), batch.labelled, batch.unperturbed, numbers_of(losses.terms))
        for name, output in outputs.items():
            head, target = model.head(name), batch.targets.get(name)
            predicted = head.predict(output)
            if name in self.rows:
                self.rows[name] |= dict(zip(draws.tolist(), predicted.cpu(), strict=True))
                if apart:
                    continue
            if target is not None:
                target = target.to(
                    predicted.device if isinstance(predicted, Tensor) else inputs.segment.device
                )
            if name in batch.known and target is not None:
                known = batch.known[name].to(inputs.segment.device)
                predicted, target = predicted[known], target[known]
            if not isinstance(target, Tensor) or len(target):
                metrics[name].update(predicted, target)
                self.measured.add(name)

    def reduced(self, ranks: Ranks) -> Sums:
        """The sums over all ranks."""
        total: Sums = {}
        for sums in ranks.gather(self.sums):
            for name, (value, count) in sums.items():
                entry = total.setdefault(name, [0.0, 0.0])
                entry[0] += value
                entry[1] += count
        return total


def _measure_all(
    model: Model, part: Part, predictions: Mapping[str, Tensor], metrics: Mapping[str, Any]
) -> set[str]:
    """Metrics of heads with labels from all ranks' predictions; says which heads have any.

    Their states are lists, which torchmetrics cannot put together where a rank's is empty.
    """
    measured: set[str] = set()
    device = next(model.parameters()).device
    for name, predicted in predictions.items():
        known = part.known[name]
        for metric in metrics[name].values():
            metric.distributed_available_fn = lambda: False
        if bool(known.any()):
            metrics[name].update(predicted[known].to(device), part.targets[name][known].to(device))
            measured.add(name)
    return measured


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
    log: RunLog | None,
    display: Display | None,
    every_steps: int,
    stop: Stop,
    identity: Mapping[str, Any],
    resume: checkpoint.Checkpoint | None = None,
    ranks: Ranks = ALONE,
    accumulate: int = 1,
) -> Outcome:
    """Train `model` and leave checkpoints in `folder`: `last`, `best`, and those that `train.checkpoints` asks for.

    log, display: on the first rank. identity: what the checkpoint must remember of spec and data, stored as it is.
    resume: the checkpoint to go on from; its weights must be in `model` already. ranks: who trains; each batch is
    shared between them. accumulate: parts in which each rank works through its share.

    Raises TrainingError if a loss or gradient is not finite, with the ids of the complexes of that step, more often
    than `train.max_skipped` allows; Interrupted once `stop` is set on some rank and a checkpoint is written.
    """
    run = _Run(
        model, train, valid, config, folder, log, display, every_steps, stop, identity, ranks, accumulate
    )
    return run.train_all(resume)


class _Run:
    """A training under way: what `fit` was given, and where it stands."""

    def __init__(
        self,
        model: Model,
        train: Part,
        valid: Part,
        config: TrainConfig,
        folder: Path,
        log: RunLog | None,
        display: Display | None,
        every_steps: int,
        stop: Stop,
        identity: Mapping[str, Any],
        ranks: Ranks,
        accumulate: int,
    ) -> None:
        self.model, self.train, self.valid, self.config = model, train, valid, config
        self.folder, self.log, self.display, self.every_steps = folder, log, display, every_steps
        self.stop, self.identity, self.ranks, self.accumulate = stop, identity, ranks, accumulate
        self.monitor, self.mode = monitor_of(model, config)
        self.optimizer = make_optimizer(model, config)
        self.plan = lru_cache(maxsize=2)(train.epoch_plan)
        # Epochs differ by few steps, if at all; planning all of them would take long for a large data set.
        self.total_steps = config.epochs * len(self.plan(0))
        self.state = _State()
        freeze(model, config)
        self.stepper = Stepper(model, self.optimizer, config, ranks)
        self.due = checkpoint.Due(config.checkpoints)

    def train_all(self, resume: checkpoint.Checkpoint | None) -> Outcome:
        """All epochs that are left."""
        if resume is None:
            self._seed()
        else:
            self.state = self._restore(resume)
        state = self.state
        # From here on batches are prepared, also those of the next epoch while this one is validated.
        self.batches = self.train.batches(self._jobs(), self.model)
        if resume is None:
            self._save_last()
        if self.display is not None:
            self.display.start(self.total_steps, state.step)
        try:
            while not state.finished:
                self._epoch()
        except StopRequested:
            self._save_last()
            raise Interrupted(
                f"stopped after step {state.step} of about {self.total_steps}; checkpoint written"
            ) from None
        finally:
            self.batches.close()
            if self.display is not None:
                self.display.stop()
        if state.best is None:
            raise TrainingError(
                f"the validation metric {self.monitor} was not finite in any epoch, so there is no best one"
            )
        return Outcome(
            epochs=state.epoch,
            steps=state.step,
            best_epoch=state.best_epoch,
            monitor=self.monitor,
            best=state.best,
            stopped_early=state.epoch < self.config.epochs,
            complexes_per_s=state.trained_complexes / state.train_seconds if state.train_seconds else 0.0,
            skipped=state.skipped,
            out_of_memory=state.out_of_memory,
        )

    # ----------------------------------------------------------------------------------------- one epoch

    def _epoch(self) -> None:
        """What is left of an epoch, validation, and the checkpoints after it."""
        state, epoch = self.state, self.state.epoch
        freeze(self.model, self.config)
        pace = self._steps(epoch)
        trained = _means(state.sums, self.model)
        model = self.stepper.averaged
        _, valid_loss, metrics = predict(model, self.valid, self.stop, self.ranks)
        metrics = {"loss": valid_loss, **metrics}
        value = metrics[self.monitor]
        better = math.isfinite(value) and (state.best is None or self._is_better(value, state.best))
        state.epoch, state.step_in_epoch, state.sums = epoch + 1, 0, {}
        if better:
            state.best, state.best_epoch, state.since_best = value, epoch + 1, 0
        else:
            state.since_best += 1
        state.finished = _is_over(state, self.config)
        self._tell_epoch(epoch + 1, trained, metrics, pace, better)
        self._save_best(model, value, better)
        self._save_last()

    def _steps(self, epoch: int) -> _Pace:
        """The steps of an epoch that are left."""
        state, pace = self.state, _Pace()
        try:
            for draws in self.plan(epoch)[state.step_in_epoch :]:
                asked = time.perf_counter()
                batch = next(self.batches)
                pace.waited += time.perf_counter() - asked
                known = self.stepper.agree(batch, stop=self.stop.requested, save=self.due.what())
                if known.stop:
                    raise StopRequested
                if known.save:
                    self._save_last(keep=known.save == checkpoint.KEEP)
                step = self._step(draws, batch, known, epoch)
                state.step += 1
                state.step_in_epoch += 1
                pace.seen += len(draws)
                if step.bad:
                    self._skip(step, draws, epoch)
                else:
                    self.train.add(state.sums, draws, step.terms, known.unperturbed)
                if self.log is not None and state.step % self.every_steps == 0 and not step.bad:
                    self.log.record("step", epoch + 1, state.step, _shown_of(step, self.model))
                if self.display is not None:
                    self.display.step(epoch + 1, state.step, step.loss, pace.rate)
        finally:
            state.train_seconds += pace.seconds
            state.trained_complexes += pace.seen
        pace.stop()
        return pace

    def _jobs(self) -> Generator[tuple[list[Draws], int], None, None]:
        """All that lies before the run: this rank's parts of each batch, and its epoch."""
        done = self.state.step_in_epoch
        for epoch in range(self.state.epoch, self.config.epochs):
            yield from ((self._share(draws), epoch) for draws in self.plan(epoch)[done:])
            done = 0

    def _share(self, draws: Draws) -> list[Draws]:
        """This rank's parts of a batch."""
        ranks = self.ranks
        parts = split(draws, self.train.blocks_each(draws), ranks.size * self.accumulate)
        return [part for part in parts[ranks.rank :: ranks.size] if len(part)]

    def _step(self, draws: Draws, batch: list[Batch], known: Agreement, epoch: int) -> Step:
        """One step; if a lone process runs out of GPU memory, the same batch again in smaller parts."""
        state = self.state
        while True:
            try:
                return self.stepper.run(batch, known.counts, state.step, self.total_steps)
            except torch.cuda.OutOfMemoryError as error:
                state.out_of_memory += 1
                parts = 2 * max(1, len(batch))
                told = (
                    f"out of GPU memory in step {state.step + 1} ({len(draws)} complexes, "
                    f"{self.train.blocks_of(draws)} blocks)"
                )
                if self.ranks.size > 1 or len(batch) == len(draws):
                    raise TrainingError(
                        f"{told}; raise device.accumulate (now {self.accumulate}), which does not change the result, "
                        "or lower data.batch_blocks and data.max_item_blocks, then go on with --resume"
                    ) from error
                if self.display is not None:
                    self.display.line(
                        f"{told}: repeated in {parts} parts; device.accumulate = {parts * self.accumulate} or smaller "
                        "batches (data.batch_blocks) save the time of that"
                    )
            self.optimizer.zero_grad(set_to_none=True)
            batch = []  # frees the tensors before the smaller ones are made
            pieces = split(draws, self.train.blocks_each(draws), parts)
            batch = [self.train.load(piece, self.model, epoch) for piece in pieces if len(piece)]
            known = self.stepper.agree(batch, stop=False, save="")

    def _skip(self, step: Step, draws: Draws, epoch: int) -> None:
        """Count a step whose loss or gradient is not finite, keep its batch, and end if there were too many."""
        state = self.state
        state.skipped += 1
        ids = self.train.ids_of(draws)
        rate = step.rates.get("", next(iter(step.rates.values())))
        told = _not_finite(step.bad, step.loss if step.bad == "loss" else step.norm, state.step, rate, ids)
        place = self.folder.parent / BAD_STEPS / f"step-{state.step:08}"
        if self.ranks.first and state.skipped <= KEPT_BAD_STEPS:
            numbers = {
                **_shown_of(step, self.model),
                "epoch": epoch + 1,
                "step": state.step,
                "ids": list(ids),
            }
            batch = self.train.load(draws, self.model, epoch)
            checkpoint.write_batch(place, numbers, {"graph": batch.graph, "targets": batch.targets})
        if state.skipped > self.config.max_skipped:
            # A resumed run takes the same step again, perhaps with another limit.
            state.skipped, state.step, state.step_in_epoch = (
                state.skipped - 1,
                state.step - 1,
                state.step_in_epoch - 1,
            )
            self._save_last()
            limit = self.config.max_skipped
            often = f"; {limit} such steps were skipped before, as train.max_skipped allows" if limit else ""
            raise TrainingError(f"{told}{often}. The batch is kept in {place}")
        if self.display is not None:
            self.display.line(f"skipped: {told}")

    def _is_better(self, value: float, other: float) -> bool:
        return value > other if self.mode == "max" else value < other

    def _tell_epoch(
        self,
        epoch: int,
        trained: Mapping[str, float],
        metrics: Mapping[str, float],
        pace: _Pace,
        better: bool,
    ) -> None:
        if self.log is not None:
            self.log.record(
                "epoch",
                epoch,
                self.state.step,
                {
                    **{f"train_{name}": number for name, number in trained.items()},
                    **{f"valid_{name}": number for name, number in metrics.items()},
                    "complexes_per_s": round(pace.rate, 2),
                    "wait": round(pace.waited / pace.seconds, 4) if pace.seconds else 0.0,
                    **({"skipped": self.state.skipped} if self.state.skipped else {}),
                    **({"out_of_memory": self.state.out_of_memory} if self.state.out_of_memory else {}),
                },
            )
        if self.display is not None:
            shown = {
                "train loss": trained["loss"],
                **{f"valid {name}": number for name, number in metrics.items()},
            }
            self.display.epoch(epoch, self.config.epochs, {**shown, "complexes/s": pace.rate}, better)

    # --------------------------------------------------------------------------------------- checkpoints

    def _save_last(self, *, keep: bool = False) -> None:
        """Write the checkpoint to go on from; all ranks together, since each has random-number generators."""
        others = self.ranks.gather_bytes(checkpoint.random_bytes() if not self.ranks.first else b"")
        if self.ranks.first:
            optimizer_state, optimizer_tensors = checkpoint.pack_optimizer(self.optimizer)
            random_state, random_tensors = checkpoint.pack_random()
            state = {
                "progress": asdict(self.state),
                "optimizer": optimizer_state,
                "random": random_state,
                "identity": self.identity,
            }
            tensors = {
                **optimizer_tensors,
                **random_tensors,
                **checkpoint.pack_average(self.stepper.average),
                **{
                    f"random.rank{rank}": checkpoint.as_tensor(other)
                    for rank, other in enumerate(others)
                    if rank
                },
            }
            for name in (LAST, *([f"step-{self.state.step:08}"] if keep else [])):
                checkpoint.write(self.folder / name, self.model.save, state, tensors)
        self.due.written(keep=keep)
        self.ranks.gather(None)  # nobody ends before it is written

    def _restore(self, resume: checkpoint.Checkpoint) -> _State:
        """Take up everything but the weights of the model; says where the run stands."""
        state = _State(**resume.state["progress"])
        checkpoint.load_optimizer(self.optimizer, resume.state["optimizer"], resume.tensors)
        checkpoint.load_average(self.stepper.average, resume.tensors)
        own = resume.tensors.get(f"random.rank{self.ranks.rank}")
        if self.ranks.first:
            checkpoint.restore_random(resume.state["random"], resume.tensors)
        elif own is not None:
            checkpoint.restore_random_bytes(own.numpy().tobytes())
        else:
            self._seed(state.step)
        # More epochs than before may have been asked for.
        state.finished = state.finished and _is_over(state, self.config)
        return state

    def _seed(self, step: int = 0) -> None:
        """Random numbers of their own for all ranks but the first, which goes on with those of the run's seed."""
        if not self.ranks.first:
            words = np.random.SeedSequence([self.train.seed, self.ranks.rank, step]).generate_state(1)
            torch.manual_seed(int(words[0]))

    def _save_best(self, model: Model, value: float, better: bool) -> None:
        """Keep the model of this epoch if it is the best, or among the best."""
        if not self.ranks.first or not math.isfinite(value):
            return
        state = self.state
        progress = {"epoch": state.epoch, "step": state.step, "monitor": self.monitor, "value": value}
        contents = {"progress": progress, "identity": self.identity}
        if better:
            checkpoint.write(self.folder / BEST, model.save, contents, {})
        if self.config.checkpoints.top < 2:
            return
        state.top = sorted(
            [*state.top, [value, state.epoch]], key=lambda entry: entry[0], reverse=self.mode == "max"
        )
        if [value, state.epoch] in state.top[: self.config.checkpoints.top]:
            checkpoint.write(self.folder / f"epoch-{state.epoch:04}", model.save, contents, {})
        for _, epoch in state.top[self.config.checkpoints.top :]:
            checkpoint.remove(self.folder / f"epoch-{epoch:04}")
        state.top = state.top[: self.config.checkpoints.top]


class _Pace:
    """How fast an epoch goes: complexes seen, seconds waited for data, seconds in all."""

    def __init__(self) -> None:
        self.began, self.waited, self.seen = time.perf_counter(), 0.0, 0
        self.ended: float | None = None

    def stop(self) -> None:
        self.ended = time.perf_counter()

    @property
    def seconds(self) -> float:
        return (self.ended or time.perf_counter()) - self.began

    @property
    def rate(self) -> float:
        """Complexes per second."""
        return self.seen / self.seconds if self.seconds else 0.0


def _is_over(state: _State, config: TrainConfig) -> bool:
    impatient = config.patience > 0 and state.since_best >= config.patience
    return state.epoch >= config.epochs or impatient


def _shown_of(step: Step, model: Model) -> dict[str, float | None]:
    """What is recorded of a step; the learning rate of a part under its name. None for what is not finite."""
    named = {f"learning_rate/{part}" if part else "learning_rate": rate for part, rate in step.rates.items()}
    numbers = {"loss": step.loss, **_shown(model, step.terms), "gradient_norm": step.norm, **named}
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def _not_finite(what: str, value: float, step: int, rate: float, ids: Sequence[str]) -> str:
    return (
        f"the {what} is {value} in step {step} (learning rate {rate:.3g}); complexes of this step: "
        f"{', '.join(ids)}. Lower train.learning_rate or train.clip_norm, or look at these complexes"
    )
