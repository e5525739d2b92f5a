"""What noise was put on a segment: translation, rotation, torsion angles and atom positions; squared-error losses.

Shapes: G complexes, A atoms, P of them in perturbed segments, T rotatable bonds, E edges of one convolution, H width of
atoms, k neighbours of a bond.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from atomica.data.edges import EdgePlan, plan_edges
from atomica.data.inputs import GraphInputs
from atomica.data.noise import Perturbation
from atomica.errors import DataError
from atomica.heads import PretrainingHead, register
from atomica.nn.encoding import DetailedEncoding, EncoderSettings, Encoding, LevelDetail
from atomica.nn.irreps import IrrepSlot, Layout, coupling, spherical_harmonics
from atomica.nn.layers import Convolution, EdgeConvolution, Edges, LengthEmbedding
from atomica.spec import Problems, setting

__all__ = ["DenoiseConfig", "DenoiseHead", "DenoiseOutput"]

TASKS = ("translation", "rotation", "torsion", "atom")
NOISE_OF = {"translation": "translation", "rotation": "rotation", "torsion": "torsion", "atom": "gaussian"}
"""The kind of noise that each task learns."""
CENTER_CUTOFF = 20.0
"""Å; centre of the last Gaussian for distances from the centre of a segment."""
BOND_CUTOFF = 5.0
"""Å; atoms farther from a bond's midpoint do not tell about its torsion."""
NO_DIRECTION = 1e-4
"""Å; an atom closer than this to the centre lies in no direction from it."""

BOND_HARMONICS = ((0, 1), (1, -1), (1, 1), (2, -1), (2, 1), (2, 1))
"""Products, up to degree 2, of an edge's harmonics with the degree-2 harmonics of a bond: degree and parity."""
_BOND_SOURCES = (2, 1, 2, 1, 0, 2)
"""Degree of the edge's harmonics in each of them."""


@dataclass(frozen=True)
class DenoiseConfig:
    """Keys of a `[[head]]` table with `kind = "denoise"`. Raises SpecError naming every value out of range."""

    translation: float = setting(1.0, "weight of the translation loss; 0: not learnt", low=0)
    rotation: float = setting(0.1, "weight of the rotation loss; 0: not learnt", low=0)
    torsion: float = setting(1.0, "weight of the torsion loss; 0: not learnt", low=0)
    atom: float = setting(0.0, "weight of the atom-position loss; 0: not learnt", low=0)

    def __post_init__(self) -> None:
        nothing = not any(getattr(self, name) for name in TASKS)
        Problems.check((nothing, TASKS[0], f"one of {', '.join(TASKS)} must be more than 0"), config=self)


class DenoiseOutput(NamedTuple):
    """What a denoising head gives; None for what it does not learn, vectors in the frame of the coordinates.

    translation, rotation: [G, 3]. torsion: [T]. atom: [A, 3], of meaning for atoms of the perturbed segment.
    graph_of_torsion [T], graph_of_atom [A]: the complex of each; perturbed [P]: the atoms of perturbed segments.
    """

    translation: Tensor | None
    rotation: Tensor | None
    torsion: Tensor | None
    atom: Tensor | None
    graph_of_torsion: Tensor
    graph_of_atom: Tensor
    perturbed: Tensor


class Term(NamedTuple):
    """One loss, what predicting zero would score, and of how many complexes they are the mean: scalars."""

    value: Tensor
    base: Tensor
    complexes: Tensor


@dataclass(frozen=True)
class Sites(Perturbation):
    """A perturbation with the places of its batch that it concerns.

    moved: [P] int64, the atoms of perturbed segments. centers: edges from them to their complexes, bonds: edges to
    rotatable bonds from the atoms nearest to them; None where they are not read.
    """

    moved: Tensor | None = None
    centers: EdgePlan | None = None
    bonds: EdgePlan | None = None


@register("denoise")
class DenoiseHead(PretrainingHead):
    """Predicts a `Perturbation` from the features of atoms and the embeddings of blocks and complexes.

    `forward` needs the perturbation in `GraphInputs.perturbation`, of which it reads the segment and the bonds;
    `Model.loss` puts it there if it is the target. Output: `DenoiseOutput`.
    """

    bond_products: Tensor
    Config = DenoiseConfig
    needs = ("atom", "block", "graph", "detail")
    targets = "perturbation"
    learnt_from = "perturbation"

    def __init__(self, config: DenoiseConfig, encoder: EncoderSettings) -> None:
        super().__init__(config, encoder)
        hidden, size, dropout = encoder.atom_hidden, encoder.edge_size, encoder.dropout
        self.hidden, self.neighbors = hidden, encoder.k_neighbors
        features = encoder.detail_layout
        wide = encoder.block_hidden
        if config.atom:
            vectors = Layout((IrrepSlot(1, -1, 1), IrrepSlot(1, 1, 1)))
            self.atom_length = LengthEmbedding(size, dropout)
            self.atom_convolution = EdgeConvolution(features, vectors, hidden, size, dropout)
            self.atom_scale = _scale_network(wide, dropout)
        if config.translation or config.rotation:
            vectors = Layout((IrrepSlot(1, -1, 2), IrrepSlot(1, 1, 2)))
            self.center_length = LengthEmbedding(size, dropout, CENTER_CUTOFF)
            self.center_convolution = Convolution(features, vectors, size + hidden, dropout)
        if config.translation:
            self.translation_scale = _scale_network(wide, dropout)
        if config.rotation:
            self.rotation_scale = _scale_network(wide, dropout)
        if config.torsion:
            scalars = Layout((IrrepSlot(0, -1, hidden), IrrepSlot(0, 1, hidden)))
            self.torsion_length = LengthEmbedding(size, dropout, BOND_CUTOFF)
            self.torsion_convolution = Convolution(
                features, scalars, size + 2 * hidden, dropout, harmonics=BOND_HARMONICS
            )
            self.register_buffer("bond_products", _bond_products(), persistent=False)
            self.torsion_network = nn.Sequential(
                nn.Linear(2 * hidden, hidden, bias=False),
                nn.Tanh(),
                nn.Dropout(dropout),
                nn.Linear(hidden, 1, bias=False),
            )

    def attach(self, inputs: GraphInputs, target: Any) -> GraphInputs:
        if not isinstance(target, Perturbation):
            raise DataError(f"a denoise head's target is a Perturbation, not {type(target).__name__}")
        return replace(inputs, perturbation=self._sites(inputs, target.to(inputs.segment.device)))

    def _sites(self, inputs: GraphInputs, noise: Perturbation) -> Sites:
        """What the noise concerns, of a batch."""
        if len(noise.segment) != inputs.num_graphs:
            raise DataError(f"a perturbation of {len(noise.segment)} complexes for {inputs.num_graphs}")
        moved_B = inputs.segment == noise.segment[inputs.graph_of_block]
        (moved_P,) = torch.nonzero(moved_B[inputs.block_of_atom], as_tuple=True)
        centers = bonds = None
        if self.config.translation or self.config.rotation:
            centers = _center_plan(inputs, noise, moved_P)
        if self.config.torsion:
            bonds = _bond_plan(inputs, _bonds_of(noise), self.neighbors)
        own = {one.name: getattr(noise, one.name) for one in fields(Perturbation)}
        return Sites(**own, moved=moved_P, centers=centers, bonds=bonds)

    def forward(self, encoding: Encoding, inputs: GraphInputs) -> DenoiseOutput:
        assert isinstance(encoding, DetailedEncoding), "the model must run the encoder in detail"
        config: DenoiseConfig = self.config
        noise = inputs.perturbation
        if noise is None:
            raise DataError(
                "a denoise head works on perturbed complexes; the graph comes without a perturbation"
            )
        sites = noise if isinstance(noise, Sites) else self._sites(inputs, noise)
        assert sites.moved is not None
        graph_of_atom = inputs.graph_of_atom
        translation = rotation = torsion = atom = None
        if config.translation or config.rotation:
            assert sites.centers is not None
            # channels of the run: two polar vectors, then two axial ones
            vectors_Gc4 = self._centers(encoding.atoms, inputs, sites.moved, sites.centers)
            if config.translation:
                scale = self.translation_scale(encoding.graph)
                translation = (vectors_Gc4[:, :, 0] + vectors_Gc4[:, :, 2]) * scale
            if config.rotation:
                scale = self.rotation_scale(encoding.graph)
                rotation = (vectors_Gc4[:, :, 1] + vectors_Gc4[:, :, 3]) * scale
        bonds = _bonds_of(noise)
        if config.torsion:
            assert sites.bonds is not None
            torsion = self._torsions(encoding.atoms, inputs, bonds, sites.bonds)
        if config.atom:
            detail = encoding.atoms
            edges = Edges(detail.plan, detail.y, self.atom_length(detail.distance), detail.kinds)
            update = self.atom_convolution.update(edges, detail.features)
            vectors_A = self.atom_convolution.outputs.run(update, 1).sum(dim=2)
            atom = vectors_A * self.atom_scale(encoding.block)[inputs.block_of_atom]
        return DenoiseOutput(
            translation,
            rotation,
            torsion,
            atom,
            graph_of_atom[bonds[0]],
            graph_of_atom,
            sites.moved,
        )

    def _centers(self, detail: LevelDetail, inputs: GraphInputs, sender: Tensor, plan: EdgePlan) -> Tensor:
        """Vectors [G, 3, 4] at the mean of each perturbed segment, from its atoms `sender` [P]."""
        receiver = inputs.graph_of_atom[sender]
        count = _counts(receiver, inputs.num_graphs)
        vectors = _from_center(inputs.atoms.x, sender, receiver, count, plan)
        features = detail.features
        radial = torch.cat(
            [self.center_length(vectors.norm(dim=1)), features[plan.sender, : self.hidden]], dim=1
        )
        y = spherical_harmonics(vectors).to(features.dtype)
        update = self.center_convolution(plan, features, y, radial)
        return self.center_convolution.outputs.run(update, 1)

    def _torsions(self, detail: LevelDetail, inputs: GraphInputs, bonds: Tensor, plan: EdgePlan) -> Tensor:
        """One number [T] per bond, from the atoms nearest to its midpoint."""
        x = inputs.atoms.x.double()
        ends = x[bonds]
        middle, direction = ends.mean(dim=0), ends[0] - ends[1]
        vectors = x[plan.sender] - middle[plan.receiver]
        of_bond = spherical_harmonics(direction)[:, 4:]
        table = self.bond_products.to(x)
        y = torch.einsum("ei,ej,ijk->ek", spherical_harmonics(vectors), of_bond[plan.receiver], table)
        features = detail.features
        scalars = features[:, : self.hidden]
        of_bonds = scalars[bonds[0]] + scalars[bonds[1]]
        radial = torch.cat(
            [self.torsion_length(vectors.norm(dim=1)), scalars[plan.sender], of_bonds[plan.receiver]], dim=1
        )
        update = self.torsion_convolution(plan, features, y.to(features.dtype), radial)
        return self.torsion_network(update).squeeze(1)

    def loss(self, output: DenoiseOutput, target: Perturbation) -> Tensor:
        total = sum(self.summands(output, target).values())
        assert isinstance(total, Tensor)
        return total

    def summands(self, output: DenoiseOutput, target: Perturbation) -> dict[str, Tensor]:
        terms = self.terms(output, target)
        return {name: getattr(self.config, name) * term.value for name, term in terms.items()}

    def counts(self, target: Perturbation, inputs: GraphInputs) -> dict[str, int]:
        moved = int((target.segment >= 0).sum())
        found = {"": inputs.num_graphs, "translation": moved, "rotation": moved, "torsion": 0}
        graph_of_atom = inputs.graph_of_atom
        if target.torsion_bonds is not None:
            found["torsion"] = len(graph_of_atom[target.torsion_bonds[0].to(graph_of_atom.device)].unique())
        segment = target.segment.to(graph_of_atom.device)
        moved_B = inputs.segment == segment[inputs.graph_of_block]
        found["atom"] = len(graph_of_atom[moved_B[inputs.block_of_atom]].unique())
        return found | {f"{name}_base": found[name] for name in TASKS}

    def parts(self, output: DenoiseOutput, target: Perturbation) -> dict[str, Tensor]:
        """Each loss, and as `…_base` what predicting zero would score."""
        found: dict[str, Tensor] = {}
        for name, (value, base, _) in self.terms(output, target).items():
            found |= {name: value, f"{name}_base": base}
        return found

    def terms(self, output: DenoiseOutput, target: Perturbation) -> dict[str, Term]:
        """The terms of everything that is learnt.

        A loss is a mean over the complexes it concerns, 0 if there are none; those that were not perturbed
        (segment -1) are none of them. Raises DataError naming what the target lacks.
        """
        found: dict[str, Term] = {}
        moved = target.segment >= 0
        if output.translation is not None:
            score = _of(target, "translation_score", output.translation)
            eps = _of(target, "translation_eps", output.translation)
            error = eps[:, None] * output.translation + score
            found["translation"] = _vector_term(error, score, moved)
        if output.rotation is not None:
            score = _of(target, "rotation_score", output.rotation)
            error = output.rotation - score
            found["rotation"] = _vector_term(error, score, moved)
        complexes = len(target.segment)
        if output.torsion is not None and target.torsion_bonds is None:
            zero = output.torsion.sum() * 0.0
            found["torsion"] = Term(zero, zero.detach(), moved.sum() * 0)
        elif output.torsion is not None:
            score = _of(target, "torsion_score", output.torsion)
            of = output.graph_of_torsion
            loss, count = _mean_over_complexes((output.torsion - score).square(), of, complexes)
            base, _ = _mean_over_complexes(score.square(), of, complexes)
            found["torsion"] = Term(loss, base, count)
        if output.atom is not None:
            rows = output.perturbed
            score = _of(target, "atom_score", output.atom)[rows]
            of = output.graph_of_atom[rows]
            eps = _of(target, "atom_eps", output.atom)[of]
            error = (eps[:, None] * output.atom[rows] - score).square().sum(dim=1)
            loss, count = _mean_over_complexes(error, of, complexes)
            base, _ = _mean_over_complexes(score.square().sum(dim=1), of, complexes)
            found["atom"] = Term(loss, base, count)
        return found

    def rotated(self, output: DenoiseOutput, matrix: Tensor) -> DenoiseOutput:
        vectors = {name: getattr(output, name) for name in ("translation", "rotation", "atom")}
        return output._replace(
            **{name: value @ matrix.t().to(value) for name, value in vectors.items() if value is not None}
        )

    @classmethod
    def learns(cls, config: DenoiseConfig) -> frozenset[str]:
        return frozenset(NOISE_OF[name] for name in TASKS if getattr(config, name))

    def metrics(self) -> Any:
        from torchmetrics import MetricCollection

        from atomica.heads.metrics import Mean

        def reader(name: str, base: bool) -> Any:
            def read(output: DenoiseOutput, target: Perturbation) -> tuple[Tensor, int] | None:
                term = self.terms(output, target)[name]
                count = int(term.complexes)
                return (term.base if base else term.value, count) if count else None

            return read

        chosen = [name for name in TASKS if getattr(self.config, name)]
        return MetricCollection(
            {
                name + ("_base" if base else ""): Mean(reader(name, base))
                for name in chosen
                for base in (False, True)
            },
            compute_groups=False,
        )


def _scale_network(hidden: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, 1, bias=False),
    )


def _bonds_of(noise: Perturbation) -> Tensor:
    """[2, T], none if torsions were left alone."""
    return noise.segment.new_zeros(2, 0) if noise.torsion_bonds is None else noise.torsion_bonds


def _center_plan(inputs: GraphInputs, noise: Perturbation, moved: Tensor) -> EdgePlan:
    """Edges from the atoms of perturbed segments [P] to their complexes.

    Raises DataError if a segment that should have been perturbed has no atom.
    """
    receiver = inputs.graph_of_atom[moved]
    empty = (torch.bincount(receiver, minlength=inputs.num_graphs) == 0) & (noise.segment >= 0)
    if bool(empty.any()):
        raise DataError(
            f"complex {int(empty.byte().argmax())} of the batch has no atom in its perturbed segment"
        )
    return plan_edges(moved, receiver, torch.zeros_like(moved), inputs.num_graphs, bipartite=True)


def _bond_plan(inputs: GraphInputs, bonds: Tensor, neighbors: int) -> EdgePlan:
    """Edges to each of the bonds [2, T] from the atoms nearest to its midpoint."""
    x, graph_of_atom = inputs.atoms.x.detach().double(), inputs.graph_of_atom
    middle = x[bonds].mean(dim=0)
    receiver, sender = _nearest(middle, x, graph_of_atom[bonds[0]], graph_of_atom, neighbors)
    return plan_edges(sender, receiver, torch.zeros_like(sender), bonds.shape[1], bipartite=True)


def _from_center(x: Tensor, sender: Tensor, receiver: Tensor, count: Tensor, plan: EdgePlan) -> Tensor:
    """Vectors [E, 3] Å, float64, from the mean of each receiver's `count` senders to each of them."""
    x = x.double()
    center = x.new_zeros(len(count), 3).index_add(0, receiver, x[sender]) / count.clamp(min=1)[:, None]
    vectors = x[plan.sender] - center[plan.receiver]
    at_center = vectors.detach().norm(dim=1, keepdim=True) < NO_DIRECTION
    return torch.where(at_center, 0.0, vectors)


def _counts(of: Tensor, size: int) -> Tensor:
    """How often each number below `size` occurs in `of`; unlike `torch.bincount` without a look at the data."""
    return of.new_zeros(size).index_add(0, of, torch.ones_like(of))


def _nearest(
    points: Tensor, x: Tensor, graph_of_point: Tensor, graph_of_atom: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Point and atom of each pair of a point [T, 3] and its ≤ k nearest atoms [A, 3] of the complex within reach."""
    counts = torch.bincount(graph_of_atom)
    first = torch.cumsum(counts, 0) - counts
    largest = int(counts.max()) if len(counts) else 0
    column = torch.arange(largest, device=x.device)
    candidate = first[graph_of_point][:, None] + column
    there = column < counts[graph_of_point][:, None]
    candidate = torch.where(there, candidate, 0)
    distance = (x[candidate] - points[:, None]).norm(dim=2)
    distance = torch.where(there & (distance <= BOND_CUTOFF), distance, torch.inf)
    near, order = torch.topk(distance, min(k, largest), dim=1, largest=False)
    point, place = torch.nonzero(near.isfinite(), as_tuple=True)
    return point, candidate[point, order[point, place]]


def _bond_products() -> Tensor:
    """[9, 5, 22] float64: harmonics of an edge × degree-2 harmonics of a bond → `BOND_HARMONICS`."""
    columns = []
    for (degree, _), source in zip(BOND_HARMONICS, _BOND_SOURCES, strict=True):
        block = torch.zeros(9, 5, 2 * degree + 1, dtype=torch.float64)
        block[source * source : (source + 1) ** 2] = coupling(source, 2, degree) * math.sqrt(2 * degree + 1)
        columns.append(block)
    return torch.cat(columns, dim=2)


def _of(target: Perturbation, name: str, like: Tensor) -> Tensor:
    """A tensor of the target, in the precision and on the device of `like`."""
    value = getattr(target, name)
    if value is None:
        raise DataError(f"the perturbation has no {name}, which the denoise head learns")
    return value.to(like)


def _vector_term(error: Tensor, score: Tensor, moved: Tensor) -> Term:
    """Mean squares of the errors [G, 3], and of the scores, of the complexes that were moved [G]."""
    count = moved.sum()
    rows = moved.to(error)[:, None]
    values = 3 * count.clamp(min=1)
    return Term((error.square() * rows).sum() / values, (score.square() * rows).sum() / values, count)


def _mean_over_complexes(values: Tensor, of: Tensor, complexes: int) -> tuple[Tensor, Tensor]:
    """Mean over complexes of the mean of their values [N], and how many complexes have any; 0 without values."""
    counts = _counts(of, complexes)
    sums = values.new_zeros(complexes).index_add(0, of, values)
    there = (counts > 0).sum()
    return (sums / counts.clamp(min=1)).sum() / there.clamp(min=1), there
