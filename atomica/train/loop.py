"""The training loop: epochs over the training rows, validation, the best and the last checkpoint.

Everything that decides the numbers is a function of the settings, the data and the seed; a resumed run goes
on, in the middle of an epoch if need be, to the same losses as one that was never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atomica.evaluation.statistics import monotony
from atomica.model.model import Model
from atomica.train import checkpoint
from atomica.train.config import TrainConfig
from atomica.train.display import Display
from atomica.train.distributed import ALONE, Ranks
from atomica.train.linear import Solution, refit, solve
from atomica.train.loader import Batch, Draws, Split
from atomica.train.logging import RunLog
from atomica.train.optimizer import freeze, make_optimizer
from atomica.train.saver import Saver, State
from atomica.train.step import Agreement, Step, Stepper, shares_of
from atomica.train.stopping import Interrupted, Stop, StopRequested, TrainingError
from atomica.train.sums import means, shown
from atomica.train.validation import monitor_of, predict

__all__ = ["Outcome", "Trainer"]


REMEDY = (
    "If it stays so, nothing is learnt: try ten times train.learning_rate or a tenth of it, less dropout, "
    'another readout of the head, data.sampler = "balanced" for rare classes, or more epochs'
)
"""What to change where a model answers the same for all."""

BAD_STEPS, KEPT_BAD_STEPS = "bad_steps", 10
"""Folder of batches with a loss or gradient that was not finite, and how many of them a run keeps."""
STATISTICS = 20_000
"""Complexes, about, from which the statistics of what heads read are taken."""


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


@dataclass(kw_only=True, eq=False)
class Trainer:
    """Trains `model` and leaves checkpoints in `folder`: `last`, `best`, and those that `train.checkpoints` asks for.

    both: training and validation rows as one split; what is learnt from, if it is there, and then the last epoch is the
    best, as no rows are left to choose by. log, display: on the first rank. identity: what the checkpoint must remember
    of spec and data, stored as it is. ranks: who trains; each batch is shared between them. accumulate: shares in which
    each rank works through its share.
    """

    model: Model
    train: Split
    valid: Split
    config: TrainConfig
    folder: Path
    log: RunLog | None
    display: Display | None
    every_steps: int
    stop: Stop
    identity: Mapping[str, Any]
    ranks: Ranks = ALONE
    accumulate: int = 1
    both: Split | None = None

    def __post_init__(self) -> None:
        model, config = self.model, self.config
        self.monitor, self.mode = monitor_of(model, config)
        self.optimizer = make_optimizer(model, config)
        self.learnt = self.both or self.train
        self.plan = lru_cache(maxsize=2)(self.learnt.epoch_plan)
        # Epochs differ by few steps, if at all; planning all of them would take long for a large data set.
        self.total_steps = config.epochs * len(self.plan(0))
        self.state = State()
        freeze(model, config)
        self.stepper = Stepper(model, self.optimizer, config, self.ranks)
        self.saver = Saver(
            self.stepper,
            self.folder,
            config.checkpoints,
            self.identity,
            self.train.seed,
            self.ranks,
            (self.monitor, self.mode),
        )

    def fit(self, resume: checkpoint.Checkpoint | None = None) -> Outcome:
        """All epochs that are left. resume: the checkpoint to go on from; its weights must be in `model` already.

        Raises TrainingError if a loss or gradient is not finite, with the ids of the complexes of that step, more
        often than `train.max_skipped` allows; Interrupted once `stop` is set on some rank and a checkpoint is written.
        """
        if resume is None:
            self.saver.seed()
        else:
            self.state = self.saver.restore(resume)
            # More epochs than before may have been asked for.
            self.state.finished = self.state.finished and _is_over(self.state, self.config)
        state = self.state
        fresh: list[str] = []
        solved: dict[str, Solution] = {}
        if resume is None:
            for name, target in self.train.known_targets().items():
                self.model.head(name).weigh(target)
            fresh = self.model.standardise(self._looks, self.ranks.gather)
        if fresh and self.config.solve_heads:
            solved = solve(self.model, fresh, self.train, self.valid, self.ranks, both=self.both)
        if fresh and self.stepper.average:
            self.stepper.averaged.load_state_dict(self.model.state_dict())
        if solved or (resume is None and not self.config.epochs):
            self._epoch_0(solved)
            state.finished = _is_over(state, self.config)
        # From here on batches are prepared, also those of the next epoch while this one is validated.
        self.batches = self.learnt.batches(self._jobs(), self.model)
        if resume is None:
            self.saver.last(self.state)
        if self.display is not None:
            self.display.start(self.total_steps, state.step)
        try:
            while not state.finished:
                self._epoch()
        except StopRequested:
            self.saver.last(self.state)
            raise Interrupted(
                f"stopped after step {state.step} of about {self.total_steps}; checkpoint written"
            ) from None
        finally:
            self.batches.close()
            if self.display is not None:
                self.display.stop()
        if state.best is None:
            raise TrainingError(
                f"the validation metric {self.monitor} was not finite in any of {state.epoch} epochs, so there is no "
                "best one"
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
        trained = means(state.sums, self.model)
        predictions, metrics = self._validated(self.stop)
        state.epoch, state.step_in_epoch, state.sums = epoch + 1, 0, {}
        better = self._compare(metrics)
        state.finished = _is_over(state, self.config)
        self._tell_epoch(epoch + 1, trained, metrics, pace, better)
        self._warn(epoch + 1, predictions)
        self.saver.best(state, self.stepper.averaged, metrics[self.monitor], better)
        self.saver.last(self.state)

    def _epoch_0(self, solved: Mapping[str, Solution]) -> None:
        """What the model is worth as it starts, its heads solved. Not stopped: a resumed run would lack it."""
        _, metrics = self._validated(None)
        better = self._compare(metrics)
        self.state.since_best = 0  # patience counts epochs
        if self.log is not None:
            self.log.record("epoch", 0, 0, {f"valid_{name}": number for name, number in metrics.items()})
        if self.display is not None:
            decays = {
                name: " to ".join(f"{end:.2g}" for end in sorted({min(one.strengths), max(one.strengths)}))
                for name, one in solved.items()
            }
            strengths = ", ".join(f"{name} with decay {decay}" for name, decay in decays.items())
            told = (
                f"heads on the encoder as it starts: {strengths}"
                if solved
                else "no head, and none is trained"
            )
            self.display.line(f"solved  {told}")
            shown = {f"valid {name}": number for name, number in metrics.items()}
            self.display.epoch(0, self.config.epochs, shown, better)
        for model in (self.model, self.stepper.averaged):
            refit(model, solved)
        self.saver.best(self.state, self.stepper.averaged, metrics[self.monitor], better)

    def _validated(self, stop: Stop | None) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Predictions and metrics of the validation rows."""
        predictions, loss, metrics = predict(self.stepper.averaged, self.valid, stop, self.ranks)
        return predictions, {"loss": loss, **metrics}

    def _compare(self, metrics: Mapping[str, float]) -> bool:
        """Whether an epoch is the one to keep, which the state then says: better than all before it, or the last."""
        state, value = self.state, metrics[self.monitor]
        earlier = None if self.both else state.best
        better = math.isfinite(value) and (earlier is None or self._is_better(value, earlier))
        if better:
            state.best, state.best_epoch, state.since_best = value, state.epoch, 0
        else:
            state.since_best += 1
        return better

    def _steps(self, epoch: int) -> _Pace:
        """The steps of an epoch that are left."""
        state, pace = self.state, _Pace()
        try:
            for draws in self.plan(epoch)[state.step_in_epoch :]:
                asked = time.perf_counter()
                batch = next(self.batches)
                pace.waited += time.perf_counter() - asked
                known = self.stepper.agree(batch, stop=self.stop.requested, save=self.saver.due.what())
                if known.stop:
                    raise StopRequested
                if known.save:
                    self.saver.last(self.state, keep=known.save == checkpoint.KEEP)
                step = self._step(draws, batch, known, epoch)
                state.step += 1
                state.step_in_epoch += 1
                pace.seen += len(draws)
                if step.bad:
                    self._skip(step, draws, epoch)
                else:
                    self.learnt.add(state.sums, draws, step.terms, known.unperturbed)
                if self.log is not None and state.step % self.every_steps == 0 and not step.bad:
                    self.log.record("step", epoch + 1, state.step, _shown_of(step, self.model))
                if self.display is not None:
                    self.display.step(epoch + 1, state.step, step.loss, pace.rate)
        finally:
            state.train_seconds += pace.seconds
            state.trained_complexes += pace.seen
        pace.stop()
        return pace

    def _looks(self, names: list[str]) -> Generator[dict[str, Tensor], None, None]:
        """What heads read of this rank's share of the training rows, or of some of very many, for its statistics."""
        plan = self.train.plan()[:: -(-len(self.train.rows) // STATISTICS)]
        own = plan[self.ranks.rank :: self.ranks.size]
        for parts in self.train.each(own, self.model, lambda _, batch: self.model.read(batch.graph, names)):
            yield from parts

    def _jobs(self) -> Generator[tuple[list[Draws], int], None, None]:
        """All that lies before the run: this rank's shares of each batch, and its epoch."""
        done = self.state.step_in_epoch
        for epoch in range(self.state.epoch, self.config.epochs):
            yield from ((self._share(draws), epoch) for draws in self.plan(epoch)[done:])
            done = 0

    def _share(self, draws: Draws) -> list[Draws]:
        """This rank's shares of a batch."""
        ranks = self.ranks
        shares = shares_of(draws, self.learnt.blocks_each(draws), ranks.size * self.accumulate)
        return [share for share in shares[ranks.rank :: ranks.size] if len(share)]

    def _step(self, draws: Draws, batch: list[Batch], known: Agreement, epoch: int) -> Step:
        """One step; if a lone process runs out of GPU memory, the same batch again in smaller shares."""
        state = self.state
        while True:
            try:
                return self.stepper.run(batch, known.counts, state.step, self.total_steps)
            except torch.cuda.OutOfMemoryError as error:
                state.out_of_memory += 1
                count = 2 * max(1, len(batch))
                told = (
                    f"out of GPU memory in step {state.step + 1} ({len(draws)} complexes, "
                    f"{self.learnt.blocks_of(draws)} blocks)"
                )
                if self.ranks.size > 1 or len(batch) == len(draws):
                    raise TrainingError(
                        f"{told}; raise device.accumulate (now {self.accumulate}), which does not change the result, "
                        "or lower data.batch_blocks and data.max_item_blocks, then go on with --resume"
                    ) from error
                if self.display is not None:
                    self.display.line(
                        f"{told}: repeated in {count} shares; device.accumulate = {count * self.accumulate} or smaller "
                        "batches (data.batch_blocks) save the time of that"
                    )
            self.optimizer.zero_grad(set_to_none=True)
            batch = []  # frees the tensors before the smaller ones are made
            pieces = shares_of(draws, self.learnt.blocks_each(draws), count)
            batch = [self.learnt.load(piece, self.model, epoch) for piece in pieces if len(piece)]
            known = self.stepper.agree(batch, stop=False, save="")

    def _skip(self, step: Step, draws: Draws, epoch: int) -> None:
        """Count a step whose loss or gradient is not finite, keep its batch, and end if there were too many."""
        state = self.state
        state.skipped += 1
        ids = self.learnt.ids_of(draws)
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
            batch = self.learnt.load(draws, self.model, epoch)
            checkpoint.write_batch(place, numbers, {"graph": batch.graph, "targets": batch.targets})
        if state.skipped > self.config.max_skipped:
            # A resumed run takes the same step again, perhaps with another limit.
            state.skipped, state.step, state.step_in_epoch = (
                state.skipped - 1,
                state.step - 1,
                state.step_in_epoch - 1,
            )
            self.saver.last(self.state)
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

    def _warn(self, epoch: int, predictions: Mapping[str, Tensor]) -> None:
        """Say after epochs 2, 4, 8, … which heads answer the same for all validation complexes."""
        if self.display is None or epoch < 2 or epoch & (epoch - 1):
            return
        for name, predicted in predictions.items():
            classes = getattr(self.model.head(name).config, "classes", ())
            targets, known = self.valid.truth(name)
            same = monotony(targets[known].numpy(), predicted[known].double().numpy(), classes)
            if same:
                self.display.line(
                    f"warning head {name} says {same} validation complexes after epoch {epoch}. {REMEDY}"
                )


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


def _is_over(state: State, config: TrainConfig) -> bool:
    impatient = config.patience > 0 and state.since_best >= config.patience
    return state.epoch >= config.epochs or impatient


def _shown_of(step: Step, model: Model) -> dict[str, float | None]:
    """What is recorded of a step; the learning rate of a module under its name. None for what is not finite."""
    named = {
        f"learning_rate/{module}" if module else "learning_rate": rate for module, rate in step.rates.items()
    }
    numbers = {"loss": step.loss, **shown(model, step.terms), "gradient_norm": step.norm, **named}
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def _not_finite(what: str, value: float, step: int, rate: float, ids: Sequence[str]) -> str:
    return (
        f"the {what} is {value} in step {step} (learning rate {rate:.3g}); complexes of this step: "
        f"{', '.join(ids)}. Lower train.learning_rate or train.clip_norm, or look at these complexes"
    )
