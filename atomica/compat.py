"""Import of the original's models: its settings and state dictionaries become ours, parameter by parameter."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atomica.conv import FullyConnected
from atomica.encoder import EncoderConfig, Interaction, LevelEncoder
from atomica.errors import DataError
from atomica.heads.binary import BinaryConfig, BinaryHead
from atomica.irreps import Layout
from atomica.model import Model

__all__ = ["from_reference", "load_reference", "to_reference"]

_FROM = "the original's"
_SUPPORTED = ("PredictionModel", "ClassifierModel")


def from_reference(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> Model:
    """A model that computes what the original computes with these settings and weights.

    config: the JSON object beside released weights. state_dict: its parameters by name. The result has
    `reference_quirks` on. Raises DataError naming an unsupported model type, missing settings, and missing,
    left-over or misshapen parameters.
    """
    kind = config.get("model_type")
    if kind not in _SUPPORTED:
        raise DataError(f"model_type {kind!r} cannot be imported; supported: {', '.join(_SUPPORTED)}")
    needed = ["atom_hidden_size", "block_hidden_size", "edge_size", "n_layers", "k_neighbors"]
    if kind == "ClassifierModel":
        needed += ["num_pred_layers", "nonlinearity", "pred_hidden_size"]
    missing = [name for name in needed if name not in config]
    if missing:
        raise DataError(f"{_FROM} settings lack {', '.join(missing)}")
    embedding = state_dict.get("block_embedding.block_embedding.weight")
    if embedding is None:
        raise DataError(f"{_FROM} weights lack block_embedding.block_embedding.weight")
    encoder = EncoderConfig(
        atom_hidden=config["atom_hidden_size"],
        block_hidden=config["block_hidden_size"],
        edge_size=config["edge_size"],
        layers=config["n_layers"],
        dropout=config.get("dropout", 0.0),
        k_neighbors=config["k_neighbors"],
        atom_global=config.get("bottom_global_message_passing", False),
        block_global=config.get("global_message_passing", False),
        reference_quirks=True,
        block_types=embedding.shape[0],
    )
    heads = {}
    if kind == "ClassifierModel":
        # gelu and elu models were saved with a null activation; relu is the only one that survives
        settings = BinaryConfig(
            hidden=config["pred_hidden_size"],
            layers=config["num_pred_layers"],
            activation=config["nonlinearity"] or "relu",
            dropout=config.get("pred_dropout", 0.0),
        )
        heads["binary"] = BinaryHead(settings, encoder)
    model = Model(encoder, heads)
    _fill(model, dict(state_dict))
    return model.eval()


def load_reference(config_path: str | Path, weights_path: str | Path) -> Model:
    """Read the original's `*_config.json` and `*.pt`; code in the weights file is never run.

    Raises DataError for files that are not there, not JSON, or hold more than tensors.
    """
    for path in (config_path, weights_path):
        if not Path(path).is_file():
            raise DataError(f"{path}: no such file")
    try:
        config = json.loads(Path(config_path).read_text())
    except json.JSONDecodeError as error:
        raise DataError(f"{config_path}: not valid JSON ({error})") from error
    try:
        state = torch.load(weights_path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(
            f"{weights_path}: not a plain state dictionary ({error}). A pickled whole model holds code and is "
            "refused; save its state_dict() with the original's environment instead."
        ) from error
    return from_reference(config, state)


def to_reference(
    model: Model, value: Callable[[Tensor], Tensor | None] = torch.Tensor.detach
) -> dict[str, Tensor | None]:
    """The model's parameters under the original's names and shapes.

    `value` maps each parameter to what is exported, e.g. `lambda p: p.grad`; where it gives None for all parts
    of an original parameter the entry is None, where only for some of them these count as zero.
    """
    out: dict[str, Tensor | None] = {}
    for name, parameter in _direct(model).items():
        out[name] = value(parameter)
    for prefix, level in (
        ("encoder.encoder", model.encoder.atoms),
        ("top_encoder.encoder", model.encoder.blocks),
    ):
        for index, layer in enumerate(level.layers):
            assert isinstance(layer, Interaction)
            name = f"{prefix}.layers.{index}"
            norm = [layer.norm.weights[slot.name] for slot in layer.outputs.slots]
            out[f"{name}.norm_layer.affine_weight"] = _joined([value(weight) for weight in norm], norm)
            parts = [value(weight) for weight in layer.product.weights.values()]
            weight, bias = None, None
            if any(part is not None for part in parts):
                filled = {
                    key: torch.zeros_like(own) if part is None else part
                    for (key, own), part in zip(layer.product.weights.items(), parts, strict=True)
                }
                weight, bias = _unfuse(layer.product, filled)
            out[f"{name}.fc.3.weight"], out[f"{name}.fc.3.bias"] = weight, bias
    return out


def _joined(parts: list[Tensor | None], like: list[Tensor]) -> Tensor | None:
    if all(part is None for part in parts):
        return None
    return torch.cat(
        [torch.zeros_like(own) if part is None else part for part, own in zip(parts, like, strict=True)]
    )


def _direct(model: Model) -> dict[str, Tensor]:
    """Parameters that differ from the original's in name only."""
    encoder = model.encoder
    named: dict[str, Tensor] = {
        "block_embedding.block_embedding.weight": encoder.block_types.weight,
        "block_embedding.atom_embedding.weight": encoder.atom_types.weight,
        "edge_embedding_bottom.weight": encoder.atoms.kinds.weight,
        "edge_embedding_top.weight": encoder.blocks.kinds.weight,
    }

    def pair(theirs: str, module: Any) -> None:
        named[f"{theirs}.weight"], named[f"{theirs}.bias"] = module.weight, module.bias

    def level_of(prefix: str, level: LevelEncoder) -> None:
        pair(f"{prefix}.edge_embedder.1", level.length[0])
        pair(f"{prefix}.edge_embedder.4", level.length[3])
        for index, layer in enumerate(level.layers):
            assert isinstance(layer, Interaction)
            pair(f"{prefix}.layers.{index}.fc.0", layer.radial)
            named[f"{prefix}.layers.{index}.norm_layer.affine_bias"] = layer.norm.bias
        pair(f"{prefix}.out_ffn.0", level.out[0])
        pair(f"{prefix}.out_ffn.3", level.out[3])

    level_of("encoder.encoder", encoder.atoms)
    level_of("top_encoder.encoder", encoder.blocks)
    attention = encoder.atoms_to_block
    for theirs, module in (
        ("query_proj", attention.query),
        ("key_proj", attention.key),
        ("value_proj", attention.value),
        ("output_proj", attention.output),
    ):
        pair(f"atom_block_attn.{theirs}", module)
    pair("atom_block_attn_norm", attention.norm)
    pooling = encoder.pooling
    for index, (mixer, norm) in enumerate(zip(pooling.rounds, pooling.norms, strict=True)):
        assert isinstance(mixer, torch.nn.MultiheadAttention)
        name = f"attention_pooling.attention_layers.{index}"
        named[f"{name}.in_proj_weight"], named[f"{name}.in_proj_bias"] = (
            mixer.in_proj_weight,
            mixer.in_proj_bias,
        )
        pair(f"{name}.out_proj", mixer.out_proj)
        pair(f"attention_pooling.norms.{index}", norm)
    pair("attention_pooling.graph_repr_fc", pooling.output)
    if encoder.modalities is not None:
        named["modality_embedding.weight"] = encoder.modalities.weight
    if "binary" in model.heads:
        head = model.heads["binary"]
        assert isinstance(head, BinaryHead)
        for index, part in enumerate(head.network):
            if isinstance(part, torch.nn.Linear):
                pair(f"classifier_ffn.{index}", part)
    return named


def _slices(product: FullyConnected) -> list[tuple[str, slice, int, int]]:
    """Paths in e3nn's order of instructions: output key, rows in our tensor, input and output channels."""
    found = []
    order = {slot: index for index, slot in enumerate(product.outputs.slots)}
    source_order = {slot: index for index, slot in enumerate(product.inputs.slots)}
    for path in sorted(
        product.tables.paths, key=lambda path: (source_order[path.source], path.l_sh, order[path.target])
    ):
        rows = slice(path.first_channel, path.first_channel + path.source.channels)
        found.append((path.target.name, rows, path.source.channels, path.target.channels))
    return found


def _unfuse(product: FullyConnected, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Ours [U, n+1, v] per output → the original's last radial layer: weight [W, n], bias [W]."""
    pieces = [weights[key][rows] for key, rows, _, _ in _slices(product)]
    weight = torch.cat([piece[:, :-1].permute(0, 2, 1).flatten(0, 1) for piece in pieces])
    return weight, torch.cat([piece[:, -1].flatten() for piece in pieces])


def _fuse(product: FullyConnected, weight: Tensor, bias: Tensor) -> None:
    first = 0
    for key, rows, channels_in, channels_out in _slices(product):
        last = first + channels_in * channels_out
        target = product.weights[key]
        target[rows, :-1] = weight[first:last].view(channels_in, channels_out, -1).permute(0, 2, 1).to(target)
        target[rows, -1] = bias[first:last].view(channels_in, channels_out).to(target)
        first = last


@torch.no_grad()
def _fill(model: Model, state: dict[str, Tensor]) -> None:
    problems: list[str] = []

    def take(name: str, shape: torch.Size) -> Tensor | None:
        tensor = state.pop(name, None)
        if tensor is None:
            problems.append(f"{name} is missing")
        elif tensor.shape != shape:
            problems.append(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
            tensor = None
        return tensor

    for name, parameter in _direct(model).items():
        tensor = take(name, parameter.shape)
        if tensor is not None:
            parameter.copy_(tensor)
    for prefix, level in (
        ("encoder.encoder", model.encoder.atoms),
        ("top_encoder.encoder", model.encoder.blocks),
    ):
        for index, layer in enumerate(level.layers):
            assert isinstance(layer, Interaction)
            name = f"{prefix}.layers.{index}"
            layout: Layout = layer.outputs
            channels = sum(slot.channels for slot in layout.slots)
            affine = take(f"{name}.norm_layer.affine_weight", torch.Size([channels]))
            if affine is not None:
                parts = affine.split([slot.channels for slot in layout.slots])
                for slot, part in zip(layout.slots, parts, strict=True):
                    layer.norm.weights[slot.name].copy_(part)
            count = sum(wide * out for _, _, wide, out in _slices(layer.product))
            weight = take(f"{name}.fc.3.weight", torch.Size([count, layer.product.radial]))
            bias = take(f"{name}.fc.3.bias", torch.Size([count]))
            if weight is not None and bias is not None:
                _fuse(layer.product, weight, bias)
    # constants that e3nn keeps in the state: coupling coefficients, masks, the radial grid
    constants = ("._compiled_main", ".tp.weight", ".tp.output_mask", ".edge_embedder.0.offset")
    left = [name for name in state if not any(part in name for part in constants)]
    problems += [f"{name} has no place in this model type" for name in left]
    if problems:
        listing = "\n  ".join(problems[:20]) + (
            f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        )
        raise DataError(f"{_FROM} weights do not fit its settings:\n  {listing}")
