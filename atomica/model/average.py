"""Means of weights that come from one another, such as of a model and of what it became by more training."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from atomica.errors import SpecError
from atomica.model.model import Model

__all__ = ["average"]


def average(models: Sequence[Model], shares: Sequence[float] | None = None) -> Model:
    """The last model, with the mean of the weights of all, by shares; of numbers that are whole, its own.

    It pays where training went on from common weights (Izmailov et al., UAI 2018; Wortsman et al., ICML 2022). What
    some lack, such as a head, is the mean of those that have it. The last model is changed. Raises SpecError for no
    models, other shares than models, none above 0, or weights of one name and two sizes.

    >>> from atomica.testing import small_model
    >>> one, other = small_model("partner"), small_model("partner")
    >>> name, first = next(iter(one.named_parameters()))
    >>> wanted = (first + 3 * dict(other.named_parameters())[name]) / 4
    >>> bool((average([one, other], [1, 3]).get_parameter(name) - wanted).abs().max() < 1e-6)
    True
    """
    shares = [1.0] * len(models) if shares is None else list(shares)
    if not models or len(shares) != len(models) or min(shares) < 0 or sum(shares) <= 0:
        raise SpecError(
            f"{len(models)} models with shares {shares}: give each a number, 0 or more, and one above 0"
        )
    states = [model.state_dict() for model in models]
    mean = dict(states[-1])
    for name, last in mean.items():
        found = [(share, state[name]) for share, state in zip(shares, states, strict=True) if name in state]
        if other := [list(value.shape) for _, value in found if value.shape != last.shape]:
            raise SpecError(
                f"{name} is {other[0]} in one model, {list(last.shape)} in the last; average like sizes"
            )
        total = sum(share for share, _ in found)
        if last.is_floating_point() and total > 0:
            mean[name] = torch.stack([share / total * value for share, value in found]).sum(dim=0)
    models[-1].load_state_dict(mean)
    return models[-1]
