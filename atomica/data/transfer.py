"""Moving what a step reads to the device that it runs on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["mapped", "moved"]


_Anything = TypeVar("_Anything")


def moved(value: _Anything, device: torch.device | str) -> _Anything:
    """The same with all tensors within it on `device`: in dataclasses (with what they have cached), mappings, tuples.

    To a GPU from pinned memory, without waiting for it.

    >>> moved({"a": (torch.ones(2), 3)}, "meta")["a"]
    (tensor(..., device='meta', size=(2,)), 3)
    """
    target = torch.device(device)

    def move(tensor: Tensor) -> Tensor:
        pinned = target.type == "cuda" and tensor.device.type == "cpu"
        return (tensor.pin_memory() if pinned else tensor).to(target, non_blocking=pinned)

    return mapped(move, value)


def mapped(function: Callable[[Tensor], Tensor], value: _Anything) -> _Anything:
    """The same with `function` of each tensor within it; see `moved`."""
    found: Any = value
    if isinstance(value, Tensor):
        found = function(value)
    elif is_dataclass(value) and not isinstance(value, type):
        names = [one.name for one in fields(value)]
        found = replace(value, **{name: mapped(function, getattr(value, name)) for name in names})
        for name in vars(value).keys() - set(names):
            vars(found)[name] = mapped(function, vars(value)[name])
    elif isinstance(value, Mapping):
        found = {name: mapped(function, entry) for name, entry in value.items()}
    elif isinstance(value, tuple):
        found = tuple(mapped(function, entry) for entry in value)
    return found
