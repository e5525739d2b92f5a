"""Noise for pretraining: one partner of each complex is moved or left out, blocks are hidden, large ones cropped.

The work is done in Rust; here are its settings, and what it gives: a batch of flat arrays, with the record of the
noise that a model's denoising head reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from atomica import _prep
from atomica.data.record import Record, malformed
from atomica.errors import DataError
from atomica.keys import ATOM, BLOCK
from atomica.spec import Problems, setting

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["NoiseConfig", "Perturbation", "Perturbed", "perturb", "seeds"]


SMALLEST_SCALE = 0.1
"""Å; scales of translations and of Gaussian noise are drawn between this and the setting."""


@dataclass(frozen=True)
class NoiseConfig:
    """Section `[noise]`: what pretraining does to the coordinates of one partner, and how many blocks it hides.

    0 switches a kind off; all are off by default. Kinds are applied in this order, masks last. Moves concern one
    partner, drawn uniformly among those with more than one atom and, for torsions, a rotatable bond. Where a partner
    is alone, nothing is moved; it is drawn among those of at least two blocks.
    """

    rotation_sigma: float = setting(
        0.0, "width of the distribution of rotation angles, rad; 0: off", low=0, high=2 * math.pi
    )
    rotation_max: float = setting(
        math.pi / 4,
        "largest rotation angle, rad; no effect without rotation_sigma",
        above=0.001,
        high=math.pi,
    )
    translation_sigma: float = setting(
        0.0, "largest scale of the shift, Å; a scale is drawn between 0.1 and this; 0: off", low=0, high=1000
    )
    torsion_sigma: float = setting(
        0.0, "standard deviation of the change of each torsion angle, rad; 0: off", low=0, high=2 * math.pi
    )
    gaussian_sigma: float = setting(
        0.0,
        "largest scale of independent noise on every atom, Å, instead of torsions; drawn between 0.1 and this; 0: off",
        low=0,
        high=1000,
    )
    mask_proportion: float = setting(
        0.0, "share of blocks whose type is hidden, at least one of each complex; 0: off", low=0, high=1
    )
    lone_proportion: float = setting(
        0.0,
        "share of complexes that are shown without one of their partners, for heads of kind partner and "
        "contact; 0: off",
        low=0,
        high=1,
    )

    def __post_init__(self) -> None:
        """Check keys against each other."""
        scale = f"must be 0 (off) or at least {SMALLEST_SCALE} Å, the smallest scale that is drawn"
        Problems.check(
            (
                0 < self.rotation_sigma < 0.01,
                "rotation_sigma",
                "must be 0 (off) or at least 0.01 rad; the series of the density needs more terms below",
            ),
            (0 < self.translation_sigma < SMALLEST_SCALE, "translation_sigma", scale),
            (
                0 < self.torsion_sigma < 1e-3,
                "torsion_sigma",
                "must be 0 (off) or at least 0.001 rad",
            ),
            (0 < self.gaussian_sigma < SMALLEST_SCALE, "gaussian_sigma", scale),
            (
                self.gaussian_sigma > 0 and self.torsion_sigma > 0,
                "gaussian_sigma",
                "noise on atoms and on torsions exclude each other; set gaussian_sigma or torsion_sigma to 0",
            ),
        )

    @property
    def moves(self) -> bool:
        """Whether any atom is moved."""
        return any((self.rotation_sigma, self.translation_sigma, self.torsion_sigma, self.gaussian_sigma))


def seeds(run_seed: int, epoch: int, rows: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """Seeds of the noise on the complexes `rows` [G] in one epoch of a run, [G] uint64.

    Each is a hash of all three numbers, so that a complex gets the same noise in whatever batch, on whatever rank
    and after whatever interruption it is met. Different rows of one epoch have different seeds.

    >>> seeds(0, 1, [7, 8, 7])[[0, 1]].tolist() == seeds(0, 1, [7, 8]).tolist()
    True
    """
    state = np.zeros(1, dtype=np.uint64)
    for number in (run_seed, epoch):
        state = _mixed(state ^ np.array([number % 2**64], dtype=np.uint64))
    return _mixed(state ^ np.asarray(rows, dtype=np.int64).astype(np.uint64))


def _mixed(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A permutation of the 64-bit numbers in which every bit of the input reaches every bit (SplitMix64)."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@dataclass(frozen=True)
class Perturbation:
    """The noise on one segment of each complex of a batch. None where a kind of noise was not applied.

    G complexes, A atoms, T rotatable bonds; a score is the gradient of the log-density of the noise.
    segment: [G] int64, 0 or 1, the segment perturbed; -1 where none could be, and the other numbers are 0.
    translation_score: [G, 3]; translation_eps: [G] Å, the length by which the score was multiplied.
    rotation_score: [G, 3], per radian.
    torsion_bonds: [2, T] int64, the atoms of each rotatable bond, as indices into the batch;
    torsion_score: [T], per radian.
    atom_score: [A, 3], read for ordinary atoms of the segment only; atom_eps: [G] Å.

    Raises DataError naming the fields whose shapes do not fit, or that are missing beside another.
    """

    segment: Tensor
    translation_score: Tensor | None = None
    translation_eps: Tensor | None = None
    rotation_score: Tensor | None = None
    torsion_bonds: Tensor | None = None
    torsion_score: Tensor | None = None
    atom_score: Tensor | None = None
    atom_eps: Tensor | None = None

    def __post_init__(self) -> None:
        complexes = len(self.segment)
        bonds = 0 if self.torsion_bonds is None else self.torsion_bonds.shape[-1]
        expected: dict[str, tuple[int | None, ...]] = {
            "segment": (complexes,),
            "translation_score": (complexes, 3),
            "translation_eps": (complexes,),
            "rotation_score": (complexes, 3),
            "torsion_bonds": (2, bonds),
            "torsion_score": (bonds,),
            "atom_score": (None, 3),
            "atom_eps": (complexes,),
        }
        problems = []
        for name, shape in expected.items():
            value = getattr(self, name)
            if value is not None and (
                value.ndim != len(shape)
                or any(want not in (None, got) for want, got in zip(shape, value.shape, strict=True))
            ):
                wanted = str(shape).replace("None", "A")
                problems.append(f"{name} has shape {tuple(value.shape)}, expected {wanted}")
        for one, other in (
            ("translation_score", "translation_eps"),
            ("torsion_score", "torsion_bonds"),
            ("atom_score", "atom_eps"),
        ):
            for present, absent in ((one, other), (other, one)):
                if getattr(self, present) is not None and getattr(self, absent) is None:
                    problems.append(f"{present} is given without {absent}")
        if problems:
            raise DataError("perturbation: " + "; ".join(problems))

    def to(self, device: torch.device | str) -> Perturbation:
        """The same on another device."""
        from atomica.data.transfer import moved

        return moved(self, device)


@dataclass(frozen=True, eq=False)
class Perturbed:
    """A batch after noise, masks and crops. G complexes, B blocks, A atoms, M masked blocks, T rotatable bonds.

    positions [A, 3] Å; atom_types [A]; block_types, block_lengths, segments [B]; block_counts [G]: as in a record,
    one complex after the other. neighbors: level ("atom", "block") → lists within and across segments, each [A, K]
    or [B, K] int32 of indices into the batch, nearest first, -1 filled.
    perturbation: the noise, a target for a denoising head; None if no kind that moves atoms is on.
    masked [B]: the blocks that are hidden; mask_labels [M]: their types less 4, a target for a masked-block head.
    cropped [G]: whether blocks were left out; kept_blocks [B]: the block that each was before, counted over all
    records, so that `features[kept_blocks]` belong to the blocks of the result.
    lone [G]: the segment that was left alone, -1 where both are there; absent [2, N] int64: of each block that
    was left out with the other one, the complex and its type less 4, a target for a partner head. touching [B] int64:
    1 for blocks with an atom within 4 Å of one that was left out, 0 for others beside them, -1 for global blocks and
    where nothing was left out: a target for a contact head.
    unperturbed [G]: whether noise was asked for but no segment could be moved.
    rotations [G, 3]: the rotation of each segment, axis times angle, rad; torsion_angles [T]: the change of each
    torsion, rad.
    """

    positions: npt.NDArray[np.float32]
    atom_types: npt.NDArray[np.int64]
    block_types: npt.NDArray[np.int64]
    block_lengths: npt.NDArray[np.int64]
    segments: npt.NDArray[np.int64]
    block_counts: npt.NDArray[np.int64]
    neighbors: Mapping[str, tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]]
    perturbation: Perturbation | None
    masked: npt.NDArray[np.bool_]
    mask_labels: Tensor
    lone: npt.NDArray[np.int64]
    absent: Tensor
    touching: Tensor
    cropped: npt.NDArray[np.bool_]
    kept_blocks: npt.NDArray[np.int64]
    unperturbed: npt.NDArray[np.bool_]
    rotations: npt.NDArray[np.float64]
    torsion_angles: npt.NDArray[np.float64]


def perturb(
    records: Sequence[Record],
    config: NoiseConfig,
    seeds: npt.ArrayLike,
    *,
    neighbors: int,
    max_blocks: int | None = None,
    reference_quirks: bool = False,
) -> Perturbed:
    """Crop, perturb and mask a batch in Rust, without the GIL, and find the neighbours of what results.

    seeds [G]: one for each complex, see `seeds`; the result for a complex depends on nothing else. neighbors: length
    of the neighbour lists. max_blocks: complexes with more blocks (global ones counted) are cropped around a place
    where the partners are close; at least 4. reference_quirks: unknown blocks have no neighbours, as in `graph.batch`.
    Raises DataError for no complexes, and naming the complex and the field that is malformed.

    >>> from atomica import open_dataset
    >>> records = open_dataset("demo://pockets")[:2]
    >>> found = perturb(records, NoiseConfig(mask_proportion=0.1), seeds(0, 0, [0, 1]), neighbors=8)
    >>> int(found.masked.sum()) == len(found.mask_labels), found.perturbation
    (True, None)
    """
    if not records:
        raise DataError("cannot perturb zero complexes")
    if max_blocks is not None and max_blocks < 4:
        raise DataError(f"max_blocks = {max_blocks}: must be at least 4, two blocks of each partner")
    for number, record in enumerate(records):
        problem = malformed(record)
        if problem:
            raise DataError(f"{getattr(record, 'id', None) or f'record {number}'}: {problem}")
    given = np.asarray(seeds, dtype=np.uint64)
    if given.shape != (len(records),):
        raise DataError(f"seeds: expected {len(records)} values, one per complex, got shape {given.shape}")
    return _run(records, config, given, neighbors, max_blocks, reference_quirks)


def _run(
    records: Sequence[Record],
    config: NoiseConfig,
    seeds: npt.NDArray[np.uint64],
    neighbors: int,
    max_blocks: int | None,
    reference_quirks: bool,
    draws: Sequence[Mapping[str, Any]] | None = None,
) -> Perturbed:
    """As `perturb`; draws: what chance would decide, for tests."""
    import torch

    try:
        found = _prep.perturb(list(records), config, seeds, neighbors, max_blocks, reference_quirks, draws)
    except ValueError as error:
        complex_, reason = error.args
        raise DataError(f"{records[complex_].id}: {reason}") from None
    perturbation = None
    if config.moves:
        kinds = {
            "translation": config.translation_sigma,
            "rotation": config.rotation_sigma,
            "torsion": config.torsion_sigma,
            "atom": config.gaussian_sigma,
        }
        tensors = {"segment": torch.from_numpy(found["segment"])}
        for name in (
            "translation_score",
            "translation_eps",
            "rotation_score",
            "torsion_score",
            "atom_score",
            "atom_eps",
        ):
            if kinds[name.partition("_")[0]]:
                tensors[name] = torch.from_numpy(found[name])
        if config.torsion_sigma:
            bonds = np.stack([found["torsion_fixed"], found["torsion_moving"]])
            tensors["torsion_bonds"] = torch.from_numpy(bonds)
        perturbation = Perturbation(**tensors)
    return Perturbed(
        positions=found["positions"],
        atom_types=found["atom_types"],
        block_types=found["block_types"],
        block_lengths=found["block_lengths"],
        segments=found["segments"],
        block_counts=found["block_counts"],
        neighbors={level: (found[f"{level}_intra"], found[f"{level}_inter"]) for level in (ATOM, BLOCK)},
        perturbation=perturbation,
        masked=found["masked"],
        mask_labels=torch.from_numpy(found["mask_labels"]),
        cropped=found["cropped"],
        kept_blocks=found["kept_blocks"],
        lone=found["lone"],
        absent=torch.from_numpy(
            np.stack([np.repeat(np.arange(len(seeds)), found["absent_counts"]), found["absent_types"]])
        ),
        touching=torch.from_numpy(found["touching"]),
        unperturbed=(found["segment"] < 0) & (found["lone"] < 0) & config.moves,
        rotations=found["rotation"],
        torsion_angles=found["torsion_angles"],
    )
