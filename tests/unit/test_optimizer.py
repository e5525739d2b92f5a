"""The optimiser that `[train]` asks for: groups of parameters with rates and decays of their own."""

from __future__ import annotations

import pytest
import torch

from atomica.model.model import Model
from atomica.nn.equivariant import EncoderConfig
from atomica.spec import Problems
from atomica.train.config import TrainConfig
from atomica.train.optimizer import make_optimizer


@pytest.fixture(scope="module")
def model():
    return Model(EncoderConfig(atom_hidden=8, block_hidden=8, edge_size=4, layers=1))


def test_options_reach_the_optimizer(model):
    config = TrainConfig(optimizer="adam", betas=(0.8, 0.99), epsilon=1e-6, amsgrad=True, weight_decay=0.1)
    optimizer = make_optimizer(model, config)
    assert type(optimizer) is torch.optim.Adam
    (group,) = optimizer.param_groups
    assert (group["betas"], group["eps"], group["amsgrad"], group["weight_decay"]) == (
        (0.8, 0.99),
        1e-6,
        True,
        0.1,
    )
    assert type(make_optimizer(model, TrainConfig())) is torch.optim.AdamW


def test_biases_and_norms_can_be_left_out_of_decay(model):
    config = TrainConfig(weight_decay=0.1, decay_all=False, rates={"encoder.atoms": 1e-4})
    groups = make_optimizer(model, config).param_groups
    assert [(g["part"], g["peak"], g["weight_decay"]) for g in groups] == [
        ("", 1e-3, 0.0),
        ("", 1e-3, 0.1),
        ("encoder.atoms", 1e-4, 0.0),
        ("encoder.atoms", 1e-4, 0.1),
    ]
    for group in groups:
        assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] > 0}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_settings_that_cannot_be(model):
    with pytest.raises(Problems, match="betas: must be two numbers"):
        TrainConfig(betas=(0.9,))
    with pytest.raises(Problems, match="decay_all: has no effect without train.weight_decay"):
        TrainConfig(decay_all=False)


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(weight_decay=0.1, decay_all=False),
        TrainConfig(optimizer="adam", amsgrad=True, weight_decay=0.1),
    ],
)
def test_the_fused_steps_are_those_of_the_plain_optimizer(model, config):
    weights = {}
    for fused in (True, False):
        twin = Model(model.config)
        twin.load_state_dict(model.state_dict())
        optimizer = make_optimizer(twin, config)
        for group in optimizer.param_groups:
            group["fused"] = fused
        generator = torch.Generator().manual_seed(1)
        for _ in range(20):
            for parameter in twin.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        weights[fused] = twin.state_dict()
    for name, value in weights[True].items():
        assert torch.allclose(value, weights[False][name], rtol=1e-5, atol=1e-6), name
        assert not torch.equal(value, model.state_dict()[name]) or not value.is_floating_point()
