"""Noise, torsions and crops against numbers of the original, for the same random draws.

Records hold single precision, so that coordinates agree to 1e-5 Å; scores are compared to their own precision.
"""

from __future__ import annotations

import gzip
import json
from typing import Any

import numpy as np
import pytest
from helpers import PREP

from atomica import _prep
from atomica.data import noise
from atomica.keys import GLOBAL_BLOCK
from atomica.testing import as_record

POSITION = 1e-5
"""Å; rounding of coordinates to single precision, before and after."""

DRAWS: dict[str, Any] = {
    "pair": 0,
    "lone": None,
    "segment": None,
    "rotation": None,
    "translation": None,
    "torsions": [],
    "gaussian": None,
    "masked": [],
}


@pytest.fixture(scope="module")
def numbers() -> dict[str, np.ndarray]:
    with np.load(PREP / "noise.npz") as file:
        return dict(file)


def load(name: str) -> Any:
    with gzip.open(PREP / f"{name}.json.gz", "rt") as file:
        return json.load(file)


def torsions_of(
    segments: list[dict], block_lengths: Any, segment_ids: Any
) -> list[tuple[int, int, list[int]]]:
    """Bonds of a fixture as (fixed, moving, moving atoms) with atoms counted over the complex."""
    starts = np.cumsum([0, *block_lengths])
    found = []
    for number, segment in enumerate(segments):
        blocks = np.flatnonzero(np.asarray(segment_ids) == number)[1:]
        lists = (
            [(segment["segment"], int(starts[blocks[0]]))]
            if segment["type"] == 1
            else [(t, int(starts[b])) for t, b in zip(segment["blocks"], blocks, strict=True)]
        )
        for torsions, first in lists:
            if torsions:
                for edge, moved in zip(torsions["edges"], torsions["rotate"], strict=True):
                    (moving,) = set(edge) & set(moved)
                    (fixed,) = set(edge) - {moving}
                    found.append((fixed + first, moving + first, sorted(m + first for m in moved)))
    return found


@pytest.fixture(scope="module")
def example(numbers):
    """The complex 3o5r/FK5 that the original's noise was put on, with its rotatable bonds."""
    (item,) = [i for i in load("torsions") if i["id"] == "3o5r_A_A_FK5"]
    arrays = {name: numbers[f"complex.{name}"] for name in ("X", "B", "A", "block_lengths", "segment_ids")}
    bonds = torsions_of(item["segments"], arrays["block_lengths"], arrays["segment_ids"])
    return as_record(**arrays, torsions=bonds, id="3o5r_A_A_FK5")


def run(record, config, max_blocks=None, **draws):
    return noise._run([record], config, np.zeros(1, np.uint64), 8, max_blocks, False, [{**DRAWS, **draws}])


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.25, 0.5, 1.0])
def test_torsion_scores_are_exact(numbers, sigma):
    wanted = numbers[f"torus.exact.sigma={sigma}"]
    found = _prep.torsion_score(numbers["torus.angles"], sigma)
    assert np.abs(found - wanted).max() <= 1e-10 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("tag", "largest"), [("0.25_0.5", 0.5), ("0.25_pi4", np.pi / 4), ("1.0_pi4", np.pi / 4)]
)
def test_rotation_tables(numbers, tag, largest):
    angles, probabilities, scores = _prep.rotation_table(float(tag.split("_")[0]), largest)
    np.testing.assert_allclose(angles, numbers[f"so3.{tag}.theta_range"], rtol=1e-14)
    np.testing.assert_allclose(probabilities, numbers[f"so3.{tag}.density"], rtol=1e-8)
    np.testing.assert_allclose(scores, numbers[f"so3.{tag}.score"], rtol=1e-8, atol=1e-8)


def test_rotation(example, numbers):
    sigma, largest = numbers["rotation.sigma_maxtheta"]
    index, normal = int(numbers["rotation.theta_index_drawn"]), numbers["rotation.normal_drawn"][0]
    found = run(
        example,
        noise.NoiseConfig(rotation_sigma=float(sigma), rotation_max=float(largest)),
        segment=int(numbers["rotation.seg"]),
        rotation=(index, normal.tolist()),
    )
    assert np.abs(found.positions - numbers["rotation.X_out"]).max() < POSITION
    np.testing.assert_allclose(found.perturbation.rotation_score[0], numbers["rotation.score"], rtol=1e-6)
    np.testing.assert_allclose(found.rotations[0], numbers["rotation.axis"] * numbers["rotation.theta"])


def test_translation(example, numbers):
    eps, normal = float(numbers["translation.eps_drawn"]), numbers["translation.normal_drawn"][0]
    found = run(
        example,
        noise.NoiseConfig(translation_sigma=float(numbers["translation.sigma"])),
        segment=int(numbers["translation.seg"]),
        translation=(eps, normal.tolist()),
    )
    # The original moves the global atom, which the file has to 6 decimals only, and does not put it back.
    ordinary = example.atom_types != 2
    assert np.abs(found.positions - numbers["translation.X_out"])[ordinary].max() < POSITION
    assert np.abs(found.positions - numbers["translation.X_out"]).max() < 1e-4
    np.testing.assert_allclose(
        found.perturbation.translation_score[0], numbers["translation.score"], rtol=1e-6
    )
    np.testing.assert_allclose(found.perturbation.translation_eps[0], numbers["translation.eps"], rtol=1e-6)


@pytest.mark.parametrize("segment", [0, 1])
def test_torsions(example, numbers, segment):
    tag = f"torsion_noise.seg{segment}"
    sigma, angles = float(numbers[f"{tag}.sigma"]), numbers[f"{tag}.angles"]
    found = run(example, noise.NoiseConfig(torsion_sigma=sigma), segment=segment, torsions=angles.tolist())
    assert np.abs(found.positions - numbers[f"{tag}.X_out"])[example.atom_types != 2].max() < POSITION
    edges = np.sort(found.perturbation.torsion_bonds.numpy(), axis=0)
    assert np.array_equal(edges, np.sort(numbers[f"{tag}.edges"], axis=0))
    np.testing.assert_allclose(
        found.perturbation.torsion_score, _prep.torsion_score(angles, sigma), rtol=1e-6
    )
    # The original reads its scores from a coarse table.
    np.testing.assert_allclose(found.perturbation.torsion_score, numbers[f"{tag}.score"], rtol=0.02)
    np.testing.assert_array_equal(found.torsion_angles, angles)


def test_one_side_chain(numbers):
    """A lysine alone, turned bond after bond."""
    x, edges, moved = (numbers[f"sidechain.{name}"] for name in ("coords_in", "edges", "mask_rotate"))
    bonds = []
    for edge, mask in zip(edges, moved, strict=True):
        moving, fixed = (edge[0], edge[1]) if mask[edge[0]] else (edge[1], edge[0])
        bonds.append((1 + int(fixed), 1 + int(moving), (1 + np.flatnonzero(mask)).tolist()))
    record = as_record(
        X=np.concatenate([x.mean(axis=0)[None], x]),
        B=[GLOBAL_BLOCK, 16],
        A=[2] + [8] * len(x),
        block_lengths=[1, len(x)],
        segment_ids=[0, 0],
        torsions=bonds,
    )
    found = run(
        record,
        noise.NoiseConfig(torsion_sigma=0.5),
        segment=0,
        torsions=numbers["sidechain.angles"].tolist(),
    )
    assert np.abs(found.positions[1:] - numbers["sidechain.coords_out"]).max() < POSITION


def test_one_ligand(numbers):
    """FK5 alone: torsions, then the best fit onto what was before."""
    x, edges, moved = (numbers[f"ligand.{name}"] for name in ("coords_in", "edges", "mask_rotate"))
    bonds = []
    for edge, mask in zip(edges, moved, strict=True):
        moving, fixed = (edge[0], edge[1]) if mask[edge[0]] else (edge[1], edge[0])
        bonds.append((1 + int(fixed), 1 + int(moving), (1 + np.flatnonzero(mask)).tolist()))
    record = as_record(
        X=np.concatenate([x.mean(axis=0)[None], x]),
        B=[GLOBAL_BLOCK] + [37] * len(x),
        A=[2] + [8] * len(x),
        block_lengths=[1] * (1 + len(x)),
        segment_ids=[0] * (1 + len(x)),
        torsions=bonds,
    )
    found = run(
        record, noise.NoiseConfig(torsion_sigma=0.5), segment=0, torsions=numbers["ligand.angles"].tolist()
    )
    assert np.abs(found.positions[1:] - numbers["ligand.coords_out"]).max() < POSITION


def test_gaussian(example, numbers):
    eps, normal = float(numbers["gaussian.eps_drawn"]), numbers["gaussian.normal_drawn"]
    found = run(
        example,
        noise.NoiseConfig(gaussian_sigma=float(numbers["gaussian.sigma"])),
        segment=int(numbers["gaussian.seg"]),
        gaussian=(eps, normal.tolist()),
    )
    ordinary = example.atom_types != 2
    assert np.abs(found.positions - numbers["gaussian.X_out"])[ordinary].max() < POSITION
    score = found.perturbation.atom_score.numpy()
    np.testing.assert_allclose(score[ordinary], numbers["gaussian.score"][ordinary], atol=1e-5)
    np.testing.assert_allclose(score, numbers["gaussian.score"], atol=1e-3)
    assert not score[np.repeat(example.segment_ids, example.block_lengths) == 0].any()


def test_crops():
    items = {item["id"]: item for run in load("interfaces") for item in run["items"]}
    torsions = {item["id"]: item["segments"] for item in load("torsions")}
    crops = load("crop")
    assert len(crops) == 3
    for wanted in crops:
        item = items[wanted["id"]]
        x: list[list[float]] = []
        for segment in item["segments"]:
            x.append(segment["global_xyz"])
            x += [atom for block in segment["blocks"] for atom in block["xyz"]]
        bonds = torsions_of(torsions[wanted["id"]], item["block_lengths"], item["segment_ids"])
        names = ("B", "A", "block_lengths", "segment_ids")
        record = as_record(X=x, **{name: item[name] for name in names}, torsions=bonds, id=wanted["id"])
        config = noise.NoiseConfig(torsion_sigma=0.5)
        pair = wanted["candidate_pairs"].index(wanted["chosen_pair"])
        # Angles of 0 show the bonds without moving anything.
        new_bonds = torsions_of(wanted["torsion"], wanted["block_lengths"], wanted["segment_ids"])
        segment_of = np.repeat(wanted["segment_ids"], wanted["block_lengths"])
        old = np.array(wanted["kept_old_block_indices"])
        ranks, places = order_of(wanted, old, record)
        for segment in (0, 1):
            here = [bond for bond in new_bonds if segment_of[bond[0]] == segment]
            found = run(
                record,
                config,
                wanted["max_n_vertex_per_item"],
                pair=pair,
                segment=segment,
                torsions=[0.0] * len(here),
            )
            assert found.cropped.all()
            normal = found.block_types != GLOBAL_BLOCK
            assert found.kept_blocks[normal].tolist() == sorted(old.tolist())
            assert found.block_types.tolist() == np.array(wanted["B"])[ranks].tolist()
            assert found.block_lengths.tolist() == np.array(wanted["block_lengths"])[ranks].tolist()
            assert found.segments.tolist() == np.array(wanted["segment_ids"])[ranks].tolist()
            assert found.atom_types.tolist() == np.array(wanted["A"])[places].tolist()
            assert np.abs(found.positions - np.array(wanted["X"])[places]).max() < 1e-4
            index = np.argsort(places)
            expected = sorted(sorted((int(index[a]), int(index[b]))) for a, b, _ in here)
            edges = np.sort(found.perturbation.torsion_bonds.numpy(), axis=0).T
            assert sorted(edges.tolist()) == expected
        assert len(new_bonds) > 10


def order_of(wanted, old, record):
    """Blocks and atoms of a crop of the original, which writes the nearest first, in their old order."""
    types = np.array(wanted["B"])
    was = np.zeros(len(types), dtype=int)
    was[types == GLOBAL_BLOCK] = np.flatnonzero(record.block_types == GLOBAL_BLOCK)
    segments = np.array(wanted["segment_ids"])
    for segment in (0, 1):
        rows = np.flatnonzero((types != GLOBAL_BLOCK) & (segments == segment))
        was[rows] = [block for block in old if record.segment_ids[block] == segment]
    ranks = np.argsort(was)
    starts = np.cumsum([0, *wanted["block_lengths"]])
    return ranks, np.concatenate([np.arange(starts[r], starts[r + 1]) for r in ranks])
