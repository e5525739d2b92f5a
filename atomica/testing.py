"""Public checks that a model or head must pass: rigid motions, batches, order, gradients, precision.

Each check takes a model and raises AssertionError saying how far off it is and under what transformation. They run
on synthetic interfaces, so a head of another package can be checked without data:

>>> from atomica.testing import check_model, small_model
>>> check_model(small_model())
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from atomica import keys
from atomica.data.graph import graph_from_arrays
from atomica.data.inputs import GraphInputs
from atomica.data.noise import Perturbation
from atomica.data.record import Record, Texts
from atomica.heads import head_class
from atomica.model.model import Model
from atomica.nn.encoders import DEFAULT, encoder_class
from atomica.nn.encoding import Encoding
from atomica.nn.irreps import Layout

__all__ = [
    "as_record",
    "check_batch_independence",
    "check_gradients",
    "check_model",
    "check_permutations",
    "check_precision",
    "check_rigid_motions",
    "graph_of",
    "inputs_of",
    "join",
    "random_interface",
    "random_motion",
    "rotate_features",
    "small_model",
]

Arrays = dict[str, npt.NDArray[Any]]
"""One or several complexes as keyword arguments of `graph_from_arrays`."""


def small_model(
    kind: str = "binary", head: Mapping[str, Any] | None = None, *, encoder: str = DEFAULT, **settings: Any
) -> Model:
    """A model with one head, small enough for exhaustive checks, with fixed random weights.

    kind: of the head, by its registered name; head: its settings; encoder: kind of the encoder; settings: its own.
    """
    chosen: dict[str, Any] = {
        "atom_hidden": 8,
        "block_hidden": 8,
        "edge_size": 6,
        "layers": 3,
        "k_neighbors": 4,
    }
    config = encoder_class(encoder).Config(**{**chosen, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cls = head_class(kind)
        own = cls.Config(**({"hidden": 8} if kind == "binary" and head is None else head or {}))
        return Model(config, {kind: cls(own, config)}).eval()


def random_interface(seed: int, blocks: tuple[int, int] = (6, 5)) -> Arrays:
    """A made-up complex of two segments with `blocks` ordinary blocks each (0: no second segment)."""
    rng = np.random.default_rng(seed)
    types, lengths, segments, atoms, positions = [], [], [], [], []
    for segment, count in enumerate(blocks):
        if not count:
            continue
        sizes = rng.integers(1, 9, count)
        centers = rng.normal(0.0, 4.0, (count, 3)) + segment * np.array([7.0, 0.0, 0.0])
        points = np.concatenate(
            [center + rng.normal(0.0, 1.2, (n, 3)) for center, n in zip(centers, sizes, strict=True)]
        )
        types += [keys.GLOBAL_BLOCK, *rng.integers(4, 24, count)]
        lengths += [1, *sizes]
        segments += [segment] * (count + 1)
        atoms += [keys.GLOBAL_ATOM, *rng.choice([8, 9, 10, 18], sizes.sum())]
        positions += [points.mean(axis=0)[None], points]
    return {
        "X": np.concatenate(positions).astype(np.float32),
        "B": np.array(types),
        "A": np.array(atoms),
        "block_lengths": np.array(lengths),
        "segment_ids": np.array(segments),
        "lengths": np.array([len(types)]),
    }


def as_record(
    X: npt.ArrayLike,
    B: npt.ArrayLike,
    A: npt.ArrayLike,
    block_lengths: npt.ArrayLike,
    segment_ids: npt.ArrayLike,
    *,
    torsions: Sequence[tuple[int, int, Sequence[int]]] = (),
    id: str = "made-up",
) -> Record:
    """One complex, as arrays of `random_interface`, as a record without names and stored neighbours.

    torsions: rotatable bonds as (fixed atom, moving atom, all atoms that move).

    >>> arrays = random_interface(0)
    >>> del arrays["lengths"]
    >>> len(as_record(**arrays).block_types)
    13
    """
    positions, atoms = np.asarray(X, dtype=np.float32), np.asarray(A, dtype=np.uint8)
    blocks = np.asarray(B, dtype=np.uint16)
    nowhere = np.zeros(0, dtype=np.int32)
    block_texts, atom_texts = (Texts(pa.array([""] * len(of))) for of in (blocks, atoms))
    moved = [np.asarray(moved, dtype=np.int32) for _, _, moved in torsions]
    return Record(
        id=id,
        modality=-1,
        split=None,
        labels={},
        metadata={},
        block_types=blocks,
        block_lengths=np.asarray(block_lengths, dtype=np.uint32),
        segment_ids=np.asarray(segment_ids, dtype=np.uint8),
        atom_types=atoms,
        positions=positions,
        atom_intra=np.zeros((len(atoms), 0), dtype=np.int32),
        atom_inter=np.zeros((len(atoms), 0), dtype=np.int32),
        block_intra=np.zeros((len(blocks), 0), dtype=np.int32),
        block_inter=np.zeros((len(blocks), 0), dtype=np.int32),
        torsion_fixed=np.array([fixed for fixed, _, _ in torsions], dtype=np.int32),
        torsion_moving=np.array([moving for _, moving, _ in torsions], dtype=np.int32),
        torsion_sizes=np.array([len(m) for m in moved], dtype=np.uint32),
        torsion_atoms=np.concatenate([nowhere, *moved]),
        bond_first=nowhere,
        bond_second=nowhere,
        bond_orders=np.zeros(0, dtype=np.uint8),
        block_chains=block_texts,
        block_resnums=np.zeros(len(blocks), dtype=np.int32),
        block_icodes=block_texts,
        block_components=block_texts,
        atom_names=atom_texts,
        source_path="",
        source_sha256="",
        ligand_chemistry="none",
    )


def join(complexes: Sequence[Arrays]) -> Arrays:
    """Several complexes as one batch."""
    return {name: np.concatenate([arrays[name] for arrays in complexes]) for name in complexes[0]}


def random_motion(
    seed: int, *, reflect: bool = False
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """A rotation (or rotation with reflection) [3, 3] and a translation [3], Å."""
    rng = np.random.default_rng(seed)
    matrix, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    if (np.linalg.det(matrix) < 0) != reflect:
        matrix[:, 0] *= -1
    return matrix, rng.normal(0.0, 5.0, 3)


def rotate_features(x: Tensor, layout: Layout, matrix: npt.NDArray[np.float64]) -> Tensor:
    """Node features [N, D] as they must become when all coordinates are mapped by `matrix`."""
    from e3nn import o3

    irreps = "+".join(str(slot) for slot in layout.slots)
    wigner = o3.Irreps(irreps).D_from_matrix(torch.from_numpy(matrix)).to(x)
    return layout.from_e3nn(layout.to_e3nn(x) @ wigner.t())


def graph_of(model: Model, arrays: Mapping[str, Any]) -> Any:
    """The batched graph of `arrays` with the options that `model` expects."""
    return graph_from_arrays(
        arrays["X"],
        arrays["B"],
        arrays["A"],
        arrays["block_lengths"],
        arrays["segment_ids"],
        arrays["lengths"],
        **model.config.graph_options(),
    )


def inputs_of(model: Model, arrays: Mapping[str, Any]) -> GraphInputs:
    """What `model` reads of `arrays`, with all that some head may need besides.

    Masked blocks, external features, and a perturbed segment with rotatable bonds are made up from the arrays
    alone, so that they stay the same when atoms are shuffled, moved, or batched with others.
    """
    inputs = model.inputs(graph_of(model, arrays))
    blocks = inputs.blocks
    counts = torch.bincount(inputs.graph_of_block, minlength=inputs.num_graphs)
    place = torch.arange(len(blocks.type)) - (torch.cumsum(counts, 0) - counts)[inputs.graph_of_block]
    embeddings = {
        name: torch.sin((place[:, None] + 1.0) * torch.arange(1, size + 1)).to(blocks.x)
        for name, size in zip(model.config.embeddings.frames, model.config.embeddings.sizes, strict=True)
    }
    segment = torch.zeros(inputs.num_graphs, dtype=torch.long)
    segment.scatter_reduce_(0, inputs.graph_of_block, inputs.segment, "amax")
    # a bond in each block of the segment: between the two atoms nearest to the block's centre
    distance = (inputs.atoms.x - blocks.x[inputs.block_of_atom]).norm(dim=1)
    bonds = []
    for block in torch.nonzero(inputs.segment == segment[inputs.graph_of_block])[:, 0].tolist():
        (atoms,) = torch.nonzero(inputs.block_of_atom == block, as_tuple=True)
        if len(atoms) > 1:
            bonds.append(atoms[distance[atoms].argsort()[:2]])
    perturbation = Perturbation(
        segment,
        torsion_bonds=torch.stack(bonds, dim=1) if bonds else torch.zeros(2, 0, dtype=torch.long),
        torsion_score=torch.zeros(len(bonds)),
    )
    inputs = inputs.masking((place % 3 == 1) & ~blocks.is_global)
    return dataclasses.replace(inputs, embeddings=embeddings, perturbation=perturbation)


def _run(model: Model, inputs: GraphInputs) -> tuple[Encoding, dict[str, Any]]:
    """Embeddings of the whole complex and the heads' outputs."""
    encoding, outputs = model.run(inputs)
    return encoding if model.segment is None else model.encoder(inputs), outputs


def _named(encoding: Encoding, outputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """All tensors of numbers, by name."""
    found = {f"encoding.{name}": value for name, value in encoding._asdict().items()}
    for name, output in outputs.items():
        fields = {"": output} if isinstance(output, Tensor) else output._asdict()
        for field, value in fields.items():
            if value is not None and value.is_floating_point():
                found[f"head.{name}.{field}".rstrip(".")] = value
    return found


def _results(model: Model, arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    """Embeddings and outputs of heads, without gradients."""
    with torch.no_grad():
        return _named(*_run(model, inputs_of(model, arrays)))


def _compare(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float, what: str
) -> None:
    for name, value in expected.items():
        if not value.numel():
            continue
        difference = float((found[name] - value).abs().max())
        allowed = tolerance * max(1.0, float(value.abs().max()))
        assert difference <= allowed, f"{what}: {name} differs by {difference:.3g}, allowed {allowed:.3g}"


def _batch() -> list[Arrays]:
    return [random_interface(1), random_interface(2, (9, 1)), random_interface(3, (4, 0))]


def check_rigid_motions(model: Model, *, tolerance: float = 1e-5) -> None:
    """Outputs do not change when all coordinates are rotated and shifted; those that are vectors rotate along."""
    arrays = join(_batch())
    with torch.no_grad():
        encoding, outputs = _run(model, inputs_of(model, arrays))
    for seed in range(3):
        matrix, shift = random_motion(seed)
        moved = {**arrays, "X": (arrays["X"] @ matrix.T + shift).astype(np.float32)}
        turned = {
            name: model.head(name).rotated(output, torch.from_numpy(matrix))
            for name, output in outputs.items()
        }
        expected = _named(encoding, turned)
        what = f"rotation\n{matrix}\nand translation {shift}"
        _compare(_results(model, moved), expected, tolerance, what)


def check_batch_independence(model: Model, *, tolerance: float = 1e-5) -> None:
    """A complex has the same outputs alone, in a batch, and in a batch in another order."""
    complexes = _batch()
    alone = [_results(model, arrays) for arrays in complexes]
    for order in ((0, 1, 2), (2, 0, 1)):
        together = {name: torch.cat([alone[i][name] for i in order]) for name in alone[0]}
        batch = join([complexes[i] for i in order])
        _compare(
            _results(model, batch), together, tolerance, f"batch of complexes {order} against each alone"
        )


def check_permutations(model: Model, *, tolerance: float = 1e-5) -> None:
    """The order of atoms within their blocks does not matter."""
    arrays = join(_batch())
    rng = np.random.default_rng(0)
    starts = np.cumsum(arrays["block_lengths"]) - arrays["block_lengths"]
    order = np.concatenate(
        [start + rng.permutation(n) for start, n in zip(starts, arrays["block_lengths"], strict=True)]
    )
    # no output but those of atoms has as many rows
    expected = {
        name: value[order] if len(value) == len(order) else value
        for name, value in _results(model, arrays).items()
    }
    shuffled = {**arrays, "X": arrays["X"][order], "A": arrays["A"][order]}
    _compare(_results(model, shuffled), expected, tolerance, "atoms shuffled within their blocks")


def check_precision(model: Model, *, tolerance: float = 2e-6) -> None:
    """Float32 embeddings and outputs agree with float64."""
    arrays = join(_batch())
    single = _results(model, arrays)
    double = _results(copy.deepcopy(model).double(), arrays)
    _compare(double, single, tolerance, "float32 against float64")


def check_gradients(
    model: Model,
    objective: Callable[[Model, Any], Tensor] | None = None,
    *,
    tolerance: float = 1e-6,
) -> None:
    """Gradients in float64 agree with central differences along random directions.

    One direction for the coordinates and one for the parameters of each part of the model.

    objective: scalar function of model and graph inputs; by default a fixed random projection of all outputs.
    """
    exact = copy.deepcopy(model).double()
    inputs = inputs_of(exact, random_interface(4))

    def default(of: Model, at: Any) -> Tensor:
        outputs = _named(*_run(of, at)).values()
        generator = torch.Generator().manual_seed(0)
        return sum(
            (
                (value * torch.randn(value.shape, generator=generator, dtype=value.dtype)).sum()
                for value in outputs
            ),
            start=torch.zeros((), dtype=torch.float64),
        )

    function = objective or default

    def evaluate(x: Tensor) -> Tensor:
        atoms = dataclasses.replace(inputs.atoms, x=x)
        return function(exact, dataclasses.replace(inputs, atoms=atoms))

    x = inputs.atoms.x.clone().requires_grad_()
    groups: dict[str, list[Tensor]] = {"coordinates": [x]}
    for name, parameter in exact.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(".".join(name.split(".")[:2]), []).append(parameter)
    together: list[Tensor] = [value for values in groups.values() for value in values]
    gradients = dict(
        zip(together, torch.autograd.grad(evaluate(x), together, allow_unused=True), strict=True)
    )
    step = 1e-5
    generator = torch.Generator().manual_seed(1)
    for name, values in groups.items():
        directions = [torch.randn(value.shape, generator=generator, dtype=value.dtype) for value in values]
        length = torch.stack([direction.norm() for direction in directions]).norm()
        slope = 0.0
        results: list[float] = []
        for value, direction in zip(values, directions, strict=True):
            gradient = gradients[value]
            if gradient is not None:
                slope += float((gradient * direction / length).sum())
        with torch.no_grad():
            for move in (step, -2 * step, step):
                for value, direction in zip(values, directions, strict=True):
                    value.add_(direction, alpha=move / float(length))
                if len(results) < 2:  # the last move only puts the values back
                    results.append(float(evaluate(x)))
        numeric = (results[0] - results[1]) / (2 * step)
        error = abs(slope - numeric)
        assert error <= tolerance * max(1.0, abs(numeric)), (
            f"gradient of {name}: {slope:.8g}, central difference {numeric:.8g}"
        )


def check_model(model: Model) -> None:
    """All checks of this module. `model` must be in evaluation mode; batch checks need `reference_quirks` off."""
    assert not model.training, "put the model in evaluation mode first: model.eval()"
    check_rigid_motions(model)
    check_permutations(model)
    check_precision(model)
    check_gradients(model)
    if not model.config.reference_quirks:
        check_batch_independence(model)
