"""Import of the original's models: its settings and state dictionaries become ours, parameter by parameter.

`load` reads weights of either kind, ours and the original's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from atomica import environment
from atomica.data.origin import Origin
from atomica.errors import DataError
from atomica.heads import Head
from atomica.heads.affinity import AffinityConfig, AffinityHead
from atomica.heads.binary import BinaryConfig, BinaryHead
from atomica.heads.denoise import DenoiseConfig, DenoiseHead
from atomica.heads.interface import InterfaceConfig, InterfaceHead
from atomica.heads.masked_block import MaskedBlockConfig, MaskedBlockHead
from atomica.heads.multiclass import MulticlassConfig, MulticlassHead
from atomica.heads.multilabel import MultilabelConfig, MultilabelHead
from atomica.heads.regression import RegressionConfig, RegressionHead
from atomica.heads.residue import ResidueBinaryConfig, ResidueBinaryHead
from atomica.keys import SPECIAL_BLOCKS
from atomica.model.contract import Contract
from atomica.model.format import WEIGHTS
from atomica.model.model import Model, saved_contract
from atomica.model.model import load as load_own
from atomica.model.named import locate, settings_beside
from atomica.nn.convolution import FullyConnected
from atomica.nn.encoding import EmbeddingConfig
from atomica.nn.equivariant import EncoderConfig, EquivariantEncoder, LevelEncoder
from atomica.nn.layers import RADIAL_CUTOFF, Convolution, EmbeddingMixer

__all__ = [
    "MODEL_TYPES",
    "from_reference",
    "load",
    "load_reference",
    "made_for",
    "to_reference",
    "weights_file",
]

_FROM = "the original's"
_CONTRACT = Contract(origin=Origin(cutoff=8.0))
"""All that is known of the data of the original's models: the cutoff of its processing."""
Settings = Mapping[str, Any]


# ------------------------------------------------------------------------------------- settings, by model type


@dataclass(frozen=True)
class _ModelType:
    """How one of the original's model types becomes ours.

    needs: settings it must have beside those of every encoder. heads: their configurations, by kind, and
    weights: their shares of the total loss, if not 1. embeddings: whether external block features are read.
    nested: the setting that holds the encoder's settings, if they are not at the top, and the prefix of that
    encoder's parameters. settings: those that are read beside the ones of every encoder and `needs`.
    """

    needs: tuple[str, ...] = ()
    heads: Callable[[Settings, EncoderConfig], dict[str, Head]] = lambda config, encoder: {}
    weights: Callable[[Settings], dict[str, float]] = lambda config: {}
    embeddings: bool = False
    nested: str = ""
    settings: tuple[str, ...] = ()

    def unknown(self, config: Settings) -> list[str]:
        """Settings that are on and that nothing here reads: what they change would be silently wrong."""
        known = {*_ENCODER, *self.needs, *self.settings, *(_EMBEDDINGS if self.embeddings else ())}
        return [
            f"{name} = {value!r}" for name, value in config.items() if name not in known and _on(name, value)
        ]


_ENCODER = (
    *(
        "model_type",
        "atom_hidden_size",
        "block_hidden_size",
        "edge_size",
        "n_layers",
        "dropout",
        "k_neighbors",
    ),
    *(
        "global_message_passing",
        "bottom_global_message_passing",
        "fragmentation_method",
        "modality_embedding",
    ),
    *("top_max_edge_length", "head"),
)
"""Settings that are read of every model type, or only name something."""
_EMBEDDINGS = (
    *("block_embedding_size", "block_embedding0_size", "block_embedding1_size", "num_projector_layers"),
    *("projector_hidden_size", "projector_dropout", "nonlinearity"),
)
_LOSS = ("loss_type", "focal_alpha", "focal_gamma", "pocket_embedding_size")
_NETWORK = ("pred_dropout",)
_NOISE = (
    *(
        f"{task}_{what}"
        for task in ("translation", "rotation", "torsion", "atom")
        for what in ("noise", "weight")
    ),
    *("mask_weight", "num_masked_block_classes"),
)
_OFF: Mapping[str, float] = {"na_loss_weight": 1.0}
"""Settings that are off at another value than nothing."""


def _on(name: str, value: Any) -> bool:
    """Whether a setting does anything."""
    return bool(value) and value != _OFF.get(name)


def _classifier(config: Settings, encoder: EncoderConfig) -> dict[str, Head]:
    own = BinaryConfig(readout="graph", **_of_prediction(config))
    return {"binary": BinaryHead(own, encoder)}


def _of_prediction(config: Settings) -> dict[str, Any]:
    """Settings of the network of heads that answer yes or no."""
    return {
        "hidden": config["pred_hidden_size"],
        "layers": config["num_pred_layers"],
        "activation": _activation(config),
        "dropout": config.get("pred_dropout", 0.0),
    }


def _multiclass(config: Settings, encoder: EncoderConfig) -> dict[str, Head]:
    own = MulticlassConfig(**_of_classes(config, encoder))
    return {"multiclass": MulticlassHead(own, encoder)}


def _multilabel(config: Settings, encoder: EncoderConfig) -> dict[str, Head]:
    own = MultilabelConfig(**_of_classes(config, encoder))
    return {"multilabel": MultilabelHead(own, encoder)}


def _of_classes(config: Settings, encoder: EncoderConfig) -> dict[str, Any]:
    """Settings that heads on several classes share."""
    loss = config.get("loss_type") or "cross_entropy"
    known = {"cross_entropy": "cross_entropy", "binary_cross_entropy": "cross_entropy", "focal": "focal"}
    if loss not in known:
        raise DataError(f"loss_type = {loss!r} cannot be imported; supported: {', '.join(known)}")
    count = config["num_classes"]
    alpha = config.get("focal_alpha") if loss == "focal" else None  # read of the focal loss alone
    given = alpha if isinstance(alpha, list | tuple) and len(alpha) > 1 else None
    if alpha is not None and given is None:
        number = alpha[0] if isinstance(alpha, list | tuple) else alpha
        given = [number] * count
    return {
        "classes": tuple(str(index) for index in range(count)),
        "readout": "graph",
        "hidden": encoder.block_hidden,
        "layers": 4,
        "loss": known[loss],
        "focal_gamma": float(config.get("focal_gamma") or 0.0) if loss == "focal" else 2.0,
        "class_weights": "none" if given is None else tuple(map(float, given)),
        "vector_size": int(config.get("pocket_embedding_size") or 0),
    }


def _residues(config: Settings, encoder: EncoderConfig) -> dict[str, Head]:
    own = ResidueBinaryConfig(readout="block", **_of_prediction(config))
    return {"residue_binary": ResidueBinaryHead(own, encoder)}


def _regression(config: Settings, encoder: EncoderConfig) -> dict[str, Head]:
    own = RegressionConfig(readout="graph", hidden=encoder.block_hidden, layers=3, dropout=encoder.dropout)
    return {"regression": RegressionHead(own, encoder)}


def _affinity(config: Settings, encoder: EncoderConfig) -> dict[str, Head]:
    own = AffinityConfig(
        readout="block",
        hidden=config["affinity_pred_hidden_size"],
        layers=max(2, config["num_affinity_pred_layers"]),
        activation=_activation(config),
        dropout=config.get("affinity_pred_dropout", 0.0),
    )
    return {"affinity": AffinityHead(own, encoder)}


def _masked(config: Settings, encoder: EncoderConfig) -> dict[str, Head]:
    classes, known = config.get("num_masked_block_classes"), encoder.block_types - SPECIAL_BLOCKS
    if not classes:
        return {}
    if classes != known:
        raise DataError(
            f"num_masked_block_classes = {classes} does not fit a block vocabulary of {known} ordinary types"
        )
    return {"masked_block": MaskedBlockHead(MaskedBlockConfig(dropout=encoder.dropout), encoder)}


def _denoise(config: Settings, encoder: EncoderConfig) -> dict[str, Head]:
    tasks = [name for name in ("translation", "rotation", "torsion", "atom") if config.get(f"{name}_noise")]
    weights = {name: float(config.get(f"{name}_weight", 1.0)) for name in tasks}
    silent = [name for name, weight in weights.items() if weight == 0.0]
    if silent:
        raise DataError(
            f"{', '.join(f'{name}_weight' for name in silent)} = 0: set the noise to false instead"
        )
    heads: dict[str, Head] = {}
    if tasks:
        off = dict.fromkeys(("translation", "rotation", "torsion", "atom"), 0.0)
        heads["denoise"] = DenoiseHead(DenoiseConfig(**{**off, **weights}), encoder)
    return {**heads, **_masked(config, encoder)}


def _mask_weight(config: Settings) -> dict[str, float]:
    return {"masked_block": float(config.get("mask_weight", 1.0))}


def _interface(config: Settings, encoder: EncoderConfig) -> dict[str, Head]:
    return {"interface": InterfaceHead(InterfaceConfig(), encoder)}


def _activation(config: Settings) -> str:
    # gelu and elu models were saved with a null activation; relu is the only one that survives
    return config.get("nonlinearity") or "relu"


MODEL_TYPES: Mapping[str, _ModelType] = {
    "PredictionModel": _ModelType(),
    "ClassifierModel": _ModelType(
        ("num_pred_layers", "nonlinearity", "pred_hidden_size"), _classifier, settings=_NETWORK
    ),
    "ResidueClassifierModel": _ModelType(
        ("num_pred_layers", "nonlinearity", "pred_hidden_size"), _residues, settings=_NETWORK
    ),
    "MultiClassClassifierModel": _ModelType(
        ("num_classes",), _multiclass, settings=("num_masked_block_classes", *_LOSS)
    ),
    "MultiLabelClassifierModel": _ModelType(("num_classes",), _multilabel, settings=_LOSS),
    "RegressionPredictor": _ModelType(heads=_regression),
    "AffinityPredictor": _ModelType(
        ("num_affinity_pred_layers", "nonlinearity", "affinity_pred_hidden_size"),
        _affinity,
        embeddings=True,
        settings=("affinity_pred_dropout",),
    ),
    "MaskedNodeModel": _ModelType(("num_masked_block_classes",), _masked, settings=("attn_pad_mask",)),
    "ProteinInterfaceModel": _ModelType(heads=_interface, nested="prot_model"),
    "DenoisePretrainModel": _ModelType(heads=_denoise, weights=_mask_weight, settings=_NOISE),
    "DenoisePretrainModelWithBlockEmbedding": _ModelType(
        heads=_denoise, weights=_mask_weight, embeddings=True, settings=_NOISE
    ),
}
"""The original's model types that can be imported."""


def from_reference(config: Settings, state_dict: Mapping[str, Tensor]) -> Model:
    """A model that computes what the original computes with these settings and weights.

    config: the JSON object beside released weights. state_dict: its parameters by name. The result has
    `reference_quirks` on. Raises DataError naming an unsupported model type, missing settings, and missing,
    left-over or misshapen parameters.
    """
    kind = config.get("model_type")
    known = MODEL_TYPES.get(str(kind))
    if known is None:
        raise DataError(f"model_type {kind!r} cannot be imported; supported: {', '.join(MODEL_TYPES)}")
    if known.nested:
        if not isinstance(config.get(known.nested), Mapping):
            raise DataError(f"{_FROM} settings lack {known.nested}")
        config = config[known.nested]
    needed = ["atom_hidden_size", "block_hidden_size", "edge_size", "n_layers", "k_neighbors", *known.needs]
    missing = [name for name in needed if name not in config]
    if missing:
        raise DataError(f"{_FROM} settings lack {', '.join(missing)}")
    if unknown := known.unknown(config):
        raise DataError(
            f"{_FROM} settings {', '.join(unknown)} change what a {kind} computes, and cannot be imported"
        )
    prefix = f"{known.nested}." * bool(known.nested)
    name = f"{prefix}block_embedding.block_embedding.weight"
    if name not in state_dict:
        raise DataError(f"{_FROM} weights lack {name}")
    encoder = EncoderConfig(
        atom_hidden=config["atom_hidden_size"],
        block_hidden=config["block_hidden_size"],
        edge_size=config["edge_size"],
        layers=config["n_layers"],
        dropout=config.get("dropout", 0.0),
        k_neighbors=config["k_neighbors"],
        atom_global=config.get("bottom_global_message_passing", False),
        block_global=config.get("global_message_passing", False),
        modality_embedding=bool(config.get("modality_embedding", False)),
        reference_quirks=True,
        pad_mask=bool(config.get("attn_pad_mask", False)),
        **_block_grid(config, state_dict.get(f"{prefix}top_encoder.encoder.edge_embedder.0.offset")),
        block_types=state_dict[name].shape[0],
        embeddings=_embeddings(config) if known.embeddings else EmbeddingConfig(),
    )
    model = Model(encoder, known.heads(config, encoder), weights=known.weights(config), made_for=_CONTRACT)
    _fill(model, dict(state_dict))
    return model.eval()


def _block_grid(config: Settings, saved: Tensor | None) -> dict[str, float]:
    """The distance Gaussians between blocks: the centres are saved with the weights, the width is a setting."""
    longest = float(config.get("top_max_edge_length") or RADIAL_CUTOFF)
    cutoff = longest if saved is None else float(saved[-1])
    if saved is not None and not torch.allclose(saved.cpu(), torch.linspace(0.0, cutoff, len(saved))):
        raise DataError(f"{_FROM} weights have distance Gaussians between blocks that are not evenly spaced")
    width = longest / (config["edge_size"] - 1)
    return {"block_cutoff": cutoff, "block_width": 0.0 if cutoff == longest else width}


def _embeddings(config: Settings) -> EmbeddingConfig:
    common = config.get("block_embedding_size")
    each = (config.get("block_embedding0_size"), config.get("block_embedding1_size"))
    sizes = (common,) if common else each if all(each) else ()
    if not sizes:
        return EmbeddingConfig()
    missing = [name for name in ("num_projector_layers", "projector_hidden_size") if name not in config]
    if missing:
        raise DataError(f"{_FROM} settings lack {', '.join(missing)}")
    return EmbeddingConfig(
        sizes=tuple(int(size) for size in sizes if size),
        hidden=config["projector_hidden_size"],
        layers=max(2, config["num_projector_layers"]),
        activation=_activation(config),
        dropout=config.get("projector_dropout", 0.0),
    )


def load(path: str | Path, device: str = "auto", *, config: str | Path | None = None) -> Model:
    """Read a trained model, ours or the original's.

    path: the folder of a saved model (a run's checkpoints/best); or the original's weights, NAME.pt, with their
    settings beside them as NAME_config.json, or NAME_weights.pt with NAME_config.json, or model.pt or weights.pt with
    config.json; or a folder that holds one such pair; or a name, of weights in the package or
    hf://ORG/NAME[@REVISION][/FILE], see `model.named`. config: the original's settings where they lie elsewhere.
    device: "auto" (CUDA if there is one), "cpu", "cuda", "cuda:1", … A pickled whole model (.ckpt, .pkl) is refused,
    since reading one runs code from it. Raises DataError saying what is missing or does not fit.
    """
    weights, settings = _files(path, None if config is None else Path(config))
    if settings is None:
        return load_own(weights.parent, device)
    return load_reference(settings, weights).to(environment.device(device))


def made_for(path: str | Path, *, config: str | Path | None = None) -> Contract:
    """What a trained model was made for, without its weights; arguments and errors as of `load`."""
    weights, settings = _files(path, None if config is None else Path(config))
    return saved_contract(weights.parent) if settings is None else _CONTRACT


def weights_file(path: str | Path, config: str | Path | None = None) -> Path:
    """The file with the numbers of what `load` would read."""
    return _files(path, None if config is None else Path(config))[0]


def _files(named: str | Path, config: Path | None) -> tuple[Path, Path | None]:
    """Weights, and settings if they are the original's, of what `named` names."""
    path, config = locate(named), None if config is None else config.expanduser()
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.is_dir():
        pairs = sorted(path.glob("*.pt"))
        if (path / WEIGHTS).is_file() or not pairs:
            if config is not None:
                raise DataError(f"{path}: holds no .pt file, so that settings beside it have no effect")
            return path / WEIGHTS, None
        if len(pairs) > 1:
            raise DataError(
                f"{path}: holds several weights ({', '.join(p.name for p in pairs)}); name one of them"
            )
        path = pairs[0]
    if path.suffix.lower() in (".ckpt", ".pkl", ".pickle"):
        raise DataError(
            f"{path}: a pickled whole model is not read, since that would run whatever code is in the file. In the "
            "environment it was made with, save its state_dict() as NAME.pt and its settings as NAME_config.json, or "
            "use the weights that were released in that form"
        )
    if path.name == WEIGHTS:
        raise DataError(f"{path}: name the folder that holds it")
    if path.suffix != ".pt":
        raise DataError(f"{path}: neither the folder of a saved model nor weights of the original (.pt)")
    names = settings_beside(path.name)
    settings = config or next((path.with_name(n) for n in names if path.with_name(n).is_file()), None)
    if settings is None:
        raise DataError(f"{path}: its settings are not beside it as {' or '.join(names)}; say where they are")
    return path, settings


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
    names = _names(model)
    out: dict[str, Tensor | None] = {name: value(parameter) for name, parameter in names.direct.items()}
    for name, convolution in names.convolutions.items():
        norm = [convolution.norm.weights[slot.name] for slot in convolution.outputs.slots]
        out[f"{name}.norm_layer.affine_weight"] = _joined([value(weight) for weight in norm], norm)
        parts = [value(weight) for weight in convolution.product.weights.values()]
        weight, bias = None, None
        if any(part is not None for part in parts):
            filled = {
                key: torch.zeros_like(own) if part is None else part
                for (key, own), part in zip(convolution.product.weights.items(), parts, strict=True)
            }
            weight, bias = _unfuse(convolution.product, filled)
        out[f"{name}.fc.3.weight"], out[f"{name}.fc.3.bias"] = weight, bias
    return out


def _joined(parts: list[Tensor | None], like: list[Tensor]) -> Tensor | None:
    if all(part is None for part in parts):
        return None
    return torch.cat(
        [torch.zeros_like(own) if part is None else part for part, own in zip(parts, like, strict=True)]
    )


# --------------------------------------------------------------------------------------- names of parameters


@dataclass(frozen=True)
class _Names:
    """The original's names: of parameters that are the same in ours, and of convolutions, which are not."""

    direct: dict[str, Tensor] = field(default_factory=dict)
    convolutions: dict[str, Convolution] = field(default_factory=dict)

    def linear(self, name: str, module: Any) -> None:
        """A module with a weight and perhaps a bias."""
        self.direct[f"{name}.weight"] = module.weight
        if module.bias is not None:
            self.direct[f"{name}.bias"] = module.bias

    def sequence(self, name: str, modules: Any, first: int, step: int) -> None:
        """The linear layers of a network, which in the original are number `first`, `first + step`, …"""
        layers = [module for module in modules if isinstance(module, torch.nn.Linear)]
        for index, layer in enumerate(layers):
            self.linear(f"{name}.{first + step * index}", layer)

    def convolution(self, name: str, module: Convolution) -> None:
        self.convolutions[name] = module
        self.linear(f"{name}.fc.0", module.radial)
        # where there is nothing to shift the original has a parameter without elements
        bias = module.norm.bias if module.norm.bias is not None else torch.zeros(0)
        self.direct[f"{name}.norm_layer.affine_bias"] = bias

    def level(self, name: str, level: LevelEncoder) -> None:
        self.sequence(f"{name}.edge_embedder", level.length, 1, 3)
        for index, layer in enumerate(level.layers):
            assert isinstance(layer, Convolution)
            self.convolution(f"{name}.layers.{index}", layer)
        self.sequence(f"{name}.out_ffn", level.out, 0, 3)

    def encoder(self, prefix: str, encoder: nn.Module) -> None:
        assert isinstance(encoder, EquivariantEncoder)
        self.direct.update(
            {
                f"{prefix}block_embedding.block_embedding.weight": encoder.block_types.weight,
                f"{prefix}block_embedding.atom_embedding.weight": encoder.atom_types.weight,
                f"{prefix}edge_embedding_bottom.weight": encoder.atoms.kinds.weight,
                f"{prefix}edge_embedding_top.weight": encoder.blocks.kinds.weight,
            }
        )
        self.level(f"{prefix}encoder.encoder", encoder.atoms)
        self.level(f"{prefix}top_encoder.encoder", encoder.blocks)
        attention, pooling = encoder.atoms_to_block, encoder.pooling
        for part in ("query", "key", "value", "output"):
            self.linear(f"{prefix}atom_block_attn.{part}_proj", getattr(attention, part))
        self.linear(f"{prefix}atom_block_attn_norm", attention.norm)
        for index, (mixer, norm) in enumerate(zip(pooling.rounds, pooling.norms, strict=True)):
            assert isinstance(mixer, torch.nn.MultiheadAttention)
            name = f"{prefix}attention_pooling.attention_layers.{index}"
            self.direct[f"{name}.in_proj_weight"] = mixer.in_proj_weight
            self.direct[f"{name}.in_proj_bias"] = mixer.in_proj_bias
            self.linear(f"{name}.out_proj", mixer.out_proj)
            self.linear(f"{prefix}attention_pooling.norms.{index}", norm)
        self.linear(f"{prefix}attention_pooling.graph_repr_fc", pooling.output)
        if encoder.modalities is not None:
            self.direct[f"{prefix}modality_embedding.weight"] = encoder.modalities.weight
        for when, mixing in (("pre", encoder.mix_before), ("post", encoder.mix_after)):
            if mixing is not None:
                self.mixing(prefix + when, mixing)

    def mixing(self, name: str, mixing: EmbeddingMixer) -> None:
        for index, (projector, mixer) in enumerate(zip(mixing.projectors, mixing.mixers, strict=True)):
            segment = "" if len(mixing.projectors) == 1 else str(index)
            self.sequence(f"{name}_projector{segment}", projector, 2, 3)
            self.sequence(f"{name}_mixing_ffn{segment}", mixer, 2, 3)

    def denoise(self, head: DenoiseHead) -> None:
        level, config = "encoder.encoder", head.config
        if config.atom:
            self.sequence(f"{level}.local_denoise_edge_embedder", head.atom_length, 1, 3)
            self.convolution(f"{level}.local_denoise_predictor", head.atom_convolution)
            self.sequence("top_scale_noise_ffn", head.atom_scale, 2, 3)
        if config.translation or config.rotation:
            self.sequence(f"{level}.global_denoise_edge_embedder", head.center_length, 1, 3)
            self.convolution(f"{level}.global_denoise_predictor", head.center_convolution)
        if config.translation:
            self.sequence("top_translation_scale_ffn", head.translation_scale, 2, 3)
        if config.rotation:
            self.sequence("top_rotation_scale_ffn", head.rotation_scale, 2, 3)
        if config.torsion:
            self.sequence(f"{level}.torsion_edge_embedder", head.torsion_length, 1, 3)
            self.convolution(f"{level}.tor_bond_conv", head.torsion_convolution)
            self.sequence(f"{level}.tor_final_layer", head.torsion_network, 0, 3)

    def classes(self, head: MulticlassHead | MultilabelHead) -> None:
        self.sequence("classifier_ffn", head.network, 1, 2)
        if head.vector is not None:
            self.linear("pocket_projector", head.vector)

    def interface(self, head: InterfaceHead) -> None:
        self.encoder("cmplx_model.", head.complex_encoder)
        self.sequence("prot_ffn", head.pocket_network, 1, 2)
        self.sequence("cmplx_ffn", head.complex_network, 1, 2)


_HEAD_NAMES: Mapping[type[Head], Callable[[_Names, Any], None]] = {
    AffinityHead: lambda names, head: names.sequence("energy_ffn", head.network, 2, 3),
    BinaryHead: lambda names, head: names.sequence("classifier_ffn", head.network, 2, 3),
    DenoiseHead: _Names.denoise,
    InterfaceHead: _Names.interface,
    MaskedBlockHead: lambda names, head: names.sequence("masked_ffn", head.network, 1, 3),
    MulticlassHead: _Names.classes,
    MultilabelHead: _Names.classes,
    ResidueBinaryHead: lambda names, head: names.sequence("classifier_ffn", head.network, 2, 3),
    RegressionHead: lambda names, head: names.sequence("energy_ffn", head.network, 2, 3),
}


def _names(model: Model) -> _Names:
    """All parameters of a model under the original's names. Raises DataError for heads that it does not have."""
    names = _Names()
    heads = list(model.heads.values())
    names.encoder("prot_model." if any(type(head) is InterfaceHead for head in heads) else "", model.encoder)
    for name, head in model.heads.items():
        add = _HEAD_NAMES.get(type(head))  # type: ignore[arg-type]
        if add is None:
            raise DataError(f"head {name!r} has no counterpart in {_FROM} models")
        add(names, head)
    return names


def _slices(product: FullyConnected) -> list[tuple[str, slice, int, int]]:
    """Paths in e3nn's order of instructions: output key, rows in our tensor, input and output channels."""
    found = []
    order = {slot: index for index, slot in enumerate(product.outputs.slots)}
    source_order = {slot: index for index, slot in enumerate(product.inputs.slots)}
    for path in sorted(
        product.tables.paths, key=lambda path: (source_order[path.source], path.harmonic, order[path.target])
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

    names = _names(model)
    for name, parameter in names.direct.items():
        tensor = take(name, parameter.shape)
        if tensor is not None:
            parameter.copy_(tensor)
    for name, convolution in names.convolutions.items():
        slots = convolution.outputs.slots
        affine = take(f"{name}.norm_layer.affine_weight", torch.Size([sum(slot.channels for slot in slots)]))
        if affine is not None:
            for slot, part in zip(slots, affine.split([slot.channels for slot in slots]), strict=True):
                convolution.norm.weights[slot.name].copy_(part)
        count = sum(wide * out for _, _, wide, out in _slices(convolution.product))
        weight = take(f"{name}.fc.3.weight", torch.Size([count, convolution.product.radial]))
        bias = take(f"{name}.fc.3.bias", torch.Size([count]))
        if weight is not None and bias is not None:
            _fuse(convolution.product, weight, bias)
    # constants that e3nn keeps in the state: coupling coefficients, masks, the radial grid
    constants = (
        "._compiled_main",
        ".tp.weight",
        ".tp.output_mask",
        "edge_embedder.0.offset",
        ".final_tp_tor.",
    )
    left = [name for name in state if not any(part in name for part in constants)]
    problems += [f"{name} has no place in this model type" for name in left]
    if problems:
        listing = "\n  ".join(problems[:20]) + (
            f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        )
        raise DataError(f"{_FROM} weights do not fit its settings:\n  {listing}")
