"""A run of several trainings, `train.seeds` and `train.folds`: each is a member with a folder and processes of its own.

What a spec describes is trained with other seeds, and on other folds; the members' predictions are put together over
folds, and as an ensemble over seeds. A run that was stopped or killed goes on where it stood: members that are done are
not run again, the others go on from their checkpoints.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from atomica import spec
from atomica.console import Journal
from atomica.data.sampling import folds_of
from atomica.errors import DataError, SpecError
from atomica.evaluation.pooled import Predictions, ensemble, joined, read_predictions, spread
from atomica.evaluation.results import (
    Evaluation,
    assess,
    complex_of,
    measured,
    predictions_name,
    singles,
    tell,
)
from atomica.evaluation.statistics import compare, numbered
from atomica.files import (
    BEST,
    CHECKPOINTS,
    DONE,
    EVALUATION,
    FAILED,
    INTERRUPTED,
    MEMBERS,
    PREDICTIONS,
    SOME_FAILED,
    write_json,
    write_text,
)
from atomica.jobs import folder
from atomica.jobs.job import Request
from atomica.jobs.train.assembly import Assembled, assemble
from atomica.jobs.train.overview import dry_run, overview
from atomica.jobs.train.spec import HeadSpec
from atomica.report import members as report
from atomica.spec import Issues, Source
from atomica.sweep.process import POLL_SECONDS, Training, wait_until_free
from atomica.train.checkpoint import STATE
from atomica.train.distributed import Ranks
from atomica.train.stopping import Interrupted, Stop

__all__ = ["BASE", "Member", "Members", "prepare"]

BASE, PLACE = "member.toml", "members"
"""In the folder of the run: what its members share, and the folder of their folders."""


@dataclass(frozen=True)
class Member:
    """One of the trainings: its seed, and the fold it is tested on, if there are folds."""

    seed: int
    fold: int | None

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"seed{self.seed}" + ("" if self.fold is None else f"-fold{self.fold}")

    @property
    def changes(self) -> dict[str, str]:
        """What it changes of the shared spec, as TOML."""
        changes = {"run.seed": str(self.seed), "train.seeds": "1", "train.folds": "0"}
        return changes if self.fold is None else {**changes, "data.fold": str(self.fold)}


@dataclass(frozen=True)
class Members:
    """A run of members that is checked. job: its first member, not to be run itself."""

    job: Assembled
    request: Request
    members: Sequence[Member]
    resume: bool
    heeds: bool = True

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.job.folder

    def place(self, member: Member) -> Path:
        """The folder of a member."""
        return self.folder / PLACE / member.name

    @property
    def at_once(self) -> int:
        """Members that are trained at the same time: one per device, on CPUs as many as have their threads."""
        threads, kind = self.job.spec.device.threads, self.job.device.type
        room = _cores() // threads if threads and kind == "cpu" else 1
        return min(len(self.members), max(1, self.request.devices, room))

    # ------------------------------------------------------------------------------- what the runner asks

    def overview(self) -> list[str]:
        """What is about to run, and what the first member is."""
        config, folds = self.job.spec.train, self.job.spec.train.folds
        over = f", {folds} folds of column {self.job.spec.data.folds!r}" if folds else ""
        line = (
            f"members {len(self.members)}: {config.seeds} seeds{over}; {self.at_once} at a time. The first:"
        )
        return [line, *overview(self.job)]

    def rehearse(self) -> list[str]:
        """What steps of the first member show."""
        return dry_run(self.job)

    def take(self) -> None:
        """Make the folder and hold it."""
        begun = (self.folder / MEMBERS).is_file
        folder.take(self.folder, self.request.claim, begun=begun, resume=self.resume)

    def perform(self, journal: Journal, stop: Stop, told: Sequence[str]) -> int:
        """Train the members that are left, then put together what they say; gives the exit code."""
        journal.open(self.folder, resume=self.resume)
        (self.folder / PLACE).mkdir(exist_ok=True)
        write_text(self.folder / BASE, _text(self.job))
        states = self._states()
        self._train(states, journal, stop)
        failed = [name for name, state in states.items() if state["state"] == "failed"]
        code = DONE
        if failed:
            journal.say(f"failed  {len(failed)} members; what they said is in {self.folder / PLACE}/NAME.txt")
            code = FAILED if len(failed) == len(states) else SOME_FAILED
        else:
            self._evaluate(journal)
        report.write(self.folder, told)
        journal.say(f"written {self.folder}")
        return code

    # --------------------------------------------------------------------------------------------- members

    def _states(self) -> dict[str, dict[str, Any]]:
        """What is known of each member; of those that are not done nothing."""
        before: Mapping[str, Any] = {}
        if (self.folder / MEMBERS).is_file():
            before = json.loads((self.folder / MEMBERS).read_text(encoding="utf-8"))["members"]
        return {
            one.name: dict(before[one.name])
            if before.get(one.name, {}).get("state") == "done"
            else {**asdict(one), "state": "waiting"}
            for one in self.members
        }

    def _write(self, states: Mapping[str, Any]) -> None:
        write_json(self.folder / MEMBERS, {"members": states})

    def _train(self, states: dict[str, dict[str, Any]], journal: Journal, stop: Stop) -> None:
        """Run all that are not done, some at a time. Raises Interrupted once asked to stop and they have ended."""
        left = [one for one in self.members if states[one.name]["state"] != "done"]
        if len(left) < len(self.members):
            journal.say(f"members {len(self.members) - len(left)} of {len(self.members)} are done already")
        self._write(states)
        free, running = list(range(self.at_once)), dict[Member, tuple[int, Training]]()
        try:
            while running or (left and not stop.requested):
                while left and free and not stop.requested:
                    member, slot = left.pop(0), free.pop(0)
                    wait_until_free(self.place(member), stop)
                    running[member] = slot, self._start(member, slot)
                    journal.say(f"member  {member.name} begins")
                time.sleep(POLL_SECONDS)
                for member, (slot, training) in list(running.items()):
                    if stop.requested:
                        training.ask_to_stop()
                    if not training.runs():
                        del running[member]
                        free.append(slot)
                        states[member.name] |= self._ended(member, training, journal, stop)
                        self._write(states)
        finally:
            for _, training in running.values():
                training.ask_to_stop()
        if stop.requested:
            raise Interrupted("stopped; the checkpoints of its members are written")

    def _start(self, member: Member, slot: int) -> Training:
        base = self.job.spec
        changes = {"run.name": f"{base.run.name}-{member.name}", **member.changes}
        variables: dict[str, str] = {}
        if self.job.device.type == "cuda":
            seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(
                str(index) for index in range(torch.cuda.device_count())
            )
            variables["CUDA_VISIBLE_DEVICES"] = seen.split(",")[slot % len(seen.split(","))]
        elif self.at_once > 1 and not base.device.threads:
            changes["device.threads"] = str(max(1, _cores() // self.at_once))
        if base.log.wandb.mode != "off" and not base.log.wandb.group:
            changes["log.wandb.group"] = base.run.name
        return Training(self.folder / BASE, self.place(member), changes, variables=variables)

    def _ended(self, member: Member, training: Training, journal: Journal, stop: Stop) -> dict[str, Any]:
        """What is known of a member whose process has ended."""
        place, seconds = self.place(member), round(training.seconds, 1)
        if training.code == DONE:
            epoch, monitor, best = _best(place)
            journal.say(f"member  {member.name}: epoch {epoch}, valid {monitor} {best:.4f}, {seconds:.0f} s")
            weights = str((place / CHECKPOINTS / BEST).relative_to(self.folder))
            return {"state": "done", "epoch": epoch, "valid": best, "weights": weights, "seconds": seconds}
        if training.code == INTERRUPTED or stop.requested:
            stop.requested = True  # a scheduler may tell a member alone
            return {"state": "waiting"}
        journal.say(f"member  {member.name} failed: {training.reason}, {seconds:.0f} s")
        return {"state": "failed", "problem": training.reason, "seconds": seconds}

    # -------------------------------------------------------------------------------------------- together

    def _evaluate(self, journal: Journal) -> None:
        """Put the members' predictions together, and write and tell how good they are."""
        heads = [head for head in self.job.spec.heads if head.labelled or head.on_blocks]
        first = self.place(self.members[0]) / EVALUATION
        if not heads or not first.is_file():
            return
        told = json.loads(first.read_text(encoding="utf-8"))
        found = {}
        for head in heads:
            try:
                found[head.name] = self._together(head, len(heads) == 1)
            except DataError as error:
                journal.say(f"test    head {head.name}: not evaluated: {error}")
        evaluation = Evaluation(
            split="test",
            data=told["data"],
            input=told["input"],
            loss=float("nan"),
            metrics={},
            heads=list(found),
            labelled=len(heads),
        )
        for name, (entry, columns) in found.items():
            evaluation.content["heads"][name] = entry
            evaluation.predict(name, columns)
            title = f"test    head {name}, ensemble of {self.job.spec.train.seeds}"
            positive = str(entry["config"].get("positive") or "positives")
            journal.say("\n" + tell(title, entry, entry["metrics"], positive))
            single = ", ".join(
                f"{metric} {one['mean']:.4g} ± {one['sd']:.2g}" for metric, one in entry["single"].items()
            )
            journal.say(f"one model, mean ± deviation over seeds: {single}")
            if "single_verdict" in entry:
                journal.say(f"one model: {entry['single_verdict']}\n")
        del evaluation.content["loss"]
        evaluation.write(self.folder)

    def _together(
        self, head: HeadSpec, alone: bool
    ) -> tuple[dict[str, Any], list[tuple[str, Sequence[Any]]]]:
        """What evaluation.json says of a head, and the columns of its predictions."""
        file = PREDICTIONS if alone else predictions_name(head.name)
        seeds = sorted({one.seed for one in self.members})
        by_seed: list[Predictions] = []
        methods: dict[str, str] = {}
        for seed in seeds:
            own = [self.place(one) for one in self.members if one.seed == seed]
            by_seed.append(joined([read_predictions(place / file) for place in own]))
            for place in own:
                content = json.loads((place / EVALUATION).read_text(encoding="utf-8"))
                methods |= content["heads"][head.name].get("methods", {})
        whole = ensemble(by_seed)
        target, known = head.cls.encode_labels(head.config, whole.texts)
        answers = whole.answers(target.numpy(), known.numpy().astype(bool), methods)
        if head.on_blocks:
            answers = replace(answers, of=[complex_of(name) for name in whole.ids])
        metrics = self.job.model.head(head.name).metrics()
        values = [measured(metrics, replace(answers, predicted=one.predicted)) for one in by_seed]
        seed, judged = self.job.spec.run.seed, self.job.spec.train.monitor.rpartition("/")[2]
        judged = judged if head is self.job.spec.heads[0] and judged else head.cls.monitor
        entry: dict[str, Any] = {
            "kind": head.common.kind,
            "label": head.common.label,
            "config": asdict(head.config),
            "complexes": int(known.sum()),
            "metrics": measured(metrics, answers),
            "single": singles(values),
            "seeds": {str(seed): one for seed, one in zip(seeds, values, strict=True)},
        }
        entry |= assess(
            answers, metrics, judged=judged, seed=seed, classes=getattr(head.config, "classes", ())
        )
        if "verdict" in entry:
            truth, rows = answers.target[answers.known], answers.known
            groups = None if answers.clusters is None else numbered(answers.clusters)[rows]
            single = compare(
                truth,
                [one.predicted[rows] for one in by_seed],
                {one.name: one.predicted[rows] for one in answers.baselines},
                seed=seed,
                groups=groups,
                judged=judged,
            )
            entry |= {"single_comparison": single, "single_verdict": single["verdict"]}
        columns = answers.columns()
        after = [name for name, _ in columns].index("label") + 2
        columns.insert(after, ("spread", spread([one.predicted for one in by_seed]).tolist()))
        return entry, columns


def _best(place: Path) -> tuple[int, str, float]:
    """Best epoch of a member, by what, and the value."""
    chosen = json.loads((place / CHECKPOINTS / BEST / STATE).read_text(encoding="utf-8"))["progress"]
    return int(chosen["epoch"]), str(chosen["monitor"]), float(chosen["value"])


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _text(job: Assembled) -> str:
    """The spec that the members share."""
    head = "# What all members of the run share; each has its own run.seed, run.name and run.out, and data.fold.\n\n"
    return head + spec.dump(job.spec.sections())


def prepare(source: Source, request: Request) -> Members:
    """Check a spec with several trainings. Raises SpecError with all that is wrong."""
    if request.ranks.size > 1 and not request.dry:
        raise SpecError("a run of several members starts them itself; leave out torchrun")
    issues = Issues(source)
    given = source.tree["train"]
    folds, base = given.get("folds", 0), source.tree.get("run", {})
    if folds and ("data", "fold") in source:
        issues.add(
            ("data", "fold"), "has no effect with train.folds, which tests every fold; remove one of them"
        )
    first = source if not folds or issues.found else source.changed(["data.fold=0"])
    alone = replace(request, resume=False, dry=True, ranks=Ranks())
    job = assemble(first, alone, issues=issues)
    names = folds_of(job.splits["train"].rows.dataset, job.spec.data) if folds else []
    if folds and folds != len(names):
        issues.add(
            ("train", "folds"), f"the data have {len(names)} folds: {', '.join(names)}; ask for as many"
        )
    seed = base.get("seed", 0) if isinstance(base, dict) else 0
    members = [
        Member(seed + number, fold)
        for number in range(job.spec.train.seeds)
        for fold in (range(folds) if folds else [None])
    ]
    if folds:
        job = replace(job, spec=replace(job.spec, data=replace(job.spec.data, fold=None)))
    begun = (job.folder / MEMBERS).is_file()
    resume = begun if request.resume is None else bool(request.resume)
    if not request.dry:
        folder.check(job.folder, issues, begun=begun, resume=resume, dry=False)
    issues.raise_any()
    if resume:
        _check_same(job)
    return Members(job, request, members, resume)


def _check_same(job: Assembled) -> None:
    """Raise SpecError if the run in the folder was begun with another spec; it may get more seeds."""
    texts = ((job.folder / BASE).read_text(encoding="utf-8"), _text(job))
    then, now = (spec.tomllib.loads(text) for text in texts)
    for tables in (then, now):
        tables.pop("log"), tables.pop("device"), tables["train"].pop("seeds")
    folder.check_same(job.folder, then, now)
