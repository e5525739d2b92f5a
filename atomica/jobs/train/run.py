"""`run.job = "train"`: train, then evaluate the best epoch on the test rows, beside baselines."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from atomica import environment, spec
from atomica.analysis import familiarity
from atomica.console import Journal
from atomica.errors import SpecError
from atomica.files import BEST, CHECKPOINTS, DONE, SPEC, write_text
from atomica.jobs import folder
from atomica.jobs.job import Request
from atomica.jobs.train.assembly import Assembled, assemble, last_checkpoint
from atomica.jobs.train.evaluation import evaluate
from atomica.jobs.train.overview import MIB, dry_run, overview, peak_memory
from atomica.model.format import read_weights
from atomica.report import training
from atomica.spec import Source
from atomica.train import checkpoint, distributed
from atomica.train.display import Display, Terminal
from atomica.train.logging import RunLog
from atomica.train.loop import Outcome, Trainer
from atomica.train.stopping import Stop
from atomica.train.validation import predict

__all__ = ["KIND", "Training"]


@dataclass(frozen=True)
class Training:
    """A training that is checked: what the runner asks of every job. request: what the command line asked."""

    job: Assembled
    request: Request
    heeds: bool = True

    def overview(self) -> list[str]:
        """What is about to run, for a person: data, classes, model, steps."""
        return overview(self.job)

    def rehearse(self) -> list[str]:
        """What steps on the largest batch show."""
        return dry_run(self.job, self.request.devices)

    def take(self) -> None:
        """Make the folder and hold it; all ranks agree on whether that went well."""
        job, first = self.job, self.request.ranks.first

        def begun() -> bool:
            return last_checkpoint(job.folder) is not None

        def make() -> None:
            if first:
                folder.take(job.folder, self.request.claim, begun=begun, resume=job.resume is not None)

        distributed.agreed(self.request.ranks, make)

    def perform(self, journal: Journal, stop: Stop, told: Sequence[str]) -> int:
        """Train, then evaluate the best checkpoint on the test rows. Only the first rank writes."""
        job, ranks = self.job, self.request.ranks
        if ranks.first:
            _begin(job, journal, ranks.size, told)
        done = None if job.resume is None else int(job.resume.state["progress"]["step"])
        if job.resume is not None:
            job.model.load_state_dict(read_weights(job.resume.folder))
            journal.say(f"resume  after step {done}, in epoch {job.resume.state['progress']['epoch'] + 1}")
        kept = RunLog(
            job.folder, job.spec.log, resume_step=done, name=job.spec.run.name, settings=job.spec.identity()
        ) if ranks.first else nullcontext()  # fmt: skip
        with training.reported(job.folder) if ranks.first else nullcontext(), kept as log:
            trainer = Trainer(
                model=job.model,
                train=job.splits["train"],
                valid=job.splits["valid"],
                both=job.both,
                config=job.spec.train,
                folder=job.folder / CHECKPOINTS,
                log=log,
                display=Display(Terminal(quiet=journal.silent), journal) if ranks.first else None,
                every_steps=job.spec.log.every_steps,
                stop=stop,
                identity=job.identity,
                ranks=ranks,
                accumulate=job.spec.device.accumulate,
            )
            outcome = trainer.fit(job.resume)
            early = ", stopped early" if outcome.stopped_early else ""
            if job.both and outcome.best_epoch:
                journal.say(f"last    epoch {outcome.best_epoch} of {outcome.epochs}, which is kept")
            else:
                journal.say(
                    f"best    epoch {outcome.best_epoch} of {outcome.epochs}{early}: "
                    f"valid {outcome.monitor} {outcome.best:.4f}"
                )
            if "test" in job.splits:
                self._evaluate(outcome, log, journal, stop)
        if ranks.first and any(head.labelled or head.on_blocks for head in job.spec.heads):
            self._remember()
        for what, count, remedy in (
            ("steps skipped, as loss or gradient was not finite", outcome.skipped, "see bad_steps"),
            ("times out of GPU memory", outcome.out_of_memory, "raise device.accumulate"),
        ):
            if count:
                journal.say(f"note    {count} {what}: {remedy}")
        rate = (
            f"{outcome.complexes_per_s:.1f} complexes/s in training"
            if outcome.complexes_per_s
            else "no training"
        )
        journal.say(f"speed   {rate}; peak memory {peak_memory(job.device) / MIB:.0f} MiB")
        journal.say(f"written {job.folder}")
        return DONE

    def _evaluate(self, outcome: Outcome, log: RunLog | None, journal: Journal, stop: Stop) -> None:
        """Test-set metrics of the best checkpoint and of baselines, printed and written."""
        job, ranks = self.job, self.request.ranks
        best = job.folder / CHECKPOINTS / BEST
        job.model.load_state_dict(read_weights(checkpoint.find(best) or best))
        predictions, loss, metrics = predict(job.model, job.splits["test"], stop, ranks)
        distributed.leave(ranks)  # else metrics computed here would wait for the others
        if log is None:
            return  # another rank writes
        log.record("test", outcome.best_epoch, outcome.steps, {"loss": loss, **metrics})
        evaluate(job, outcome, predictions, loss, metrics, journal)

    def _remember(self) -> None:
        """Keep beside the best checkpoint what tells how near a complex is to those it has learnt from."""
        job, best = self.job, self.job.folder / CHECKPOINTS / BEST
        train = job.learnt.rows
        if len(train) > 1 and not job.model.config.embeddings.sizes:
            job.model.load_state_dict(read_weights(checkpoint.find(best) or best))
            familiarity.learn(job.model, train, job.spec.data.input).save(best)


def _begin(job: Assembled, journal: Journal, ranks: int, told: Sequence[str]) -> None:
    """Start what the run's folder holds, with the resolved spec. told: the overview, which the report repeats."""
    journal.open(job.folder, resume=job.resume is not None)
    header = (
        "# Every setting of this run, defaults included. Repeat it under another run.out, or --resume it.\n\n"
    )
    write_text(job.folder / SPEC, header + spec.dump(job.spec.sections()))
    environment.record(
        job.folder,
        {
            "device": str(job.device),
            "ranks": ranks,
            "kernel": job.model.kernel,
            "parameters": sum(parameter.numel() for parameter in job.model.parameters()),
            "overview": told,
        },
        fresh=job.resume is None,
    )


class Train:
    """The kind of job that trains; its sections are those of `jobs.train.spec`."""

    config = None

    def prepare(self, source: Source, request: Request) -> Training:
        """Read the spec, open the data, build the model. Raises SpecError with all that is wrong."""
        if "sweep" in source.tree:
            raise SpecError("a spec with a section [sweep] describes a sweep")
        return Training(assemble(source, request), request)


KIND = Train()
