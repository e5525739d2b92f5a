"""Prediction heads and their registry.

A head turns the encoder's embeddings into a prediction and a loss. It is named by `kind` in a run spec. Heads of
other packages join through the entry-point group `atomica.heads`, whose entries name modules to import.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from atomica.encoder import EncoderConfig, Encoding
from atomica.errors import SpecError
from atomica.graph import GraphInputs

__all__ = ["ACTIVATIONS", "Head", "available", "head_class", "mlp", "register"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "elu": nn.ELU}

_REGISTRY: dict[str, type[Head]] = {}
_HeadType = TypeVar("_HeadType", bound="type[Head]")


class Head(nn.Module):
    """Base class of all heads.

    Config: a frozen dataclass with the head's own keys of its `[[head]]` table.
    needs: which of the encodings (atom, block, graph) it reads.
    monitor, monitor_mode: the validation metric that decides which checkpoint is best, and "max" or "min".
    """

    Config: ClassVar[type]
    needs: ClassVar[tuple[str, ...]] = ("graph",)
    monitor: ClassVar[str] = "loss"
    monitor_mode: ClassVar[str] = "min"

    def __init__(self, config: Any, encoder: EncoderConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, encoding: Encoding, inputs: GraphInputs) -> Tensor:
        """Raw output, one row per thing predicted."""
        raise NotImplementedError

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of `forward`'s output against targets as `encode_labels` makes them."""
        raise NotImplementedError

    def predict(self, output: Tensor) -> Tensor:
        """What a user reads, from `forward`'s output: a probability, a pKd, …"""
        return output

    @classmethod
    def encode_labels(cls, config: Any, texts: Sequence[str | None]) -> tuple[Tensor, Tensor]:
        """Label texts [G] → targets, and a bool [G] that is False where a row has no usable label."""
        raise NotImplementedError

    def metrics(self) -> Any:
        """A fresh `torchmetrics.MetricCollection`, updated with (prediction, target)."""
        raise NotImplementedError


def register(kind: str) -> Callable[[_HeadType], _HeadType]:
    """Class decorator that makes a head available as `kind = "…"` in a run spec.

    Raises SpecError if another class has the name already.
    """

    def add(cls: _HeadType) -> _HeadType:
        other = _REGISTRY.get(kind)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise SpecError(f"head kind {kind!r} is taken by {other.__module__}.{other.__qualname__}")
        _REGISTRY[kind] = cls
        return cls

    return add


def _load_entry_points() -> None:
    for entry in importlib.metadata.entry_points(group="atomica.heads"):
        entry.load()


def available() -> tuple[str, ...]:
    """The kinds of head that a spec can name, sorted.

    >>> "binary" in available()
    True
    """
    _load_entry_points()
    return tuple(sorted(_REGISTRY))


def head_class(kind: str) -> type[Head]:
    """The class registered as `kind`. Raises SpecError listing the known kinds."""
    if kind not in _REGISTRY:
        _load_entry_points()
    if kind not in _REGISTRY:
        raise SpecError(f"unknown head kind {kind!r}; known: {', '.join(available())}")
    return _REGISTRY[kind]


def mlp(sizes: Sequence[int], activation: str, dropout: float) -> nn.Sequential:
    """[activation, dropout, linear] for each step of `sizes`, as the original's prediction networks."""
    parts: list[nn.Module] = []
    for width_in, width_out in zip(sizes[:-1], sizes[1:], strict=True):
        parts += [ACTIVATIONS[activation](), nn.Dropout(dropout), nn.Linear(width_in, width_out)]
    return nn.Sequential(*parts)
