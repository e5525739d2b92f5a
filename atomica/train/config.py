"""Section `[train]` of a spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from atomica.spec import Problems, setting
from atomica.train.checkpoint import CheckpointConfig
from atomica.train.schedule import ScheduleConfig

__all__ = ["TrainConfig"]


OPTIMIZERS = {
    "adamw": "decay of the weights apart from the gradient",
    "adam": "decay added to the gradient (L2)",
}


@dataclass(frozen=True)
class TrainConfig:
    """Section `[train]`: how long and how the model is trained."""

    epochs: int = setting(
        20, "passes over the training rows; 0: heads are solved, and the encoder stays as it starts", low=0
    )
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
        (), "modules that keep their weights, without dropout: encoder, encoder.atoms, heads.NAME, …"
    )
    rates: Mapping[str, float] = setting(
        {}, "learning rates of modules that have one of their own, such as encoder = 1e-4", above=0
    )
    solve_heads: bool = setting(
        True,
        "before the first step, solve the linear path of heads that have one on what the encoder gives at the start; "
        "the strength of its weight decay is chosen by the loss on validation rows, and what that is worth counts as "
        "epoch 0",
    )
    refit: bool = setting(
        False,
        "learn from validation rows, too: heads are solved once more from training and validation rows together (up to "
        "2,000, cross-validation over both chooses the strength, which keeps clusters whole), epochs go through both, "
        "and the last one is kept. Metrics of validation rows tell something in epoch 0 alone, of a head that had not "
        "learnt from them",
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
    seeds: int = setting(
        1,
        "trainings that differ by their seed (run.seed and the numbers after it) alone, as members of one run: each is "
        "told of, and the ensemble of them",
        low=1,
    )
    folds: int = setting(
        0,
        "trainings for each fold of data.folds, that many: every row is tested once, by models that saw none of its "
        "fold; 0: train, valid and test as the data say",
        low=0,
    )
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        """Check keys against each other."""
        Problems.check(
            (
                self.epochs == 0 and not self.solve_heads,
                "epochs",
                "0 leaves nothing to do without train.solve_heads",
            ),
            (
                self.refit and self.patience > 0,
                "patience",
                "has no effect with train.refit, which leaves no rows to choose an epoch by; remove one of them",
            ),
            (len(self.betas) != 2, "betas", "must be two numbers, such as [0.9, 0.999]"),
            (
                not self.decay_all and self.weight_decay == 0,
                "decay_all",
                "has no effect without train.weight_decay; give it a value, or remove decay_all",
            ),
        )
