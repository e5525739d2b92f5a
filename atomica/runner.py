"""The command line `atomica-run`: arguments → spec → a job, checked → its work; exit codes.

Everything that can be checked is checked before the run folder is made, and all that is wrong is reported at
once. PyTorch is imported only when a spec is read, so that `--help` answers at once: here alone imports wait.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from atomica import environment, spec
from atomica.arguments import parser as parser_of_arguments
from atomica.console import Journal, hang_up, plain
from atomica.errors import AtomicaError, SpecError, in_words
from atomica.files import DONE, FAILED, INTERRUPTED, USAGE
from atomica.train import distributed
from atomica.train.distributed import Ranks
from atomica.train.stopping import Interrupted, Signals, Stop, StopRequested

if TYPE_CHECKING:
    from atomica.jobs.job import Prepared, Request

__all__ = ["main", "perform"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. What PyTorch keeps for the whole process is put back at the end."""
    plain()
    words = list(sys.argv[1:] if argv is None else argv)
    parser = parser_of_arguments()
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
        print(f"atomica-run: {in_words(error)}", file=sys.stderr)
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
    signals = Signals()
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

    journal, claim, signals, stop = Journal(silent=quiet), Claim(), Signals(), Stop()
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


def _run(arguments: argparse.Namespace, signals: Signals, ranks: Ranks) -> int:
    """What the arguments ask for, as one of some ranks; returns the exit code."""
    # The heavy imports start here, after the arguments are known to be right.
    from atomica.jobs.job import Request

    with environment.untouched():
        return _work(arguments, signals, ranks, Request)


def _work(arguments: argparse.Namespace, signals: Signals, ranks: Ranks, Request: type[Request]) -> int:
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
        begun = isinstance(error, OSError) and journal.folder is not None
        text = in_words(error, journal.folder) + ("; go on with --start-or-resume" if begun else "")
        distributed.record_failure(error, text)
        _say_failure(text, journal, ranks)
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
            distributed.record_failure(error, cause_told)
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
