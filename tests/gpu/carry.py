"""Makes a folder of wheels for a machine with a GPU and without a network, and prints the command to be run there.

    CARGO_TARGET_DIR=… python -m tests.gpu.carry FOLDER

The machine is taken to have Python 3.12, PyTorch with CUDA and Triton, NumPy, pandas, SciPy, scikit-learn, NetworkX,
requests, psutil, tqdm, PyYAML, e3nn, torchmetrics, pyarrow, safetensors, Jinja and rich, and glibc as new as here.
FOLDER gets our wheel, built here, and DGL's. `--more NAME==VERSION …` adds others, as they are on PyPI, without what
they need.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tests.gpu.__main__ import ROOT

DGL = "dgl==2.1.0"
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (34, 28, 27, 24, 17)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux1_x86_64"]
COMMAND = """\
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target /tmp/site {folder}/*.whl \\
  && cp -r tests runs /tmp/site && touch /tmp/site/tests/__init__.py && cd /tmp/site \\
  && PYTHONUNBUFFERED=1 PYTHONPATH=/tmp/site python3 -m tests.gpu --out "$OUT/gpu.jsonl" 2>&1 | cut -c1-1500"""
"""Away from the source tree, in which the package has no compiled part; `tests` must not be another package's."""


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu.carry",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--more", nargs="*", default=[], metavar="NAME==VERSION")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for old in arguments.folder.glob("atomica_dgl-*.whl"):
        old.unlink()  # two versions would stop the installation
    folder = str(arguments.folder.absolute())
    subprocess.run(["maturin", "build", "--release", "--out", folder], cwd=ROOT, check=True)
    wanted = ["--python-version", "3.12", "--implementation", "cp", "--only-binary=:all:", "--no-deps"]
    wanted += [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *wanted]
    subprocess.run([*command, "--dest", folder, DGL, *arguments.more], check=True)
    total = 0
    for wheel in sorted(arguments.folder.glob("*.whl")):
        total += wheel.stat().st_size
        print(f"{wheel.stat().st_size / 2**20:6.1f} MiB  {wheel.name}")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    tree = sum((ROOT / name).stat().st_size for name in listed.split("\0") if (ROOT / name).is_file())
    print(f"{total / 2**20:6.1f} MiB  in all; {(total + tree) / 2**20:.1f} with the files of this tree\n")
    print(COMMAND.format(folder=arguments.folder))


if __name__ == "__main__":
    main()
