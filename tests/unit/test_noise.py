"""Noise for pretraining: a plain NumPy twin, distributions of the draws, independence of the batch, refusals."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.transform import Rotation

import atomica
from atomica import _prep, keys, open_dataset
from atomica.data import graph, inputs, noise
from atomica.data.record import Record
from atomica.errors import DataError
from atomica.heads.denoise import DenoiseConfig, DenoiseHead
from atomica.spec import Problems
from atomica.testing import as_record, small_model

EVERYTHING = noise.NoiseConfig(
    rotation_sigma=0.4, rotation_max=1.0, translation_sigma=1.5, torsion_sigma=0.5, mask_proportion=0.15
)
GAUSSIAN = noise.NoiseConfig(rotation_sigma=0.4, translation_sigma=1.5, gaussian_sigma=1.0)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Complexes of the demo set, proteins with proteins and nucleic acids of many sizes, and some with ligands."""
    return list(open_dataset("demo://pockets"))[::5] + [with_chain(number) for number in range(6)]


def with_chain(seed: int) -> Record:
    """Five single atoms and a chain of six to eleven, all of whose inner bonds turn: a caricature of a ligand."""
    generator = np.random.default_rng(seed)
    count = 6 + seed
    steps = np.array([[1.3, 0.75 * (-1) ** i, 0.0] for i in range(count)])
    chain = np.cumsum(steps, axis=0) + generator.normal(0, 0.05, (count, 3)) + [2.0, 4.0, 0.0]
    pocket = generator.normal(0, 4, (5, 3))
    positions = [pocket.mean(axis=0)[None], pocket, chain.mean(axis=0)[None], chain]
    bonds = []
    for i in range(1, count - 2):
        below, above = list(range(i + 1)), list(range(i + 1, count))
        fixed, moving, moved = (i + 1, i, below) if len(below) <= len(above) else (i, i + 1, above)
        bonds.append((7 + fixed, 7 + moving, [7 + atom for atom in moved]))
    return as_record(
        np.concatenate(positions),
        [keys.GLOBAL_BLOCK, *[37] * 5, keys.GLOBAL_BLOCK, *[37] * count],
        [keys.GLOBAL_ATOM, *[8] * 5, keys.GLOBAL_ATOM, *[8] * count],
        [1] * (7 + count),
        [0] * 6 + [1] * (1 + count),
        torsions=bonds,
        id=f"chain-{seed}",
    )


def atoms_of(record: Record, segment: int, *, ordinary: bool = True) -> np.ndarray:
    block = np.repeat(np.arange(len(record.block_types)), record.block_lengths)
    is_global = (record.block_types == keys.GLOBAL_BLOCK)[block]
    return np.flatnonzero((record.segment_ids[block] == segment) & (is_global != ordinary))


def bonds_of(record: Record, segment: int) -> list[tuple[int, int, np.ndarray]]:
    moved = np.split(record.torsion_atoms, np.cumsum(record.torsion_sizes)[:-1])
    own = set(atoms_of(record, segment).tolist())
    every = zip(
        record.torsion_fixed, record.torsion_moving, moved, strict=len(moved) == len(record.torsion_sizes)
    )
    return [(int(f), int(m), atoms) for f, m, atoms in every if int(f) in own]


# ------------------------------------------------------------------------------------------------- slow twin


def kabsch(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    a, b = points - points.mean(axis=0), targets - targets.mean(axis=0)
    u, _, vt = np.linalg.svd(a.T @ b)
    u[:, -1] *= np.sign(np.linalg.det(u @ vt))
    return a @ (u @ vt) + targets.mean(axis=0)


def slow(record: Record, found: noise.Perturbed, moved: noise.Perturbed) -> dict[str, np.ndarray]:
    """One complex again, in NumPy. `moved` has the same draws as `found`, but no masks, so that it shows all angles."""
    segment = int(found.perturbation.segment[0])
    x = record.positions.astype(np.float64)
    own, hub = atoms_of(record, segment), atoms_of(record, segment, ordinary=False)
    center = x[own].mean(axis=0)
    x[own] = (x[own] - center) @ Rotation.from_rotvec(found.rotations[0]).as_matrix().T + center
    eps = found.perturbation.translation_eps.double().numpy()[0]
    x[[*own, *hub]] += eps * found.perturbation.translation_score.double().numpy()[0]
    still = x.copy()
    bonds = bonds_of(record, segment)
    for (fixed, moving, atoms), angle in zip(bonds, moved.torsion_angles, strict=True):
        axis = x[fixed] - x[moving]
        turn = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix()
        x[atoms] = (x[atoms] - x[fixed]) @ turn.T + x[fixed]
    types = record.block_types[record.segment_ids == segment]
    if not ((types >= 4) & (types <= 31)).any():
        x[own] = kabsch(x[own], still[own])
    x[hub] = x[own].mean(axis=0)
    starts = np.cumsum([0, *record.block_lengths])
    pieces, atom_types, place = [], [], np.zeros(len(x), dtype=int)
    for block, hidden in enumerate(found.masked):
        here = np.arange(starts[block], starts[block + 1])
        first = sum(map(len, pieces))
        place[here] = first if hidden else first + np.arange(len(here))
        pieces.append(x[here].mean(axis=0)[None] if hidden else x[here])
        atom_types.append([1] if hidden else record.atom_types[here])
    edges = [(place[f], place[m]) for f, m, _ in bonds]
    kept = [i for i, (a, b) in enumerate(edges) if a != b]
    return {
        "positions": np.concatenate(pieces),
        "atom_types": np.concatenate(atom_types),
        "block_types": np.where(found.masked, keys.MASK_BLOCK, record.block_types),
        "block_lengths": np.where(found.masked, 1, record.block_lengths),
        "labels": record.block_types[found.masked].astype(int) - 4,
        "edges": np.array([edges[i] for i in kept]).reshape(-1, 2).T,
        "angles": moved.torsion_angles[kept],
    }


def test_perturbed_complexes_are_those_of_the_slow_twin(records):
    without_masks = dataclasses.replace(EVERYTHING, mask_proportion=0.0)
    compared, whole = 0, 0
    for number, record in enumerate(records):
        seed = noise.seeds(3, 1, [number])
        found = noise.perturb([record], EVERYTHING, seed, neighbors=8)
        if found.unperturbed[0]:
            continue
        moved = noise.perturb([record], without_masks, seed, neighbors=8)
        wanted = slow(record, found, moved)
        assert np.abs(found.positions - wanted["positions"]).max() < 1e-4, record.id
        for name in ("atom_types", "block_types", "block_lengths"):
            assert np.array_equal(getattr(found, name), wanted[name]), (record.id, name)
        assert np.array_equal(found.mask_labels.numpy(), wanted["labels"])
        assert np.array_equal(found.perturbation.torsion_bonds.numpy(), wanted["edges"])
        assert np.array_equal(found.torsion_angles, wanted["angles"])
        score = _prep.torsion_score(wanted["angles"], EVERYTHING.torsion_sigma)
        np.testing.assert_allclose(found.perturbation.torsion_score.numpy(), score, rtol=1e-6, atol=1e-6)
        types = record.block_types[record.segment_ids == int(found.perturbation.segment[0])]
        whole += not ((types >= 4) & (types <= 31)).any()
        compared += 1
    assert compared > 30
    assert whole > 3


@pytest.mark.parametrize(
    "config", [EVERYTHING, GAUSSIAN, noise.NoiseConfig()], ids=["all", "gaussian", "off"]
)
@pytest.mark.parametrize("max_blocks", [None, 40])
@pytest.mark.parametrize("quirks", [False, True])
def test_graphs_are_those_of_the_arrays(records, config, max_blocks, quirks):
    options = {"k_neighbors": 5, "atom_global": True, "reference_quirks": quirks}
    seeds = noise.seeds(0, 0, np.arange(len(records)))
    found, arrays = graph.perturbed(records, config, seeds, max_blocks=max_blocks, **options)
    modality = [record.modality for record in records]
    wanted = atomica.graph_from_arrays(
        arrays.positions,
        arrays.block_types,
        arrays.atom_types,
        arrays.block_lengths,
        arrays.segments,
        arrays.block_counts,
        modality=modality,
        **options,
    )
    assert found.canonical_etypes == wanted.canonical_etypes
    for relation in found.canonical_etypes:
        assert torch.equal(
            torch.stack(found.edges(etype=relation)), torch.stack(wanted.edges(etype=relation))
        )
        assert torch.equal(found.batch_num_edges(relation), wanted.batch_num_edges(relation))
    for level in (keys.ATOM, keys.BLOCK):
        for name, value in wanted.nodes[level].data.items():
            if name == "made":  # arrays do not say what data they are from
                continue
            assert torch.equal(found.nodes[level].data[name], value), (level, name)
    assert torch.equal(inputs.inputs(found).masked, torch.from_numpy(arrays.masked))


def test_nothing_on_is_the_batch_itself(records):
    found, arrays = graph.perturbed(records, noise.NoiseConfig(), noise.seeds(0, 0, np.arange(len(records))))
    wanted = graph.batch(records)
    for relation in wanted.canonical_etypes:
        assert torch.equal(
            torch.stack(found.edges(etype=relation)), torch.stack(wanted.edges(etype=relation))
        )
    assert torch.equal(found.nodes["atom"].data["x"], wanted.nodes["atom"].data["x"])
    assert arrays.perturbation is None
    assert not arrays.masked.any()
    assert not arrays.cropped.any()
    assert not arrays.unperturbed.any()
    assert np.array_equal(arrays.kept_blocks, np.arange(len(arrays.block_types)))


# ---------------------------------------------------------------------------------------------- independence


def single(found: noise.Perturbed, complex_: int) -> dict[str, np.ndarray]:
    """What a batch holds of one complex, counted within it."""
    block_ends = np.cumsum(found.block_counts)
    blocks = slice(block_ends[complex_] - found.block_counts[complex_], block_ends[complex_])
    atom_ends = np.cumsum([0, *found.block_lengths])
    first, last = atom_ends[blocks.start], atom_ends[blocks.stop]
    atoms = slice(first, last)

    def local(lists: np.ndarray, rows: slice, start: int) -> np.ndarray:
        return np.where(lists[rows] < 0, -1, lists[rows] - start)

    parts = {
        "positions": found.positions[atoms],
        "atom_types": found.atom_types[atoms],
        "block_types": found.block_types[blocks],
        "segments": found.segments[blocks],
        "masked": found.masked[blocks],
        "cropped": found.cropped[complex_],
        "rotations": found.rotations[complex_],
    }
    for kind in (0, 1):
        parts[f"atom{kind}"] = local(found.neighbors["atom"][kind], atoms, first)
        parts[f"block{kind}"] = local(found.neighbors["block"][kind], blocks, blocks.start)
    noted = found.perturbation
    assert noted is not None
    parts["segment"] = noted.segment[complex_].numpy()
    bonds = noted.torsion_bonds.numpy()
    own = (bonds[0] >= first) & (bonds[0] < last)
    parts["bonds"], parts["torsion_score"] = bonds[:, own] - first, noted.torsion_score.numpy()[own]
    return parts


def test_a_complex_does_not_depend_on_its_batch(records):
    few = records[:12]
    seeds = noise.seeds(7, 2, np.arange(len(few)))
    together = noise.perturb(few, EVERYTHING, seeds, neighbors=6, max_blocks=50)
    order = np.random.default_rng(0).permutation(len(few))
    shuffled = noise.perturb([few[i] for i in order], EVERYTHING, seeds[order], neighbors=6, max_blocks=50)
    for place, number in enumerate(order):
        alone = noise.perturb([few[number]], EVERYTHING, seeds[[number]], neighbors=6, max_blocks=50)
        wanted = single(alone, 0)
        for found in (single(together, number), single(shuffled, place)):
            for name, value in wanted.items():
                assert np.array_equal(found[name], value), (name, few[number].id)
    assert together.cropped.any()
    assert not together.cropped.all()


def test_threads_at_once_get_the_same(records):
    seeds = noise.seeds(0, 0, np.arange(len(records)))
    wanted = noise.perturb(records, EVERYTHING, seeds, neighbors=8).positions
    found: list[np.ndarray] = []

    def work() -> None:
        found.append(noise.perturb(records, EVERYTHING, seeds, neighbors=8).positions)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(np.array_equal(positions, wanted) for positions in found)


def test_kinds_of_noise_do_not_disturb_each_other(records):
    seeds = noise.seeds(0, 0, np.arange(len(records)))
    full = noise.perturb(records, EVERYTHING, seeds, neighbors=1)
    masks = noise.perturb(records, noise.NoiseConfig(mask_proportion=0.15), seeds, neighbors=1)
    assert np.array_equal(full.masked, masks.masked)
    shifts = noise.perturb(
        records, dataclasses.replace(EVERYTHING, rotation_sigma=0.0, mask_proportion=0.0), seeds, neighbors=1
    )
    assert torch.equal(full.perturbation.translation_score, shifts.perturbation.translation_score)
    some = noise.perturb(records, dataclasses.replace(EVERYTHING, lone_proportion=0.5), seeds, neighbors=1)
    both = np.flatnonzero(some.lone < 0)
    assert 0 < len(both) < len(records)
    for name, value in single(full, int(both[-1])).items():
        assert np.array_equal(single(some, int(both[-1]))[name], value), name


# --------------------------------------------------------------------------------------------- lone partners


def touches(record, segment):
    """Of each block of a partner whether an atom of it is within 4 Å of the other's; -1 for global blocks."""
    kinds = np.repeat(record.block_types, record.block_lengths)
    of_atom = np.repeat(record.segment_ids, record.block_lengths)
    other = record.positions[(of_atom != segment) & (kinds != keys.GLOBAL_BLOCK)].astype(float)
    ends = np.cumsum(record.block_lengths)
    found = []
    for block in np.flatnonzero(record.segment_ids == segment):
        own = record.positions[ends[block] - record.block_lengths[block] : ends[block]].astype(float)
        near = np.linalg.norm(own[:, None] - other[None], axis=2).min() <= 4.0
        found.append(-1 if record.block_types[block] == keys.GLOBAL_BLOCK else int(near))
    return found


def test_a_lone_partner_is_what_a_view_of_it_shows(records):
    seeds = noise.seeds(0, 0, np.arange(len(records)))
    config = dataclasses.replace(EVERYTHING, lone_proportion=1.0)
    found = noise.perturb(records, config, seeds, neighbors=6, max_blocks=40)
    assert set(found.lone.tolist()) == {0, 1}
    assert found.perturbation.segment.tolist() == [-1] * len(records), "what is alone is not moved"
    assert not found.unperturbed.any(), "nor was it to be"
    assert all((found.neighbors[level][1] == keys.NO_NEIGHBOR).all() for level in ("atom", "block"))
    still = noise.perturb(records, noise.NoiseConfig(lone_proportion=1.0), seeds, neighbors=6)
    first, start = 0, 0
    for number, (record, segment) in enumerate(zip(records, found.lone, strict=True)):
        view = record.view(f"segment{segment}")
        wanted = noise.perturb([view], noise.NoiseConfig(), [0], neighbors=6)
        blocks = slice(first, first + len(view.block_types))
        atoms = slice(start, start + len(view.positions))
        first, start = blocks.stop, atoms.stop
        assert np.array_equal(still.block_types[blocks], view.block_types)
        np.testing.assert_allclose(still.positions[atoms], wanted.positions, rtol=1e-6, atol=1e-5)
        lists = still.neighbors["atom"][0][atoms]
        assert np.array_equal(np.where(lists < 0, -1, lists - atoms.start), wanted.neighbors["atom"][0])
        offset = sum(len(one.block_types) for one in records[:number])
        own = np.flatnonzero(record.segment_ids == segment) + offset
        assert np.array_equal(still.kept_blocks[blocks], own)
        gone = record.block_types[record.segment_ids != segment]
        absent = still.absent[1][still.absent[0] == number]
        assert absent.tolist() == [kind - 4 for kind in gone.tolist() if kind >= 4]
        assert still.touching[blocks].tolist() == touches(record, int(segment))
    assert first == len(still.block_types)
    assert {0, 1} < set(still.touching.tolist())
    both = noise.perturb(records, EVERYTHING, seeds, neighbors=1).touching
    assert both.tolist() == [-1] * len(both)


def test_partners_are_left_out_as_often_as_asked_for():
    # One block alone says nothing: it is not the one that stays, and of two such complexes stay whole.
    cases = {(3, 4): {0, 1}, (1, 4): {1}, (1, 1): set()}
    for (first, second), stay in cases.items():
        record = pair_of_clusters(first, second)
        found = noise.perturb([record] * 2000, noise.NoiseConfig(lone_proportion=0.3),
                              noise.seeds(0, 0, np.arange(2000)), neighbors=1)  # fmt: skip
        counts = {segment: int((found.lone == segment).sum()) for segment in (-1, 0, 1)}
        assert {segment for segment in (0, 1) if counts[segment]} == stay
        if stay:
            low, high = stats.binom.interval(0.9999, 2000, 0.3 / len(stay))
            assert all(low <= counts[segment] <= high for segment in stay)
    alone = pair_of_clusters(3, 4).segment(0)
    assert noise.perturb([alone], noise.NoiseConfig(lone_proportion=1.0), [0], neighbors=1).lone.tolist() == [
        -1
    ]


SEEDS = [2558736989570252433, 3400964856525257824]
DRAWS = {
    "segment": 0,
    "rotation": [0.3473324133683727, -0.5479273270396636, -0.7610097495478434],
    "eps": 1.1878736019134521,
    "translation": [-0.2235238254070282, 0.5296391248703003, 0.717083215713501],
    "atom_eps": 0.3683646321296692,
    "masked": [8],
}


def test_random_numbers_stay_the_same():
    """Runs can be repeated with a later version: seeds and draws are pinned."""
    assert noise.seeds(0, 0, [0, 1]).tolist() == SEEDS
    assert len(set(noise.seeds(-1, 2**40, np.arange(100_000)).tolist())) == 100_000
    record = pair_of_clusters(3, 4)
    config = dataclasses.replace(EVERYTHING, torsion_sigma=0.0, gaussian_sigma=1.0)
    found = noise.perturb([record], config, [5], neighbors=1)
    assert found.perturbation.segment.tolist() == [DRAWS["segment"]]
    np.testing.assert_allclose(found.rotations[0], DRAWS["rotation"], rtol=1e-6)
    np.testing.assert_allclose(found.perturbation.translation_eps[0], DRAWS["eps"], rtol=1e-6)
    np.testing.assert_allclose(found.perturbation.translation_score[0], DRAWS["translation"], rtol=1e-6)
    np.testing.assert_allclose(found.perturbation.atom_eps[0], DRAWS["atom_eps"], rtol=1e-6)
    assert np.flatnonzero(found.masked).tolist() == DRAWS["masked"]


# --------------------------------------------------------------------------------------------- distributions


def pair_of_clusters(first: int, second: int, seed: int = 0) -> Record:
    """Two partners of single-atom blocks."""
    generator = np.random.default_rng(seed)
    points, types, lengths, segments, atoms = [], [], [], [], []
    for segment, count in enumerate((first, second)):
        own = generator.normal(0, 2, (count, 3)) + 5 * segment
        points += [own.mean(axis=0)[None], own]
        types += [keys.GLOBAL_BLOCK, *generator.integers(34, 40, count)]
        atoms += [keys.GLOBAL_ATOM] + [8] * count
        lengths += [1] * (count + 1)
        segments += [segment] * (count + 1)
    return as_record(np.concatenate(points), types, atoms, lengths, segments)


DRAWN = 100_000
LEVEL = 1e-3
"""Seeds are fixed, so that a test either always passes or never."""


def test_distributions_of_rigid_noise():
    record = pair_of_clusters(3, 4)
    config = noise.NoiseConfig(rotation_sigma=0.4, rotation_max=1.0, translation_sigma=1.5)
    found = noise.perturb([record] * DRAWN, config, noise.seeds(1, 0, np.arange(DRAWN)), neighbors=0)
    noted = found.perturbation
    angle = np.linalg.norm(found.rotations, axis=1)
    angles, probabilities, scores = _prep.rotation_table(0.4, 1.0)
    index = np.rint((angle - angles[0]) / (angles[1] - angles[0])).astype(int)
    np.testing.assert_allclose(angle, angles[index], rtol=1e-9)
    # The steps of a discrete distribution make the test only more lenient; cells of at least 20 are compared, too.
    counts = np.bincount(index, minlength=100)
    often = probabilities * DRAWN >= 20
    expected = probabilities[often] / probabilities[often].sum() * counts[often].sum()
    assert stats.chisquare(counts[often], expected).pvalue > LEVEL
    cumulative = np.cumsum(probabilities)
    assert np.abs(np.cumsum(counts) / DRAWN - cumulative).max() < 1.95 / math.sqrt(DRAWN)
    axis = found.rotations / angle[:, None]
    for column in axis.T:
        assert stats.kstest(column, stats.uniform(-1, 2).cdf).pvalue > LEVEL
    np.testing.assert_allclose(
        noted.rotation_score.numpy(), axis * scores[index][:, None], rtol=1e-5, atol=1e-6
    )
    eps = noted.translation_eps.double().numpy()
    assert stats.kstest(eps, stats.uniform(0.1, 1.4).cdf).pvalue > LEVEL
    for column in noted.translation_score.double().numpy().T:
        assert stats.kstest(column, "norm").pvalue > LEVEL
    assert stats.binomtest(int(noted.segment.sum()), DRAWN).pvalue > LEVEL
    assert abs(np.corrcoef(eps, angle)[0, 1]) < 4 / math.sqrt(DRAWN)


def test_distributions_of_torsions_masks_and_crops(records):
    ligand = max((r for r in records), key=lambda r: len(r.torsion_fixed))
    repeats = 2 * DRAWN // len(ligand.torsion_fixed)
    found = noise.perturb(
        [ligand] * repeats,
        noise.NoiseConfig(torsion_sigma=0.7, mask_proportion=0.01),
        noise.seeds(2, 0, np.arange(repeats)),
        neighbors=0,
    )
    assert len(found.torsion_angles) > 0.7 * DRAWN
    assert stats.kstest(found.torsion_angles, stats.norm(0, 0.7).cdf).pvalue > LEVEL
    small = pair_of_clusters(4, 6)
    some = 20_000
    found = noise.perturb(
        [small] * some,
        noise.NoiseConfig(mask_proportion=0.37),
        noise.seeds(3, 0, np.arange(some)),
        neighbors=0,
        max_blocks=10,
    )
    masked = found.masked[found.block_types != keys.GLOBAL_BLOCK].reshape(some, 8)
    assert (masked.sum(axis=1) == 2).all(), "floor of 0.37 × 8"
    assert stats.chisquare(masked.sum(axis=0)).pvalue > LEVEL
    kept = found.kept_blocks.reshape(some, 10) - 12 * np.arange(some)[:, None]
    # Each of the five closest pairs is drawn equally often; pairs may lead to the same crop.
    crops = {tuple(row) for row in kept.tolist()}
    shares = np.array([np.mean((kept == crop).all(axis=1)) for crop in crops])
    assert 1 < len(crops) <= 5
    assert np.abs(shares * 5 - np.rint(shares * 5)).max() < 0.1


def test_gaussian_noise_is_normal():
    record = pair_of_clusters(200, 300)
    rows = 300
    found = noise.perturb(
        [record] * rows,
        noise.NoiseConfig(gaussian_sigma=0.8),
        noise.seeds(4, 0, np.arange(rows)),
        neighbors=0,
    )
    noted = found.perturbation
    block = found.block_types.reshape(rows, -1) != keys.GLOBAL_BLOCK
    moved = (found.segments.reshape(rows, -1) == noted.segment.numpy()[:, None]) & block
    score = noted.atom_score.double().numpy().reshape(rows, -1, 3)
    assert stats.kstest(score[moved].ravel(), "norm").pvalue > LEVEL
    assert stats.kstest(noted.atom_eps.double().numpy(), stats.uniform(0.1, 0.7).cdf).pvalue > LEVEL
    # score = (before - after) / eps
    shift = record.positions[None] - found.positions.reshape(rows, -1, 3)
    eps = noted.atom_eps.numpy()[:, None, None]
    np.testing.assert_allclose(shift[block], (score * eps)[block], atol=1e-5)


# -------------------------------------------------------------------------------------------------- properties


@pytest.mark.parametrize("sigma", [0.05, 0.3, 1.0, 3.0])
def test_torsion_score_is_the_slope_of_the_log_density(sigma):
    angles, step = np.linspace(-4, 4, 41), 1e-5

    def log_density(x: np.ndarray) -> np.ndarray:
        images = x[:, None] + 2 * np.pi * np.arange(-40, 41)
        return np.asarray(np.logaddexp.reduce(-(images**2) / (2 * sigma**2), axis=1))

    slope = (log_density(angles + step) - log_density(angles - step)) / (2 * step)
    np.testing.assert_allclose(_prep.torsion_score(angles, sigma), slope, atol=1e-5 / sigma**2)


def test_rotation_score_is_the_slope_of_the_log_density():
    _, _, scores = _prep.rotation_table(0.5, 1.2)
    step = 1e-5
    for index in (0, 40, 99):
        angle = 0.001 + (1.2 - 0.001) / 99 * index
        l_ = np.arange(2000)

        def log_density(x: float, l_: np.ndarray = l_) -> float:
            series = (2 * l_ + 1) * np.exp(-l_ * (l_ + 1) * 0.25) * np.sin((l_ + 0.5) * x) / np.sin(x / 2)
            return math.log(series.sum() * (1 - math.cos(x)))

        slope = (log_density(angle + step) - log_density(angle - step)) / (2 * step)
        assert scores[index] == pytest.approx(slope, rel=1e-4)


def test_one_torsion_keeps_the_distances_on_each_side(records):
    config = noise.NoiseConfig(torsion_sigma=0.5)
    draws = {"pair": 0, "lone": None, "rotation": None, "translation": None, "gaussian": None, "masked": []}
    tried = 0
    for record in [*records[:3], *records[-3:]]:
        for segment in (0, 1):
            bonds = bonds_of(record, segment)
            for t in range(0, len(bonds), 1 + len(bonds) // 8):
                angles = [0.9 if i == t else 0.0 for i in range(len(bonds))]
                found = noise._run(
                    [record],
                    config,
                    np.zeros(1, np.uint64),
                    0,
                    None,
                    False,
                    [{**draws, "segment": segment, "torsions": angles}],
                )
                own = atoms_of(record, segment)
                moving = np.isin(own, bonds[t][2])
                for side in (own[moving], own[~moving], np.array(bonds[t][:2])):
                    before, after = record.positions[side], found.positions[side]
                    pairs = [np.linalg.norm(x[:, None] - x[None], axis=2) for x in (before, after)]
                    assert np.abs(pairs[0] - pairs[1]).max() < 1e-4
                assert np.abs(found.positions[own] - record.positions[own]).max() > 1e-2
                tried += 1
    assert tried > 30


def test_whole_segments_are_not_carried_away(records):
    config = noise.NoiseConfig(torsion_sigma=1.0)
    seen = 0
    for number, record in enumerate(records):
        found = noise.perturb([record], config, noise.seeds(0, 0, [number]), neighbors=0)
        segment = int(found.perturbation.segment[0])
        types = record.block_types[record.segment_ids == segment]
        if segment < 0 or ((types >= 4) & (types <= 31)).any():
            continue
        seen += 1
        own = atoms_of(record, segment)
        before, after = record.positions[own].astype(float), found.positions[own].astype(float)
        assert np.abs(before.mean(axis=0) - after.mean(axis=0)).max() < 1e-4
        turn, _ = Rotation.align_vectors(after - after.mean(axis=0), before - before.mean(axis=0))
        assert turn.magnitude() < 1e-4
        assert np.abs(before - after).max() > 0.05
    assert seen > 3


def test_crops_keep_what_is_near(records):
    large = [record for record in records if len(record.block_types) > 60]
    assert len(large) > 5
    seeds = noise.seeds(0, 0, np.arange(len(large)))
    found = noise.perturb(large, noise.NoiseConfig(), seeds, neighbors=4, max_blocks=60)
    assert found.cropped.all()
    assert (found.block_counts == 60).all()
    types = np.concatenate([record.block_types for record in large])
    assert np.array_equal(types[found.kept_blocks], found.block_types)
    kept = np.split(found.kept_blocks, np.cumsum(found.block_counts)[:-1])
    assert all((np.diff(blocks) > 0).all() for blocks in kept), "their order is kept"
    starts = np.cumsum([0, *found.block_lengths])
    for block in np.flatnonzero(found.block_types == keys.GLOBAL_BLOCK):
        complex_ = np.searchsorted(np.cumsum(found.block_counts), block, side="right")
        members = np.flatnonzero(
            (found.segments == found.segments[block])
            & (np.repeat(np.arange(len(large)), found.block_counts) == complex_)
            & (found.block_types != keys.GLOBAL_BLOCK)
        )
        own = np.concatenate([np.arange(starts[b], starts[b + 1]) for b in members])
        center = found.positions[own].mean(axis=0, dtype=np.float64)
        assert np.abs(found.positions[starts[block]] - center).max() < 1e-4


def test_a_ligand_that_comes_to_pieces_does_not_turn():
    """Of a chain of 11 atoms, the 7 nearest to its partner are kept; they have fewer bonds, found anew."""
    record = with_chain(5)
    config = noise.NoiseConfig(torsion_sigma=0.5)
    bonds = []
    for seed in range(20):
        found = noise.perturb([record], config, [seed], neighbors=0, max_blocks=12)
        own = np.flatnonzero(found.segments == 1)[1:]
        kept = found.kept_blocks[own]
        assert found.perturbation.segment.tolist() == [1 if len(kept) > 3 else -1]
        assert (np.diff(kept) == 1).all(), "a place at the end of a chain keeps a piece of it"
        bonds.append(found.perturbation.torsion_bonds.shape[1])
        assert bonds[-1] == max(len(kept) - 3, 0)
    assert max(bonds) < len(record.torsion_fixed)


def test_one_partner_alone_is_cropped_around_one_of_its_blocks(records):
    alone = max(records, key=lambda record: len(record.block_types)).segment(0)
    found = noise.perturb([alone], noise.NoiseConfig(), [1], neighbors=4, max_blocks=12)
    assert found.block_counts.tolist() == [12]
    assert (found.neighbors["block"][1] == keys.NO_NEIGHBOR).all()


def test_all_blocks_may_be_hidden():
    record = pair_of_clusters(3, 3)
    found = noise.perturb([record], noise.NoiseConfig(mask_proportion=1.0), [0], neighbors=2)
    assert found.block_types.tolist() == [3, 1, 1, 1, 3, 1, 1, 1]
    assert len(found.mask_labels) == 6


# ------------------------------------------------------------------------------------------- what cannot be moved


def test_what_cannot_be_moved_is_counted_and_not_learnt():
    # Neither partner has a rotatable bond; the other complex has none that could be chosen but its first.
    still, moving = pair_of_clusters(3, 4), pair_of_clusters(1, 5)
    seeds = noise.seeds(0, 0, np.arange(2))
    found = noise.perturb([still, moving], noise.NoiseConfig(torsion_sigma=0.5), seeds, neighbors=2)
    assert found.unperturbed.tolist() == [True, True]
    assert found.perturbation.segment.tolist() == [-1, -1]
    assert np.array_equal(found.positions[: len(still.positions)], still.positions)
    config = noise.NoiseConfig(rotation_sigma=0.4, translation_sigma=1.0)
    lone = pair_of_clusters(1, 1)
    found = noise.perturb([still, moving, lone], config, [0, 1, 2], neighbors=2)
    assert found.unperturbed.tolist() == [False, False, True]
    assert found.perturbation.segment.tolist()[1:] == [1, -1]
    assert not found.rotations[1].any(), "not turned around a partner of one atom"
    assert found.perturbation.rotation_score.numpy()[1:].tolist() == [[0.0] * 3] * 2
    assert found.perturbation.translation_eps[1] >= 0.1

    model = small_model("denoise", {"torsion": 0.0})
    batch, whole = graph.perturbed([still, moving, lone], config, [0, 1, 2], **model.config.graph_options())
    alone, part = graph.perturbed([still, moving], config, [0, 1], **model.config.graph_options())
    losses = [model.loss(g, {"denoise": p.perturbation}).total for g, p in ((batch, whole), (alone, part))]
    torch.testing.assert_close(losses[0], losses[1])
    losses[0].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_terms_count_what_was_moved():
    model = small_model("denoise", {"torsion": 0.0})
    head = next(head for head in model.modules() if isinstance(head, DenoiseHead))
    assert isinstance(head.config, DenoiseConfig)
    config = noise.NoiseConfig(rotation_sigma=0.4, translation_sigma=1.0)
    complexes = [pair_of_clusters(3, 4), pair_of_clusters(1, 1), pair_of_clusters(5, 2)]
    batch, found = graph.perturbed(complexes, config, [0, 1, 2], **model.config.graph_options())
    zero = torch.zeros(3, 3)
    nothing = torch.zeros(0, dtype=torch.long)
    from atomica.heads.denoise import DenoiseOutput

    output = DenoiseOutput(zero, zero, None, None, nothing, nothing, nothing.bool())
    terms = head.terms(output, found.perturbation)
    score = found.perturbation.translation_score[[0, 2]]
    assert terms["translation"].complexes == terms["rotation"].complexes == 2
    torch.testing.assert_close(terms["translation"].base, score.square().mean())
    assert batch.batch_size == 3


# ----------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"rotation_sigma": 0.001}, "rotation_sigma"),
        ({"translation_sigma": 0.05}, "translation_sigma"),
        ({"gaussian_sigma": 0.05}, "gaussian_sigma"),
        ({"torsion_sigma": 1e-4}, "torsion_sigma"),
        ({"torsion_sigma": 0.5, "gaussian_sigma": 1.0}, "gaussian_sigma"),
    ],
)
def test_settings_are_checked(settings, key):
    with pytest.raises(Problems) as caught:
        noise.NoiseConfig(**settings)
    assert [name for name, _ in caught.value.problems] == [key]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_lengths": np.array([1] * 8 + [0], dtype=np.uint32)}, "block_lengths: adds up to 8"),
        ({"block_lengths": np.array([0, 2] + [1] * 7, dtype=np.uint32)}, "block_lengths must be positive"),
        ({"atom_types": np.full(9, 121, dtype=np.uint8)}, "atom_types: 121 is no index into the 121 types"),
        ({"segment_ids": np.array([1, 0, 0, 0, 0, 0, 0, 0, 0], dtype=np.uint8)}, "segment_ids must be 0"),
        ({"segment_ids": np.full(9, 2, dtype=np.uint8)}, "segment_ids must be 0"),
        ({"positions": np.full((9, 3), np.nan, dtype=np.float32)}, "positions: that of atom 0 is not finite"),
        ({"torsion_atoms": np.array([1], dtype=np.int32)}, "torsion_sizes: adds up to 0"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(change, message):
    good = pair_of_clusters(3, 4)
    bad = dataclasses.replace(good, id="bad", **change)
    with pytest.raises(DataError, match=f"bad: .*{message}"):
        noise.perturb([good, bad], noise.NoiseConfig(), [0, 1], neighbors=2)


def spoilt(value):
    """Ways to spoil a field: without it, of another kind, dtype, shape or length, or with an index to nowhere."""
    yield "missing", None
    yield "of another kind", object()
    if isinstance(value, np.ndarray):
        yield "a list", value.tolist()
        yield "of another dtype", value.astype(np.complex64)
        if value.dtype.itemsize > 1:
            yield "of bytes in the other order", value.astype(value.dtype.newbyteorder())
        yield "of one dimension more", value[None]
        if value.size:
            yield "too short", value[:-1]
            yield "too long", np.concatenate([value, value[-1:]])
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield "too short", list(value)[:-1]
        yield "no texts", [0] * len(value)
        yield "one text", "A" * len(value)


DEFINES = {"block_types": "block_lengths", "atom_types": "positions", "atom_intra": "atom_inter"}
DEFINES |= {"torsion_fixed": "torsion_moving", "torsion_atoms": "torsion_sizes", "bond_first": "bond_second"}
"""Fields whose length others must have; of two that disagree the second one is named."""


@pytest.mark.parametrize("field", keys.RECORD_FIELDS, ids=lambda field: field.name)
def test_a_malformed_field_is_named_with_its_complex(field):
    good = dataclasses.replace(
        open_dataset("demo://pockets")[0],
        bond_first=np.array([1, 2], dtype=np.int32),
        bond_second=np.array([2, 3], dtype=np.int32),
        bond_orders=np.array([1, 2], dtype=np.uint8),
    )
    noise.perturb([good], EVERYTHING, [0], neighbors=2)
    tried = 0
    for how, value in spoilt(getattr(good, field.name)):
        if how == "missing" and field.dtype.endswith("?"):
            continue
        tried += 1
        bad = dataclasses.replace(good, **{field.name: value})
        names = [field.name]
        if how.startswith("too") and field.name in DEFINES:
            names.append(DEFINES[field.name])
        with pytest.raises(DataError) as caught:
            noise.perturb([good, bad], EVERYTHING, [0, 1], neighbors=2)
        where = "record 1" if field.name == "id" and value is None else str(bad.id)
        assert any(str(caught.value).startswith(f"{where}: {name}: ") for name in names), (how, caught.value)
    assert tried >= 1
    if not field.dtype.endswith("?"):
        object.__delattr__(good, field.name)
        with pytest.raises(DataError, match=rf": {field.name}: is None"):
            noise.perturb([good], EVERYTHING, [0], neighbors=2)


@pytest.mark.parametrize(
    "field", [f.name for f in keys.RECORD_FIELDS if f.dtype == "int32" and f.name != "block_resnums"]
)
@pytest.mark.parametrize("index", [-2, 10**6])
def test_an_index_to_nowhere_is_named_with_its_complex(field, index):
    good = dataclasses.replace(
        open_dataset("demo://pockets")[0],
        **{name: np.zeros(1, dtype=np.int32) for name in ("bond_first", "bond_second")},
        bond_orders=np.ones(1, dtype=np.uint8),
    )
    values = getattr(good, field).copy()
    values.reshape(-1)[-1] = index
    bad = dataclasses.replace(good, id="bad", **{field: values})
    with pytest.raises(DataError, match=f"bad: {field}: holds an index beyond its"):
        noise.perturb([good, bad], EVERYTHING, [0, 1], neighbors=2)


@pytest.mark.parametrize("bond", [(1, 7, [7]), (1, -1, [2]), (1, 2, [2, 99])])
def test_bonds_to_nowhere_are_refused(bond):
    good = pair_of_clusters(3, 4)
    columns = [
        np.asarray(good.positions),
        good.block_types,
        good.atom_types,
        good.block_lengths,
        good.segment_ids,
    ]
    bad = as_record(*columns, torsions=[bond])
    wrong = "has atoms that are not there or of both segments|holds an index beyond its 9 rows"
    with pytest.raises(DataError, match=f"made-up: torsion_(moving|atoms): .*({wrong})"):
        noise.perturb([bad], noise.NoiseConfig(), [0], neighbors=2)


def test_wrong_arguments_are_refused():
    record = pair_of_clusters(3, 4)
    with pytest.raises(DataError, match="zero complexes"):
        noise.perturb([], noise.NoiseConfig(), [], neighbors=2)
    with pytest.raises(DataError, match=r"seeds: expected 1 values"):
        noise.perturb([record], noise.NoiseConfig(), [0, 1], neighbors=2)
    with pytest.raises(DataError, match="max_blocks = 3: must be at least 4"):
        noise.perturb([record], noise.NoiseConfig(), [0], neighbors=2, max_blocks=3)
    hubs = as_record(np.zeros((6, 3)), [3] * 6, [2] * 6, [1] * 6, [0, 0, 0, 1, 1, 1], id="hubs")
    with pytest.raises(DataError, match="hubs: has 6 global blocks; 4 blocks leave no room"):
        noise.perturb([hubs], noise.NoiseConfig(), [0], neighbors=2, max_blocks=4)


def test_draws_that_do_not_fit_are_refused():
    record = pair_of_clusters(3, 4)
    config = noise.NoiseConfig(rotation_sigma=0.4)
    good = {
        "pair": 0,
        "lone": None,
        "segment": 0,
        "rotation": None,
        "translation": None,
        "torsions": [],
        "gaussian": None,
        "masked": [],
    }
    for change, message in (
        ({"segment": 2}, "no segment 2"),
        ({"rotation": (100, [1.0, 0.0, 0.0])}, "no such angle"),
        ({"torsions": [0.1]}, "1 torsion angles for 0 bonds"),
        ({"gaussian": (1.0, [[0.0, 0.0, 0.0]])}, "1 shifts for 3 atoms"),
        ({"masked": [7]}, "below 7"),
        ({"masked": [1, 1]}, "ascending"),
        ({"lone": 1}, "what is alone cannot be moved"),
        ({"lone": 2, "segment": None}, "no segment 2"),
    ):
        with pytest.raises(DataError, match=message):
            noise._run([record], config, np.zeros(1, np.uint64), 2, None, False, [{**good, **change}])
    with pytest.raises(DataError, match="no number 9"):
        noise._run([record], config, np.zeros(1, np.uint64), 2, 6, False, [{**good, "pair": 9}])
