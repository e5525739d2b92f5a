"""An interface much larger than those of the data sets is embedded in little memory."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

STEPS = Path(__file__).resolve().parents[1] / "bench" / "steps.py"
ATOMS = int(os.environ.get("ATOMICA_ATOMS", "1000"))


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_memory_of_a_large_interface():
    """The published model. ATOMICA_ATOMS=20000: the size that must fit into 2 GB, which takes a minute."""
    done = subprocess.run(
        [sys.executable, str(STEPS), "--interface", str(ATOMS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"of ([\d,]+) atoms .* (\d+) MiB at the peak, (\d+) before", done.stdout)
    atoms, peak, before = (int(number.replace(",", "")) for number in found.groups())
    assert atoms >= ATOMS
    # kept per atom: a few copies of the radial features of its 16 edges; a matrix per receiver would be a megabyte
    assert peak - before < 380 + 0.045 * atoms
    if atoms >= 20_000:
        assert peak * 2**20 < 2e9
