"""A batch shared out and worked through in parts has the loss and the gradient of the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import atomica
from atomica.data.labels import BlockTargets
from atomica.data.noise import NoiseConfig
from atomica.data.sampling import DataConfig, select_rows
from atomica.testing import small_model
from atomica.train.config import TrainConfig
from atomica.train.distributed import ALONE
from atomica.train.loader import Split
from atomica.train.optimizer import make_optimizer
from atomica.train.step import Stepper, shares_of

NOISE = NoiseConfig(
    rotation_sigma=0.5, translation_sigma=1.0, torsion_sigma=0.5, mask_proportion=0.3, lone_proportion=0.4
)


def test_shares_are_even_and_complete():
    generator = np.random.default_rng(1)
    for _ in range(200):
        count, parts = int(generator.integers(1, 30)), int(generator.integers(1, 9))
        draws, blocks = generator.permutation(100)[:count], generator.integers(2, 300, count)
        shares = shares_of(draws, blocks, parts)
        assert len(shares) == parts
        assert sorted(np.concatenate(shares).tolist()) == sorted(draws.tolist())
        assert shares[0][0] == draws[0]
        position = {draw: index for index, draw in enumerate(draws.tolist())}
        sizes = []
        for share in shares:
            places = [position[draw] for draw in share.tolist()]
            assert places == sorted(places)
            sizes.append(int(blocks[places].sum()) if places else 0)
        assert max(sizes) - min(sizes) <= blocks.max()


@pytest.fixture(scope="module")
def rows():
    dataset = atomica.open_dataset("demo://pockets")
    return select_rows(dataset, "train", DataConfig("demo://pockets"), own=False)


WEIGHTED = {"classes": ("a", "b", "c"), "class_weights": (0.5, 2.0, 1.0)}


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("denoise", None),
        ("masked_block", None),
        ("partner", None),
        ("contact", None),
        ("binary", None),
        ("multiclass", WEIGHTED),
        ("residue_multiclass", WEIGHTED),
    ],
)
def test_parts_add_up(rows, kind, head):
    draws = np.arange(6)
    labels = {}
    if kind == "multiclass":
        target = torch.arange(len(rows)) % 3
        labels = {"targets": {kind: target}, "known": {kind: torch.ones(len(rows), dtype=torch.bool)}}
    if kind == "residue_multiclass":
        target = torch.arange(int(rows.blocks.sum())) % 4 - 1  # one in four is unknown
        target[: int(rows.blocks[:2].sum())] = -1  # and all of two complexes
        labels = {
            "block_targets": {
                kind: BlockTargets(target, np.cumsum(rows.blocks), [], [], [], np.zeros(0, dtype=bool))
            }
        }
    if kind == "binary":
        known = torch.zeros(len(rows), dtype=torch.bool)
        known[[0, 1, 2, 4]] = True
        labels = {"targets": {kind: torch.arange(len(rows)) % 2}, "known": {kind: known}}
    found = []
    for parts in (1, 4):
        model = small_model(kind, head, layers=1)
        options = model.config.graph_options()
        part = Split(rows, **{"targets": {}, "known": {}, **labels}, input="complex", graph_options=options,
                    batch_blocks=1024, noise=None if head else NOISE)  # fmt: skip
        config = TrainConfig(clip_norm=0.0, learning_rate=1e-9)
        stepper = Stepper(model, make_optimizer(model, config), config, ALONE)
        batch = [part.load(share, model, 0) for share in shares_of(draws, part.blocks_each(draws), parts)]
        agreed = stepper.agree(batch, stop=False, save="")
        step = stepper.run(batch, agreed.counts, 0, 10)
        found.append((step, {name: p.grad for name, p in model.named_parameters()}))
    (one, gradients), (other, others) = found
    assert one.loss == pytest.approx(other.loss, rel=1e-5)
    assert set(one.terms) == set(other.terms)
    for name, value in one.terms.items():
        assert other.terms[name] == pytest.approx(value, rel=1e-5), name
    for name, gradient in gradients.items():
        assert (gradient is None) == (others[name] is None), name
        if gradient is not None:
            assert torch.allclose(gradient, others[name], rtol=1e-3, atol=1e-5 * one.norm), name


def test_a_number_that_is_not_finite_leaves_everything_as_it_was(rows):
    """Weights, their average and the optimiser's state; and the next step is that of a run which never met it."""
    draws, targets = np.arange(4), torch.linspace(0.0, 1.0, len(rows))
    found = []
    for meets in (False, True):
        model = small_model("regression", layers=1)
        config = TrainConfig(ema=0.9)
        stepper = Stepper(model, make_optimizer(model, config), config, ALONE)

        def take(values, step, model=model, stepper=stepper):
            part = Split(rows, targets={"regression": values}, known={"regression": torch.ones(len(rows)) > 0},
                        input="complex", graph_options=model.config.graph_options(), batch_blocks=1024)  # fmt: skip
            return stepper.run([part.load(draws, model, 0)], None, step, 10)

        def held(model=model, stepper=stepper):
            state = stepper.optimizer.state_dict()["state"]
            tensors = [value for entry in state.values() for value in entry.values()]
            return [t.clone() for t in (*model.parameters(), *stepper.averaged.parameters(), *tensors)]

        assert take(targets, 0).bad == ""
        if meets:
            before = held()
            assert take(torch.full_like(targets, torch.nan), 1).bad == "loss"
            assert all(map(torch.equal, held(), before))
            assert take(torch.full_like(targets, 1e19), 1).bad == "loss"  # squares that overflow
            assert all(map(torch.equal, held(), before))
        assert take(targets, 1).bad == ""
        found.append(held())
    assert all(map(torch.equal, *found))
