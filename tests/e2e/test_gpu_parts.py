"""`python -m tests.gpu` as far as a CPU can run it: every part at small sizes, without what a bare machine lacks."""

import json
import subprocess
import sys

import pytest
from helpers import ROOT, environment, slow

LACKED = ("rdkit", "biotite", "gemmi", "pydantic", "tensorboard", "faiss", "optuna", "pytest")
BLOCK = f"""\
import sys
from importlib.machinery import ModuleSpec

class Lacked:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name.partition(".")[0] in {LACKED!r} else None

    def create_module(self, spec):
        raise ModuleNotFoundError(f"No module named {{spec.name!r}}", name=spec.name)

    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Lacked())
"""
"""What imports them fails; PyTorch, which only looks for some of them, still may."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs the command on a machine that lacks modules; gives the exit code and the lines of its file."""
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "sitecustomize.py").write_text(BLOCK)
    env = environment()
    env["PYTHONPATH"] = f"{folder}:{env['PYTHONPATH']}"

    def start(*options):
        out = folder / "found.jsonl"
        out.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.gpu", "--device", "cpu", "--out", str(out), *options]
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=900
        )
        lines = [json.loads(line) for line in out.read_text().splitlines()] if out.is_file() else []
        assert [json.loads(line) for line in done.stdout.splitlines()] == lines
        return done, {line["part"]: line for line in lines}

    return start


@slow
def test_every_part_says_what_it_found(run):
    done, found = run("--budget", "1500")
    assert {
        name: line.get("error") or line.get("bad") for name, line in found.items() if not line["ok"]
    } == {}
    assert done.returncode == 0, done.stderr
    assert found["card"]["tflops"]["float32"] > 0
    for line in found["parity"]["layers"] + found["parity"]["networks"]:
        assert 0 < line["output"] < {"float32": 1e-5, "bf16": 5e-2}[line["precision"]]
        assert line["same_bits"]
    measured = {line["variant"]: line for line in found["steps"]["measured"]}
    assert set(measured) == {"torch", "e3nn"}
    assert measured["torch"]["off_e3nn"] < 1e-5
    assert {"step_times_e3nn", "step_memory_of_e3nn"} <= set(measured["torch"])
    (profile,) = found["profile"]["steps"]
    assert profile["kernels"]
    assert profile["host_ms"] > 0
    assert found["ranks"]["backend"]
    assert all(line["moves_off_alone"] < 1e-3 for line in found["ranks"]["steps"])
    assert found["tune"]["table"]
    assert found["auto"]["auto"] == "torch"
    assert found["memory"]["recovered"]
    assert found["memory"]["said_so"]
    assert [line["spec"] for line in found["runs"]["runs"]] == ["ligand", "pretrain"]
    assert all(line["steps"] > 1 for line in found["runs"]["runs"])
    assert found["graphs"]["steps"]


@slow
def test_a_part_that_fails_or_takes_too_long_does_not_stop_the_next(run):
    """`auto` has no figures to go by; five seconds are too few for steps."""
    done, found = run("--parts", "steps,auto", "--budget", "17.5")
    assert done.returncode == 1
    assert list(found) == ["steps", "auto"]
    assert "took longer than" in found["steps"]["error"]
    assert (found["auto"]["ok"], found["auto"]["auto"]) == (False, None)
    done, found = run("--parts", "parity,nothing")
    assert done.returncode == 2
    assert "nothing: there are card, parity" in done.stderr


def test_the_rule_of_the_choice():
    from tests.gpu.common import Setting
    from tests.gpu.verdict import auto

    def chosen(triton, bad=()):
        times = {"torch": [10.0, 20.0, 40.0], "triton": triton}
        measured = [
            {"variant": name, "blocks": 500 * 4**i, "step_ms": ms}
            for name, found in times.items()
            for i, ms in enumerate(found)
        ]
        networks = [{"kernel": name} for name in times]
        found = {
            "steps": {"measured": measured},
            "parity": {"networks": networks, "layers": [], "bad": list(bad)},
        }
        (told,) = auto(Setting("cuda", 0.0, ROOT, found))
        return told["auto"]

    assert chosen([5.0, 10.0, 20.0]) == "triton"
    assert chosen([9.5, 19.0, 38.0]) == "torch"  # too little
    assert chosen([12.0, 5.0, 5.0]) == "torch"  # slower somewhere
    assert chosen([5.0, 10.0]) == "torch"  # no step at the largest size
    assert (
        chosen([5.0, 10.0, 20.0], ["encoder by triton, bf16: output off by 1.0e+00, more than 5e-02"])
        == "torch"
    )
