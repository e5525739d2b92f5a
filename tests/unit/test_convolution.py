"""The fused convolution against the textbook form and against e3nn's fully connected tensor product."""

import pytest
import torch
from cases import case

from atomica.data import edges
from atomica.data.edges import plan_edges
from atomica.nn.irreps import spherical_harmonics
from atomica.testing import random_motion, rotate_features

TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-13}


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_textbook_form_with_gradients(dtype, depth):
    layer, plan, x, vectors, hidden = case(dtype, depth=depth)
    y = spherical_harmonics(vectors).requires_grad_()
    fast, slow = layer(plan, x, y, hidden), layer.reference(plan, x, y, hidden)
    torch.testing.assert_close(fast, slow, atol=TOLERANCE[dtype], rtol=0)
    weights = torch.randn(fast.shape, dtype=dtype, generator=torch.Generator().manual_seed(5))
    wanted = [x, y, hidden, *layer.parameters()]
    for got, expected in zip(
        torch.autograd.grad((fast * weights).sum(), wanted),
        torch.autograd.grad((slow * weights).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, atol=10 * TOLERANCE[dtype], rtol=0)


def test_scalars_only_is_the_scalar_part():
    layer, plan, x, vectors, hidden = case(torch.float64)
    y = spherical_harmonics(vectors)
    scalars = layer(plan, x, y, hidden, scalars_only=True)
    torch.testing.assert_close(scalars, layer.outputs.run(layer(plan, x, y, hidden), 0).flatten(1))


def test_nodes_without_edges_get_zero():
    layer, plan, x, vectors, hidden = case(torch.float32)
    out = layer(plan, x, spherical_harmonics(vectors), hidden)
    idle = torch.ones(len(x), dtype=torch.bool)
    idle[plan.rows] = False
    assert idle.any()
    assert out[idle].abs().max() == 0


def test_equals_e3nn():
    from e3nn import o3

    layer, plan, x, vectors, hidden = case(torch.float64)
    y = spherical_harmonics(vectors)
    irreps = ["+".join(map(str, layout.slots)) for layout in (layer.inputs, layer.outputs)]
    product = o3.FullyConnectedTensorProduct(irreps[0], "0e+1o+2e", irreps[1], shared_weights=False).double()
    weights = []
    for path in layer.tables.paths:
        rows = layer.weights[path.target.name][path.first_channel : path.first_channel + path.source.channels]
        weights.append((torch.einsum("en,unv->euv", hidden, rows[:, :-1]) + rows[:, -1]).flatten(1))
    messages = product(layer.inputs.to_e3nn(x)[plan.sender], y, torch.cat(weights, 1))
    real = plan.mean > 0
    total = torch.zeros(len(x), messages.shape[1], dtype=x.dtype)
    total = total.index_add(0, plan.receiver[real], messages[real])
    degree = torch.bincount(plan.receiver[real], minlength=len(x)).clamp(min=1)
    ours = layer.outputs.to_e3nn(layer(plan, x, y, hidden))
    # e3nn keeps its constants in float32
    torch.testing.assert_close(ours, total / degree[:, None], atol=1e-7, rtol=0)


@pytest.mark.parametrize("reflect", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equivariant_under_rotation_and_reflection(dtype, reflect):
    layer, plan, x, vectors, hidden = case(dtype)
    x = x.detach()
    for seed in range(3):
        matrix, _ = random_motion(seed, reflect=reflect)
        moved = vectors @ torch.from_numpy(matrix).to(dtype).t()
        out = layer(plan, x, spherical_harmonics(vectors), hidden)
        turned = layer(plan, rotate_features(x, layer.inputs, matrix), spherical_harmonics(moved), hidden)
        expected = rotate_features(out, layer.outputs, matrix)
        error = (turned - expected).abs().max().item()
        assert error < (1e-5 if dtype == torch.float32 else 1e-6), f"motion {matrix}: {error}"


def test_gradcheck():
    layer, plan, x, vectors, hidden = case(torch.float64, hidden=4, depth=2, nodes=5, edges=9, radial=3)
    y = spherical_harmonics(vectors).requires_grad_()
    names, weights = zip(*layer.named_parameters(), strict=True)

    def run(x, y, hidden, *weights):
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (plan, x, y, hidden))

    assert torch.autograd.gradcheck(run, (x, y, hidden, *weights), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, y, hidden, *weights), fast_mode=True)


@pytest.mark.parametrize("padding", [0, 64, 10**6])
def test_plan_keeps_every_edge_once(monkeypatch, padding):
    monkeypatch.setattr(edges, "_PADDING", padding)
    generator = torch.Generator().manual_seed(0)
    sender, receiver, kind = torch.randint(0, 20, (3, 200), generator=generator)
    receiver = receiver.clamp(max=11)
    plan = plan_edges(sender, receiver, kind, 20)
    real = plan.mean > 0
    before = sorted(zip(receiver.tolist(), sender.tolist(), kind.tolist(), strict=True))
    columns = (plan.receiver[real], plan.sender[real], plan.kind[real])
    assert sorted(zip(*map(torch.Tensor.tolist, columns), strict=True)) == before
    assert torch.equal(plan.sender[~real], plan.receiver[~real])
    sums = torch.zeros(20, dtype=torch.float64).index_add(0, plan.receiver, plan.mean)
    torch.testing.assert_close(sums[plan.rows], torch.ones(12, dtype=torch.float64))
    edge = 0
    for first, count, per_row in plan.buckets:
        for row in plan.rows[first : first + count]:
            assert (plan.receiver[edge : edge + per_row] == row).all()
            edge += per_row
    assert edge == len(plan.sender)
    assert (padding > 0) or real.all()
