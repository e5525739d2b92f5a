"""The model: one encoder and its heads, with a folder format to keep it in."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from atomica import environment
from atomica.data.inputs import GraphInputs
from atomica.data.inputs import inputs as inputs_of
from atomica.data.transfer import moved
from atomica.errors import DataError, SpecError
from atomica.files import CHECKSUMS, write_bytes
from atomica.heads import Head, head_class
from atomica.model.format import (
    DESCRIPTION,
    FORMAT,
    WEIGHTS,
    check_format,
    read_description,
    read_weights,
)
from atomica.nn.convolution import FullyConnected
from atomica.nn.encoders import settings_from
from atomica.nn.encoding import EncoderSettings, Encoding
from atomica.nn.kernels import registry
from atomica.spec import not_among

__all__ = ["Losses", "Model", "load"]


class Losses(NamedTuple):
    """total: weighted sum, a scalar; terms: each head's own loss, and under HEAD/… what a head logs beside it."""

    total: Tensor
    terms: dict[str, Tensor]


class Model(nn.Module):
    """An encoder with any number of named heads.

    `config`: settings of an encoder, which decide its kind too.
    `heads` maps names to heads; `weights` gives each head's share of the total loss (default 1).
    `kinds` maps names to registered kinds (default: the name itself) and is needed only to save.
    Raises SpecError if heads want the encoder to see different things.
    """

    def __init__(
        self,
        config: EncoderSettings,
        heads: Mapping[str, Head] | None = None,
        *,
        kinds: Mapping[str, str] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.encoder = config.build()
        self.heads = nn.ModuleDict(dict(heads or {}))
        self.kinds = {name: (kinds or {}).get(name, name) for name in self.heads}
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in self.heads}
        seen = {self.head(name).segment for name in self.heads}
        if len(seen) > 1:
            listing = ", ".join(
                f"{name} "
                + ("all" if self.head(name).segment is None else f"segment {self.head(name).segment}")
                for name in self.heads
            )
            raise SpecError(f"heads of one model must see the same part of a complex; {listing}")
        self.segment = seen.pop() if seen else None
        self.detailed = any("detail" in self.head(name).needs for name in self.heads)

    def with_heads(self, names: Collection[str]) -> Model:
        """The same model with some of its heads alone; it shares its weights."""
        found = copy.copy(self)
        found._modules = {**self._modules, "heads": nn.ModuleDict({name: self.heads[name] for name in names})}
        found.kinds = {name: self.kinds[name] for name in names}
        found.weights = {name: self.weights[name] for name in names}
        found.detailed = any("detail" in found.head(name).needs for name in names)
        return found

    def use_kernel(self, name: str) -> Model:
        """Let all convolutions, those of heads too, be computed by the kernel `name`; returns the model.

        Where that kernel does not work, PyTorch's operations go on to do the work; `registry.kernel_problem` says
        beforehand whether it does on a device. A saved model does not remember its kernel. Raises SpecError for a
        name that is none of `registry.CHOICES`.
        """
        if name not in registry.CHOICES:
            raise SpecError(f"kernel = {name!r}: {not_among(name, tuple(registry.CHOICES))}")
        for convolution in self._convolutions():
            convolution.kernel = name
        return self

    @property
    def kernel(self) -> str | None:
        """The kernel that computes its convolutions where it is now; None if it has no convolution.

        >>> from atomica.testing import small_model
        >>> small_model().use_kernel("torch").kernel, small_model().kernel
        ('torch', 'rust')
        """
        for convolution in self._convolutions():
            return registry.kernel_for(convolution.kernel, next(convolution.parameters()))
        return None

    def _convolutions(self) -> list[FullyConnected]:
        return [module for module in self.modules() if isinstance(module, FullyConnected)]

    def inputs(self, graph: Any) -> GraphInputs:
        """The tensors of a batched DGL graph on the model's device and in its precision."""
        return self.attach(graph, {})

    def encode(self, graph: Any) -> Encoding:
        """Embeddings of a batched DGL graph (or `GraphInputs`): atom [A, H], block [B, H], graph [G, H].

        A model that reads one segment alone (see `Head.segment`) gives the atoms and blocks of that segment.
        """
        return self.encoder(self._seen(self.inputs(graph)))

    def _seen(self, inputs: GraphInputs) -> GraphInputs:
        return inputs if self.segment is None else inputs.only(self.segment)

    def run(self, graph: Any) -> tuple[Encoding, dict[str, Any]]:
        """The embeddings that `encode` gives, and the raw output of every head."""
        inputs = self.inputs(graph)
        seen = self._seen(inputs)
        encoding = self.encoder.detailed(seen) if self.detailed else self.encoder(seen)
        return encoding, {name: head(encoding, inputs) for name, head in self.heads.items()}

    def outputs(self, graph: Any) -> dict[str, Any]:
        """Raw output of every head."""
        return self.run(graph)[1]

    def predict(self, graph: Any) -> dict[str, Any]:
        """Prediction of every head, in the units a user reads, without gradients and without dropout."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                outputs = self.outputs(graph)
                return {name: self.head(name).predict(output) for name, output in outputs.items()}
        finally:
            self.train(training)

    def loss(
        self, graph: Any, targets: Mapping[str, Any], known: Mapping[str, Tensor] | None = None
    ) -> Losses:
        """Losses against `targets`, a dict from head name to labels as the head's `encode_labels` makes them.

        Heads that learn without targets need no entry. known: for heads that lack the label of some complexes,
        a bool [G] that is False there.
        """
        rows = None if known is None else self.labelled(known)
        return self.loss_of(self.outputs(self.attach(graph, targets)), targets, rows)

    def counts(
        self, inputs: GraphInputs, targets: Mapping[str, Any], known: Mapping[str, Tensor]
    ) -> dict[str, dict[str, int]]:
        """Of how many things each part of each head's loss is the mean, see `Head.counts`."""
        return {
            name: {"": int(known[name].sum())}
            if name in known
            else self.head(name).counts(targets.get(name), inputs)
            for name in self.heads
        }

    def attach(self, graph: Any, targets: Mapping[str, Any]) -> GraphInputs:
        """The inputs with what heads must know of their targets, such as which segment was perturbed."""
        return self.prepare(graph, targets).to(self._device)

    def prepare(self, graph: Any, targets: Mapping[str, Any]) -> GraphInputs:
        """What `attach` gives, before it is moved to the model's device, where a DGL graph is.

        All whose size depends on the data is made here, so that no step need wait for what the device finds.
        """
        if isinstance(graph, GraphInputs):
            inputs = graph
        else:
            inputs = inputs_of(graph, dtype=next(self.parameters()).dtype)
            if self.segment is not None:
                inputs = inputs.with_alone(self.segment)
        for name in self.heads:
            if name in targets:
                inputs = self.head(name).attach(inputs, targets[name])
        return inputs

    def labelled(self, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Heads that lack the label of some complexes → indices of those that have one, on the model's device.

        known: for heads with labels, a bool [G], best on the CPU, where its values are at hand.
        """
        return {
            name: moved(torch.nonzero(rows)[:, 0], self._device)
            for name, rows in known.items()
            if not bool(rows.all())
        }

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def loss_of(
        self,
        outputs: Mapping[str, Any],
        targets: Mapping[str, Any],
        rows: Mapping[str, Tensor] | None = None,
        shares: Mapping[str, Mapping[str, float]] | None = None,
    ) -> Losses:
        """Losses of outputs that are already there. Raises DataError naming a head without targets.

        rows: as `labelled` gives them.
        A head that knows the label of no complex adds nothing, and has no entry among the terms. shares: for a share of
        a larger batch, the fraction of the counts of each head that it has (see `counts`); the losses of all shares
        then add up to that of the batch.
        """
        missing = sorted(
            name for name in outputs if name not in targets and self.head(name).targets != "none"
        )
        if missing:
            raise DataError(
                f"no targets for head {', '.join(missing)}; given: {', '.join(sorted(targets)) or 'none'}"
            )
        device = self._device
        terms: dict[str, Tensor] = {}
        total = torch.zeros((), device=device)
        for name, output in outputs.items():
            head, target = self.head(name), targets.get(name)
            if target is not None:
                target = moved(target, device)
            own = None if rows is None else rows.get(name)
            if own is not None:
                if not len(own):
                    continue
                output, target = head.select(output, target, own)
            parts = head.parts(output, target)
            if shares is None:
                terms[name] = head.loss(output, target)
            else:
                share = shares[name]
                summands = head.summands(output, target).items()
                terms[name] = sum(
                    (value * _of(share, part) for part, value in summands), start=total.new_zeros(())
                )
                parts = {part: value * _of(share, part) for part, value in parts.items()}
            total = total + self.weights[name] * terms[name]
            terms |= {f"{name}/{part}": value.detach() for part, value in parts.items()}
        return Losses(total, terms)

    def head(self, name: str) -> Head:
        """A head by its name."""
        head = self.heads[name]
        assert isinstance(head, Head)
        return head

    def module_names(self) -> list[str]:
        """The modules of the model that have weights, as dotted names: encoder, encoder.atoms, heads, …"""
        return [
            name for name, module in self.named_modules() if name and any(True for _ in module.parameters())
        ]

    def forward(self, graph: Any) -> dict[str, Any]:
        """The same as `outputs`, under the name that wrappers such as DDP call."""
        return self.outputs(graph)

    def description(self) -> dict[str, Any]:
        """Everything but the weights, as plain data: what `model.json` holds."""
        return {
            "format": FORMAT,
            "encoder": self.config.description(),
            "heads": [
                {
                    "name": name,
                    "kind": self.kinds[name],
                    "weight": self.weights[name],
                    "config": dataclasses.asdict(self.head(name).config),
                }
                for name in self.heads
            ],
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Model:
        """A model with fresh weights from what `description` gives. Raises DataError on an unknown format."""
        check_format(description)
        encoder = settings_from(description["encoder"])
        heads, kinds, weights = {}, {}, {}
        for entry in description["heads"]:
            kind = head_class(entry["kind"])
            heads[entry["name"]] = kind(kind.Config(**entry["config"]), encoder)
            kinds[entry["name"]], weights[entry["name"]] = entry["kind"], entry["weight"]
        return cls(encoder, heads, kinds=kinds, weights=weights)

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `model.json` into `folder`, each complete or not at all."""
        from safetensors.torch import save

        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        (target / CHECKSUMS).unlink(missing_ok=True)  # of what was there before
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        write_bytes(target / WEIGHTS, save(weights))
        write_bytes(target / DESCRIPTION, json.dumps(self.description(), indent=2).encode())


def _of(shares: Mapping[str, float], part: str) -> float:
    return shares.get(part, shares[""])


def load(path: str | Path, device: str = "auto") -> Model:
    """Read a model that `Model.save` or a run wrote: `path` is its folder.

    device: "auto" (CUDA if there is one), "cpu", "cuda", "cuda:1", … Raises DataError saying what is missing,
    does not fit, or differs from the checksums that checkpoints have.
    """
    folder = Path(path)
    model = Model.from_description(read_description(folder))
    weights = read_weights(folder)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"{folder / WEIGHTS}: weights do not fit the description ({error})") from error
    return model.to(environment.device(device)).eval()
