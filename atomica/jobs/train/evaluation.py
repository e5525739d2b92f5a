"""What a trained model says of the test rows, beside baselines that learnt from the same rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from torch import Tensor

from atomica.console import Journal
from atomica.data.sampling import Rows
from atomica.evaluation import baseline
from atomica.evaluation.baseline import Baseline
from atomica.evaluation.results import Answers, Evaluation, assess, class_names, tell
from atomica.evaluation.statistics import numbered
from atomica.jobs.train.assembly import Assembled
from atomica.jobs.train.overview import MIB, known_texts, peak_memory
from atomica.jobs.train.spec import HeadSpec
from atomica.train.loop import Outcome

__all__ = ["evaluate"]


def evaluate(
    job: Assembled,
    outcome: Outcome,
    predictions: Mapping[str, Tensor],
    loss: float,
    metrics: Mapping[str, float],
    journal: Journal,
) -> None:
    """Tell and write what was found on the test rows. predictions, loss, metrics: as of `validation.predict`."""
    test, seed = job.splits["test"], job.spec.run.seed
    evaluation = Evaluation(
        split="test",
        data=test.rows.dataset.name,
        input=job.spec.data.input,
        checkpoint={"epoch": outcome.best_epoch, "monitor": outcome.monitor, "valid": outcome.best},
        loss=loss,
        metrics=metrics,
        heads=[head.name for head in job.spec.heads],
        labelled=sum(head.labelled or head.on_blocks for head in job.spec.heads),
    )
    for head in job.spec.heads:
        own, title = evaluation.own(head.name), f"test    head {head.name}"
        if not (head.labelled or head.on_blocks):
            evaluation.add(head.name, head.common.kind)
            journal.say(tell(title, {}, own, ""))
            continue
        answers = _answers(job, outcome, head, predictions[head.name])
        entry: dict[str, Any] = {
            "label": head.common.label,
            "unit": head.common.unit,
            "config": asdict(head.config),
            "complexes": int(answers.known.sum()),
        }
        if not entry["complexes"]:
            evaluation.add(head.name, head.common.kind, **entry)
            of = "blocks of the test complexes" if head.on_blocks else "test complexes"
            journal.say(f"{title}: not evaluated, the {of} have no {head.common.label}")
            continue
        judged = outcome.monitor.rpartition("/")[2] if head is job.spec.heads[0] else head.cls.monitor
        classes = getattr(head.config, "classes", ())
        measures = job.model.head(head.name).metrics()
        entry |= assess(answers, measures, judged=judged, seed=seed, classes=classes)
        if answers.form == "yes-no" and head.labelled:
            entry["classes"] = {
                name: dict(sorted(Counter(str(text) for text in found).items()))
                for name, found in known_texts(job, head.name).items()
            }
        evaluation.predict(head.name, answers.columns())
        evaluation.add(head.name, head.common.kind, **entry)
        positive = str(getattr(head.config, "positive", "") or "positives")
        journal.say(f"\n{tell(title, entry, own, positive)}\n")
    evaluation.write(
        job.folder,
        run={
            "training_complexes_per_s": round(outcome.complexes_per_s, 2),
            "peak_memory_mib": round(peak_memory(job.device) / MIB, 1),
        },
    )


def _answers(job: Assembled, outcome: Outcome, head: HeadSpec, predicted: Tensor) -> Answers:
    """What a head says of the test rows, or of their blocks, what is known of them, and what baselines say."""
    split = job.splits["test"]
    clusters = split.rows.clusters(job.spec.data.cluster)
    if head.on_blocks:
        labels = split.block_targets[head.name]
        answers = Answers.of_blocks(labels, predicted, clusters, split.rows, head.config)
    else:
        answers = Answers(
            split.rows.ids,
            job.texts["test"][head.name],
            split.targets[head.name].numpy(),
            split.known[head.name].numpy(),
            predicted.double().numpy(),
            clusters=clusters,
            classes=class_names(head.config),
        )
    return replace(answers, baselines=_baselines(job, outcome, head, answers))


def _baselines(job: Assembled, outcome: Outcome, head: HeadSpec, answers: Answers) -> list[Baseline]:
    if not answers.known.any() or not answers.form:
        return []
    # They learn from what the model has learnt from.
    names = ("train", "valid") if job.both else ("train",)
    splits = [job.splits[name] for name in names]
    if head.on_blocks:
        truth = [split.block_targets[head.name].answered() for split in splits]
    else:
        each = [split.truth(head.name) for split in splits]
        truth = [(target.numpy(), known.numpy()) for target, known in each]
    targets, known = (np.concatenate(found) for found in zip(*truth, strict=True))
    return baseline.answer(
        head.cls.baseline,
        answers.form,
        [split.rows for split in splits],
        targets,
        job.splits["test"].rows,
        input=job.spec.data.input,
        classes=answers.predicted.shape[1] if answers.form == "classes" else 2,
        learnt=known,
        groups=_groups([split.rows for split in splits], job.spec.data.cluster),
        seed=job.spec.run.seed,
    )


def _groups(parts: Sequence[Rows], column: str) -> Any:
    names = [name for rows in parts for name in rows.clusters(column) or ()]
    return numbered(names) if names else None
