"""The benchmark of whole steps tells what does not fit into memory, and how a step grows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import slow

STEPS = Path(__file__).resolve().parents[1] / "bench" / "steps.py"

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")


def table(*options):
    """What the command prints."""
    done = subprocess.run(
        [sys.executable, str(STEPS), "--runs", "0", "--threads", "1", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


@slow
def test_what_does_not_fit_is_said_and_the_rest_goes_on():
    """One pocket of 29 blocks, where our step adds about 120 MiB and e3nn's a gigabyte."""
    shown = table("--blocks", "29", "--memory", "0.4", "--variants", "ours", "e3nn")
    for work in ("embed", "gradient", "step"):
        assert re.search(rf"^{work} +ours +\d+\.\d+ ", shown, flags=re.M), shown
    for work in ("gradient", "step"):
        assert re.search(rf"^{work} +e3nn +does not fit$", shown, flags=re.M), shown


@slow
def test_growth_is_shown_for_three_sizes():
    shown = table("--blocks", "29", "40", "60", "--variants", "ours")
    sizes = re.findall(r"^1 complexes, (\d+) blocks", shown, flags=re.M)
    assert len(set(sizes)) == 3, shown
    per_block = re.search(
        r"^CPU seconds per block.*: \d+: 1.00, (\d+): [\d.]+, (\d+): [\d.]+; line", shown, flags=re.M
    )
    assert per_block, shown
    assert list(per_block.groups()) == sizes[1:], shown
    assert re.search(r"^MiB added per block.* off by at most [\d.]+% of the largest$", shown, flags=re.M)
