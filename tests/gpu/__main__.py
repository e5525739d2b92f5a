"""Runs all that wants a GPU, in parts that do not stop each other, and writes one line of JSON for each.

    python -m tests.gpu --out gpu.jsonl                     on a GPU, in less than eight minutes
    python -m tests.gpu --device cpu --out cpu.jsonl        the same at small sizes, to see that the parts work
    python -m tests.gpu --parts card,parity,steps           some of them
    python -m tests.gpu.carry FOLDER                        what a machine without a network needs for it

Each part is a process of its own with a time limit; what it has found until then is kept. The most telling come first.
A line has `part`, `ok`, `seconds`, and either what was found or `error`. The exit code is 1 if a part is not ok.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]


class Part(NamedTuple):
    """module: where its function, of the same name, is. seconds: the most it may take on a GPU."""

    module: str
    seconds: int
    meaning: str


PARTS = {
    "card": Part("speed", 45, "what it runs on: versions, rate of matrix products, of copies"),
    "parity": Part(
        "exactness", 100, "numbers of the original and of float64, all precisions, the same bits twice"
    ),
    "steps": Part(
        "speed", 170, "steps and embeddings at 500, 2,000 and 8,000 blocks: e3nn's form, torch, triton"
    ),
    "profile": Part("speed", 80, "a step by kernel, the processor's time for it, questions to the device"),
    "memory": Part("training", 75, "memory runs out on purpose"),
    "ranks": Part("training", 60, "NCCL with one process: DistributedDataParallel, shares, bfloat16"),
    "runs": Part("training", 90, "two specs from end to end: waiting for data, use of the GPU"),
    "tune": Part("speed", 90, "shapes of Triton's kernels, pieces of PyTorch's"),
    "graphs": Part("speed", 75, "what replaying or compiling a step could gain"),
    "auto": Part("verdict", 20, "what device.kernel = auto should be, by a rule"),
}
RESERVED = 12
"""Seconds kept for the last part."""


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--parts", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}; all by default"
    )
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"), help="file of the lines")
    parser.add_argument("--budget", type=float, help="seconds for all parts; 470, or on a CPU 900")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        work(arguments)
        return 0
    names = arguments.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"--parts: {', '.join(unknown)}: there are {', '.join(PARTS)}")
    patience = 1 if arguments.device == "cuda" else 3  # a CPU may have other work
    budget = arguments.budget or (470 if patience == 1 else 900)
    end, fine = time.monotonic() + budget, True
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("")
    for name in names:
        left = end - time.monotonic() - (RESERVED if name != "auto" and "auto" in names else 0)
        line = measured(name, min(patience * PARTS[name].seconds, left), arguments)
        fine = fine and line["ok"]
        text = json.dumps(line)
        with arguments.out.open("a") as file:
            file.write(text + "\n")
        print(text, flush=True)
    return 0 if fine else 1


def measured(name: str, limit: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """The line of one part, which runs as a process."""
    if limit < 5:
        return {"part": name, "ok": False, "seconds": 0.0, "error": "no time was left for it; see --budget"}
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"atomica-{name}-") as folder:
        command = [
            sys.executable,
            "-m",
            "tests.gpu",
            "--part",
            name,
            "--folder",
            folder,
            "--limit",
            str(limit),
        ]
        command += ["--device", arguments.device, "--out", str(arguments.out.absolute())]
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONWARNINGS": "ignore",
        }
        if arguments.device == "cpu" and name in ("parity", "tune"):
            environment["TRITON_INTERPRET"] = "1"
        log = Path(folder, "log")
        with log.open("w") as stream:
            # a group of its own, so that what it has started ends with it
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=stream, stderr=stream, start_new_session=True
            )
            try:
                code: int | None = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            with contextlib.suppress(ProcessLookupError):  # all have ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        told = Path(folder, "found.json")
        found = json.loads(told.read_text()) if told.is_file() else {}
        line = {"part": name, "ok": False, "device": arguments.device, **found}
        if code != 0:
            tail = "\n".join(log.read_text(errors="replace").strip().splitlines()[-25:])
            ended = f"took longer than {limit:.0f} s" if code is None else f"ended with {code}"
            line |= {"ok": False, "error": f"{ended}: {tail}"[-3000:]}
    return {**line, "seconds": round(time.monotonic() - start, 1)}


def work(arguments: argparse.Namespace) -> None:
    """What a part's process does: run it, and leave what it has found so far in found.json."""
    from tests.gpu.common import Setting

    lines = arguments.out.read_text().splitlines() if arguments.out.is_file() else []
    before = {line["part"]: line for line in map(json.loads, lines)}
    scratch = arguments.folder / "scratch"
    scratch.mkdir()
    # it should end by itself, a little before it is ended
    setting = Setting(arguments.device, time.monotonic() + arguments.limit - 3, scratch, before)
    function = getattr(importlib.import_module(f"tests.gpu.{PARTS[arguments.part].module}"), arguments.part)
    found: dict[str, Any] = {}
    for more in function(setting):
        found |= more
        new = arguments.folder / "found.new"
        new.write_text(json.dumps(_plain(found)))
        new.replace(arguments.folder / "found.json")


def _plain(value: Any) -> Any:
    """What JSON can say: no infinite numbers, no keys but text."""
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value


if __name__ == "__main__":
    sys.exit(main())
