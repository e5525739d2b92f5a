"""`atomica-run --doctor`: what is installed and what there is to compute on, each tried, and what is wrong with it.

Whatever does not load is a finding, not an end: all that may fail is imported where it is tried.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from atomica import environment

__all__ = ["examine"]

PACKAGE = "atomica-dgl"
GIB = 2**30
LEAST_MEMORY, LEAST_DISK = 2.0, 1.0
"""GiB; with less, small runs fail."""
TOLERANCE = 1e-4
"""Of a kernel against PyTorch's operations in float64, as a fraction of the largest number."""


class _Findings:
    """What is printed, and what is wrong."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.problems: list[str] = []

    def say(self, what: str, text: str) -> None:
        self.lines.append(f"{what:<10} {text}")

    def problem(self, text: str) -> None:
        self.problems.append(text)

    def tried(self, what: str, attempt: Callable[[], str], remedy: str) -> bool:
        """Say what an attempt gives; where it fails it is a problem with this remedy. Gives whether it went well."""
        try:
            self.say(what, attempt())
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0]
            self.say(what, f"FAILED: {type(error).__name__}: {first}")
            self.problem(f"{what}: {first or type(error).__name__}; {remedy}")
            return False
        return True


def examine() -> tuple[bool, list[str]]:
    """Whether all is well, and what a person is told: versions, DGL, devices, kernels, memory, disk, remedies."""
    found = _Findings()
    _versions(found)
    found.tried(
        "extension",
        _extension,
        f"install the wheel of this platform again (pip install --force-reinstall {PACKAGE}), or in a clone, with "
        "Rust: pip install -e .",
    )
    working = found.tried("torch", _torch, "install PyTorch again: pip install --force-reinstall torch")
    if working:
        working = found.tried("dgl", _dgl, "pip install dgl==2.1.0 pandas pydantic pyyaml")
        _devices(found)
    if working:
        _kernels(found)
    _room(found)
    if not found.problems:
        return True, [*found.lines, "", "all is well"]
    listed = [f"{number}. {text}" for number, text in enumerate(found.problems, start=1)]
    return False, [*found.lines, "", f"{len(listed)} things are wrong:" if listed[1:] else "wrong:", *listed]


def _versions(found: _Findings) -> None:
    """Versions of Python and of what this package needs, against what it needs; of its extras, if they are there."""
    found.say("python", f"{platform.python_version()}, {platform.platform()}, {sys.executable}")
    versions = ((name, environment.installed(name)) for name in environment.PACKAGES)
    found.say("packages", ", ".join(f"{name} {version or 'missing'}" for name, version in versions))
    try:
        from packaging.requirements import Requirement

        wanted = [Requirement(text) for text in metadata.requires(PACKAGE) or ()]
        found.say("atomica", f"{environment.version()} in {Path(__file__).parent}")
        python = metadata.metadata(PACKAGE)["Requires-Python"]
    except (ImportError, metadata.PackageNotFoundError) as error:
        found.problem(f"atomica is not installed as a package ({error}); in a clone: pip install -e .")
        return
    if python and not Requirement(f"python{python}").specifier.contains(platform.python_version()):
        found.problem(f"Python {platform.python_version()} does not fit; Atomica needs {python}")
    extras = {}
    for one in wanted:
        extra = one.marker is not None and "extra" in str(one.marker)
        if one.marker is not None and not extra and not one.marker.evaluate():
            continue
        try:
            version = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            if not extra:
                found.problem(f"{one.name} is not installed: pip install '{_plain(one)}'")
            continue
        if extra and one.name != PACKAGE:
            extras[one.name] = version
        if not one.specifier.contains(version, prereleases=True):
            found.problem(f"{one.name} {version} does not fit: pip install '{_plain(one)}'")
    found.say("optional", ", ".join(f"{name} {version}" for name, version in extras.items()) or "none")


def _plain(requirement: Any) -> str:
    return f"{requirement.name}{requirement.specifier}"


def _extension() -> str:
    _prep = importlib.import_module("atomica._prep")
    return f"loads, {Path(str(_prep.__file__)).name}"


def _torch() -> str:
    import torch

    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    total = (torch.ones(2, 2) @ torch.ones(2, 2)).sum()
    assert float(total) == 8.0
    return f"{torch.__version__}, built {build}, {torch.get_num_threads()} threads"


def _dgl() -> str:
    graph = importlib.import_module("atomica.data.graph")
    bolt = sys.modules.get("dgl.graphbolt")
    inert = bolt is not None and getattr(bolt, "__file__", None) is None
    return f"{graph.dgl.__version__}, message passing works; its graphbolt " + (
        "does not fit this PyTorch and is left out, nothing here uses it" if inert else "fits this PyTorch"
    )


def _devices(found: _Findings) -> None:
    """The CPU, and the GPUs that PyTorch finds; a problem where the machine has one and PyTorch does not."""
    import torch

    hardware = environment.hardware()
    found.say("cpu", f"{hardware['processor']}, {hardware['cores']} cores")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name, (major, minor) = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
            found.say(
                f"gpu {index}",
                f"{name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free, compute {major}.{minor}",
            )
    else:
        found.say("gpu", "none that PyTorch finds")
        if Path("/proc/driver/nvidia/gpus").is_dir() and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
            found.problem(
                "the machine has an NVIDIA GPU, and PyTorch finds none: "
                + (
                    f"its driver is too old for CUDA {torch.version.cuda}, or closed to you; see nvidia-smi"
                    if torch.version.cuda
                    else "it is built without CUDA; install it as https://pytorch.org/get-started says"
                )
            )


def _kernels(found: _Findings) -> None:
    """Each kernel on each device that it works on, by a small forward pass against PyTorch's operations in float64."""
    import torch

    registry = importlib.import_module("atomica.nn.kernels.registry")
    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    for name in registry.KERNELS:
        for device in devices:
            what = f"{name} on {device}"
            if (why := registry.kernel_problem(name, device)) is not None:
                found.say("kernel", f"{what}: not tried, {why.partition(';')[0]}")
                continue

            def attempt(name: str = name, device: str = device, what: str = what) -> str:
                gap = _gap(name, device)
                if not gap <= TOLERANCE:
                    raise ArithmeticError(f"{what}: differs by {gap:.1g} from PyTorch's operations")
                return f"{what}: works, within {gap:.1g} of PyTorch's operations in float64"

            other = "torch" if name != "torch" else "another device"
            found.tried("kernel", attempt, f'use device.kernel = "{other}", and install the package again')


def _gap(kernel: str, device: str) -> float:
    """The largest difference of a small model's vectors, as a fraction of the largest number."""
    import torch

    testing = importlib.import_module("atomica.testing")
    model = testing.small_model().double().use_kernel("torch")
    graph = testing.graph_of(model, testing.random_interface(0))
    with torch.no_grad():
        exact = model.encode(graph).graph
        said = model.float().to(device).use_kernel(kernel).encode(graph).graph.double().cpu()
    return float((said - exact).abs().max() / exact.abs().max())


def _room(found: _Findings) -> None:
    """Free memory, and free disk where runs are written and where temporary files go."""
    memory = _free_memory()
    found.say("memory", "not known" if memory is None else f"{memory:.1f} GiB free")
    if memory is not None and memory < LEAST_MEMORY:
        found.problem(f"{memory:.1f} GiB of memory are free; end other programs, or lower data.batch_blocks")
    for what, folder in (("disk", Path.cwd()), ("temporary", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(folder).free / GIB
        found.say(what, f"{free:.1f} GiB free in {folder}")
        if free < LEAST_DISK:
            found.problem(f"{free:.1f} GiB are free in {folder}; delete something, or write to another disk")
        elif not os.access(folder, os.W_OK):
            found.problem(f"{folder} cannot be written to; start in another folder, or set TMPDIR")


def _free_memory() -> float | None:
    """GiB that programs can have; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
