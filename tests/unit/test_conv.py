"""The fused convolution against the textbook form and against e3nn's fully connected tensor product."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from atomica.data import edges
from atomica.data.edges import plan_edges
from atomica.nn import convolution as conv
from atomica.nn.convolution import FullyConnected
from atomica.nn.irreps import Layout, layer_slots, spherical_harmonics
from atomica.nn.kernels import registry
from atomica.nn.kernels.registry import KERNELS
from atomica.testing import random_motion, rotate_features

TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-13}


def case(dtype, hidden=8, depth=3, nodes=30, edges=260, radial=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs, outputs = Layout(layer_slots(hidden, depth)), Layout(layer_slots(hidden, depth + 1))
    sender = torch.randint(0, nodes, (edges,), generator=generator)
    receiver = torch.randint(0, nodes // 2, (edges,), generator=generator)  # half the nodes receive nothing
    plan = plan_edges(sender, receiver, torch.zeros_like(sender), nodes)
    torch.manual_seed(seed)
    layer = FullyConnected(inputs, outputs, radial).to(dtype)
    x = torch.randn(nodes, inputs.dim, generator=generator, dtype=dtype).requires_grad_()
    vectors, hidden_features = [
        torch.randn(len(plan.sender), width, generator=generator, dtype=dtype) for width in (3, radial)
    ]
    hidden_features.requires_grad_()
    return layer, plan, x, vectors, hidden_features


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


@pytest.mark.parametrize(("hidden", "depth"), [(8, 0), (12, 1), (16, 3), (36, 3)])
@pytest.mark.parametrize("edges", [3, 260, 2500])
def test_rust_and_pytorch_agree(monkeypatch, hidden, depth, edges):
    """Widths that fill registers and that do not; few edges per receiver and many; all gradients."""
    layer, plan, x, vectors, radial = case(torch.float32, hidden=hidden, depth=depth, edges=edges)
    y = spherical_harmonics(vectors).requires_grad_()
    wanted = [x, y, radial, *layer.parameters()]
    found = {}
    for kernel in ("rust", "torch"):
        monkeypatch.setattr(conv, "KERNEL", kernel)
        out = layer(plan, x, y, radial)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(5))
        found[kernel] = [out, *torch.autograd.grad((out * weights).sum(), wanted)]
    for one, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, other, atol=3e-6 * max(1.0, float(other.abs().max())), rtol=0)


def test_rust_gives_the_same_bits_with_any_number_of_threads():
    layer, plan, x, vectors, radial = case(torch.float32, hidden=16, edges=2000, nodes=300)
    y = spherical_harmonics(vectors)
    wanted = [x, radial, *layer.parameters()]
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            out = layer(plan, x, y, radial)
            found.append([out, *torch.autograd.grad(out.square().sum(), wanted)])
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        # the sum of squares and the layer around the kernel are PyTorch's, but too small for it to split
        assert torch.equal(one, other)


@pytest.mark.parametrize("floats", [1, 4096])
def test_chunks_do_not_change_the_result(monkeypatch, floats):
    layer, plan, x, vectors, hidden = case(torch.float64)
    y = spherical_harmonics(vectors)
    expected = layer(plan, x, y, hidden)
    monkeypatch.setattr(conv, "_CHUNK_FLOATS", floats)
    torch.testing.assert_close(layer(plan, x, y, hidden), expected, atol=1e-13, rtol=0)


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


def test_second_derivatives_of_every_kernel(monkeypatch):
    """A loss on a gradient, as of forces: the graph of the kernel's backward pass must hold all of it."""
    layer, plan, x, vectors, hidden = case(torch.float32, depth=3)
    y = spherical_harmonics(vectors).requires_grad_()
    wanted = [x, y, hidden, *layer.parameters()]

    def second(function):
        (force,) = torch.autograd.grad(function(plan, x, y, hidden).square().sum(), y, create_graph=True)
        return torch.autograd.grad(force.square().sum(), wanted)

    expected = second(layer.reference)
    for kernel in ("rust", "torch"):
        monkeypatch.setattr(conv, "KERNEL", kernel)
        for one, other in zip(second(layer), expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5 * float(other.abs().max()), rtol=0)


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


def test_kernels_are_named_once_and_say_where_they_work(monkeypatch):
    assert ("auto", *registry._KERNELS) == KERNELS
    assert [registry.kernel_problem(name, "cpu") for name in ("auto", "rust", "torch")] == [None] * 3
    assert "triton works on a GPU with Triton 3.3 or newer alone" in registry.kernel_problem("triton", "cpu")
    assert registry.kernel_problem("auto", "meta") is None
    problem = registry.kernel_problem("rust", "meta")
    assert problem == "rust works on a CPU alone, and this run is on meta; use auto or torch"
    for name, single, double in (
        ("auto", "rust", "torch"),
        ("rust", "rust", "torch"),
        ("torch", "torch", "torch"),
    ):
        monkeypatch.setattr(conv, "KERNEL", name)
        found = [registry.kernel_for(torch.zeros(1, dtype=dtype)) for dtype in (torch.float32, torch.float64)]
        assert found == [single, double]


def test_triton_kernels_in_triton_s_interpreter():
    """In a process of its own: Triton asks for the environment variable when it is imported first."""
    pytest.importorskip("triton", minversion="3.4")
    cases = Path(__file__).with_name("triton_cases.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--import-mode=prepend", "-p", "no:cacheprovider", str(cases)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.parametrize("precision", ["tf32x3", "tf32"])
@pytest.mark.parametrize("channels", [16, 32])
def test_triton_kernels_compile_for_a_gpu_and_fit_its_registers(monkeypatch, tmp_path, channels, precision):
    """For an H100, which need not be there; the interpreter does not know all that the compiler refuses.

    A program whose numbers do not fit into its registers keeps some in memory, on its stack, and is slow. The assembler
    itself does so with a few, to have more programs at a time.
    """
    pytest.importorskip("triton", minversion="3.4")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from atomica.nn.kernels import triton as conv_triton

    shapes = {
        "_forward": conv_triton.FORWARD,
        "_weight_gradient": conv_triton.WEIGHTS,
        "_radial_gradient": conv_triton.RADIAL,
        "_feature_gradient": conv_triton.FEATURES,
        "_gather": conv_triton.FEATURES,
    }
    sizes = {"U": conv_triton.CHANNELS, "V": channels, "PRECISION": precision, "WANT_Y": True}
    sizes["COLUMNS"] = conv_triton.GATHER
    floats = ["weight", "out", "out_grad", "into", "x_grad", "matrix_grad", "hidden_grad", "values"]
    types = {
        "given": ("*fp32", "*i64", "*fp32", "*fp32", "i32", "i32", "i32"),
        "receivers": ("*i64", "i32"),
        "irrep": ("*i32", "i32", "i32", "fp32"),
        "place": ("i32", "i32", "i32", "i32"),
        **dict.fromkeys([*sizes, "R", "J", "M"], "constexpr"),
        **dict.fromkeys(floats, "*fp32"),
        **dict.fromkeys(("order", "first"), "*i64"),
    }
    for name, shape in shapes.items():
        function = getattr(conv_triton, name)
        names = function.arg_names
        fixed = {**sizes, "R": shape.rows, "J": shape.edges, "M": shape.radial}
        source = ASTSource(
            function, {n: types.get(n, "i32") for n in names}, {n: fixed[n] for n in names if n in fixed}
        )
        options = {"num_warps": shape.warps, "num_stages": shape.stages}
        compiled = compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        binary = tmp_path / f"{name}.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", str(binary)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = re.search(rf"{name}:\s+REG:(\d+) STACK:(\d+)", told)
        assert found, told
        registers, stack = map(int, found.groups())
        assert stack <= 128, f"{name} keeps {stack} bytes in memory with {registers} registers"
        programs = 1 if shape is conv_triton.FEATURES else 2
        assert programs * registers * 32 * shape.warps <= 65_536
        assert programs * compiled.metadata.shared <= 227 * 1024
