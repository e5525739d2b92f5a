"""The Triton kernels against PyTorch's operations, on the CPU: run by test_kernels.py in Triton's interpreter."""

import pytest
import torch
from test_convolution import case

from atomica.nn.irreps import spherical_harmonics
from atomica.nn.kernels import registry


def results(kernel, layer, plan, x, y, radial, wanted, *, scalars_only=False):
    """Output and gradients with one kernel."""
    layer.kernel = kernel
    assert registry.kernel_for(kernel, x) == kernel
    out = layer(plan, x, y, radial, scalars_only=scalars_only)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(5))
    return [out, *torch.autograd.grad((out * weights).sum(), wanted, allow_unused=True)]


CASES = [(20, 3, 12, 70, 17, False, True), (36, 1, 10, 40, 20, False, False), (20, 0, 4, 40, 17, True, False)]
CASES += [(4, 0, 140, 150, 2, True, False), (4, 1, 2, 2, 2, True, True), (4, 3, 2, 2, 2, False, True)]


@pytest.mark.parametrize(("hidden", "depth", "nodes", "edges", "radial", "scalars_only", "want_y"), CASES)
def test_triton_equals_pytorch(hidden, depth, nodes, edges, radial, scalars_only, want_y):
    """Edge by edge and by sums first; more edges, channels and columns than a program, a piece and a round take."""
    layer, plan, x, vectors, radial = case(
        torch.float32, hidden=hidden, depth=depth, nodes=nodes, edges=edges, radial=radial
    )
    y = spherical_harmonics(vectors).requires_grad_(want_y)
    given = (layer, plan, x, y, radial, [x, radial, *layer.parameters(), *([y] if want_y else [])])
    found = [results(kernel, *given, scalars_only=scalars_only) for kernel in ("triton", "torch")]
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            limit = 3e-6 * max(1.0, other.detach().abs().max().item())
            torch.testing.assert_close(one, other, atol=limit, rtol=0)
