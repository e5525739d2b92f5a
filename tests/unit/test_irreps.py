"""Feature layout and harmonics."""

import torch

from atomica.nn.irreps import Layout, coupling, layer_slots, spherical_harmonics


def test_growth_of_features():
    assert [[str(s) for s in layer_slots(8, depth)] for depth in range(5)] == [
        ["8x0e"],
        ["8x0e", "4x1o", "4x2e"],
        ["8x0e", "4x1o", "4x2e", "4x1e", "4x2o"],
        ["8x0e", "4x1o", "4x2e", "4x1e", "4x2o", "8x0o"],
        ["8x0e", "4x1o", "4x2e", "4x1e", "4x2o", "8x0o"],
    ]


def test_layout_round_trip_and_views():
    layout = Layout(layer_slots(8, 3))
    x = torch.randn(5, layout.dim)
    assert torch.equal(layout.from_e3nn(layout.to_e3nn(x)), x)
    first = layout.slots[0]
    assert torch.equal(layout.view(x, first)[:, 0], layout.to_e3nn(x)[:, : first.channels])


def test_growing_is_padding_at_the_end_of_each_run():
    small, large = Layout(layer_slots(8, 1)), Layout(layer_slots(8, 3))
    for slot in small.slots:
        assert small.channel_range(slot) == large.channel_range(slot)


def test_zero_vector_has_only_degree_zero():
    assert spherical_harmonics(torch.zeros(1, 3)).tolist() == [[1.0] + [0.0] * 8]


def test_coupling_is_normalised():
    assert abs(coupling(1, 2, 1).square().sum() - 1) < 1e-6
