"""Pockets that know their partner: bring a pocket's embedding close to that of its whole complex.

The encoder learns on the pocket alone; a frozen encoder, given the complex, sets the goal. The loss is
contrastive: each pocket must be closer to its own complex than to the others of the batch (Chen et al. 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atomica.data.inputs import GraphInputs
from atomica.heads import Head, register
from atomica.nn.encoding import EncoderSettings, Encoding
from atomica.spec import Problems, setting

__all__ = ["InterfaceConfig", "InterfaceHead", "contrastive_loss"]


@dataclass(frozen=True)
class InterfaceConfig:
    """Keys of a `[[head]]` table with `kind = "interface"`. Raises SpecError naming every value out of range."""

    temperature: float = setting(0.5, "similarities are divided by it; smaller means sharper", above=0)

    def __post_init__(self) -> None:
        Problems.check(config=self)


@register("interface")
class InterfaceHead(Head):
    """Three [ReLU, linear] and a normalisation on the embeddings of pocket and complex.

    The model's encoder sees the pocket, segment 0; `complex_encoder` sees everything and is not trained. Copy the
    weights of a pretrained encoder into both before training. `forward` and `predict` give unit rows [G, 2, H]:
    pocket, complex. There are no targets.
    """

    Config = InterfaceConfig
    needs = ("graph", "partners")
    targets = "none"
    encoder_copies = ("complex_encoder",)
    segment = 0
    monitor = "retrieval"
    monitor_mode = "max"

    def __init__(self, config: InterfaceConfig, encoder: EncoderSettings) -> None:
        super().__init__(config, encoder)
        self.complex_encoder = encoder.build().requires_grad_(False)
        self.pocket_network = _network(encoder.block_hidden)
        self.complex_network = _network(encoder.block_hidden)

    def train(self, mode: bool = True) -> InterfaceHead:
        super().train(mode)
        self.complex_encoder.eval()  # the goal stays put: no dropout in it
        return self

    def forward(self, encoding: Encoding, inputs: GraphInputs) -> Tensor:
        pocket = self.pocket_network(encoding.graph)
        whole = self.complex_network(self.complex_encoder(inputs).graph)
        return F.normalize(torch.stack([pocket, whole], dim=1), dim=2)

    def loss(self, output: Tensor, target: Any) -> Tensor:
        return contrastive_loss(output[:, 0], output[:, 1], self.config.temperature)

    def metrics(self) -> Any:
        from torchmetrics import MetricCollection

        from atomica.heads.metrics import Retrieval

        return MetricCollection({"retrieval": Retrieval()})


def _network(hidden: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for _ in range(3):
        parts += [nn.ReLU(), nn.Linear(hidden, hidden)]
    return nn.Sequential(*parts)


def contrastive_loss(z: Tensor, c: Tensor, temperature: float) -> Tensor:
    """Mean over both directions of -log of the share that the right partner has of all similarities.

    z, c: [G, H] unit rows, partners in the same row; the others of either side count against a row.

    >>> one = torch.eye(3)
    >>> bool(contrastive_loss(one, one, 0.5) < contrastive_loss(one, one.roll(1, 0), 0.5))
    True
    """
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    terms = []
    for left, right in ((z, c), (c, z)):
        across = left @ right.t() / temperature
        within = (left @ left.t() / temperature).masked_fill(own, -torch.inf)
        terms.append(torch.logsumexp(torch.cat([within, across], dim=1), dim=1) - across.diagonal())
    return torch.cat(terms).mean()
