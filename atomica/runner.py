"""The command line `atomica-run`: arguments → spec → assembled job. Nothing else assembles.

Everything that can be checked is checked before the run folder is made, and all that is wrong is reported at
once. PyTorch is imported only when a spec is read, so that `--help` answers at once.
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

from atomica import spec
from atomica.console import Journal
from atomica.jobs.folder import _Claim
from atomica.jobs.train.assembly import CHECKPOINTS, Job, assemble
from atomica.jobs.train.overview import dry_run, overview
from atomica.jobs.train.run import _train
from atomica.sweep import Sweep, assemble_sweep, outlook, perform
from atomica.train import distributed
from atomica.train.distributed import Ranks

if TYPE_CHECKING:
    from atomica.jobs.job import Job as AfterTraining
    from atomica.train.stopping import Stop

__all__ = ["main"]


DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

EXAMPLES = """\
examples:
  atomica-run runs/ligand.toml --dry-run
  atomica-run runs/ligand.toml
  atomica-run runs/ligand.toml --set run.name=small --set train.epochs=3 --set head.0.positive=ZN
  atomica-run outputs/ligand/spec.toml --resume
  atomica-run runs/ligand.toml --devices 2
  torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
      -m atomica.runner runs/ligand.toml

exit codes:
  0 done; 1 failed; 2 wrong usage, spec or data, nothing written; 3 done, but some inputs failed (listed);
  130 interrupted, checkpoint written
"""


# --------------------------------------------------------------------------------------------- command line


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
    parser.add_argument("--schema", action="store_true", help="print a JSON schema of specs, for editors")
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
        help="share every step between N processes on this machine, with a GPU each if there are any; the result "
        "stays the same",
    )
    return parser


def _job_after_training(source: spec.Source) -> str | None:
    """The name of the job, if the spec is one of `infer.JOBS`."""
    from atomica.jobs import JOBS

    name = source.get(("run", "job")) if ("run", "job") in source else None
    return name if isinstance(name, str) and name in JOBS else None


def _is_sweep(arguments: argparse.Namespace) -> bool:
    """Whether the spec has a section [sweep]; a spec that cannot be read has none."""
    from atomica.errors import SpecError

    try:
        return "sweep" in spec.load(arguments.spec, arguments.overrides).tree
    except SpecError:
        return False


class _Signals:
    """SIGINT, SIGTERM, SIGUSR1: once training runs, the first asks it to stop after the step and checkpoint.

    Schedulers and launchers send more than one, so only a second Ctrl-C, not in the same second, ends it at once.
    """

    def __init__(self) -> None:
        self.stop: Stop | None = None
        self.since = 0.0
        self.before: dict[int, Any] = {}

    def install(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may handle signals
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
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
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    arguments = parser.parse_args(words)
    if arguments.list or arguments.schema:
        from atomica import catalogue

        print(catalogue.listing() if arguments.list else json.dumps(catalogue.schema(), indent=1))
        return DONE
    if arguments.spec is None:
        parser.error("the following arguments are required: SPEC.toml")
    if arguments.devices < 1:
        parser.error("--devices: at least 1")
    distributed.watch_parent()
    if arguments.devices > 1 and not distributed.started_here():
        if distributed.is_rank():
            parser.error("--devices has no effect under torchrun, which starts the processes itself")
        # A sweep hands --devices on to its trials.
        if not arguments.dry_run and not _is_sweep(arguments):
            return distributed.launch(arguments.devices, words)
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


def _run(arguments: argparse.Namespace, signals: _Signals, ranks: Ranks) -> int:
    """What the arguments ask for, as one of some ranks; returns the exit code."""
    # The heavy imports start here, after the arguments are known to be right.
    from atomica.errors import AtomicaError, SpecError
    from atomica.jobs import job as after
    from atomica.train.stopping import Interrupted, Stop, StopRequested

    started, journal, claim = False, Journal(silent=not ranks.first), _Claim()
    resume = None if arguments.start_or_resume else arguments.resume

    def prepare() -> Job | tuple[Sweep, Job] | AfterTraining:
        source = spec.load(arguments.spec, arguments.overrides)
        name = _job_after_training(source)
        if name is not None:
            if arguments.devices > 1 or ranks.size > 1:
                raise SpecError(f"run.job = {name!r} runs in one process; leave out --devices or torchrun")
            return after.assemble(source, name, resume=resume, dry=arguments.dry_run)
        local = Ranks(local_size=arguments.devices) if arguments.dry_run else ranks
        if "sweep" in source.tree:
            if ranks.size > 1:
                raise SpecError(
                    "a sweep starts its trials itself; leave out torchrun, --devices is for each trial"
                )
            options = ["--devices", str(arguments.devices)] if arguments.devices > 1 else []
            return assemble_sweep(source, resume=resume, dry=arguments.dry_run, ranks=local, options=options)
        alone = arguments.dry_run or not ranks.first
        return assemble(
            source, resume=resume, dry=arguments.dry_run, ranks=local, claim=None if alone else claim
        )

    def take(job: Job | AfterTraining) -> None:
        """Make the folder of a new run and hold it; another process may have done so since it was looked at."""
        job.folder.mkdir(parents=True, exist_ok=True)
        claim(job.folder)
        begun = CHECKPOINTS + "/last" if isinstance(job, Job) else after.IDENTITY
        if not job.resume and (job.folder / begun).exists():
            raise SpecError(
                f"another process has made a run in {job.folder}; give another run.name or run.out"
            )

    try:
        job = distributed.agreed(ranks, prepare)
        sweep = None
        if isinstance(job, tuple):
            sweep, job = job
            journal.say("\n".join(outlook(sweep)))
        if not isinstance(job, Job):
            journal.say("\n".join(after.overview(job)))
            if arguments.dry_run:
                after.dry_run(job, journal)
                return DONE
            take(job)
            started = True
            return after.perform(job, journal)
        told = overview(job)
        journal.say("\n".join(told))
        if arguments.dry_run:
            journal.say("\n".join(dry_run(job, arguments.devices)))
            return DONE
        if sweep is None:
            distributed.agreed(ranks, lambda: take(job) if ranks.first else None)
        started = True
        signals.stop = Stop()
        if sweep is not None:
            return perform(sweep, journal, signals.stop)
        _train(job, signals.stop, journal, ranks, told)
        return DONE
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
