"""Representations: not of place, mates or order; what encoders can give; gradients where nothing varies."""

import dataclasses

import pytest
import torch

from atomica.errors import SpecError
from atomica.nn.encoding import EncoderSettings
from atomica.nn.representations import NAMES, POOLS, Representation, moments
from atomica.testing import graph_of, join, random_interface, random_motion, small_model

ALL = [
    Representation(name, pool)
    for name in NAMES
    for pool in (POOLS if name in ("z_graph", "z_interface") else ["mean"])
]
TOLERANCE = 5e-6


def rows(model, arrays, one):
    with torch.no_grad():
        return model.represent(graph_of(model, arrays), one)[0]


@pytest.mark.parametrize("one", ALL, ids=str)
def test_neither_place_nor_mates_matter(one):
    model = small_model()
    complexes = [random_interface(1), random_interface(2, (9, 1)), random_interface(3, (4, 0))]
    alone = torch.cat([rows(model, arrays, one) for arrays in complexes])
    bar = TOLERANCE * float(alone.abs().max())
    together = join(complexes)
    torch.testing.assert_close(rows(model, together, one), alone, atol=bar, rtol=0)
    matrix, shift = random_motion(3)
    moved = {**together, "X": (together["X"] @ matrix.T + shift).astype("float32")}
    torch.testing.assert_close(rows(model, moved, one), alone, atol=4 * bar, rtol=0)
    assert sum(one.parts_of(model.config).values()) == alone.shape[1]


def test_widths_are_those_of_the_original():
    """56, 160 and 480 numbers for eight channels and three layers."""
    encoder = small_model().encoder
    wide = [
        sum(Representation(f"z_{level}").parts_of(encoder.config).values())
        for level in ("atom", "block", "graph")
    ]
    assert wide == [56, 160, 480]
    shallow = small_model(layers=1, atom_hidden=4).encoder
    assert sum(Representation("z_atom").parts_of(shallow.config).values()) == 4 + 2 * 3


def test_what_global_atoms_say_is_constant():
    """They get no messages here, so that their part of the vector tells nothing."""
    model, one = small_model(), Representation("z_graph")
    found = torch.cat([rows(model, random_interface(seed), one) for seed in range(4)])
    still = (found == found[0]).all(dim=0)
    names = [name for name, width in one.parts_of(model.config).items() for _ in range(width)]
    assert {name for name, same in zip(names, still.tolist(), strict=True) if same} == {
        "global.atoms_mean",
        "global.atoms_deviation",
    }


def test_an_encoder_says_what_it_cannot_give():
    other = small_model(encoder="invariant")
    assert rows(other, random_interface(1), Representation("z_graph", "mean")).shape[0] == 1
    with pytest.raises(SpecError, match="h_interface needs interface, and the invariant encoder gives"):
        rows(other, random_interface(1), Representation("h_interface"))

    @dataclasses.dataclass(frozen=True)
    class Plain(EncoderSettings):
        kind = "plain"

    assert "z_block needs invariants" in Representation("z_block").unserved(Plain())
    assert not Representation("h_graph").unserved(Plain())


def test_names_that_there_are_not():
    with pytest.raises(SpecError, match=r"representation = \'z_grph\'.*z_graph"):
        Representation("z_grph")
    with pytest.raises(SpecError, match="pool = 'max'"):
        Representation("z_graph", "max")
    with pytest.raises(SpecError, match="segment = 2"):
        Representation("h_interface", segment=2)


def test_the_deviation_of_what_does_not_vary_has_a_gradient():
    values = torch.tensor([[1.0, 2.0], [1.0, 4.0], [5.0, 5.0]], requires_grad=True)
    mean, deviation = moments(values, torch.tensor([0, 0, 1]), 3)
    assert mean.tolist() == [[1.0, 3.0], [5.0, 5.0], [0.0, 0.0]]
    assert deviation.tolist() == [[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
    deviation.sum().backward()
    assert values.grad.tolist() == [[0.0, -0.5], [0.0, 0.5], [0.0, 0.0]]
