"""The command line `atomica-run`: arguments → spec → a job, checked → its work; signals and exit codes.

Everything that can be checked is checked before the run folder is made, and all that is wrong is reported at
once. PyTorch is imported only when a spec is read, so that `--help` answers at once: here alone imports wait.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from atomica import environment, spec
from atomica.console import Journal, hang_up, plain
from atomica.errors import AtomicaError, SpecError
from atomica.files import DONE, FAILED, INTERRUPTED, USAGE
from atomica.train import distributed
from atomica.train.distributed import Ranks
from atomica.train.stopping import Interrupted, Stop, StopRequested

if TYPE_CHECKING:
    from atomica.jobs.job import Prepared, Request

__all__ = ["main", "perform"]

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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="atomica-run",
        description="Run what a TOML spec describes: train a model and evaluate it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "spec", metavar="SPEC.toml", nargs="?", help="the run's settings; see runs/ligand.toml"
    )
    parser.add_argument(
        "--set",
        metavar="KEY.PATH=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="change one setting; may be repeated. VALUE is TOML or bare text",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, run one batch, print the figures, write nothing",
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="show heads, schedules, samplers, sweeps and jobs, and what they take",
    )
    parser.add_argument("--version", action="version", version=f"atomica-run {environment.version()}")
    parser.add_argument("--schema", action="store_true", help="print a JSON schema of specs, for editors")
    parser.add_argument(
        "--doctor",
        action="store_true",
        help="try what is installed and tell what is wrong; exit code 1 if anything is",
    )
    parser.add_argument(
        "--export",
        nargs=2,
        metavar=("RUN", "DIR"),
        help="make a folder to publish of the folder of a training, or of one of several seeds; wants --licence",
    )
    parser.add_argument(
        "--licence", metavar="ID", help="of --export: the weights' licence, an SPDX identifier"
    )
    parser.add_argument(
        "--verify",
        metavar="WEIGHTS",
        help="compute the reference values of a published folder or hf://ORG/NAME again; exit code 1 if they differ",
    )
    going_on = parser.add_mutually_exclusive_group()
    going_on.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint")
    going_on.add_argument(
        "--start-or-resume",
        action="store_true",
        help="go on from the run's last checkpoint if there is one, else start: for schedulers of jobs",
    )
    parser.add_argument(
        "--devices",
        type=int,
        default=1,
        metavar="N",
        help="share every step of a training, or the work of a job after it, between N processes on this machine, with "
        "a GPU each if there are any; the result stays the same",
    )
    parser.add_argument(
        "--shard",
        metavar="K/N",
        type=_shard,
        help="of a job after training: the K-th of N processes, on any machines that see run.out, that share it, as "
        "in arrays of jobs; the first to come leads, and joins what all have made, and one that dies is replaced by "
        "the others",
    )
    return parser


def _shard(text: str) -> tuple[int, int]:
    """K/N as numbers."""
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r}: must be K/N with K from 1 to N, such as 2/8")
    return int(number), int(count)


class _Signals:
    """SIGINT, SIGTERM, SIGHUP, SIGUSR1: once training runs, the first asks it to stop after the step and checkpoint.

    Schedulers and launchers send more than one, so only a second Ctrl-C, not in the same second, ends it at once.
    """

    def __init__(self) -> None:
        self.stop: Stop | None = None
        self.since = 0.0
        self.before: dict[int, Any] = {}

    def install(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may handle signals
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup has asked for that
            self.before[number] = signal.signal(number, self.receive)

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def ignore(self) -> None:
        """Let no signal change how this process ends, from now on."""
        for number in self.before:
            signal.signal(number, signal.SIG_IGN)
        self.before.clear()

    def receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.stop is None or (self.stop.requested and number == signal.SIGINT and now - self.since > 1.0):
            raise KeyboardInterrupt
        if not self.stop.requested:
            self.stop.requested, self.since = True, now


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. What PyTorch keeps for the whole process is put back at the end."""
    plain()
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    arguments = parser.parse_args(words)
    if (arguments.export is None) != (arguments.licence is None):
        parser.error(
            "--export RUN DIR and --licence ID go together; ID is an SPDX identifier, such as CC-BY-4.0"
        )
    try:
        if (told := _told(arguments)) is not None:
            print(told[1], flush=True)
            return told[0]
    except BrokenPipeError:  # as of `| head`
        hang_up()
        return DONE
    except (AtomicaError, OSError) as error:
        print(f"atomica-run: {error}", file=sys.stderr)
        return USAGE
    if arguments.spec is None:
        parser.error("the following arguments are required: SPEC.toml")
    if arguments.devices < 1:
        parser.error("--devices: at least 1")
    distributed.watch_parent()
    if arguments.devices > 1 and not distributed.started_here():
        if distributed.is_rank():
            parser.error("--devices has no effect under torchrun, which starts the processes itself")
        # A sweep hands --devices on to its trials, an ensemble has its members share them, a job starts its helpers.
        if not arguments.dry_run and not _starts_processes(arguments):
            return distributed.launch(arguments.devices, words)
    if arguments.shard and (arguments.devices > 1 or distributed.is_rank()):
        parser.error("--shard is of one process of several; leave out --devices or torchrun")
    signals = _Signals()
    signals.install()
    try:
        ranks = distributed.join()
        try:
            return _run(arguments, signals, ranks)
        finally:
            if ranks.size > 1:  # the agent sends one as soon as another rank has ended
                signals.ignore()
            distributed.leave(ranks)
    except KeyboardInterrupt:
        print("atomica-run: interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED
    finally:
        signals.restore()


def _told(arguments: argparse.Namespace) -> tuple[int, str] | None:
    """Exit code and text of what is answered without a spec; None where one is to be run."""
    if arguments.list or arguments.schema:
        from atomica import catalogue

        return DONE, catalogue.listing() if arguments.list else json.dumps(catalogue.schema(), indent=1)
    if arguments.doctor:
        from atomica.doctor import examine

        well, lines = examine()
    elif arguments.export:
        from atomica.publish import export

        run, folder = arguments.export
        well, lines = export(run, folder, arguments.licence)
    elif arguments.verify:
        from atomica.publish import verify

        well, lines = verify(arguments.verify)
    else:
        return None
    return DONE if well else FAILED, "\n".join(lines)


def _starts_processes(arguments: argparse.Namespace) -> bool:
    """Whether what the spec describes starts others itself: a sweep, several members, a job after training."""
    try:
        source = spec.load(arguments.spec, arguments.overrides)
    except SpecError:
        return False
    job = source.get(("run", "job")) if ("run", "job") in source else "train"
    return job != "train" or "sweep" in source.tree or _several(source)


def _several(source: spec.Source) -> bool:
    """Whether a spec asks for more than one training."""
    table = source.tree.get("train")
    asked = (table.get(key) for key in ("seeds", "folds")) if isinstance(table, dict) else ()
    return any(isinstance(one, int) and one > least for one, least in zip(asked, (1, 0), strict=False))


def prepare(source: spec.Source, request: Request) -> Prepared:
    """The job that a spec describes, checked. Raises SpecError with all that is wrong."""
    from atomica.jobs import JOBS
    from atomica.jobs.job import kind
    from atomica.sweep.members import prepare as prepare_members

    name = source.get(("run", "job")) if ("run", "job") in source else "train"
    if not isinstance(name, str) or name not in JOBS:
        # Nobody knows what else is right in it.
        issues = spec.Issues(source)
        issues.add(("run", "job"), spec.not_among(name, tuple(JOBS)))
        issues.raise_any()
    chosen = str(name)
    if request.shard and chosen == "train":
        raise SpecError(
            "--shard is of jobs after training; several processes train with --devices or torchrun"
        )
    if "sweep" in source.tree and chosen == "train":
        from atomica.sweep.engine import prepare as prepare_sweep

        return prepare_sweep(source, request)
    if chosen == "train" and _several(source):
        return prepare_members(source, request)
    return kind(chosen).prepare(source, request)


def _source(arguments: argparse.Namespace) -> spec.Source:
    from atomica.jobs.folder import placed

    source = spec.load(arguments.spec, arguments.overrides)
    return placed(source, start_or_resume=arguments.start_or_resume)


def perform(source: spec.Source, *, devices: int = 1, quiet: bool = False) -> int:
    """Do what a spec describes, or go on with it where its folder says so, as part of this process.

    Gives the exit code of the command: 0, or 3 if some inputs failed. What PyTorch keeps for the whole process is put
    back at the end. Ctrl-C ends it after the step, with a checkpoint. Raises AtomicaError for all that is wrong.
    """
    from atomica.jobs.folder import Claim
    from atomica.jobs.job import Request

    journal, claim, signals, stop = Journal(silent=quiet), Claim(), _Signals(), Stop()
    signals.install()
    try:
        with environment.untouched():
            job = prepare(source, Request(resume=None, devices=devices, claim=claim))
            told = job.overview()
            journal.say("\n".join(told))
            job.take()
            if job.heeds:
                signals.stop = stop
            return job.perform(journal, stop, told)
    except (Interrupted, StopRequested):
        raise KeyboardInterrupt("stopped; the same call goes on from the checkpoint") from None
    finally:
        signals.restore()
        journal.close()
        claim.release()


def _run(arguments: argparse.Namespace, signals: _Signals, ranks: Ranks) -> int:
    """What the arguments ask for, as one of some ranks; returns the exit code."""
    # The heavy imports start here, after the arguments are known to be right.
    from atomica.jobs.job import Request

    with environment.untouched():
        return _work(arguments, signals, ranks, Request)


def _work(arguments: argparse.Namespace, signals: _Signals, ranks: Ranks, Request: type[Request]) -> int:
    """The same, once all is imported."""
    from atomica.jobs.folder import Claim

    started, journal, claim = False, Journal(silent=not ranks.first), Claim()
    request = Request(
        resume=None if arguments.start_or_resume or arguments.shard else arguments.resume,
        dry=arguments.dry_run,
        ranks=Ranks(local_size=arguments.devices) if arguments.dry_run and ranks.size == 1 else ranks,
        devices=arguments.devices,
        claim=claim,
        shard=arguments.shard is not None,
    )
    try:
        job = distributed.agreed(ranks, lambda: prepare(_source(arguments), request))
        told = job.overview()
        journal.say("\n".join(told))
        if arguments.dry_run:
            journal.say("\n".join(job.rehearse()))
            return DONE
        job.take()
        started, stop = True, Stop()
        if job.heeds:
            signals.stop = stop
        return job.perform(journal, stop, told)
    except (Interrupted, StopRequested) as error:
        reason = str(error) or "stopped during evaluation; the checkpoints are written"
        journal.say(f"atomica-run: {reason}; go on with --resume", error=True)
        return INTERRUPTED
    except (AtomicaError, OSError) as error:
        if not started and not isinstance(error, OSError):
            journal.say(f"atomica-run: {error}", error=True)
            ranks.gather(None)  # the first rank has said it before the others end
            return USAGE
        distributed.record_failure(error)
        _say_failure(str(error), journal, ranks)
        return FAILED
    except KeyboardInterrupt:
        rest = "what is done stands; go on with --resume" if started else "nothing was written"
        journal.say(f"atomica-run: interrupted; {rest}", error=True)
        return INTERRUPTED
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # PyTorch's, which need not be imported here
            cause = str(error).split(". ")[0]
            cause_told = (
                f"out of GPU memory ({cause}); a smaller data.batch_blocks or data.max_item_blocks needs less, and "
                'device.kind = "cpu" none'
            )
            _say_failure(cause_told, journal, ranks)
            return FAILED
        # Unforeseen: Python shows it on the terminal, and the log keeps it.
        distributed.record_failure(error)
        journal.note(traceback.format_exc())
        if distributed.started_here():
            return FAILED  # the launcher shows it
        raise
    finally:
        journal.close()
        claim.release()


def _say_failure(text: str, journal: Journal, ranks: Ranks) -> None:
    """Tell why the run failed: by this rank, unless the command that has started it reads it from the record."""
    if distributed.started_here():
        journal.note(text)
    elif ranks.first:
        journal.say(f"atomica-run: {text}", error=True)
    else:
        print(f"atomica-run: rank {ranks.rank}: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
