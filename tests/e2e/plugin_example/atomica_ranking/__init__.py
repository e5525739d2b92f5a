"""A head of another package: only the order of the labels counts, not their values. `kind = "ranking"` in a spec."""

from dataclasses import dataclass

import numpy as np
from torchmetrics import MetricCollection, SpearmanCorrCoef

from atomica.heads import Head, register
from atomica.heads.regression import RegressionHead
from atomica.nn.layers import mlp
from atomica.report.predictions import plot
from atomica.report.svg import Chart
from atomica.spec import setting


@dataclass(frozen=True)
class RankingConfig:
    """The head's own keys of its `[[head]]` table; wrong ones are refused like any others."""

    hidden: int = setting(16, "width of the network", low=1)
    margin: float = setting(0.1, "by how much the larger of two should score higher", low=0)


@plot("ranks", "place by score against place by label", "numbers")
def ranks(page, answers):
    """What reports show of its predictions; most heads need no plot of their own, see `atomica-run --list`."""
    places = [np.argsort(np.argsort(values)).tolist() for values in (answers.targets, answers.predicted)]
    chart = Chart("Ranks", "place by label", "place by score", "One point per complex.")
    chart.points("complexes", *places, answers.ids, colour="c0")
    page.charts([chart])


@register("ranking")
class RankingHead(Head):
    """Each pair of complexes in a step costs as much as its scores fall short of the right order and a margin."""

    Config, monitor, monitor_mode = RankingConfig, "spearman", "max"
    plots = ("ranks",)

    def __init__(self, config, encoder):
        super().__init__(config, encoder)
        self.network = mlp([encoder.block_hidden, config.hidden, 1], "relu", 0.0)

    def forward(self, encoding, inputs):
        return self.network(encoding.graph).squeeze(1)

    def loss(self, output, target):
        larger = target[:, None] > target
        short = self.config.margin - (output[:, None] - output)
        return (short.clamp(min=0) * larger).sum() / larger.sum().clamp(min=1)

    @classmethod
    def encode_labels(cls, config, texts):
        return RegressionHead.encode_labels(config, texts)

    def metrics(self):
        return MetricCollection({"spearman": SpearmanCorrCoef()})
