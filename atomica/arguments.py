"""The arguments of `atomica-run`: what they are called, and what `--help` says of them."""

from __future__ import annotations

import argparse

from atomica import environment

__all__ = ["parser"]

EXAMPLES = """\
examples:
  atomica-run runs/ligand.toml --dry-run
  atomica-run runs/ligand.toml
  atomica-run runs/ligand.toml --set run.name=small --set train.epochs=3 --set head.0.positive=ZN
  atomica-run outputs/ligand/spec.toml --resume
  atomica-run runs/ligand.toml --devices 2
  atomica-run --export outputs/ligand ligand-model --licence CC-BY-4.0
  atomica-run --verify hf://ORG/NAME
  torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
      -m atomica.runner runs/ligand.toml

exit codes:
  0 done; 1 failed; 2 wrong usage, spec or data, nothing written; 3 done, but some inputs failed (listed);
  130 interrupted, checkpoint written
"""


def parser() -> argparse.ArgumentParser:
    """What reads the command line."""
    made = argparse.ArgumentParser(
        prog="atomica-run",
        description="Run what a TOML spec describes: train a model and evaluate it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("spec", metavar="SPEC.toml", nargs="?", help="the run's settings; see runs/ligand.toml")
    made.add_argument(
        "--set",
        metavar="KEY.PATH=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="change one setting; may be repeated. VALUE is TOML or bare text",
    )
    made.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, run one batch, print the figures, write nothing",
    )
    made.add_argument(
        "--list",
        action="store_true",
        help="show heads, schedules, samplers, sweeps and jobs, and what they take",
    )
    made.add_argument("--version", action="version", version=f"atomica-run {environment.version()}")
    made.add_argument("--schema", action="store_true", help="print a JSON schema of specs, for editors")
    made.add_argument(
        "--doctor",
        action="store_true",
        help="try what is installed and tell what is wrong; exit code 1 if anything is",
    )
    made.add_argument(
        "--export",
        nargs=2,
        metavar=("RUN", "DIR"),
        help="make a folder to publish of the folder of a training, or of one of several seeds; wants --licence",
    )
    made.add_argument("--licence", metavar="ID", help="of --export: the weights' licence, an SPDX identifier")
    made.add_argument(
        "--verify",
        metavar="WEIGHTS",
        help="compute the reference values of a published folder or hf://ORG/NAME again; exit code 1 if they differ",
    )
    going_on = made.add_mutually_exclusive_group()
    going_on.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint")
    going_on.add_argument(
        "--start-or-resume",
        action="store_true",
        help="go on from the run's last checkpoint if there is one, else start: for schedulers of jobs",
    )
    made.add_argument(
        "--devices",
        type=int,
        default=1,
        metavar="N",
        help="share every step of a training, or the work of a job after it, between N processes on this machine, with "
        "a GPU each if there are any; the result stays the same",
    )
    made.add_argument(
        "--shard",
        metavar="K/N",
        type=_shard,
        help="of a job after training: the K-th of N processes, on any machines that see run.out, that share it, as "
        "in arrays of jobs; the first to come leads, and joins what all have made, and one that dies is replaced by "
        "the others",
    )
    return made


def _shard(text: str) -> tuple[int, int]:
    """K/N as numbers."""
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r}: must be K/N with K from 1 to N, such as 2/8")
    return int(number), int(count)
