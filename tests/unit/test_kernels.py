"""The kernels of the convolution: each that fits this machine against the textbook form; which of them works where."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from unit.test_convolution import case

from atomica import spec
from atomica.errors import SpecError
from atomica.jobs.sections import DeviceConfig
from atomica.nn.irreps import spherical_harmonics
from atomica.nn.kernels import pytorch, registry
from atomica.nn.kernels.registry import CHOICES, KERNELS
from atomica.testing import small_model


@pytest.fixture(params=KERNELS)
def kernel(request):
    """The name of every kernel that works on a CPU here."""
    if (problem := registry.kernel_problem(request.param, "cpu")) is not None:
        pytest.skip(problem)
    return request.param


@pytest.mark.parametrize(("hidden", "depth"), [(8, 0), (12, 1), (16, 3), (36, 3)])
@pytest.mark.parametrize("edges", [3, 260, 2500])
def test_every_kernel_equals_the_textbook_form_with_gradients(kernel, hidden, depth, edges):
    """Widths that fill registers and that do not; few edges per receiver and many; all gradients."""
    layer, plan, x, vectors, radial = case(torch.float32, hidden=hidden, depth=depth, edges=edges)
    layer.kernel = kernel
    assert registry.kernel_for(kernel, x) == kernel
    y = spherical_harmonics(vectors).requires_grad_()
    wanted = [x, y, radial, *layer.parameters()]
    found = []
    for function in (layer, layer.reference):
        out = function(plan, x, y, radial)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(5))
        found.append([out, *torch.autograd.grad((out * weights).sum(), wanted)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=5e-6 * max(1.0, float(other.abs().max())), rtol=0)


def test_second_derivatives_of_every_kernel(kernel):
    """A loss on a gradient, as of forces: the graph of the kernel's backward pass must hold all of it."""
    layer, plan, x, vectors, hidden = case(torch.float32, depth=3)
    layer.kernel = kernel
    y = spherical_harmonics(vectors).requires_grad_()
    wanted = [x, y, hidden, *layer.parameters()]
    found = []
    for function in (layer, layer.reference):
        (force,) = torch.autograd.grad(function(plan, x, y, hidden).square().sum(), y, create_graph=True)
        found.append(torch.autograd.grad(force.square().sum(), wanted))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * float(other.abs().max()), rtol=0)


def test_every_kernel_can_be_asked_for(kernel):
    assert DeviceConfig(kernel=kernel).kernel == kernel
    assert spec.meanings(DeviceConfig, "kernel") == CHOICES
    assert small_model().use_kernel(kernel).kernel == kernel


def test_a_kernel_is_one_file_and_one_row(monkeypatch, tmp_path):
    (tmp_path / "halved_kernel.py").write_text(
        "from atomica.nn.kernels.pytorch import backward, fits\n"
        "from atomica.nn.kernels import pytorch\n"
        "def forward(given):\n"
        "    return pytorch.forward(given) / 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(KERNELS, "halved", registry.Row("halved_kernel", "anything", "half of it"))
    layer, plan, x, vectors, hidden = case(torch.float32)
    whole = layer(plan, x, spherical_harmonics(vectors), hidden)
    layer.kernel = "halved"
    half = layer(plan, x, spherical_harmonics(vectors), hidden)
    torch.testing.assert_close(2 * half, whole, atol=1e-5, rtol=0)


def test_models_of_one_process_may_use_different_kernels():
    one, other = small_model("denoise"), small_model("denoise").use_kernel("torch")
    assert (one.kernel, other.kernel) == ("rust", "torch")
    convolutions = [module for module in other.modules() if hasattr(module, "kernel") and module is not other]
    assert len(convolutions) == 2 * 3 + 2  # layers of both levels, and those of the head
    assert {module.kernel for module in convolutions} == {"torch"}
    assert other.use_kernel("auto").double().kernel == "torch"
    with pytest.raises(SpecError, match="kernel = 'tritn': must be one of .*; did you mean \"triton\"?"):
        one.use_kernel("tritn")


def test_kernels_say_where_they_work():
    assert tuple(CHOICES) == ("auto", *KERNELS)
    assert [registry.kernel_problem(name, "cpu") for name in ("auto", "rust", "torch")] == [None] * 3
    assert "triton works on a GPU with Triton 3.3 or newer alone" in registry.kernel_problem("triton", "cpu")
    assert registry.kernel_problem("auto", "meta") is None
    problem = registry.kernel_problem("rust", "meta")
    assert problem == "rust works on a CPU alone, and this run is on meta; use auto or torch"
    for name, single in (("auto", "rust"), ("rust", "rust"), ("torch", "torch"), ("triton", "torch")):
        found = [registry.kernel_for(name, torch.zeros(1, dtype=d)) for d in (torch.float32, torch.float64)]
        assert found == [single, "torch"]


def test_a_kernel_without_its_library_says_so(monkeypatch):
    row = KERNELS["triton"]._replace(module="no_such_kernel")
    monkeypatch.setitem(KERNELS, "triton", row)
    assert registry.kernel_problem("triton", "meta") == (
        f"triton works on {row.needs} alone, and this run is on meta (No module named 'no_such_kernel'); use auto "
        "or torch"
    )


def test_names_of_kernels_need_no_pytorch():
    code = "import sys, atomica.nn.kernels.registry; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


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
    monkeypatch.setattr(pytorch, "_CHUNK_FLOATS", floats)
    torch.testing.assert_close(layer(plan, x, y, hidden), expected, atol=1e-13, rtol=0)


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


@pytest.mark.parametrize("precise", [True, False])
@pytest.mark.parametrize(("capability", "shared"), [(90, 227), (89, 99)])
def test_triton_kernels_compile_for_gpus_and_fit_them(monkeypatch, tmp_path, capability, shared, precise):
    """For an H100 and a smaller card, which need not be there; the interpreter does not know all that is refused.

    A program whose numbers do not fit into its registers keeps some in memory, on its stack. The shapes that were
    fastest on an H100 keep a few hundred bytes there; far more would be slow.
    """
    pytest.importorskip("triton", minversion="3.4")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from atomica.nn.kernels import triton as kernels

    shapes = {
        "_forward": kernels.FORWARD,
        "_coupled_gradient": kernels.COUPLED,
        "_hidden_gradient": kernels.HIDDEN,
        "_weight_gradient": kernels.WEIGHTS,
    }
    if capability == 89:
        shapes = dict.fromkeys(shapes, kernels.SMALL)
    shapes |= dict.fromkeys(
        ("_couple", "_couple_gradient", "_gather"), kernels.SMALL._replace(edges=kernels.COUPLE)
    )
    fixed = {"K": 5, "M": kernels.MOST_RADIAL, "V": 16, "U": kernels.CHANNELS, "COLUMNS": kernels.GATHER}
    types = dict.fromkeys(("per_row", "part_tiles", "width"), "i32")
    types |= dict.fromkeys(("lines", "starts"), "*i32") | dict.fromkeys(("order", "first", "sender"), "*i64")
    for name, shape in shapes.items():
        function, numbers = (
            getattr(kernels, name),
            3 if name.startswith("_couple") and "ed_" not in name else 4,
        )
        own = {**fixed, "E": shape.edges, "C": shape.columns, "STRICT": precise}
        own = {key: value for key, value in own.items() if key in function.arg_names}
        sizes = {"sizes": ("i32",) * numbers} | dict.fromkeys(own, "constexpr")
        signature = {key: (types | sizes).get(key, "*fp32") for key in function.arg_names}
        options = {"num_warps": shape.warps, "num_stages": shape.stages}
        compiled = compile(
            ASTSource(function, signature, own), target=GPUTarget("cuda", capability, 32), options=options
        )
        binary = tmp_path / f"{name}.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", str(binary)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = re.search(rf"{name}:\s+REG:(\d+) STACK:(\d+)", told)
        assert found, told
        registers, stack = map(int, found.groups())
        assert stack <= 1024, f"{name} keeps {stack} bytes in memory with {registers} registers"
        assert compiled.metadata.shared <= shared * 1024, name
