"""Several yes-or-no questions about a complex at once, from one network; binary cross-entropy of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atomica.errors import DataError
from atomica.heads import register, values_met
from atomica.heads.losses import LossConfig, positive_weights, yes_or_no_loss
from atomica.heads.multiclass import ClassesHead
from atomica.heads.readout import ReadoutConfig
from atomica.nn.encoding import EncoderSettings
from atomica.spec import Problems, setting

__all__ = ["MultilabelConfig", "MultilabelHead"]


@dataclass(frozen=True)
class MultilabelConfig(LossConfig, ReadoutConfig):
    """Keys of a `[[head]]` table with `kind = "multilabel"`. Raises SpecError naming every value out of range."""

    classes: tuple[str, ...] = setting(
        doc="what a complex may be, each yes or no; other words of a label mean nothing",
        shortest=2,
        distinct=True,
    )
    separator: str = setting(
        ";", "what stands between the words of a label; a label without any of them: no to all"
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        torn = [name for name in self.classes if not name or (self.separator and self.separator in name)]
        Problems.check(
            *self.problems(),
            *self.loss_problems(len(self.classes)),
            (not self.separator, "separator", "must not be empty"),
            (bool(torn), "classes", f"no label can hold {', '.join(map(repr, torn))}"),
            config=self,
        )


@register("multilabel")
class MultilabelHead(ClassesHead):
    """A network on what `readout` names, on the embedding alone with its last but one layer half as wide.

    `forward` gives logits [G, C]; `predict` the probability of a yes to each [G, C].
    """

    Config = MultilabelConfig
    monitor = "auprc"
    monitor_mode = "max"
    plots = ("by_question",)

    @classmethod
    def before(cls, encoder: EncoderSettings) -> Mapping[str, Any]:
        return {}

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        total, count = yes_or_no_loss(output, target.to(output.dtype), self.config, self.weights())
        return total / count.clamp(min=1)

    def weigh(self, target: Tensor) -> None:
        self.weights.learn(positive_weights(target))

    def predict(self, output: Tensor) -> Tensor:
        return torch.sigmoid(output)

    @classmethod
    def encode_labels(cls, config: MultilabelConfig, texts: Sequence[str | None]) -> tuple[Tensor, Tensor]:
        """Texts → targets 0 or 1 [G, C] and known [G]. Raises DataError if no class is met.

        >>> config = MultilabelConfig(("ATP", "MG"))
        >>> target, known = MultilabelHead.encode_labels(config, ["MG; ATP", "none", None])
        >>> target.tolist(), known.tolist()
        ([[1, 1], [0, 0], [0, 0]], [True, True, False])
        """
        words = [{word.strip() for word in (text or "").split(config.separator)} for text in texts]
        found = [[int(name in own) for name in config.classes] for own in words]
        target = torch.tensor(found, dtype=torch.long).view(len(texts), len(config.classes))
        known = torch.tensor([text not in (None, "") for text in texts], dtype=torch.bool)
        if len(texts) and not bool(target.any()):
            named = ", ".join(map(repr, config.classes))
            raise DataError(f"no row is labelled with any of {named}; the values are: {values_met(texts)}")
        return target, known

    def metrics(self) -> Any:
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MultilabelAccuracy, MultilabelF1Score

        from atomica.heads.metrics import OneVersusRest, auprc, auroc

        count = len(self.config.classes)
        return MetricCollection(
            {
                "auroc": OneVersusRest(auroc),
                "auprc": OneVersusRest(auprc),
                "accuracy": MultilabelAccuracy(count, average="micro"),
                "f1": MultilabelF1Score(count, average="macro"),
            },
            compute_groups=False,
        )
