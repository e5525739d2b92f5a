"""The layers that encoders and heads are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atomica.data.edges import EdgePlan
from atomica.data.inputs import GraphInputs
from atomica.errors import DataError
from atomica.nn.convolution import FullyConnected
from atomica.nn.encoding import ACTIVATIONS, EmbeddingConfig
from atomica.nn.irreps import HARMONICS, Layout, layer_slots

__all__ = [
    "Convolution",
    "EdgeConvolution",
    "Edges",
    "EmbeddingMixer",
    "EquivariantNorm",
    "Interaction",
    "LengthEmbedding",
    "block_queries",
    "mlp",
]

RADIAL_CUTOFF = 5.0
"""Å; centre of the last Gaussian. Longer edges are kept, their distance features are near 0."""
NORM_EPS = 1e-5


def mlp(sizes: Sequence[int], activation: str, dropout: float) -> nn.Sequential:
    """[activation, dropout, linear] for each step of `sizes`, as the original's prediction networks."""
    parts: list[nn.Module] = []
    for width_in, width_out in zip(sizes[:-1], sizes[1:], strict=True):
        parts += [ACTIVATIONS[activation](), nn.Dropout(dropout), nn.Linear(width_in, width_out)]
    return nn.Sequential(*parts)


class EmbeddingMixer(nn.Module):
    """Bring external block features to the width of blocks and mix them in: [B, H] → [B, H].

    With sizes for each segment there are two pairs of networks; rows keep their order.
    """

    def __init__(self, config: EmbeddingConfig, hidden: int) -> None:
        super().__init__()
        self.frames, self.sizes = config.frames, config.sizes
        between = config.layers - 1
        self.projectors = nn.ModuleList(
            mlp([size, *[config.hidden] * between, hidden], config.activation, config.dropout)
            for size in config.sizes
        )
        self.mixers = nn.ModuleList(
            mlp([*[2 * hidden] * (between + 1), hidden], config.activation, config.dropout)
            for _ in config.sizes
        )

    def forward(self, blocks: Tensor, inputs: GraphInputs) -> Tensor:
        if len(self.frames) == 1:
            return self._mix(0, blocks, self._features(0, inputs))
        mixed = torch.zeros_like(blocks)
        for index in range(2):
            rows = inputs.places.segments[index]
            own = self._mix(index, blocks[rows], self._features(index, inputs)[rows])
            mixed = mixed.index_copy(0, rows, own.to(mixed.dtype))
        return mixed

    def _mix(self, index: int, blocks: Tensor, features: Tensor) -> Tensor:
        return self.mixers[index](torch.cat([blocks, self.projectors[index](features)], dim=1))

    def _features(self, index: int, inputs: GraphInputs) -> Tensor:
        name, width = self.frames[index], self.sizes[index]
        features = inputs.embeddings.get(name)
        if features is None or features.shape[1:] != (width,):
            found = "none" if features is None else f"shape {tuple(features.shape)}"
            raise DataError(
                f"the model reads external block features of length {width} from the graph's block frame "
                f"{name!r}, which has {found}"
            )
        return features


def block_queries(
    inputs: GraphInputs, types: nn.Embedding, mixer: EmbeddingMixer | None, modalities: nn.Embedding | None
) -> Tensor:
    """What is known of blocks before their atoms are: their types, external features, on global ones the modality.

    Embeddings of types, and of modalities if the model is told them → [B, H].
    """
    query = types(inputs.blocks.type)
    if mixer is not None:
        query = mixer(query, inputs)
    if modalities is not None:
        told = inputs.blocks.is_global & (inputs.modality >= 0)
        query = query + modalities(inputs.modality.clamp(min=0)) * told[:, None]
    return query


class EquivariantNorm(nn.Module):
    """Layer norm of each irrep over its channels: scale by the root mean square, learned weight per channel.

    Even scalars are centred and shifted as well. `forward`: [N, D] → [N, D] in the layout given; if only the
    degree-0 run is passed, it normalises that alone.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.weights = nn.ParameterDict(
            {slot.name: nn.Parameter(torch.ones(slot.channels)) for slot in layout.slots}
        )
        centred = [slot.channels for slot in layout.slots if (slot.degree, slot.parity) == (0, 1)]
        self.bias = nn.Parameter(torch.zeros(centred[0])) if centred else None

    def forward(self, x: Tensor) -> Tensor:
        runs = []
        for degree in range(3) if x.shape[1] == self.layout.dim else range(1):
            slots = [slot for slot in self.layout.slots if slot.degree == degree]
            found = {slot: self.layout.view(x, slot) for slot in slots}
            others = [slot for slot in slots if (slot.degree, slot.parity) != (0, 1)]
            # both parities at once, which have equally many channels: on a GPU calls are what it takes
            if others:
                both = torch.stack([found[slot] for slot in others], dim=1)
                power = both.square().mean(dim=(2, 3), keepdim=True)
                weight = torch.stack([self.weights[slot.name] for slot in others])[:, None]
                both = both * (power + NORM_EPS).rsqrt() * weight
                found |= dict(zip(others, both.unbind(dim=1), strict=True))
            for slot in slots:
                if slot not in others:
                    weight = self.weights[slot.name]
                    found[slot] = F.layer_norm(found[slot], weight.shape, weight, self.bias, NORM_EPS)
            if slots:
                runs.append(torch.cat([found[slot] for slot in slots], dim=2).flatten(1))
        return torch.cat(runs, dim=1)


class LengthEmbedding(nn.Sequential):
    """Distances [E] in Å → features [E, size]: Gaussians up to `cutoff`, and a network.

    width: of the Gaussians, Å; 0: as wide as they are apart.
    """

    centers: Tensor

    def __init__(self, size: int, dropout: float, cutoff: float = RADIAL_CUTOFF, width: float = 0.0) -> None:
        super().__init__(nn.Linear(size, size), nn.ReLU(), nn.Dropout(dropout), nn.Linear(size, size))
        self.cutoff, self.width = cutoff, width
        self.register_buffer("centers", torch.linspace(0.0, cutoff, size), persistent=False)

    def forward(self, distance: Tensor) -> Tensor:
        width = self.width or self.cutoff / (len(self.centers) - 1)
        gaussians = torch.exp(-0.5 * ((distance[:, None] - self.centers) / width).square())
        return super().forward(gaussians.to(self.centers.dtype))


class Convolution(nn.Module):
    """A weighted tensor product of senders with harmonics, averaged over each receiver's edges, and a norm.

    `width`: number of radial features. `forward` takes them, [E, width] in plan order, as senders x [N, D_in]
    and harmonics y; it gives [receivers, D_out], or [receivers, scalars] with `scalars_only`.
    """

    def __init__(
        self,
        inputs: Layout,
        outputs: Layout,
        width: int,
        dropout: float,
        *,
        harmonics: tuple[tuple[int, int], ...] = HARMONICS,
    ) -> None:
        super().__init__()
        self.inputs, self.outputs, self.dropout = inputs, outputs, dropout
        self.radial = nn.Linear(width, width)
        self.product = FullyConnected(inputs, outputs, width, harmonics=harmonics)
        self.norm = EquivariantNorm(outputs)

    def forward(self, plan: EdgePlan, x: Tensor, y: Tensor, radial: Tensor) -> Tensor:
        return self.convolve(plan, x, y, self.radial(radial))

    def convolve(
        self, plan: EdgePlan, x: Tensor, y: Tensor, before: Tensor, *, scalars_only: bool = False
    ) -> Tensor:
        """The same from the output of the first radial layer, before its activation."""
        hidden = F.dropout(F.relu(before), self.dropout, self.training)
        return self.norm(self.product(plan, x, y, hidden, scalars_only=scalars_only))


class Edges(NamedTuple):
    """The edges of a level as its convolutions read them.

    plan: their order; y: [E, 9] their harmonics and length: [E, edge_size] their lengths, embedded, in that order;
    kinds: [4, edge_size] the embedding of edge types.
    """

    plan: EdgePlan
    y: Tensor
    length: Tensor
    kinds: Tensor


class EdgeConvolution(Convolution):
    """A convolution over the edges of a level, whose radial features are [length, kind, h_receiver, h_sender]."""

    def __init__(self, inputs: Layout, outputs: Layout, hidden: int, edge_size: int, dropout: float) -> None:
        super().__init__(inputs, outputs, 2 * edge_size + 2 * hidden, dropout)
        self.hidden, self.edge_size = hidden, edge_size

    def update(
        self, edges: Edges, x: Tensor, *, scalars_only: bool = False, receivers: Tensor | None = None
    ) -> Tensor:
        """The convolution of x [N, D_in] over `edges`.

        receivers [R, D_in]: features of the nodes that receive, where the plan is a bipartite one.
        """
        own = x if receivers is None else receivers
        before = self._radial_features(edges, x[:, : self.hidden], own[:, : self.hidden])
        return self.convolve(edges.plan, x, edges.y, before, scalars_only=scalars_only)

    def _radial_features(self, edges: Edges, scalars: Tensor, receivers: Tensor) -> Tensor:
        """The linear map of [length, kind, h_receiver, h_sender], applied per node before it is gathered."""
        plan, size = edges.plan, self.edge_size
        weight = self.radial.weight.t()
        of_length, of_kind, of_receiver, of_sender = weight.split([size, size, self.hidden, self.hidden])
        out = torch.addmm(self.radial.bias, edges.length, of_length)
        out = out + F.embedding(plan.kind, edges.kinds @ of_kind)
        out = out + F.embedding(plan.receiver, receivers @ of_receiver)
        return out + F.embedding(plan.sender, scalars @ of_sender)


class Interaction(EdgeConvolution):
    """One equivariant layer: convolution with the neighbours and padded residual.

    `forward`: features [N, D_in] → [N, D_out], or [N, scalars] with `scalars_only`.
    """

    def __init__(self, hidden: int, edge_size: int, depth: int, dropout: float) -> None:
        inputs, outputs = Layout(layer_slots(hidden, depth)), Layout(layer_slots(hidden, depth + 1))
        super().__init__(inputs, outputs, hidden, edge_size, dropout)

    def forward(  # type: ignore[override]
        self, edges: Edges, x: Tensor, *, scalars_only: bool = False, receivers: Tensor | None = None
    ) -> Tensor:
        """Arguments as in `update`."""
        update = self.update(edges, x, scalars_only=scalars_only, receivers=receivers)
        own = x if receivers is None else receivers
        runs, first = [], 0
        for degree in range(1 if scalars_only else 3):
            width = self.outputs.channels[degree] * (2 * degree + 1)
            run = update[:, first : first + width].unflatten(1, (2 * degree + 1, -1))
            first += width
            missing = self.outputs.channels[degree] - self.inputs.channels[degree]
            if self.inputs.channels[degree]:
                run = run + F.pad(self.inputs.run(own, degree), (0, missing))
            runs.append(run.flatten(1))
        return torch.cat(runs, dim=1)
