"""Starting from another model's weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from atomica.errors import DataError
from atomica.files import sha256_of
from atomica.model.format import WEIGHTS, read_description, read_weights, saved_encoder
from atomica.model.model import Model
from atomica.model.named import locate
from atomica.nn.encoders import DEFAULT
from atomica.nn.encoding import EncoderSettings
from atomica.spec import Problems, setting, show

__all__ = ["InitConfig", "inherit", "initialise", "take_label_scales"]

ANSWER = (
    "positive",
    "negative",
    "classes",
    "readout",
    "pool",
    "counts",
    "over",
    "surroundings",
    "activation",
)
"""Keys of heads that say what they read and what their outputs mean: with others the same weights are wrong."""


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """The keys of section `[model]` beside those of the encoder."""

    kind: str | None = setting(
        None, 'which encoder, see atomica-run --list; absent: that of the model in init, else "equivariant"'
    )
    init: str | None = setting(
        None,
        "folder of a saved model (such as a run's checkpoints/best), or its name, hf://ORG/NAME, whose weights the run "
        "starts from; settings of [model] left out are taken from it",
        path="weights",
    )
    force: bool = setting(
        False, "start from model.init although its data had another cutoff, rule or fragment vocabulary"
    )

    def __post_init__(self) -> None:
        """Check keys against each other."""
        Problems.check(
            (self.force and self.init is None, "force", "has no effect without model.init; remove it")
        )


def inherit(own: EncoderSettings, given: Collection[str], saved: Mapping[str, Any]) -> EncoderSettings:
    """`own` with every setting that is not among `given` taken from `saved`, as `saved_encoder` gives it.

    Raises DataError if the kinds differ, or naming every size that differs from the saved one.
    """
    _check_kind(own, saved)
    taken = {
        field.name: saved[field.name]
        for field in dataclasses.fields(own)
        if field.name not in given and field.name in saved
    }
    config = dataclasses.replace(own, **taken)
    other = [
        f"{name} is {saved[name]} there, {getattr(config, name)} here"
        for name in own.sizes
        if name in saved and getattr(config, name) != saved[name]
    ]
    if other:
        raise DataError("its weights have other sizes: " + "; ".join(other))
    return config


def initialise(model: Model, folder: str | Path) -> list[str]:
    """Copy the weights of a saved model into `model`; returns what was loaded and what not, for a person.

    The encoder is copied, also into heads that keep a copy of it; a head is, if the saved model has one of the
    same name, kind and sizes that answers the same question. Weights that only one of the two has stay as they are.
    Raises DataError if the folder holds no model, or its encoder is of another kind or has other sizes.
    """
    source = locate(folder)
    description, weights = read_description(source), read_weights(source)
    _check_kind(model.config, saved_encoder(source))
    encoder = _under(weights, "encoder")
    loaded: list[str] = []
    lines = [
        f"from {folder}, SHA-256 {sha256_of(source / WEIGHTS)}",
        _copy(model.encoder, encoder, "encoder"),
    ]
    saved = {entry["name"]: entry for entry in description["heads"]}
    for name in model.heads:
        head, found = model.head(name), _under(weights, f"heads.{name}")
        why = _other(model, name, saved[name], found) if name in saved else "there is none of that name"
        if not why:
            lines.append(_copy(head, found, f"heads.{name}"))
            loaded.append(name)
            continue
        lines.append(f"heads.{name} left fresh: {why}")
        for copy in head.encoder_copies:
            lines.append(_copy(head.get_submodule(copy), encoder, f"heads.{name}.{copy}"))
    take_label_scales(model, source, only=loaded)
    unused = [name for name in saved if name not in model.heads]
    if unused:
        lines.append(f"not used: heads {', '.join(unused)} of the saved model")
    return lines


def take_label_scales(model: Model, folder: Path, only: Collection[str] | None = None) -> None:
    """Let heads of a model, or `only` some, mean by their outputs what those of a saved one of the same names mean."""
    for entry in read_description(folder)["heads"]:
        if (
            entry["name"] in (model.heads if only is None else only)
            and (head := model.head(entry["name"])).label_scale is not None
        ):
            head.label_scale = tuple(entry.get("label_scale") or (0.0, 1.0))


def _check_kind(own: EncoderSettings, saved: Mapping[str, Any]) -> None:
    kind = saved.get("kind", DEFAULT)
    if kind != own.kind:
        raise DataError(
            f'its encoder is of the kind {kind!r}, this one {own.kind!r}; set model.kind = "{kind}"'
        )


def _under(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights whose names start with `prefix` and a dot, without them."""
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in weights.items()
        if name.startswith(f"{prefix}.")
    }


def _other(model: Model, name: str, saved: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """In what a saved head differs from that of the same name so that its weights are of no use; empty for nothing."""
    head = model.head(name)
    if saved["kind"] != model.kinds[name]:
        return f"the saved head of that name is a {saved['kind']}"
    if not _fits(head, weights):
        return "the saved one has other sizes"
    found = saved.get("config", {})
    for key in ANSWER:
        own = getattr(head.config, key, None)
        own = list(own) if isinstance(own, tuple) else own
        if own is not None and key in found and found[key] != own:
            return f"the saved one has {key} = {show(found[key])}"
    return ""


def _fits(module: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    own = {name: tensor.shape for name, tensor in module.state_dict().items()}
    return own == {name: tensor.shape for name, tensor in weights.items()}


def _copy(module: nn.Module, weights: Mapping[str, Tensor], name: str) -> str:
    """Put the weights that `module` has into it; says how many, and which stay fresh or are not used."""
    own = module.state_dict()
    wrong = [
        f"{key} is {list(weights[key].shape)} there, {list(own[key].shape)} here"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    if wrong:
        raise DataError(f"weights of {name} have other sizes: " + "; ".join(wrong[:5]))
    shared = {key: tensor for key, tensor in weights.items() if key in own}
    module.load_state_dict(shared, strict=False)
    fresh, unused = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    line = f"{name} loaded, {sum(t.numel() for t in shared.values()):,} numbers"
    line += f"; left fresh: {', '.join(fresh[:5])}{' …' if len(fresh) > 5 else ''}" if fresh else ""
    return line + (f"; not used: {', '.join(unused[:5])}{' …' if len(unused) > 5 else ''}" if unused else "")
