"""A step asks the device for nothing before its end: a GPU that must tell a number, or a size, lets the processor wait.
Nor does it mix precisions, where a GPU would refuse it.

The steps run on tensors without data, in which every such question is an error, once as if on a CPU, and as far as
PyTorch can without a GPU, without the backward pass, as if on one; there copies between the two are errors as well.
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from unit.test_convolution import case

from atomica import Model, open_dataset
from atomica.data import graph, noise
from atomica.data.noise import NoiseConfig
from atomica.data.transfer import mapped
from atomica.heads import head_class
from atomica.nn import couplings, invariant
from atomica.nn.encoders import settings_from
from atomica.nn.irreps import spherical_harmonics
from atomica.nn.kernels import registry
from atomica.train import step
from atomica.train.config import TrainConfig
from atomica.train.distributed import ALONE
from atomica.train.loader import Batch
from atomica.train.optimizer import make_optimizer

QUESTIONS = (DataDependentOutputException, DynamicOutputShapeException)
HEADS = {
    "affinity": {},
    "binary": {},
    "denoise": {},
    "interface": {},
    "masked_block": {},
    "multiclass": {"classes": ("a", "b")},
    "partner": {},
    "regression": {},
}
TORSIONS = NoiseConfig(
    rotation_sigma=0.5, translation_sigma=1.0, torsion_sigma=0.5, mask_proportion=0.1, lone_proportion=0.3
)
ATOMS = NoiseConfig(rotation_sigma=0.5, translation_sigma=1.0, gaussian_sigma=0.5, mask_proportion=0.1)
CASES = [
    *((kind, {}, TORSIONS) for kind in HEADS),
    ("denoise", {}, ATOMS),
    ("denoise masked_block binary", {"modality_embedding": True}, TORSIONS),
    ("binary", {"atom_global": True, "block_global": False}, TORSIONS),
    ("binary", {"reference_quirks": True}, TORSIONS),
    ("binary", {"embeddings": {"sizes": (3,)}}, TORSIONS),
    ("affinity", {"embeddings": {"sizes": (3, 2)}}, TORSIONS),
    ("interface", {"kind": "invariant", "modality_embedding": True}, TORSIONS),
    ("denoise masked_block", {"kind": "invariant", "embeddings": {"sizes": (3, 2)}}, TORSIONS),
]


class NoCopies(TorchDispatchMode):
    """Refuses copies from one device to another. A single number of the CPU's needs none."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            given = args[func.overloadpacket is torch.ops.aten.copy_]
            assert given.device == found.device, (
                f"{func} of {given.shape} from {given.device} to {found.device}"
            )
        return found


class OnePrecision(TorchDispatchMode):
    """Refuses what PyTorch's kernels refuse, and its tensors without data let pass: values of another precision."""

    PLACED = ("index_add", "index_copy", "index_put", "scatter_add", "scatter_reduce", "addmm", "baddbmm")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__.rstrip("_") in self.PLACED:
            found = {one.dtype for one in args if torch.is_tensor(one) and one.is_floating_point()}
            assert len(found) <= 1, f"{func} of {found}"
        return func(*args, **(kwargs or {}))


def model_and_batch(heads, settings, kinds):
    """A model, and of one batch its inputs, targets and labelled rows."""
    torch.manual_seed(0)
    config = settings_from({"atom_hidden": 8, "block_hidden": 8, "edge_size": 6, "layers": 2, **settings})
    own = {**HEADS, "denoise": {"atom": 1.0} if kinds.gaussian_sigma else {}}
    classes = {name: head_class(name) for name in heads.split()}
    model = Model(
        config, {name: cls(cls.Config(**own[name]), config) for name, cls in classes.items()}
    ).train()
    data = open_dataset("demo://pockets")
    records = [data[row] for row in range(3)]
    made, found = graph.perturbed(records, kinds, noise.seeds(0, 0, range(3)), **config.graph_options())
    for name, size in zip(config.embeddings.frames, config.embeddings.sizes, strict=True):
        made.nodes["block"].data[name] = torch.randn(made.num_nodes("block"), size)
    sources = {
        "perturbation": found.perturbation,
        "masks": found.mask_labels,
        "absent": found.absent,
        "labels": torch.tensor([0, 1, 1]),
    }
    targets = {name: sources[cls.targets] for name, cls in classes.items() if cls.targets in sources}
    known = {
        name: torch.tensor([True, False, True]) for name, cls in classes.items() if cls.targets == "labels"
    }
    return model, model.prepare(made, targets).planned(), targets, model.labelled(known)


def without_data(mode, device, model, *batch):
    """The batch with tensors that have no data, on a device; those of the model are replaced as well."""

    def fake(tensor):
        return mode.from_tensor(tensor.detach()).to(device)

    with mode:
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = torch.nn.Parameter(fake(parameter), parameter.requires_grad)
            for name, buffer in module._buffers.items():
                module._buffers[name] = fake(buffer)
        return [mapped(fake, part) for part in batch]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("heads", "settings", "kinds"), CASES)
def test_a_step_asks_nothing_of_the_device(monkeypatch, heads, settings, kinds, device):
    model, inputs, targets, rows = model_and_batch(heads, settings, kinds)
    # all as on a GPU
    model.use_kernel("torch")
    monkeypatch.setattr(invariant, "DglRelation", invariant.IndexRelation)
    expected = model.loss_of(model.outputs(inputs), targets, rows).total  # constants are made once
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    inputs, targets, rows = without_data(mode, device, model, inputs, targets, rows)
    with mode:
        model.loss_of(model.outputs(inputs), targets, rows)  # and once for every device
        with NoCopies():
            total = model.loss_of(model.outputs(inputs), targets, rows).total
        assert (total.shape, total.dtype, total.device.type) == (expected.shape, expected.dtype, device)
        if device == "cpu":
            asked = []
            monkeypatch.setattr(
                step, "numbers_of", lambda terms: asked.append(1) or dict.fromkeys(terms, 0.0)
            )
            batch = Batch((), 0, inputs, targets, known={}, rows=rows, counts={})
            config = TrainConfig()
            step.Stepper(model, make_optimizer(model, config), config, ALONE).run([batch], None, 0, 10)
            assert len(asked) == 1  # how it went, when all is done


@pytest.fixture
def bfloat16():
    """Autocast as on a GPU, for tensors that seem to be on one; `torch.autocast` itself refuses where there is none."""
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", True)
    yield
    torch.set_autocast_enabled("cuda", False)
    torch.set_autocast_dtype("cuda", before)


@pytest.mark.parametrize(("heads", "settings", "kinds"), CASES)
def test_a_step_in_bfloat16_on_a_gpu_mixes_no_precisions(monkeypatch, bfloat16, heads, settings, kinds):
    """Which takes other operations in float32 there than on a CPU."""
    model, inputs, targets, rows = model_and_batch(heads, settings, kinds)
    model.use_kernel("torch")
    monkeypatch.setattr(invariant, "DglRelation", invariant.IndexRelation)
    model.loss_of(model.outputs(inputs), targets, rows)  # constants are made once
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    inputs, targets, rows = without_data(mode, "cuda", model, inputs, targets, rows)
    with mode, OnePrecision():
        outputs = model.outputs(inputs)
    torch.set_autocast_enabled("cuda", False)
    with mode, OnePrecision():
        assert model.loss_of(step._full(outputs), targets, rows).total.dtype == torch.float32


def test_mixed_precisions_are_noticed():
    with FakeTensorMode(), OnePrecision(), pytest.raises(AssertionError, match="index_add"):
        torch.ones(3, device="cuda").index_add(
            0, torch.tensor([1]).cuda(), torch.ones(1, device="cuda").bfloat16()
        )


@pytest.mark.parametrize(
    "question",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: torch.bincount(x.long(), minlength=3),
        lambda x: x.long().unique(),
        lambda x: torch.repeat_interleave(x, x.long()),
    ],
)
def test_questions_are_noticed(question):
    for device in ("cpu", "cuda"):
        with FakeTensorMode(), pytest.raises(QUESTIONS):
            question(torch.ones(3, device=device))


@pytest.mark.parametrize("copy", [lambda x: x.cpu(), lambda x: x + torch.tensor([1.0, 2.0, 3.0]).to(x)])
def test_copies_are_noticed(copy):
    with FakeTensorMode():
        x = torch.ones(3, device="cuda")
        with NoCopies(), pytest.raises(AssertionError, match="cpu"):
            copy(x)


@pytest.mark.parametrize("want_y", [False, True])
def test_launching_triton_kernels_asks_nothing_of_the_device(monkeypatch, want_y):
    """What surrounds the kernels; there is no GPU to launch them on, so launches are counted and left out."""
    pytest.importorskip("triton", minversion="3.3")
    from atomica.nn.kernels import triton as conv_triton

    launched = []

    class Launch:
        def __getitem__(self, grid):
            assert all(isinstance(size, int) and 0 < size < 2**16 for size in grid[1:])
            return lambda *arguments, **sizes: launched.append((len(arguments), grid))

    kernels = ("_forward", "_coupled_gradient", "_hidden_gradient", "_weight_gradient")
    for name in (*kernels, "_couple", "_couple_gradient", "_gather"):
        monkeypatch.setattr(conv_triton, name, Launch())
    layer, plan, x, vectors, hidden = case(torch.float32, hidden=16)
    y, weights = spherical_harmonics(vectors), [layer.weights[slot.name] for slot in layer.tables.targets]
    hidden = torch.nn.functional.pad(hidden, (0, 1))  # the last carries the bias
    layer.tables.matrices(y)  # coefficients are computed once, from real numbers
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    (given,) = without_data(mode, "cuda", torch.nn.Module(), (plan, x, y, hidden, tuple(weights)))
    with mode, torch.no_grad():
        for guard in (nullcontext(), NoCopies()):  # constants are made once for every device
            with guard:
                arguments = couplings.Arguments(layer.tables, *given)
                assert conv_triton.fits(given[1])
                out = conv_triton.forward(arguments)
                found = conv_triton.backward(arguments, torch.ones_like(out), want_y)
    assert out.shape == (len(plan.rows), layer.outputs.dim)
    assert (found[1] is not None) == want_y
    assert [one.shape for one in found[3]] == [weight.shape for weight in weights]
    by_edges = sum(slot.degree > 0 for slot in layer.tables.targets)
    assert by_edges > 2
    # couplings of both passes, irreps forward and backward, and unless PyTorch gives the harmonics' gradient couplings
    assert len(launched) == 2 * (2 * len(plan.buckets) + 4 * by_edges * len(plan.buckets) + 1 + (not want_y))


def test_triton_does_the_work_on_gpus_that_it_is_faster_on(monkeypatch):
    """By itself on those where it has been measured, else PyTorch."""
    with FakeTensorMode():
        x = torch.zeros(1, device="cuda")
    for name, expected in (("auto", "torch"), ("rust", "torch"), ("torch", "torch")):
        assert registry.kernel_for(name, x) == expected
    conv_triton = pytest.importorskip("atomica.nn.kernels.triton", exc_type=ImportError)
    monkeypatch.setattr(conv_triton, "_measured", lambda device: True)
    assert registry.kernel_for("auto", x) == "triton"
    assert registry.kernel_for("auto", torch.zeros(1)) == "rust"
