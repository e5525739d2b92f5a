"""What a perturbed batch carries for pretraining: which segment moved, and by how much.

The perturbations themselves are made in Rust; here is the record of them that a model's denoising head reads.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from atomica.errors import DataError

__all__ = ["Perturbation"]


@dataclass(frozen=True)
class Perturbation:
    """The noise on one segment of each complex of a batch. None where a kind of noise was not applied.

    G complexes, A atoms, T rotatable bonds; a score is the gradient of the log-density of the noise.
    segment: [G] int64, 0 or 1, the segment perturbed.
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
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return Perturbation(**{name: value.to(device) for name, value in given.items() if value is not None})
