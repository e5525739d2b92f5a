"""Training and the evaluation after it, as a job."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from atomica import spec
from atomica.console import Journal
from atomica.evaluation.baseline import composition, fit_baseline
from atomica.evaluation.results import format_comparison, predictions_csv
from atomica.jobs.train.assembly import CHECKPOINTS, RESOLVED, Job
from atomica.jobs.train.overview import MIB, known_texts, peak_memory
from atomica.train import distributed
from atomica.train.distributed import Ranks

if TYPE_CHECKING:
    from atomica.train.logging import RunLog
    from atomica.train.loop import Outcome
    from atomica.train.stopping import Stop


EVALUATION, PREDICTIONS = "evaluation.json", "predictions.csv"


def _begin(job: Job, journal: Journal, ranks: Ranks, told: Sequence[str]) -> None:
    """Start what the run's folder holds, with the resolved spec. told: the overview, which the report repeats."""
    from atomica import environment
    from atomica.files import write_text

    journal.open(job.folder, resume=job.resume is not None)
    header = (
        "# Every setting of this run, defaults included. Repeat it under another run.out, or --resume it.\n\n"
    )
    write_text(job.folder / RESOLVED, header + spec.dump(job.spec.sections()))
    environment.record(
        job.folder,
        {
            "device": str(job.device),
            "ranks": ranks.size,
            "kernel": job.model.kernel,
            "parameters": sum(parameter.numel() for parameter in job.model.parameters()),
            "overview": told,
        },
        fresh=job.resume is None,
    )


def _train(job: Job, stop: Stop, journal: Journal, ranks: Ranks, told: Sequence[str]) -> None:
    """Train, then evaluate the best checkpoint on the test rows. Only the first rank writes."""
    from rich.console import Console

    from atomica.report import training
    from atomica.train.display import Display
    from atomica.train.logging import RunLog
    from atomica.train.loop import Trainer

    if ranks.first:
        _begin(job, journal, ranks, told)
    done = None if job.resume is None else int(job.resume.state["progress"]["step"])
    if job.resume is not None:
        from atomica.model.format import read_weights

        job.model.load_state_dict(read_weights(job.resume.folder))
        journal.say(f"resume  after step {done}, in epoch {job.resume.state['progress']['epoch'] + 1}")
    with (
        training.reported(job.folder) if ranks.first else nullcontext(),
        RunLog(
            job.folder,
            job.spec.log,
            resume_step=done,
            name=job.spec.run.name,
            settings=job.spec.identity(),
        )
        if ranks.first
        else nullcontext() as log,
    ):
        trainer = Trainer(
            model=job.model,
            train=job.parts["train"],
            valid=job.parts["valid"],
            config=job.spec.train,
            folder=job.folder / CHECKPOINTS,
            log=log,
            display=Display(Console(stderr=True), journal) if ranks.first else None,
            every_steps=job.spec.log.every_steps,
            stop=stop,
            identity=job.identity,
            ranks=ranks,
            accumulate=job.spec.device.accumulate,
        )
        outcome = trainer.fit(job.resume)
        early = ", stopped early" if outcome.stopped_early else ""
        journal.say(
            f"best    epoch {outcome.best_epoch} of {outcome.epochs}{early}: "
            f"valid {outcome.monitor} {outcome.best:.4f}"
        )
        if "test" in job.parts:
            _evaluate(job, outcome, log, stop, journal, ranks)
    for what, count, remedy in (
        ("steps skipped, as loss or gradient was not finite", outcome.skipped, "see bad_steps"),
        ("times out of GPU memory", outcome.out_of_memory, "raise device.accumulate"),
    ):
        if count:
            journal.say(f"note    {count} {what}: {remedy}")
    rate = (
        f"{outcome.complexes_per_s:.1f} complexes/s in training" if outcome.complexes_per_s else "no training"
    )
    journal.say(f"speed   {rate}; peak memory {peak_memory(job.device) / MIB:.0f} MiB")
    journal.say(f"written {job.folder}")


def _evaluate(
    job: Job, outcome: Outcome, log: RunLog | None, stop: Stop, journal: Journal, ranks: Ranks
) -> None:
    """Test-set metrics of the best checkpoint and of the baseline, printed and written."""
    from atomica.evaluation import statistics as evaluate
    from atomica.files import write_text
    from atomica.model.format import read_weights
    from atomica.train.checkpoint import find
    from atomica.train.saver import BEST
    from atomica.train.validation import predict

    best = job.folder / CHECKPOINTS / BEST
    job.model.load_state_dict(read_weights(find(best) or best))
    test, seed = job.parts["test"], job.spec.run.seed
    predictions, loss, metrics = predict(job.model, test, stop, ranks)
    distributed.leave(ranks)  # else metrics computed here would wait for the others
    if log is None:
        return  # another rank writes
    log.record("test", outcome.best_epoch, outcome.steps, {"loss": loss, **metrics})
    report: dict[str, Any] = {
        "part": "test",
        "data": test.rows.dataset.name,
        "input": job.spec.data.input,
        "checkpoint": {"epoch": outcome.best_epoch, "monitor": outcome.monitor, "valid": outcome.best},
        "loss": loss,
        "metrics": metrics,
        "heads": {},
    }
    features: dict[str, Any] = {}
    several = len(job.spec.heads) > 1
    for head in job.spec.heads:
        own = {
            name.removeprefix(f"{head.name}/"): value
            for name, value in metrics.items()
            if not several or name.startswith(f"{head.name}/")
        }
        entry: dict[str, Any] = {"kind": head.common.kind, "metrics": own}
        report["heads"][head.name] = entry
        if not head.labelled:
            _say_metrics(head.name, own, journal)
            continue
        entry |= {"label": head.common.label, "config": asdict(head.config)}
        known = test.known[head.name].numpy()
        entry["complexes"] = int(known.sum())
        if not known.any():
            journal.say(
                f"test    head {head.name}: not evaluated, the test complexes have no {head.common.label}"
            )
            continue
        target = test.targets[head.name].numpy()[known]
        everyone = predictions[head.name].double().numpy()
        predicted = everyone[known]
        entry["intervals"] = evaluate.intervals(
            job.model.head(head.name).metrics(), target, predicted, seed=seed
        )
        columns: list[tuple[str, Sequence[Any]]] = [
            ("id", test.rows.ids),
            ("label", [text or "" for text in job.texts["test"][head.name]]),
        ]
        if evaluate.is_binary(target, predicted):
            for name in ("train", "test"):
                if name not in features:
                    features[name] = composition(job.parts[name].rows, job.spec.data.input)
            learnt = job.parts["train"].known[head.name].numpy()
            answers = job.parts["train"].targets[head.name].numpy()[learnt]
            baseline = fit_baseline(features["train"][learnt], answers, features["test"], seed=seed)
            result = evaluate.compare(target, predicted, baseline.probabilities[known], seed=seed)
            entry |= {
                "classes": {
                    name: dict(sorted(Counter(str(t) for t in found).items()))
                    for name, found in known_texts(job, head.name).items()
                },
                **result,
                "intervals": {**entry["intervals"], **evaluate.bounds(result)},
                "baseline_method": {
                    "kind": "logistic regression on residue composition",
                    "C": baseline.strength,
                    "chosen_by": baseline.chosen_by,
                },
            }
            columns += [("probability", everyone.tolist()), ("baseline", baseline.probabilities.tolist())]
            positive = str(getattr(head.config, "positive", "") or "positives")
            title = f"head {head.name}: " if several else ""
            journal.say(
                f"\n{title}{result['complexes']} test complexes, {result['positives']} of them {positive}"
            )
            journal.say(format_comparison(result, positive) + "\n")
        else:
            flat = everyone.tolist() if everyone.ndim == 1 else [json.dumps(row) for row in everyone.tolist()]
            columns.append(("prediction", flat))
            _say_metrics(head.name, own, journal)
        labelled = sum(one.labelled for one in job.spec.heads)
        name = PREDICTIONS if labelled == 1 else f"predictions-{head.name}.csv"
        write_text(job.folder / name, predictions_csv(columns))
    report["run"] = {
        "training_complexes_per_s": round(outcome.complexes_per_s, 2),
        "peak_memory_mib": round(peak_memory(job.device) / MIB, 1),
    }
    write_text(job.folder / EVALUATION, json.dumps(report, indent=1) + "\n")


def _say_metrics(head: str, metrics: Mapping[str, float], journal: Journal) -> None:
    listing = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    journal.say(f"test    head {head}: {listing}")
