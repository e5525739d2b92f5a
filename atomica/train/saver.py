"""When and what a training saves: the checkpoint to go on from, the best model, the best few."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atomica.files import BEST, LAST
from atomica.model.model import Model
from atomica.train import checkpoint
from atomica.train.distributed import Ranks
from atomica.train.step import Stepper
from atomica.train.sums import Sums

__all__ = ["Saver", "State"]


@dataclass
class State:
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
    kept_before: float = 0.0
    """Seconds since a checkpoint was kept for good."""


class Saver:
    """Writes the checkpoints of a training, and takes one up again.

    monitor: the metric that decides, and "max" or "min". seed: that of the order of the data.
    """

    def __init__(
        self,
        stepper: Stepper,
        folder: Path,
        config: checkpoint.CheckpointConfig,
        identity: Mapping[str, Any],
        seed: int,
        ranks: Ranks,
        monitor: tuple[str, str],
    ) -> None:
        self.stepper, self.folder, self.config, self.identity = stepper, folder, config, identity
        self.data_seed, self.ranks = seed, ranks
        self.monitor, self.mode = monitor
        self.due = checkpoint.Due(config)

    def last(self, state: State, *, keep: bool = False) -> None:
        """Write the checkpoint to go on from; all ranks together, since each has random-number generators."""
        state.kept_before = 0.0 if keep else self.due.age
        others = self.ranks.gather_bytes(checkpoint.random_bytes() if not self.ranks.first else b"")
        if self.ranks.first:
            optimizer_state, optimizer_tensors = checkpoint.pack_optimizer(self.stepper.optimizer)
            random_state, random_tensors = checkpoint.pack_random()
            contents = {
                "progress": asdict(state),
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
            for name in (LAST, *([f"step-{state.step:08}"] if keep else [])):
                checkpoint.write(self.folder / name, self.stepper.model.save, contents, tensors)
        self.due.written(keep=keep)
        self.ranks.gather(None)  # nobody ends before it is written

    def restore(self, resume: checkpoint.Checkpoint) -> State:
        """Take up everything but the weights of the model; says where the run stands."""
        state = State(**resume.state["progress"])
        checkpoint.load_optimizer(self.stepper.optimizer, resume.state["optimizer"], resume.tensors)
        checkpoint.load_average(self.stepper.average, resume.tensors)
        own = resume.tensors.get(f"random.rank{self.ranks.rank}")
        if self.ranks.first:
            checkpoint.restore_random(resume.state["random"], resume.tensors)
        elif own is not None:
            checkpoint.restore_random_bytes(own.numpy().tobytes())
        else:
            self.seed(state.step)
        self.due.go_on(state.kept_before)
        return state

    def seed(self, step: int = 0) -> None:
        """Random numbers of their own for all ranks but the first, which goes on with those of the run's seed."""
        if not self.ranks.first:
            words = np.random.SeedSequence([self.data_seed, self.ranks.rank, step]).generate_state(1)
            torch.manual_seed(int(words[0]))

    def best(self, state: State, model: Model, value: float, better: bool) -> None:
        """Keep the model of this epoch if it is the best, or among the best."""
        if not self.ranks.first or not math.isfinite(value):
            return
        progress = {"epoch": state.epoch, "step": state.step, "monitor": self.monitor, "value": value}
        contents = {"progress": progress, "identity": self.identity}
        if better:
            checkpoint.write(self.folder / BEST, model.save, contents, {})
        if self.config.top < 2:
            return
        state.top = sorted(
            [*state.top, [value, state.epoch]], key=lambda entry: entry[0], reverse=self.mode == "max"
        )
        if [value, state.epoch] in state.top[: self.config.top]:
            checkpoint.write(self.folder / f"epoch-{state.epoch:04}", model.save, contents, {})
        for _, epoch in state.top[self.config.top :]:
            checkpoint.remove(self.folder / f"epoch-{epoch:04}")
        state.top = state.top[: self.config.top]
