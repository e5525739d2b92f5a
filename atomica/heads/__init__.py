"""Prediction heads and their registry.

A head turns the encoder's embeddings into a prediction and a loss. It is named by `kind` in a run spec.

How to add one (`regression.py` is the shortest; runs/README.md shows a package with one):

1. A file beside these. Settings: a frozen dataclass, each field made with `spec.setting`. The head derives from `Head`,
   names the settings as `Config`, is decorated with `@register("KIND")`, and has `forward`, `loss`, `encode_labels` and
   `metrics`; `Head` says what else it may answer: which encodings it `needs`, where its `targets` come from. Of an
   encoder it knows `atomica.nn.encoding` and `atomica.nn.layers` alone, so that it works with every kind.
2. The kind in `BUILT_IN`; for a head of another package an entry point of the group `atomica.heads` instead, which
   names the module to import. With it `[[head]] kind = "KIND"` of a spec, its settings there, saved models, `--list`
   and `--schema` know it.
3. A line in `CASES` of tests/unit/test_heads.py, where `atomica.testing.check_model` checks it with every encoder;
   labels, loss and metrics want tests of their own there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from atomica.data.inputs import GraphInputs
from atomica.errors import DataError, SpecError
from atomica.nn.encoding import ACTIVATIONS, EncoderSettings, Encoding
from atomica.nn.layers import mlp
from atomica.spec import Problems, setting
from atomica.spec.kinds import Kinds

__all__ = [
    "ACTIVATIONS",
    "BUILT_IN",
    "NEEDS",
    "TARGETS",
    "Head",
    "NetworkConfig",
    "PretrainingHead",
    "available",
    "head_class",
    "kind_of",
    "mlp",
    "register",
    "values_met",
]

BUILT_IN = (
    *("affinity", "binary", "contact", "denoise", "interface", "masked_block", "multiclass", "multilabel"),
    *("partner", "regression", "residue_binary", "residue_multiclass", "residue_regression"),
)
"""Kinds of this package; each is a module of the same name beside this one, those of residues one together."""

ENCODINGS = ("atom", "block", "graph", "detail", "invariants")
"""What a head may need of an encoder, see `EncoderSettings.serves`."""
NEEDS = (*ENCODINGS, "partners")
TARGETS = ("labels", "block_labels", "perturbation", "masks", "absent", "touching", "none")

_KINDS: Kinds[Head] = Kinds(
    "head",
    {kind: f"{__name__}.{'residue' if kind.startswith('residue') else kind}" for kind in BUILT_IN},
    "atomica.heads",
)
_HeadType = TypeVar("_HeadType", bound="type[Head]")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Keys of a head that predicts one number by [activation, dropout, linear] × layers.

    Raises SpecError naming every value out of range.
    """

    hidden: int = setting(32, "width of the prediction network", low=1)
    layers: int = setting(3, "linear layers of the prediction network", low=1)
    activation: str = setting("relu", "nonlinearity of the prediction network", choices=tuple(ACTIVATIONS))
    dropout: float = setting(0.0, "dropout in the prediction network", low=0, below=1)

    def __post_init__(self) -> None:
        Problems.check(*self.problems(), config=self)

    def problems(self) -> list[tuple[bool, str, str]]:
        """What may be wrong with keys beside each other: whether it is, the key, what to say."""
        return []

    def network(self, width: int) -> nn.Sequential:
        """The network: [N, width] → [N, 1]."""
        return mlp([width, *[self.hidden] * (self.layers - 1), 1], self.activation, self.dropout)


class Head(nn.Module):
    """Base class of all heads. Raises SpecError naming every setting out of the limits that its Config declares.

    Config: a frozen dataclass with the head's own keys of its `[[head]]` table.
    needs: what it reads, of `NEEDS`: the encodings "atom", "block" and "graph"; "detail" asks for a
    `DetailedEncoding`, "invariants" for one with the features of blocks, "partners" for complexes with both partners
    (`data.input = "complex"`). `needs_of` where that depends on its settings.
    targets: where its targets come from: "labels" (the column that the spec's `label` names), "block_labels" (the same
    of `data.block_labels`: [B], NaN or -1 where unknown), "perturbation" (a `noise.Perturbation`), "masks" (types of
    masked blocks, [M] int64), "absent" (those of a partner that was left out, [2, N] int64), "touching" (which
    blocks touched it, [B] int64), or "none" (`loss` gets None).
    segment: the one segment that the encoder is to see, or None for the whole complex.
    encoder_copies: names of submodules that start as copies of a pretrained encoder (`model.init`).
    monitor, monitor_mode: the validation metric that decides which checkpoint is best, and "max" or "min".
    baseline: what its answers are compared with on test rows, of `evaluation.baseline.BASELINES`: "composition", also
    "contacts" between the partners, "neighbours" for answers of blocks, or "none".
    label_scale: mean and standard deviation of the labels that stand for 0 and 1 in its output; None: it has no such.
    plots: what reports show of its predictions beside their labels; names of `atomica.report.predictions.PLOTS`.
    """

    Config: ClassVar[type]
    needs: ClassVar[tuple[str, ...]] = ("graph",)
    targets: ClassVar[str] = "labels"
    encoder_copies: ClassVar[tuple[str, ...]] = ()
    segment: ClassVar[int | None] = None
    monitor: ClassVar[str] = "loss"
    monitor_mode: ClassVar[str] = "min"
    baseline: ClassVar[str] = "composition"
    plots: ClassVar[tuple[str, ...]] = ()
    label_scale: tuple[float, float] | None = None

    def __init__(self, config: Any, encoder: EncoderSettings) -> None:
        super().__init__()
        Problems.check(config=config)
        if lacking := self.unserved(encoder, config):
            raise SpecError(f"{type(self).__name__} {lacking}")
        self.config = config

    @property
    def on_blocks(self) -> bool:
        """Whether it answers for each block, and learns from `data.block_labels`."""
        return self.targets == "block_labels"

    def attach(self, inputs: GraphInputs, target: Any) -> GraphInputs:
        """The inputs with what `forward` must know of the target, such as which atoms were moved.

        Called where the batch is made, with inputs on the CPU: the place for what needs a number from the data, such
        as a list of unknown length, for which a step on a GPU would have to wait.
        """
        return inputs

    def forward(self, encoding: Encoding, inputs: GraphInputs) -> Any:
        """Raw output, one row per thing predicted; several kinds of things: a named tuple of tensors."""
        raise NotImplementedError

    def loss(self, output: Any, target: Any) -> Tensor:
        """Scalar loss of `forward`'s output against targets as `encode_labels` makes them."""
        raise NotImplementedError

    def parts(self, output: Any, target: Any) -> dict[str, Tensor]:
        """Scalars to log beside the loss: what it is made of, what a trivial answer would score."""
        return {}

    def summands(self, output: Any, target: Any) -> dict[str, Tensor]:
        """What adds up to the loss, by name, where it is made of means over different things."""
        return {"": self.loss(output, target)}

    def counts(self, target: Any, inputs: GraphInputs) -> Mapping[str, float]:
        """Of how many things each of `summands` and `parts` is the mean; "" stands for those not named.

        A batch that is shared between devices, or worked through in parts, is put together by these numbers. Not
        asked for heads with labels, whose loss is a mean over the complexes that have one.
        """
        return {"": inputs.num_graphs}

    def predict(self, output: Any) -> Any:
        """What a user reads, from `forward`'s output: a probability, a pKd, …"""
        return output

    def select(self, output: Any, target: Any, known: Tensor) -> tuple[Any, Any]:
        """Output and target of the complexes that have a label; known: their indices, int64."""
        return output[known], target[known]

    def rotated(self, output: Any, matrix: Tensor) -> Any:
        """What `output` must become when all coordinates are mapped by the rotation `matrix` [3, 3]."""
        return output

    def standardised(self, encoding: Encoding, inputs: GraphInputs) -> Tensor | None:
        """The rows [N, W] that it standardises by their statistics over the training rows; None: it does not."""
        return None

    def standardise(self, count: Tensor, total: Tensor, squares: Tensor) -> None:
        """Keep these statistics: number of rows, and float64 sums [W] of them and of their squares."""

    def measured(self, prediction: Any, target: Any) -> tuple[Any, Any]:
        """What `metrics` are updated with: of heads without labels of complexes those that have an answer."""
        return prediction, target

    def weigh(self, target: Tensor) -> None:
        """Learn how rare labels are from those of the training rows that have one, before the first step."""

    def amount(self, target: Any) -> float:
        """What the loss is to be weighted by where a batch is put together from parts: how many things have a label.

        Of heads with labels; target: of the complexes that have one.
        """
        return len(target)

    @property
    def unfitted(self) -> bool:
        """Whether it waits for them."""
        return False

    @classmethod
    def before(cls, encoder: EncoderSettings) -> Mapping[str, Any]:
        """Settings that saved models of earlier versions leave out, as they were then."""
        return {}

    @classmethod
    def needs_of(cls, config: Any) -> tuple[str, ...]:
        """What it needs with these settings."""
        return cls.needs

    @classmethod
    def unserved(cls, encoder: EncoderSettings, config: Any) -> str:
        """What it needs and an encoder cannot give, for a person; empty if nothing is missing."""
        missing = [need for need in cls.needs_of(config) if need in ENCODINGS and need not in encoder.serves]
        given = ", ".join(encoder.serves)
        return (
            f"needs {', '.join(missing)}, and the {encoder.kind} encoder gives {given} alone"
            if missing
            else ""
        )

    @classmethod
    def learns(cls, config: Any) -> frozenset[str]:
        """The kinds of noise it learns from: rotation, translation, torsion, gaussian, mask, lone."""
        return frozenset()

    @classmethod
    def encode_labels(cls, config: Any, texts: Sequence[str | None]) -> tuple[Tensor, Tensor]:
        """Label texts [G] → targets, and a bool [G] that is False where a row has no usable label."""
        raise NotImplementedError

    def learn_labels(self, target: Tensor) -> None:
        """What it takes from the training labels before it is trained, such as their mean; saved as `label_scale`."""

    def metrics(self) -> Any:
        """A fresh `torchmetrics.MetricCollection`, updated with (prediction, target)."""
        raise NotImplementedError


class PretrainingHead(Head):
    """Base class of heads whose targets no person gives: they are what noise has done to each complex.

    learnt_from: what they are, for messages.
    """

    learnt_from: ClassVar[str]

    def select(self, output: Any, target: Any, known: Tensor) -> tuple[Any, Any]:
        raise DataError(f"every complex has its {self.learnt_from}; none can be left out")

    @classmethod
    def encode_labels(cls, config: Any, texts: Sequence[str | None]) -> tuple[Tensor, Tensor]:
        raise DataError(
            f"a {kind_of(cls)} head learns from {cls.learnt_from}, not from labels; use it in pretraining"
        )


def register(kind: str) -> Callable[[_HeadType], _HeadType]:
    """Class decorator that makes a head available as `kind = "…"` in a run spec.

    Raises SpecError if another class has the name already.
    """
    return _KINDS.register(kind)


def available() -> tuple[str, ...]:
    """The kinds of head that a spec can name, sorted.

    >>> "binary" in available()
    True
    """
    return _KINDS.available()


def head_class(kind: str) -> type[Head]:
    """The class registered as `kind`. Raises SpecError listing the known kinds, and naming the nearest."""
    return _KINDS.find(kind)


def kind_of(cls: type[Head]) -> str | None:
    """The kind as which a class is registered; None if it is not."""
    return _KINDS.name_of(cls)


def values_met(texts: Sequence[str | None]) -> str:
    """The values of a label column, most frequent first, for a message.

    >>> values_met(["a", None, "a"])
    "'a' (2), no label (1)"
    """
    met = Counter("no label" if text in (None, "") else repr(text) for text in texts)
    return ", ".join(f"{value} ({count})" for value, count in met.most_common(8))
