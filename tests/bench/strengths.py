"""How should the strength of a solved head be chosen? Ways to, on cofactors and ions, with few and with all rows.

    python tests/bench/strengths.py --data FOLDER --out WORK [--weights base] [--rows 50 100 0] [--draws 3]

FOLDER has `cofactor/index.csv`. Its test rows are not looked at: each of the other folds is answered in turn by what
learnt from so many rows of the rest (0: all), a fifth of them validation rows, drawn as often as --draws says. The head
is that of `runs/cofactor.toml`, solved by what training solves it by. Loss: cross-entropy of the rows answered; AUROC:
mean over classes, within each fold, and over all of them together. Brackets: 95%, whole clusters drawn, of what is left
of a way's AUROC less that of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from finetuning import drawn, graphs, parser_of, untested
from learning import IONS

import atomica
from atomica import spec
from atomica.evaluation.baseline import composition
from atomica.evaluation.statistics import MEASURES, compare, numbered
from atomica.heads.multiclass import MulticlassConfig, MulticlassHead
from atomica.heads.readout import Standardised
from atomica.train import linear

COFACTORS = spec.load(Path(__file__).parents[2] / "runs" / "cofactor.toml").tree["head"][0]["classes"]
TASKS = {"cofactors": COFACTORS, "ions": spec.tomllib.loads(IONS.replace("head.0.", ""))["classes"]}
Indices = npt.NDArray[np.int64]


class Study:
    """Vectors and labels of the rows of one question, and a head that is solved on some of them."""

    def __init__(
        self, rows: Sequence[Mapping[str, str]], classes: Sequence[str], folder: Path, weights: str
    ) -> None:
        self.rows, self.classes = rows, classes
        model, data = atomica.load(weights), atomica.open_dataset(folder)
        place = {name: number for number, name in enumerate(data.ids)}
        views = [data[place[row["id"]]].view("segment0") for row in rows]
        vectors = atomica.embed(views, model, representation="z_graph", pool="mean_std_global").complex
        counts = np.stack([composition(view, model.config.block_types) for view in views])
        self.x = torch.from_numpy(np.concatenate([vectors, counts[:, -1:], counts[:, :-1]], axis=1)).float()
        self.target = torch.tensor([classes.index(row["label"]) for row in rows])
        self.groups = numbered([row["cluster"] for row in rows])
        self.config = MulticlassConfig(classes=tuple(classes), layers=1), model.config

    def head(self, rows: Indices) -> MulticlassHead:
        """A head that has seen how the numbers of some rows spread."""
        head, x = MulticlassHead(*self.config), self.x[rows].double()
        network = head.network
        assert isinstance(network, Standardised)
        network.fit(torch.tensor(float(len(rows))), x.sum(0), x.square().sum(0))
        return head.eval()

    def weighed(self, rows: Indices) -> linear.Rows:
        """Rows to learn from, rare classes as often as common ones, as the sampler "balanced" draws them."""
        target = self.target[rows]
        often = torch.bincount(target, minlength=len(self.classes)).clamp(min=1)
        return self.x[rows], target, len(rows) / (often[target] * len(target.unique()))

    def alike(self, rows: Indices) -> linear.Rows:
        """Rows to judge by."""
        return self.x[rows], self.target[rows], torch.ones(len(rows))

    def said(self, head: MulticlassHead, rows: Indices) -> npt.NDArray[np.float64]:
        """Probabilities [N, C]."""
        with torch.no_grad():
            return torch.softmax(head.answer(self.x[rows]).double(), dim=1).numpy()


def ways(study: Study, train: Indices, valid: Indices) -> dict[str, tuple[MulticlassHead, Sequence[float]]]:
    """Heads solved in different ways, and the strengths that each of them took."""
    both = np.concatenate([train, valid])
    first = study.head(train)
    chosen = linear._solve(first, study.weighed(train), study.alike(valid))
    parts = linear._parts(study.target[both], [str(study.groups[row]) for row in both])
    losses = linear._cross_validated(study.head(train), study.weighed(both), parts)
    best, alike = (linear._alike(losses, [len(left) for _, left in parts], errors) for errors in (0.0, 1.0))
    found: dict[str, tuple[MulticlassHead, Sequence[float]]] = {
        "validation rows choose, and are not learnt from": (first, (chosen,))
    }
    for way, strengths in (
        ("validation rows choose, and are learnt from", (chosen,)),
        ("cross-validation chooses one", best),
        ("the mean over what it does not tell apart", alike),
        ("always 10^-3.5", (linear.STRENGTHS[7],)),
    ):
        head = study.head(train)
        linear._reach(head, study.weighed(both), strengths)
        found[way] = head, strengths
    return found


def tell(study: Study, count: int, draws: int) -> None:
    """Every way's figures from so many rows, as lines."""
    folds = np.array([row["fold"] for row in study.rows])
    place = {row["id"]: number for number, row in enumerate(study.rows)}
    answers: dict[str, list[npt.NDArray[np.float64]]] = {}
    within: dict[str, list[float]] = {}
    taken: dict[str, list[float]] = {}
    auroc: Callable[[Any, Any], float] = MEASURES["classes"]["auroc"].function
    target = study.target.numpy()
    for draw in range(draws):
        for fold in sorted(set(folds)):
            own = drawn([dict(row) for row in study.rows], fold, count, draw)
            asked, train, valid = (
                np.array([place[row["id"]] for row in own if row["split"] == split])
                for split in ("test", "train", "valid")
            )
            for way, (head, strengths) in ways(study, train, valid).items():
                each = answers.setdefault(way, [])
                if len(each) == draw:
                    each.append(np.zeros((len(target), len(study.classes))))
                each[draw][asked] = study.said(head, asked)
                within.setdefault(way, []).append(auroc(target[asked], each[draw][asked]))
                taken.setdefault(way, []).append(float(np.mean(np.log10(strengths))))
    first = next(iter(answers.values()))
    for way, each in answers.items():
        found = compare(target, each, {"first": first}, seed=0, groups=study.groups)
        loss = -np.mean([np.log(one[np.arange(len(target)), target]).mean() for one in each])
        gap = found["difference"]["auroc"]
        print(
            f"  {way:48} loss {loss:.3f}  balanced accuracy {found['model']['balanced_accuracy']['value']:.3f}  AUROC "
            f"within folds {np.mean(within[way]):.3f}, of all {found['model']['auroc']['value']:.3f} "
            f"({gap['value']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}])  strength 10^{np.mean(taken[way]):.1f}",
            flush=True,
        )


def main() -> None:
    """Entry point."""
    from figures import machine

    parser = parser_of(__doc__)
    parser.add_argument("--draws", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, classes in TASKS.items():
        rows = untested(arguments.data, classes)
        folder = graphs(arguments.data / "cofactor", rows, arguments.out / f"graphs-{name}")
        study = Study(rows, classes, folder, arguments.weights)
        for count in arguments.rows:
            print(
                f"{name}, {count or 'all'} rows; {len(rows)} asked, {study.groups.max() + 1} clusters",
                flush=True,
            )
            tell(study, count, arguments.draws if count else 1)
    print(machine())


if __name__ == "__main__":
    main()
