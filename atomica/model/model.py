"""The model: one encoder and its heads, with a folder format to keep it in."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from atomica import environment, keys
from atomica.data import graph as graphs
from atomica.data.inputs import GraphInputs
from atomica.data.inputs import inputs as inputs_of
from atomica.data.record import Record
from atomica.data.sampling import plan_batches
from atomica.data.transfer import moved
from atomica.errors import DataError, SpecError
from atomica.files import CHECKSUMS, to_json, write_bytes
from atomica.heads import Head, head_class, kind_of
from atomica.model.contract import Contract
from atomica.model.format import (
    DESCRIPTION,
    FORMAT,
    WEIGHTS,
    check_format,
    read_description,
    read_weights,
)
from atomica.model.named import locate
from atomica.nn.convolution import FullyConnected
from atomica.nn.encoders import settings_from
from atomica.nn.encoding import EncoderSettings, Encoding
from atomica.nn.kernels import registry
from atomica.nn.representations import Representation
from atomica.spec import not_among

if torch.distributed.is_available():
    # DistributedDataParallel reads it in when it runs first, and its functions keep the group that there is then as a
    # default argument: the group outlives `destroy_process_group`, and its threads abort the process if they still let
    # go of a tensor while the interpreter is taken down. Read in before there is a group, it keeps none.
    import torch.distributed.nn.functional

__all__ = ["Losses", "Model", "load", "saved_contract"]

BATCH_BLOCKS = 2048
"""Blocks, about, of the batches in which `predict` works through records."""


class Losses(NamedTuple):
    """total: weighted sum, a scalar; terms: each head's own loss, and under HEAD/… what a head logs beside it."""

    total: Tensor
    terms: dict[str, Tensor]


class Model(nn.Module):
    """An encoder with any number of named heads.

    `config`: settings of an encoder, which decide its kind too.
    `heads` maps names to heads; `weights` gives each head's share of the total loss (default 1).
    `kinds` maps names to registered kinds (default: that of the head's class) and is needed only to save.
    `made_for`: what data it is to be given, see `Contract`.
    What it is given is a graph of any origin; records, which it makes into the graph it wants; or `GraphInputs`.
    Raises SpecError if heads want the encoder to see different things.
    """

    def __init__(
        self,
        config: EncoderSettings,
        heads: Mapping[str, Head] | None = None,
        *,
        kinds: Mapping[str, str] | None = None,
        weights: Mapping[str, float] | None = None,
        made_for: Contract | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.encoder = config.build()
        self.heads = nn.ModuleDict(dict(heads or {}))
        self.kinds = {
            name: (kinds or {}).get(name) or kind_of(type(self.head(name))) or name for name in self.heads
        }
        self.made_for = made_for or Contract()
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in self.heads}
        seen = {self.head(name).segment for name in self.heads}
        if len(seen) > 1:
            listing = ", ".join(
                f"{name} "
                + ("all" if self.head(name).segment is None else f"segment {self.head(name).segment}")
                for name in self.heads
            )
            raise SpecError(f"heads of one model must see the same of a complex; {listing}")
        self.segment = seen.pop() if seen else None
        self._look()

    def with_heads(self, names: Collection[str]) -> Model:
        """The same model with some of its heads alone; it shares its weights."""
        found = copy.copy(self)
        found._modules = {**self._modules, "heads": nn.ModuleDict({name: self.heads[name] for name in names})}
        found.kinds = {name: self.kinds[name] for name in names}
        found.weights = {name: self.weights[name] for name in names}
        found._look()
        return found

    def _look(self) -> None:
        """See what the heads need of the encoder."""
        needs = {need for name in self.heads for need in self.head(name).needs_of(self.head(name).config)}
        self.invariants = "invariants" in needs
        self.detailed = self.invariants or "detail" in needs

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
        """The tensors of a batched DGL graph, or of records, on the model's device and in its precision."""
        return self.attach(graph, {})

    def encode(self, graph: Any) -> Encoding:
        """Embeddings of a batched DGL graph (or records): atom [A, H], block [B, H], graph [G, H].

        A model that reads one segment alone (see `Head.segment`) gives the atoms and blocks of that segment.
        """
        return self.encoder(self._seen(self.inputs(graph)))

    def represent(self, graph: Any, *wanted: Representation) -> list[Tensor]:
        """Representations of a batched DGL graph (or `GraphInputs`), from one run of the encoder.

        A complex without the partner that an interface is asked of gets zeros. Raises SpecError for one that the
        encoder cannot give.

        >>> from atomica.testing import graph_of, random_interface, small_model
        >>> model = small_model()
        >>> (found,) = model.represent(graph_of(model, random_interface(1)), Representation("z_graph", "mean_std"))
        >>> found.shape
        torch.Size([1, 320])
        """
        for one in wanted:
            if problem := one.unserved(self.config):
                raise SpecError(problem)
        seen = self._seen(self.inputs(graph))
        detailed = any(one.needs == "invariants" for one in wanted)
        encoding = self._encoded(seen, detailed=detailed, blocks=detailed)
        return [one.read(encoding, seen, self.encoder) for one in wanted]

    def answer(self, graph: Any, *wanted: Representation) -> tuple[dict[str, Any], list[Tensor]]:
        """Prediction of every head, as `predict` gives it, and representations, from one run of the encoder."""
        inputs = self.inputs(graph)
        seen, invariants = self._seen(inputs), any(one.needs == "invariants" for one in wanted)
        detailed, blocks = self.detailed or invariants, self.invariants or invariants
        encoding = self._encoded(seen, detailed=detailed, blocks=blocks)
        said = {name: self.head(name).predict(head(encoding, inputs)) for name, head in self.heads.items()}
        return said, [one.read(encoding, seen, self.encoder) for one in wanted]

    def _encoded(self, inputs: GraphInputs, *, detailed: bool, blocks: bool) -> Encoding:
        if not detailed:
            return self.encoder(inputs)
        return self.encoder.detailed(inputs, blocks=True) if blocks else self.encoder.detailed(inputs)

    def standardise(
        self,
        looks: Callable[[list[str]], Iterable[Mapping[str, Tensor]]],
        gather: Callable[[Any], list[Any]],
    ) -> list[str]:
        """Give heads that wait for them the statistics of what they read of some batches; the names of these heads.

        looks: from the names of heads that wait what they `read` of each batch, if any waits. gather: gives what each
        rank has found, in one order for all of them, so that all have the same statistics.
        """
        waiting = [name for name in self.heads if self.head(name).unfitted]
        if not waiting:
            return []
        sums: dict[str, Tensor] = {}
        training = self.training
        self.eval()
        with torch.no_grad():
            for seen in looks(waiting):
                for name, rows in seen.items():
                    rows = rows.double().cpu()
                    found = torch.stack([torch.ones_like(rows).sum(0), rows.sum(0), rows.square().sum(0)])
                    sums[name] = sums[name] + found if name in sums else found
        self.train(training)
        of_ranks = gather({name: found.tolist() for name, found in sums.items()})
        for name in waiting:
            own = [torch.tensor(one[name], dtype=torch.float64) for one in of_ranks if name in one]
            self.head(name).standardise(*torch.stack(own).sum(0).to(self._device))
        return waiting

    def read(self, graph: Any, names: Sequence[str]) -> dict[str, Tensor]:
        """What the networks of these heads read of each complex [G, W], or of each ordinary block."""
        inputs = self.inputs(graph)
        encoding = self._encoded(self._seen(inputs), detailed=self.detailed, blocks=self.invariants)
        found = {name: self.head(name).standardised(encoding, inputs) for name in names}
        return {name: rows for name, rows in found.items() if rows is not None}

    def _seen(self, inputs: GraphInputs) -> GraphInputs:
        return inputs if self.segment is None else inputs.only(self.segment)

    def run(self, graph: Any) -> tuple[Encoding, dict[str, Any]]:
        """The embeddings that `encode` gives, and the raw output of every head."""
        inputs = self.inputs(graph)
        seen = self._seen(inputs)
        encoding = self._encoded(seen, detailed=self.detailed, blocks=self.invariants)
        return encoding, {name: head(encoding, inputs) for name, head in self.heads.items()}

    def outputs(self, graph: Any) -> dict[str, Any]:
        """Raw output of every head."""
        return self.run(graph)[1]

    def predict(self, graph: Any) -> dict[str, Any]:
        """Prediction of every head, in the units a user reads, without gradients and without dropout.

        graph: as in `encode`. Records are worked through in batches, those of weights of the original one by one.
        """
        records = _records(graph)
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                if records is None:
                    return self._predictions(graph)
                found = [self._predictions([records[i] for i in batch]) for batch in self._batches(records)]
                return {name: _joined([one[name] for one in found]) for name in self.heads}
        finally:
            self.train(training)

    def _predictions(self, graph: Any) -> dict[str, Any]:
        return {name: self.head(name).predict(output) for name, output in self.outputs(graph).items()}

    def _batches(self, records: Sequence[Record]) -> list[Sequence[int]]:
        if not len(records):
            raise DataError("there are no complexes to predict")
        order = np.arange(len(records))
        blocks = np.array([len(record.block_types) for record in records])
        size = 1 if self.config.reference_quirks else BATCH_BLOCKS
        return [batch.tolist() for batch in plan_batches(order, blocks, size)]

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
    ) -> dict[str, Mapping[str, float]]:
        """Of how many things each part of each head's loss is the mean, see `Head.counts`."""
        return {
            name: {"": self.head(name).amount(targets[name][known[name]])}
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
            if self.made_for.mendable(inputs.made, self.config.graph_options()):
                raise DataError(
                    "these inputs were made with other edges than the model wants; give it the graph itself"
                )
        else:
            inputs = self._read(graph)
            if self.segment is not None:
                inputs = inputs.with_alone(self.segment)
        for name in self.heads:
            if name in targets:
                inputs = self.head(name).attach(inputs, targets[name])
        return inputs

    def _read(self, graph: Any) -> GraphInputs:
        """The tensors of a graph or of records, with the edges, and of the partners, what the model was made for."""
        options, view, dtype = self.config.graph_options(), self.made_for.view, next(self.parameters()).dtype
        if (records := _records(graph)) is not None:
            graph = graphs.batch([record.view(view or record.seen) for record in records], **options)
        inputs = inputs_of(graph, dtype=dtype)
        if self.made_for.mendable(inputs.made, options):
            inputs = inputs_of(graphs.remade(graph, view, **options), dtype=dtype)
        for level, count in (("block", self.config.block_types), ("atom", keys.ATOM_TYPES)):
            types = (inputs.blocks if level == "block" else inputs.atoms).type
            low, high = (int(end) for end in torch.aminmax(types))
            if low < 0 or high >= count:
                raise DataError(
                    f"frame {level}.type: holds {high if low >= 0 else low}, and the model knows 0 to {count - 1}; "
                    "build the data with the fragment vocabulary that the model was trained with"
                )
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
                if head.targets == "labels":
                    _check_shape(name, output, target)
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

    @property
    def answering(self) -> list[str]:
        """The heads that learn from labels, of complexes or of blocks."""
        return [name for name in self.heads if self.head(name).targets in ("labels", "block_labels")]

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
        """The same as `outputs`, under the name that wrappers such as DDP call.

        They wait for a gradient of every weight: those of which an output does not depend get none, and say so.
        """
        outputs = self.outputs(graph)
        if not torch.is_grad_enabled():
            return outputs
        weights = [weight for weight in self.parameters() if weight.requires_grad]
        return {
            name: _each(output, lambda t: _Reached.apply(t, *weights)) for name, output in outputs.items()
        }

    def description(self) -> dict[str, Any]:
        """Everything but the weights, as plain data: what `model.json` holds."""
        return {
            "format": FORMAT,
            "encoder": self.config.description(),
            "inputs": self.made_for.description(self.config.graph_options()),
            "heads": [
                {
                    "name": name,
                    "kind": self.kinds[name],
                    "weight": self.weights[name],
                    "config": dataclasses.asdict(self.head(name).config),
                    "label_scale": self.head(name).label_scale,
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
            own = {**kind.before(encoder), **entry["config"]}
            heads[entry["name"]] = head = kind(kind.Config(**own), encoder)
            if entry.get("label_scale") is not None:
                head.label_scale = tuple(entry["label_scale"])
            kinds[entry["name"]], weights[entry["name"]] = entry["kind"], entry["weight"]
        made_for = Contract.from_description(description.get("inputs", {}))
        return cls(encoder, heads, kinds=kinds, weights=weights, made_for=made_for)

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `model.json` into `folder`, each complete or not at all.

        Raises SpecError for a head whose class is not registered, as nobody could load it.
        """
        from safetensors.torch import save

        for name, kind in self.kinds.items():
            try:
                known = head_class(kind)
            except SpecError as error:
                raise SpecError(
                    f"head {name!r} cannot be saved, since nobody could load it: {error}"
                ) from None
            if known is not type(self.head(name)):
                own, other = type(self.head(name)).__name__, known.__name__
                raise SpecError(
                    f"head {name!r} cannot be saved as {kind!r}: it is a {own}, and that kind a {other}"
                )
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        (target / CHECKSUMS).unlink(missing_ok=True)  # of what was there before
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        write_bytes(target / WEIGHTS, save(weights))
        write_bytes(target / DESCRIPTION, to_json(self.description(), indent=2).encode())


def _check_shape(head: str, output: Any, target: Any) -> None:
    """Raise DataError for labels that do not fit a head's output; PyTorch would spread them over each other."""
    if isinstance(output, Tensor) and isinstance(target, Tensor):
        given, wanted = tuple(target.shape), tuple(output.shape)
        if given not in (wanted, wanted[:1]):
            raise DataError(
                f"targets of head {head} have the shape {list(given)}, and its output {list(wanted)}"
            )


class _Reached(torch.autograd.Function):
    """The first argument as it is; the others are weights, told in the backward pass that there is nothing for them."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *weights: Tensor) -> Tensor:
        ctx.count = len(weights)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (*grads, *[None] * ctx.count)


def _each(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same with `function` of each tensor of floats, also within named tuples."""
    if isinstance(value, Tensor):
        return function(value) if value.is_floating_point() and value.requires_grad else value
    if isinstance(value, tuple):
        parts = [_each(one, function) for one in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def _records(given: Any) -> Sequence[Record] | None:
    """Records, if these are what was given: one, several, or a data set; None for a graph."""
    if isinstance(given, Record):
        return [given]
    if isinstance(given, Sequence):
        plain = isinstance(given, list | tuple | str)
        wrong = next((one for one in given if not isinstance(one, Record)), None) if plain else None
        if wrong is not None:
            raise DataError(
                f"expected a graph, or records, got {type(given).__name__} of {type(wrong).__name__}"
            )
        return given
    return None


def _joined(values: Sequence[Any]) -> Any:
    """Predictions of several batches as one."""
    if isinstance(values[0], Tensor):
        return torch.cat(list(values))
    if isinstance(values[0], tuple):
        parts = [_joined(part) for part in zip(*values, strict=True)]
        return type(values[0])(*parts) if hasattr(values[0], "_fields") else tuple(parts)
    return list(values)


def _of(shares: Mapping[str, float], part: str) -> float:
    return shares.get(part, shares[""])


def saved_contract(folder: str | Path) -> Contract:
    """What a saved model was made for. Raises DataError if there is none."""
    return Contract.from_description(read_description(locate(folder)).get("inputs", {}))


def load(path: str | Path, device: str = "auto") -> Model:
    """Read a model that `Model.save` or a run wrote: `path` is its folder.

    device: "auto" (CUDA if there is one), "cpu", "cuda", "cuda:1", … Raises DataError saying what is missing,
    does not fit, or differs from the checksums that checkpoints have.
    """
    folder = locate(path)
    model = Model.from_description(read_description(folder))
    weights = read_weights(folder)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"{folder / WEIGHTS}: weights do not fit the description ({error})") from error
    return model.to(environment.device(device)).eval()
