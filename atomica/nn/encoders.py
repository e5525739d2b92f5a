"""The encoders by kind. The page "How to add an encoder" is at the top of `atomica.nn`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from atomica.errors import SpecError
from atomica.nn.encoding import Encoder, EncoderSettings
from atomica.spec.kinds import Kinds

__all__ = ["BUILT_IN", "DEFAULT", "available", "encoder_class", "register", "settings_from"]

BUILT_IN = {"equivariant": "atomica.nn.equivariant", "invariant": "atomica.nn.invariant"}
"""Kinds of this package, and the modules that register them."""
DEFAULT = "equivariant"
"""The kind of specs and saved models that name none."""

_KINDS: Kinds[Encoder] = Kinds("encoder", BUILT_IN, "atomica.encoders")
_EncoderType = TypeVar("_EncoderType", bound="type[Encoder]")


def register(kind: str) -> Callable[[_EncoderType], _EncoderType]:
    """Class decorator that makes an encoder available as `kind = "…"` in section [model] of a run spec.

    Its `Config` learns the kind and the class, and can belong to one encoder alone. Raises SpecError if another
    class has the name or the settings already.
    """
    add = _KINDS.register(kind)

    def bind(cls: _EncoderType) -> _EncoderType:
        if (taken := vars(cls.Config).get("kind", kind)) != kind:
            raise SpecError(f"{cls.Config.__name__} holds the settings of the encoder {taken!r} already")
        cls.Config.kind, cls.Config.encoder = kind, cls
        return add(cls)

    return bind


def available() -> tuple[str, ...]:
    """The kinds of encoder that a spec can name, sorted.

    >>> available()
    ('equivariant', 'invariant')
    """
    return _KINDS.available()


def encoder_class(kind: str) -> type[Encoder]:
    """The class registered as `kind`. Raises SpecError listing the known kinds, and naming the nearest."""
    return _KINDS.find(kind)


def settings_from(saved: Mapping[str, Any]) -> EncoderSettings:
    """Settings from plain data, as `model.json` keeps them; without `kind`, those of the equivariant encoder.

    >>> settings_from({"kind": "invariant", "atom_hidden": 16}).kind
    'invariant'
    """
    given = dict(saved)
    return encoder_class(given.pop("kind", DEFAULT)).Config(**given)
